"""The end: the history, the members according to their topic, and the mails."""

from collections import Counter
from collections.abc import Mapping
from uuid import UUID

from deploy.demo.cast import Person
from deploy.demo.checks import MAILS, Line
from deploy.demo.stage import TIMEOUT_S, Stage
from deploy.operator.cli.wire import Watch
from popfax_contracts.groups import MembershipEnded, MembershipRecorded
from popfax_contracts.message import group_of
from popfax_contracts.topics import GROUPS_MEMBERS, Principal
from services.groups.domain import HistoryEntry


def history(stage: Stage) -> tuple[Line, ...]:
    """Show the history that the owner can read at the end."""
    stage.tell.scene(f"What {stage.cast.anne.first_name} reads in her group’s history")
    entries = stage.reader.history_of(stage.cast.anne.id)
    rows: list[tuple[object, ...]] = [
        (
            f"{each.at:%H:%M:%S}",
            line.who,
            line.what,
            line.whom,
            line.units if line.units is not None else "",
            _end(each),
        )
        for each in entries
        for line in [_line(each, stage.tell.names)]
    ]
    stage.tell.table(("when", "who", "what", "whom", "units", "outcome"), rows)
    return tuple(_line(each, stage.tell.names) for each in entries)


def _line(entry: HistoryEntry, names: Mapping[UUID, str]) -> Line:
    who, whom = (names.get(id_, str(id_)) if id_ else "" for id_ in (entry.actor_id, entry.member_id))
    return Line(entry.kind.value, who, whom, entry.units, entry.outcome)


def _end(entry: HistoryEntry) -> str:
    return f"{entry.outcome} ({entry.code.replace('_', ' ')})" if entry.code else entry.outcome


def members(stage: Stage) -> tuple[tuple[str, ...], bool]:
    """Read the topic of memberships as a new subscriber would; return Anne's members, and whether groups agrees."""
    stage.tell.scene("A new subscriber of the memberships reads today’s")
    today: dict[UUID, MembershipRecorded] = {}
    config = stage.connection.kafka(Principal.PLATFORM)
    with Watch(config, [GROUPS_MEMBERS], group=Principal.PLATFORM, from_beginning=True) as watch:
        records = watch.to_end(TIMEOUT_S)
    for seen in records:
        if isinstance(seen.body, MembershipRecorded):
            today[seen.body.membership_id] = seen.body
        elif isinstance(seen.body, MembershipEnded):
            today.pop(seen.body.membership_id, None)
    ended = sum(isinstance(seen.body, MembershipEnded) for seen in records)
    stage.tell.say(
        f"{GROUPS_MEMBERS.name} is compacted: from its start it holds {len(records)} records, {ended} of them a "
        f"tombstone. That leaves:"
    )
    name = stage.tell.names.get
    rows: list[tuple[object, ...]] = [
        (name(each.owner_id), name(each.member_id), each.epoch, f"{each.joined_at:%H:%M:%S}")
        for each in sorted(today.values(), key=lambda each: each.joined_at)
    ]
    stage.tell.table(("group of", "member", "epoch", "since"), rows)
    own = (each.member_id for each in today.values() if each.group_id == group_of(stage.cast.anne.id))
    return tuple(sorted(name(id_, str(id_)) for id_ in own)), today.keys() == stage.reader.active_memberships()


def mails(stage: Stage) -> Mapping[str, int]:
    """Show the mails that arrived, one line each, and count them."""
    cast = stage.cast
    people: dict[str, Person] = {
        each.first_name: each for each in (cast.anne, cast.paul, cast.sam, cast.nora, cast.lea)
    }
    stage.tell.scene("The mails that all this was worth")
    stage.wait_for_mails(sum(MAILS.values()), *people.values())
    got = Counter(stage.mails(*people.values()))
    by_address = {each.email: each.first_name for each in people.values()}
    rows: list[tuple[object, ...]] = [
        (by_address[mail["To"].addresses[0].addr_spec], str(mail["Subject"]))
        for mail in stage.reader.mails_to(by_address)
    ]
    stage.tell.table(("to", "subject"), rows)
    return {name: got[name] for name in people}
