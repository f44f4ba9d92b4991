"""The group itself, and who its owner is."""

from popfax_contracts.groups import GroupRenamed, RenameGroup, RenameRefused
from popfax_contracts.message import group_of
from popfax_contracts.provisioning import PersonErased, PersonRecorded
from services.chassis.messages import Incoming, Outcome
from services.chassis.rows import replace
from services.chassis.service import Moment, needs
from services.groups import transitions
from services.groups.domain import AccountState, HistoryEntry, Kind
from services.groups.handlers.ownership import owner_of, why_not_owner
from services.groups.store import LoadPlan, Roster, renaming_of


def _renaming(load: LoadPlan, message: Incoming[RenameGroup]) -> None:
    load.groups.add(message.body.group_id)
    load.history.add(renaming_of(message))


@needs(_renaming)
def rename_group(roster: Roster, message: Incoming[RenameGroup], moment: Moment) -> Outcome:
    """Rename the group, which from now on no longer follows its owner's name."""
    command = message.body
    code = why_not_owner(roster, message, command.group_id)
    if code is not None:
        return [RenameRefused(group_id=command.group_id, code=code, command_type=command.TYPE)]
    owner_id, line_id = owner_of(message), renaming_of(message)
    if roster.history.find(line_id) is not None:
        return ()  # redelivered after the inbox's retention: a newer name stays
    roster.groups.put(replace(roster.group(command.group_id, owner_id), name=command.name, renamed=True))
    roster.history.put(
        HistoryEntry(
            id=line_id,
            group_id=command.group_id,
            kind=Kind.NAME,
            at=moment.now,
            actor_id=owner_id,
            member_id=None,
            reference_id=command.group_id,
            units=None,
            outcome="renamed",
            code=None,
            ended_at=moment.now,
        )
    )
    return [GroupRenamed(group_id=command.group_id, owner_id=owner_id)]


def _person(load: LoadPlan, message: Incoming[PersonRecorded]) -> None:
    id_ = message.body.subscriber_id
    load.subscribers.add(id_)
    load.groups.add(group_of(id_))
    load.taking.append((message.body.email, id_))


@needs(_person)
def person_recorded(roster: Roster, message: Incoming[PersonRecorded], moment: Moment) -> Outcome:
    """Record who somebody is; their group follows their name until it is renamed.

    Nothing is recorded about somebody whose account is already closed.
    """
    person = message.body
    known = roster.subscriber(person.subscriber_id)
    if known.state is AccountState.CLOSED:
        return ()
    roster.subscribers.put(
        replace(
            known,
            email=person.email,
            first_name=person.first_name,
            last_name=person.last_name,
            language=person.language.value,
            time_zone=person.time_zone,
        )
    )
    group = roster.group(group_of(person.subscriber_id), person.subscriber_id)
    name = group.name if group.renamed else f"{person.first_name} {person.last_name}"
    roster.groups.put(replace(group, name=name))
    return ()


def _erased(load: LoadPlan, message: Incoming[PersonErased]) -> None:
    transitions.need_person(load, message.body.subscriber_id)


@needs(_erased)
def person_erased(roster: Roster, message: Incoming[PersonErased], moment: Moment) -> Outcome:
    """Erase who somebody was."""
    transitions.erase_person(roster, message.body.subscriber_id)
    return ()
