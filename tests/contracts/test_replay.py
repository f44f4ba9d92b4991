"""Whatever a released version wrote, and whatever is written today, today's services can read and handle.

The records go the way that they go in a service: `decode`, `load`, the handler, `save`, on a database in memory. What
comes of them is the unit tests' business; here nothing may be unreadable and nothing may raise.
"""

from collections.abc import Sequence

import pytest

from deploy.contract_tools import examples, releases
from deploy.contract_tools.asyncapi import SERVICES
from deploy.contract_tools.examples import Example
from deploy.paths import CHECKOUT
from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.message import Command
from services.chassis.messages import Incoming, decode
from services.chassis.service import Service
from tests.unit.given import given

Corpus = dict[str, Sequence[Example]]

CORPORA: Corpus = {
    "today": examples.load(CHECKOUT),
    **{releases.written(v): releases.corpus_of(CHECKOUT, v) for v in releases.versions(CHECKOUT)},
}

NOBODY_HANDLES = frozenset(
    {
        "popfax.groups.account-creation-required.v1",
        "popfax.groups.command-malformed.v1",
        "popfax.groups.detachment-refused.v1",
        "popfax.groups.group-renamed.v1",
        "popfax.groups.invitation-answer-refused.v1",
        "popfax.groups.invitation-bounced.v1",
        "popfax.groups.invitation-refused.v1",
        "popfax.groups.invitation-revoked.v1",
        "popfax.groups.invitation-sent.v1",
        "popfax.groups.leave-refused.v1",
        "popfax.groups.low-balance-refused.v1",
        "popfax.groups.low-balance-set.v1",
        "popfax.groups.member-account-refused.v1",
        "popfax.groups.member-joined.v1",
        "popfax.groups.member-payment-refused.v1",
        "popfax.groups.members-detached.v1",
        "popfax.groups.members-marker.v1",
        "popfax.groups.membership-ended.v1",
        "popfax.groups.membership-recorded.v1",
        "popfax.groups.rename-refused.v1",
        "popfax.groups.revocation-refused.v1",
        "popfax.groups.standing-order-refused.v1",
        "popfax.groups.standing-order-set.v1",
        "popfax.groups.standing-order-stopped.v1",
        "popfax.groups.transfer-refused.v1",
        "popfax.ledger.balance-corrected.v1",
        "popfax.ledger.balances-marker.v1",
        "popfax.ledger.capture-refused.v1",
        "popfax.ledger.command-malformed.v1",
        "popfax.ledger.credit-refused.v1",
        "popfax.ledger.release-refused.v1",
        "popfax.ledger.spend-refused.v1",
        "popfax.ledger.units-credited.v1",
        "popfax.ledger.units-spent.v1",
        "popfax.notifications.bounce-refused.v1",
        "popfax.notifications.command-malformed.v1",
        "popfax.notifications.password-link-issued.v1",
        "popfax.provisioning.account-change-refused.v1",
        "popfax.provisioning.call-forwarding-disabled.v1",
        "popfax.provisioning.call-forwarding-enabled.v1",
        "popfax.provisioning.command-malformed.v1",
        "popfax.provisioning.directory-marker.v1",
        "popfax.provisioning.email-changed.v1",
        "popfax.provisioning.paid-action-refused.v1",
        "popfax.provisioning.plans-marker.v1",
        "popfax.provisioning.registration-refused.v1",
        "popfax.provisioning.time-zone-changed.v1",
    }
)
"""The types that no service handles: they are for the platform, and for whoever else subscribes."""

each_service = pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.principal)
each_corpus = pytest.mark.parametrize("version", CORPORA)


def incoming(service: Service, corpus: Sequence[Example]) -> list[Incoming]:  # type: ignore[type-arg]
    """The records that a service handles, as it reads them. Raises for one that it can't read."""
    handled = {model.TYPE.encode(): model for model in service.handlers}
    found = []
    for example in corpus:
        if MESSAGES[example.type] in service.handlers:
            message = decode(example.record(), handled, service.command_topics)
            assert isinstance(message, Incoming), f"{example.title}: {message}"
            found.append(message)
    return found


@each_corpus
@each_service
def test_each_record_is_handled_alone(service: Service, version: str) -> None:
    messages = incoming(service, CORPORA[version])
    assert messages
    for message in messages:
        given(service).when(message)


@each_corpus
@each_service
def test_records_are_handled_one_after_the_other(service: Service, version: str) -> None:
    scene = given(service)
    for message in _as_written(service, version):
        scene.when(message)


@each_corpus
@each_service
def test_records_are_handled_in_one_batch(service: Service, version: str) -> None:
    given(service).when(*_as_written(service, version))


@each_corpus
def test_every_type_of_a_version_is_in_its_corpus(version: str) -> None:
    types = MESSAGES if version == "today" else releases.schemas_of(CHECKOUT, releases.parse(version))
    assert {example.type for example in CORPORA[version]} == set(types)


def test_every_command_is_handled() -> None:
    assert [type_ for type_ in NOBODY_HANDLES if issubclass(MESSAGES[type_], Command)] == []


def test_types_that_nobody_handles_are_the_known_ones() -> None:
    handled = {model.TYPE for service in SERVICES for model in service.handlers}
    assert sorted(set(MESSAGES) - handled) == sorted(NOBODY_HANDLES)


def test_record_that_today_can_not_read_is_found() -> None:
    (service,) = (service for service in SERVICES if service.principal == "ledger")
    record = next(example for example in CORPORA["today"] if example.type == "popfax.ledger.reserve-units.v1")
    broken = Example(record.type, record.name, record.headers, record.key, b'{"account_id": 1}')
    with pytest.raises(AssertionError, match="malformed_command"):
        incoming(service, [broken])


def _as_written(service: Service, version: str) -> list[Incoming]:  # type: ignore[type-arg]
    """A service's records in the order in which they were written."""
    written = sorted(CORPORA[version], key=lambda example: example.headers["ce_time"])
    return incoming(service, written)
