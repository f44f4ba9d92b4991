"""The books are checked in bounded memory: ten times as many entries take no more of it."""

import subprocess
import sys

import psycopg
import pytest

from deploy.local.stack import Stack
from popfax_contracts.topics import Principal
from tests.integration.recorder import scratch_database

MB = 1024
"""In the unit in which the system tells of memory."""

FILL = (
    """CREATE TEMP TABLE moves AS
    SELECT gen_random_uuid() AS id, md5((n % 100)::text)::uuid AS account, n / 100 + 1 AS version, now() AS at
    FROM generate_series(0, {last}) n""",
    """INSERT INTO transfers (id, kind, source_id, content, amounts_units, made_at)
    SELECT id, 'credit', '00000000-0000-5000-8000-000000000001', '', '[1]', at FROM moves""",
    """INSERT INTO entries (transfer_id, account_id, amount_units, before_units, after_units, version, made_at)
    SELECT id, account, 1, version - 1, version, version, at FROM moves""",
    """INSERT INTO entries (transfer_id, account_id, amount_units, made_at)
    SELECT id, '00000000-0000-5000-8000-000000000001', -1, at FROM moves""",
    """INSERT INTO accounts (id, balance_units, held_units, version, state, revision)
    SELECT account, count(*), 0, count(*), 'active', count(*) FROM moves GROUP BY account""",
)
CHECK = """
import resource, sys
from deploy.operator.snapshots import ledger_snapshot
from deploy.operator.invariants import check_ledger
with ledger_snapshot(sys.argv[1]) as snapshot:
    found = sum(1 for _ in check_ledger(snapshot))
print(found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(stack: Stack, entries: int) -> int:
    """Return how much memory a check of so many entries takes at its peak."""
    with scratch_database(stack, Principal.LEDGER) as url:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            for statement in FILL:
                connection.execute(statement.format(last=entries // 2 - 1).encode())
        done = subprocess.run([sys.executable, "-c", CHECK, url], capture_output=True, text=True, check=True)
    found, kilobytes = map(int, done.stdout.split())
    assert found == 0, "the books are right"
    return kilobytes


@pytest.mark.drill
def test_ten_times_as_many_entries_take_no_more_memory(stack: Stack) -> None:
    few, many = peak(stack, 20_000), peak(stack, 200_000)
    assert many - few < 15 * MB, f"{few // MB} MB for 20,000 entries, {many // MB} MB for 200,000"


def test_the_measure_sees_books_that_are_wrong(stack: Stack) -> None:
    with scratch_database(stack, Principal.LEDGER) as url:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            for statement in FILL:
                connection.execute(statement.format(last=0).encode())
            connection.execute("UPDATE accounts SET balance_units = 5")
        done = subprocess.run([sys.executable, "-c", CHECK, url], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[0]) == 1
