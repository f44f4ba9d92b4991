"""What must be true after a crash beside the invariants: one mail each, and nothing parked."""

from collections import Counter
from collections.abc import Collection

from popfax_contracts.topics import Principal
from tests.e2e.driver import World

_SENT = (
    "SELECT m.id::text, m.recipient_id::text, d.uncertain FROM mails m JOIN deliveries d ON d.mail_id = m.id"
    " WHERE m.template = %s AND m.state = 'sent' AND m.recipient_id::text = ANY(%s)"
)


def wrong_mails(world: World, recipients: Collection[str], template: str = "welcome") -> list[str]:
    """Return whoever has not got exactly one such mail, by its Message-ID.

    Each further copy must have been counted as uncertain beforehand.
    """
    rows = world.rows(Principal.NOTIFICATIONS, _SENT, template, list(recipients))
    each = Counter(recipient for _, recipient, _ in rows)
    found = [f"{id_} has {each[id_]} {template} mails" for id_ in recipients if each[id_] != 1]
    kept = world.copies_received()
    for id_, _, uncertain in rows:
        if not 1 <= kept[id_] <= 1 + uncertain:
            found.append(f"mail {id_} arrived {kept[id_]} times, of which {uncertain} were counted as uncertain")
    return found


def parked_since(world: World) -> dict[Principal, list[object]]:
    """Return what each service has parked of the records since the world began."""
    starts = world.log.start
    return {
        service: [row for row in rows if (row[0], row[1]) in starts and row[2] >= starts[row[0], row[1]]]
        for service, rows in world.parked().items()
    }
