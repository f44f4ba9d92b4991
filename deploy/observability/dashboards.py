"""Builds Grafana's dashboards from the tables in `panels`."""

import json
from collections.abc import Mapping
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
)

from deploy.observability.panels import BOARDS, Board, Panel

WIDTH = 24
"""Grafana's columns."""

GRAPH = (12, 8)
"""A graph's width and height on Grafana's grid."""

STAT_HEIGHT = 4

TAG = "popfax"

_SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")


def as_json() -> Mapping[str, str]:
    """Return each dashboard as Grafana imports it, by name."""
    return {board.name: json.dumps(_built(board), cls=JSONEncoder, indent=2) + "\n" for board in BOARDS}


def _built(board: Board) -> Any:
    made = (
        dashboard.Dashboard(board.title)
        .uid(f"popfax-{board.name}")
        .description(board.question)
        .tags([TAG])
        .readonly()
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(_others())
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .annotation(_alerts())
    )
    for row in board.rows:
        made.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            made.with_panel(_stat(panel, len(row.panels)) if panel.stat else _graph(panel))
    return made.build()


def _others() -> dashboard.DashboardLink:
    """Link to all of our dashboards, for the same span of time."""
    return (
        dashboard.DashboardLink("Popfax")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .include_vars(True)
        .keep_time(True)
    )


def _alerts() -> dashboard.AnnotationQuery:
    """Mark when alerts fired."""
    return (
        dashboard.AnnotationQuery()
        .name("alerts")
        .datasource(_SOURCE)
        .enable(True)
        .icon_color("red")
        .expr('ALERTS{alertname=~"Popfax.*", alertstate="firing"}')
    )


def _graph(panel: Panel) -> Builder[models.Panel]:
    width, height = GRAPH
    legend = (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    made = (
        timeseries.Panel()
        .span(width)
        .height(height)
        .min(0)
        .fill_opacity(8)
        .legend(legend)
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    return _filled(made, panel)


def _stat(panel: Panel, beside: int) -> Builder[models.Panel]:
    made = (
        stat.Panel()
        .span(WIDTH // beside)
        .height(STAT_HEIGHT)
        .color_mode(BigValueColorMode.BACKGROUND)
        .graph_mode(BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    return _filled(made, panel)


def _filled(made: timeseries.Panel | stat.Panel, panel: Panel) -> Builder[models.Panel]:
    made.title(panel.title).description(panel.question).unit(panel.unit).datasource(_SOURCE)
    made.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(_steps(panel)))
    for number, (legend, query) in enumerate(panel.queries.items()):
        target = prometheus.Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + number))
        made.with_target(target.instant() if panel.stat else target.range())
    return made


def _steps(panel: Panel) -> list[Threshold]:
    if panel.good_from is not None:
        return [Threshold(color="red"), Threshold(value=panel.good_from, color="green")]
    steps = [Threshold(color="green")]
    return steps if panel.bad_from is None else [*steps, Threshold(value=panel.bad_from, color="red")]
