"""How much is measured: in full, or in two minutes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of commands, rates per second, and times in seconds."""

    quick: bool
    """Whether only the main figures are measured."""
    owners: int
    warm_up: int
    sagas: int
    """At full speed."""
    rates: tuple[int, ...]
    """Sagas per second whose latency is measured, beside half the full rate."""
    steady_s: int
    idle_s: int
    one_account: int
    """Sagas that one owner pays for, and as many spread over all owners."""
    replica_sagas: int
    mail_sagas: int
    mails_s: int
    """How long the sender is measured alone."""
    page_s: int
    page_rate: int
    """Sagas per second while the page is asked for."""
    large_page_rate: int
    """Commands per second while that of a large group is."""
    transfers: int
    pgbench_s: int
    grown_accounts: int
    """How many rows the full databases have: accounts, ids in all inboxes together, lines of history."""
    grown_inbox: int
    grown_history: int
    room_sagas: int
    """Sagas whose bytes are counted."""


FULL = Sizes(
    quick=False,
    owners=1000,
    warm_up=3000,
    sagas=20_000,
    rates=(10, 100, 300),
    steady_s=10,
    idle_s=20,
    one_account=6000,
    replica_sagas=8000,
    mail_sagas=6000,
    mails_s=6,
    page_s=12,
    page_rate=300,
    large_page_rate=500,
    transfers=100_000,
    pgbench_s=8,
    grown_accounts=1_000_000,
    grown_inbox=10_000_000,
    grown_history=10_000_000,
    room_sagas=5_000,
)

QUICK = Sizes(
    quick=True,
    owners=200,
    warm_up=1000,
    sagas=6000,
    rates=(100,),
    steady_s=6,
    idle_s=8,
    one_account=2000,
    replica_sagas=2000,
    mail_sagas=3000,
    mails_s=4,
    page_s=4,
    page_rate=300,
    large_page_rate=500,
    transfers=25_000,
    pgbench_s=4,
    grown_accounts=20_000,
    grown_inbox=200_000,
    grown_history=200_000,
    room_sagas=2_000,
)
