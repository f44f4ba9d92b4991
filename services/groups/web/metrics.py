"""The metrics of the page and the API. Names and labels are OpenTelemetry's where its conventions are stable."""

from services.chassis import metrics
from services.chassis.metrics import Part

REQUESTS = metrics.histogram(
    "http_server_request_duration_seconds",
    "Time from a request to the end of its response; of a stream of events, to its beginning",
    "Are the page and the API fast, and do they answer?",
    part=Part.SITE,
    buckets=(0.025, 0.1, 0.25, 1, 5),  # few: there are 150 such series from the start
    http_request_method="the method, `_OTHER` for an unusual one",
    http_route="the route, such as `/v1/groups/{group_id}`; empty if there is none",
    http_response_status_code="the status",
)
STREAMS = metrics.gauge(
    "popfax_sse_streams", "Streams of events that are open", "How many browsers wait for changes?", part=Part.SITE
)
STREAMS_REFUSED = metrics.counter(
    "popfax_sse_refused_total",
    "Streams of events that were refused, because one person or all together have too many",
    "Is there room for everybody who wants to see changes?",
    part=Part.SITE,
    limit=("person", "process"),
)
