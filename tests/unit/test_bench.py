"""The bench's own parts that need no servers: arithmetic, verdicts, parsing, phases, the report and its picture."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any
from xml.etree import ElementTree

import pytest
from psycopg import sql

from popfax_contracts.groups import MemberAccountCreated
from popfax_contracts.ledger import ReserveUnits, UnitsReserved
from popfax_contracts.topics import SERVICES
from services.chassis import messages
from tests.bench import picture, report
from tests.bench.counters import Counters, parsed
from tests.bench.details import room
from tests.bench.figures import FIGURES, Figure, Run, Verdict, at, divided, number, rows, verdict
from tests.bench.measures.growth import copying
from tests.bench.measures.hops import short
from tests.bench.measures.room import since, topics
from tests.bench.measures.trace import Hop, path_to, summary
from tests.bench.phases import ALL, CLIENT, FETCH, REST, phase_of
from tests.bench.plan import FAILED, Progress, Step, large_section, main_section, measured, profile_section
from tests.bench.profiled import SAMPLER, Sampler, Seen
from tests.bench.sharding import Command, Cut, Home, cut, shard_of
from tests.bench.sizes import FULL, QUICK
from tests.bench.statistic import latencies, medians, percentile


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (95, 95), (99, 99), (99.5, 100), (100, 100)]
)
def test_percentile_is_the_nearest_rank(percent: float, expected: int) -> None:
    assert percentile([*range(100, 0, -1)], percent) == expected


def test_percentile_of_few_values_is_one_of_them() -> None:
    assert percentile([3.0], 99) == 3.0
    assert percentile([1.0, 2.0], 99) == 2.0
    assert percentile([1.0, 2.0], 50) == 1.0


def test_latencies_are_milliseconds() -> None:
    assert latencies([0.1, 0.2, 0.3]) == {"p50_ms": 200, "p99_ms": 300, "max_ms": 300}


def test_medians_go_to_any_depth_and_take_each_figure_from_the_runs_that_have_it() -> None:
    runs: list[Run] = [
        {"a": 1, "deep": {"b": 10}, "path": ["x"]},
        {"a": 3, "deep": {"b": 30, "c": 5}, "path": ["y"]},
        {"a": 2, "deep": {"b": 20}},
    ]
    assert medians(runs) == {"a": 2, "deep": {"b": 20, "c": 5}, "path": ["x"]}


MORE = Figure("more", at("x"), mark=1.0, goal=2.0, more_is_better=True)
LESS = Figure("less", at("x"), mark=100, goal=50)


@pytest.mark.parametrize(
    ("figure", "value", "expected"),
    [
        (MORE, 2.0, Verdict.GOAL),
        (MORE, 1.99, Verdict.MARK),
        (MORE, 1.0, Verdict.MARK),
        (MORE, 0.99, Verdict.NONE),
        (LESS, 50, Verdict.GOAL),
        (LESS, 51, Verdict.MARK),
        (LESS, 100, Verdict.MARK),
        (LESS, 101, Verdict.NONE),
        (LESS, None, Verdict.UNKNOWN),
        (Figure("no mark", at("x")), 1.0, Verdict.UNKNOWN),
    ],
)
def test_verdict_compares_with_mark_and_goal(figure: Figure, value: float | None, expected: Verdict) -> None:
    assert verdict(figure, value) is expected


def test_ratio_is_taken_within_each_run_before_the_median() -> None:
    figure = Figure("sagas", at("sagas"), ratio=divided(at("sagas"), at("yardstick")), mark=0.1)
    runs: list[Run] = [
        {"sagas": 100, "yardstick": 1000},
        {"sagas": 90, "yardstick": 300},  # a slow machine: the ratio is better
        {"sagas": 120, "yardstick": 1000},
    ]
    ratios = [figure.judged(run) for run in runs]
    assert ratios == pytest.approx([0.1, 0.3, 0.12])


def test_table_shows_medians_spread_and_verdict() -> None:
    runs: list[dict[str, Any]] = [
        {"pgbench_transfers_per_s": 10_000, "full": {"sagas_per_s": per_s}} for per_s in (1900, 2100, 2900)
    ]
    assert (
        "| sagas at full speed ÷ pgbench | 2,100/s | 0.21 | 0.19–0.29 | 0.2 | 0.28 | mark |"
        in report.figures(runs).splitlines()
    )


def test_every_judged_figure_stands_in_the_table_even_if_it_was_not_measured() -> None:
    assert [row.figure for row in rows([{}])] == list(FIGURES)
    titles = [line.split(" | ")[0].removeprefix("| ") for line in report.figures([{}]).splitlines()[2:]]
    assert titles == [figure.title for figure in FIGURES if figure.mark is not None]


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1600.4, "/s", "1,600/s"),
        (0.12444, "", "0.124"),
        (365, "ms", "365 ms"),
        (17.25, "ms", "17.2 ms"),
        (None, "ms", "—"),
    ],
)
def test_numbers_are_written_for_people(value: float | None, unit: str, expected: str) -> None:
    assert number(value, unit) == expected


METRICS = """# TYPE popfax_messages_handled counter
popfax_messages_handled_total{topic="a"} 10.0
popfax_messages_handled_total{topic="b"} 20.0
# TYPE popfax_batches counter
popfax_batches_total{source="messages"} 5.0
# TYPE popfax_batch_messages histogram
popfax_batch_messages_bucket{le="1.0"} 4.0
popfax_batch_messages_bucket{le="+Inf"} 5.0
popfax_batch_messages_count 5.0
popfax_batch_messages_sum 40.0
# TYPE popfax_messages_parked counter
popfax_messages_parked_total{why="failed"} 1.0
popfax_messages_parked_total{why="behind"} 2.0
"""


def test_counters_are_summed_over_labels_and_subtracted() -> None:
    counted = parsed(METRICS)
    assert counted["popfax_messages_parked_total"] == 3
    assert counted["popfax_batch_messages_bucket"] == 0
    since = (counted + counted).since(Counters({"popfax_messages_handled_total": 20.0}))
    assert since.per_saga(10) == {
        "handled_per_saga": 4.0,
        "relayed_per_saga": 0.0,
        "messages_per_batch": 8.0,
        "rows_per_relay_round": 0.0,
        "batches_per_saga": 1.0,
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("INSERT INTO inbox (id) SELECT unnest($1) ON CONFLICT DO NOTHING", "INSERT inbox"),
        ("INSERT INTO timers (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET due_at = $2", "INSERT timers"),
        ("UPDATE holds SET state = p_state FROM unnest($1) AS t WHERE holds.id = t.id", "UPDATE holds"),
        ("DELETE FROM outbox WHERE seq = ANY ($1)", "DELETE outbox"),
        ("WITH a AS (UPDATE x SET n = $1 RETURNING id) INSERT INTO y SELECT id FROM a", "UPDATE x, INSERT y"),
        ("SELECT id FROM accounts WHERE id = ANY ($1) ORDER BY id FOR UPDATE", "SELECT accounts FOR UPDATE"),
        ("SELECT k.key FROM unnest($1) k JOIN parked_keys p ON true FOR SHARE OF p", "SELECT  FOR SHARE"),
        ("SELECT a.id FROM mails a WHERE EXISTS (SELECT 1 FROM people)", "SELECT mails, people"),
        ("COMMIT", "COMMIT"),
    ],
)
def test_statement_is_told_in_a_few_words(query: str, expected: str) -> None:
    assert short(query) == expected


def test_way_of_a_saga_is_found_back_from_its_last_event() -> None:
    hops = {
        "command": Hop("platform", "create", "", 1000, 1000),
        "ask": Hop("groups", ReserveUnits.TYPE, "command", 1030, 1040),
        "aside": Hop("groups", "something-else", "command", 1030, 1040),
        "answer": Hop("ledger", UnitsReserved.TYPE, "ask", 1055, 1075),
        "last": Hop("groups", MemberAccountCreated.TYPE, "answer", 1080, 1090),
    }
    path = path_to("last", hops)
    assert path == (hops["command"], hops["ask"], hops["answer"], hops["last"])
    assert summary([path]) == [
        {"by": "groups", "makes": "ReserveUnits", "wait_ms": 30, "work_ms": 10},
        {"by": "ledger", "makes": "UnitsReserved", "wait_ms": 15, "work_ms": 20},
        {"by": "groups", "makes": "MemberAccountCreated", "wait_ms": 5, "work_ms": 10},
    ]


def test_sagas_that_went_another_way_do_not_blur_the_summary() -> None:
    def path(*types: str, wait: float) -> tuple[Hop, ...]:
        return tuple(Hop("groups", type_, "", n * 100 + wait, n * 100 + wait) for n, type_ in enumerate(types))

    usual = [path("create", ReserveUnits.TYPE, wait=0)] * 2
    odd = [path("create", UnitsReserved.TYPE, ReserveUnits.TYPE, wait=50)]
    assert [hop["makes"] for hop in summary([*odd, *usual])] == ["ReserveUnits"]


def _frame_within(function: Any, *arguments: Any) -> FrameType:
    """Return the frame of a call that a function makes of its argument."""
    frames: list[FrameType] = []

    class Record:
        @property
        def headers(self) -> Any:
            frames.append(sys._getframe())
            raise StopIteration

    with pytest.raises(StopIteration):
        function(Record(), *arguments)
    return frames[0]


def test_phase_is_that_of_the_innermost_function_that_has_one() -> None:
    assert phase_of(_frame_within(messages.decode, {}, ())) == "decode"
    assert phase_of(sys._getframe()) == REST


def test_sampler_counts_the_phase_that_the_main_thread_is_in(tmp_path: Path) -> None:
    seen: list[Seen] = []

    def look() -> None:
        sampler.look()
        seen.append(sampler.seen())

    sampler = Sampler(tmp_path / "phases.json")
    thread = Thread(target=look)
    thread.start()
    thread.join()
    assert seen[0].looks[REST] == sum(seen[0].looks.values()) == 1
    assert 0 < seen[0].loop_s <= seen[0].process_s


def test_cpu_time_is_booked_by_how_often_each_phase_was_seen() -> None:
    before = Seen(process_s=1.0, loop_s=0.5, consumer_s=0.2, sampler_s=0.1, looks={"load": 5, "decode": 1})
    after = Seen(process_s=3.0, loop_s=1.5, consumer_s=0.5, sampler_s=0.2, looks={"load": 8, "decode": 2})
    booked = after.booked_since(before)
    assert set(booked) == {*ALL, SAMPLER}
    assert {phase: spent for phase, spent in booked.items() if spent} == pytest.approx(
        {"load": 0.75, "decode": 0.25, FETCH: 0.3, CLIENT: 0.6, SAMPLER: 0.1}
    )
    assert sum(booked.values()) == pytest.approx(2.0)
    assert sum(after.booked_since(after).values()) == 0


def test_copies_have_ids_of_their_own_that_agree_between_tables() -> None:
    columns = [("id", "uuid"), ("group_id", "uuid"), ("email", "text"), ("at", "timestamp with time zone")]
    statement = copying("history", columns, 7).as_string(None)
    assert 'INSERT INTO "history" ("id", "group_id", "email", "at")' in statement
    assert 'md5("id"::text || n)::uuid' in statement
    assert 'md5("group_id"::text || (1 + (n - 1) %% 7))::uuid' in statement
    assert isinstance(copying("fax_numbers", [("number", "text")], 7), sql.Composed)


async def test_step_that_fails_is_named_and_does_not_cost_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    async def fails(*_: Any) -> dict[str, Any]:
        raise ValueError("of the measurement")

    async def works(_: Any, before: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"seen": sorted(before)}

    bench: Any = None
    steps = [Step("one", 1, fails), Step("two", 1, works)]
    assert await measured(bench, steps, Progress(2)) == {FAILED: ["one"], "seen": [FAILED]}
    said = capsys.readouterr().err
    assert "1. one" in said
    assert "ValueError: of the measurement" in said
    with pytest.raises(ValueError, match="of the measurement"):
        await measured(bench, [Step("prepare", 1, fails, prepares=True)], Progress(1))


def test_full_bench_keeps_within_twenty_one_minutes_and_the_quick_one_within_three() -> None:
    once = profile_section(FULL).about_s + large_section(FULL).about_s
    assert 3 * main_section(FULL).about_s + once < 21 * 60
    assert main_section(QUICK).about_s < 3 * 60


def test_chosen_steps_come_with_their_preparation() -> None:
    section = main_section(QUICK).only("idle")
    assert [step.title for step in section.steps] == ["owners and a warm-up", "idle for 8 s"]
    assert section.measures()
    assert not section.only("no such title").measures()


SERVICES_US = {name: {"decode": 10, "client": 5, "timers": 2, "sampler": 99} for name in SERVICES}
RUN: dict[str, Any] = {
    "trace": {
        "per_s": 100,
        "p50_ms": 90,
        "hops": [
            {"by": "groups", "makes": "ReserveUnits", "wait_ms": 30.0, "work_ms": 10.0},
            {"by": "ledger", "makes": "Units<&>Reserved", "wait_ms": 15.0, "work_ms": 20.0},
        ],
    },
    "hops": {
        key: {"services_us": SERVICES_US, "postgres_us": {"groups": 30, "walwriter": 4}, "kafka_us": 20}
        for key in ("100", "full")
    },
}


def test_picture_is_well_formed_and_tells_all_but_the_samplers_own_cost() -> None:
    root = ElementTree.fromstring(picture.svg(RUN))
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "Units<&>Reserved" in words
    assert "30 + 10 ms" in words
    assert "at full speed: 122 µs" in words  # 4 services of 17, 34 and 20
    assert words.count("17 µs") == 8
    widths = [float(bar.get("width", 0)) for bar in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert max(widths[1:]) < picture.WIDTH - picture.LABELS


def test_report_renews_what_was_measured_and_leaves_the_rest() -> None:
    runs = [RUN | {"pgbench_transfers_per_s": 12_900}]
    text = (
        "a\n<!-- measured: figures (report) -->\nold\n<!-- end -->\n"
        "<!-- measured: processes (report) -->\nkept\n<!-- end -->\n"
    )
    new = report.renewed(text, runs)
    assert "| pgbench, the yardstick | 12,900/s |" in new
    assert "old" not in new
    assert "<!-- measured: processes (report) -->\nkept\n<!-- end -->" in new
    assert report.renewed(new, runs) == new
    assert report.renewed(new, [{"room": {"wal": 1}}]) == new, "a run of one step leaves all other figures"


def test_document_has_every_measured_block_once() -> None:
    checkout = Path(__file__).resolve().parents[2]
    found = [name for document in report.DOCUMENTS for name in report.names((checkout / document).read_text())]
    assert sorted(found) == sorted(report.BLOCKS)


def test_bytes_of_a_saga_are_summed_by_table_and_over_topics() -> None:
    before = {"groups/inbox/rows": 10, "groups/inbox/table": 500, "topic/a": 50, "groups/plans/rows": 2}
    after = before | {"groups/inbox/rows": 12, "groups/inbox/table": 620, "groups/inbox/indexes": 80, "topic/a": 90}
    grown = since(before, after)
    assert grown == {"groups/inbox/rows": 2, "groups/inbox/table": 120, "groups/inbox/indexes": 80, "topic/a": 40}
    rows = [list(row) for row in room([{"room": grown | {"wal": 7}}]).rows]
    assert rows[0] == ["groups inbox", "2", "120", "80", "200"]
    assert rows[1:] == [
        ["**all tables**", "", "**120**", "**80**", "**200**"],
        ["write-ahead log", "", "", "", "7"],
        ["a", "", "", "", "40"],
        ["**all topics, one copy**", "", "", "", "**40**"],
    ]


def test_topics_are_the_sum_of_their_partitions(tmp_path: Path) -> None:
    for partition, size in (("popfax.a.events-0", 3), ("popfax.a.events-11", 4), ("__consumer_offsets-1", 9)):
        (tmp_path / "kafka" / "data" / partition).mkdir(parents=True)
        (tmp_path / "kafka" / "data" / partition / "0.log").write_bytes(b"x" * size)
    assert topics(tmp_path) == {"topic/popfax.a.events": 7}


def test_cut_counts_the_commands_that_touch_several_shards_and_the_fullest_shard() -> None:
    def key(command: Command, _: Home) -> Iterator[int]:
        yield from (command.account, *command.others)

    first = shard_of(1, 2)
    here = [n for n in range(100) if shard_of(n, 2) == first][:3]
    there = next(n for n in range(100) if shard_of(n, 2) != first)
    inside, across = Command("", 0, here[0], here[1:]), Command("", 0, here[0], [there])
    assert cut(key, [inside], {}, 2) == Cut(0, 2)
    assert cut(key, [across], {}, 2) == Cut(1, 1)
    assert cut(key, [inside, across, inside, inside], {}, 2) == Cut(0.25, 4 / 5 * 2)
    assert cut(key, [across], {}, 1) == Cut(0, 1)
