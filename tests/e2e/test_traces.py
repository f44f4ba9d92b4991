"""One trace of a command through all services, as a collector gets it: from the request or the record to the mails."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from deploy.local.product import ServiceProcess
from popfax_contracts.groups import MemberAccountCreated
from popfax_contracts.topics import Principal
from services.chassis.service import Service
from tests.collector import Collector, Mood, Span
from tests.e2e.driver import DEFINITIONS, PRICES, Owner, Seen, World, wait
from tests.integration.serving import Client

SERVER, PRODUCER, CONSUMER = 2, 4, 5


@pytest.fixture
def web(world: World, collector: Collector) -> Iterator[ServiceProcess]:
    """A process that serves page and API, and records every trace."""
    made = ServiceProcess(Principal.GROUPS, world.stack, name="groups-web")
    made.launch(role="web", otlp_endpoint=collector.url, trace_ratio="1")
    try:
        made.wait_ready()
        yield made
    finally:
        assert made.stop() == 0


def _body(world: World) -> dict[str, object]:
    return {
        "plan": "send_only",
        "price_units": PRICES["send_only"],
        "email": f"nina.{world.mark}@example.com",
        "first_name": "Nina",
        "last_name": "Petit",
        "language": "fr",
    }


def test_one_trace_leads_from_the_request_through_every_hop_to_the_mails(
    world: World, web: ServiceProcess, collector: Collector
) -> None:
    owner = world.owner(units=100)
    host, _, port = web.url.removeprefix("http://").partition(":")
    ada = Client(host, int(port), world.stack.keys.token(owner.id))
    posted = ada.post("create-member-account", _body(world)).json["id"]
    spans = _whole_trace(world, collector, posted)
    (root,) = [span for span in spans if not span.parent]
    assert (root.name, root.kind, root.service) == ("POST /v1/commands/create-member-account", SERVER, "groups")
    assert root.attributes["http.response.status_code"] == 202
    (first,) = [span for span in spans if span.parent == root.id]
    assert first.attributes["messaging.message.id"] == posted
    _check_hops(world, spans, posted)
    _check_links(collector, spans)
    _check_personal(world, collector, owner)


def test_a_trace_that_the_platform_began_goes_on_to_the_mails(world: World, collector: Collector) -> None:
    owner = world.owner()
    trace, caller = uuid4().hex, uuid4().hex[:16]
    id_ = world.wire.send(world.command(owner), owner.id, traceparent=f"00-{trace}-{caller}-01")
    spans = _whole_trace(world, collector, id_)
    assert {span.trace for span in spans} == {trace}
    (first,) = [span for span in spans if span.parent == caller]
    assert (first.name, first.kind) == ("process popfax.groups.commands", CONSUMER)
    _check_hops(world, spans, id_)
    untraced = world.create(owner)
    assert world.outcome(untraced).says(MemberAccountCreated)
    world.settle()
    assert not [span for span in collector.spans() if span.attributes.get(_CONVERSATION) == untraced]


@pytest.mark.parametrize("mood", [Mood.REFUSING, Mood.HANGING])
def test_nothing_waits_for_a_collector_that_does_not_take_spans(world: World, collector: Collector, mood: Mood) -> None:
    owner = world.owner(units=1000)
    collector.let_go.clear()
    collector.mood = mood
    try:
        for _ in range(3):
            traceparent = f"00-{uuid4().hex}-{uuid4().hex[:16]}-01"
            id_ = world.wire.send(world.command(owner), owner.id, traceparent=traceparent)
            assert world.outcome(id_).says(MemberAccountCreated)
    finally:
        collector.mood = Mood.GOOD
        collector.let_go.set()
    world.settle()


_CONVERSATION, _MESSAGE = "messaging.message.conversation_id", "messaging.message.id"


def _whole_trace(world: World, collector: Collector, id_: str) -> list[Span]:
    """Wait for a command's outcome and mails, and then for its trace."""
    assert world.outcome(id_).says(MemberAccountCreated)
    world.settle()

    def spans() -> list[Span]:
        found = collector.spans()
        traces = {span.trace for span in found if span.attributes.get(_CONVERSATION) == id_ and span.kind == CONSUMER}
        return [span for span in found if span.trace in traces]

    def is_whole() -> bool:
        found = spans()
        known = {span.id for span in found}
        sent = {span.attributes[_MESSAGE] for span in found if span.name.startswith("send popfax.")}
        mails = sum(span.name == "send mail" for span in found)
        beginnings = sum(span.parent not in known for span in found)
        return (mails, beginnings, len(sent)) == (2, 1, len(_made(world, id_)))

    wait(is_whole, "the whole trace")
    return spans()


def _records(world: World, id_: str) -> list[Seen]:
    """The records of a command: itself, and all that followed."""
    return [seen for seen in world.log.read_to_end() if seen.correlation == id_ or seen.id == id_]


def _made(world: World, id_: str) -> list[Seen]:
    """Those of them that the services published."""
    return [seen for seen in _records(world, id_) if seen.header("ce_source") != "popfax/tests"]


def _handles(service: Service, record: Seen) -> bool:
    """Return whether a service handles a record, and does not pass over it as an answer to another's command."""
    model = next((model for model in service.handlers if record.kind == model.TYPE), None)
    passed_over = model in service.for_requester and record.header("ce_requester") not in ("", service.principal)
    return model is not None and record.topic in {topic.name for topic in service.topics} and not passed_over


def _check_hops(world: World, spans: list[Span], id_: str) -> None:
    by_id = {span.id: span for span in spans}
    assert len({span.trace for span in spans}) == 1
    assert sum(span.parent not in by_id for span in spans) == 1, "one beginning, from which everything follows"
    for record in _records(world, id_):
        of_record = [span for span in spans if span.attributes.get(_MESSAGE) == record.id]
        if record.header("ce_source") != "popfax/tests":
            (created,) = [span for span in of_record if span.name == f"create {record.topic}"]
            assert created.kind == PRODUCER
            assert created.service == record.topic.split(".")[1] or "commands" in record.topic
            assert record.header("traceparent").startswith(f"00-{created.trace}-{created.id}-")
            assert any(span.parent == created.id and span.name == f"send {record.topic}" for span in spans)
            handled = {s.service for s in spans if s.parent == created.id and s.name == f"process {record.topic}"}
            assert handled == {each.principal.value for each in DEFINITIONS.values() if _handles(each, record)}
    mails = [span for span in spans if span.name == "send mail"]
    assert {by_id[mail.parent].service for mail in mails} == {"notifications"}
    assert [mail.attributes["popfax.mail.outcome"] for mail in mails] == ["sent", "sent"]
    known = world.rows(Principal.NOTIFICATIONS, "SELECT id::text FROM mails WHERE state = 'sent'")
    assert {(mail.attributes["popfax.mail.id"],) for mail in mails} <= set(known)


def _check_links(collector: Collector, spans: list[Span]) -> None:
    """Check that what messages share, a batch or a round of the relay, and the spans of each link to each other."""
    every = {span.id: span for span in collector.spans()}
    for span in spans:
        if span.name.startswith(("process ", "send p")):
            shared = every[span.links[-1]]
            assert shared.name == ("publish batch" if span.name.startswith("send") else "handle messages")
            assert span.id in shared.links
            assert shared.trace != span.trace
            assert shared.began <= span.began < span.ended <= shared.ended + 1_000_000_000


def _check_personal(world: World, collector: Collector, owner: Owner) -> None:
    sent = b"".join(collector.bodies)
    assert b"popfax.groups.create-member-account.v1" in sent
    (welcome,) = world.mails_to(f"nina.{world.mark}@example.com")
    tokens = [word for word in str(welcome).split("token=") if len(word) > 40]
    for secret in (owner.email, world.mark, "Nina", "Petit", "Anne", "Martin", *[t[:40] for t in tokens[1:]]):
        assert secret.encode() not in sent
