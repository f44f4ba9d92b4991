"""The yardstick: the same PostgreSQL, one function call a transfer, as many as it can.

The function does what a ledger must: idempotent by id, double entry with balances before and after, overdraft refused,
accounts locked in one order.
"""

import re
import subprocess
from pathlib import Path
from typing import Any

import psycopg

from deploy.local.postgres import binaries
from tests.bench.running import Bench

ACCOUNTS = 1000

SCHEMA = f"""
CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0)) WITH (fillfactor = 60);
CREATE TABLE transfer (id uuid PRIMARY KEY, source int NOT NULL, target int NOT NULL, amount bigint NOT NULL);
CREATE TABLE entry (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, transfer uuid NOT NULL, account int NOT NULL,
    amount bigint NOT NULL, before bigint NOT NULL, after bigint NOT NULL
);
INSERT INTO account SELECT n, 1000000 FROM generate_series(1, {ACCOUNTS}) n;
CREATE FUNCTION post(transfer_id uuid, from_id int, to_id int, units bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    from_before bigint;
    to_before bigint;
BEGIN
    IF from_id = to_id THEN RETURN 'same'; END IF;
    INSERT INTO transfer VALUES (transfer_id, from_id, to_id, units) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN RETURN 'known'; END IF;
    PERFORM 1 FROM account WHERE id IN (from_id, to_id) ORDER BY id FOR UPDATE;
    SELECT balance INTO from_before FROM account WHERE id = from_id;
    SELECT balance INTO to_before FROM account WHERE id = to_id;
    IF from_before < units THEN
        DELETE FROM transfer WHERE id = transfer_id;
        RETURN 'short';
    END IF;
    UPDATE account SET balance = from_before - units WHERE id = from_id;
    UPDATE account SET balance = to_before + units WHERE id = to_id;
    INSERT INTO entry (transfer, account, amount, before, after) VALUES
        (transfer_id, from_id, -units, from_before, from_before - units),
        (transfer_id, to_id, units, to_before, to_before + units);
    RETURN 'posted';
END $$;
"""

SCRIPT = f"""\\set source random(1, {ACCOUNTS})
\\set target random(1, {ACCOUNTS})
SELECT post(gen_random_uuid(), :source, :target, 1);
"""


async def yardstick(bench: Bench) -> dict[str, Any]:
    """Stop all services, and see how many such calls per second the same server takes."""
    bench.product.stop_services()
    stack = bench.product.stack
    per_s = transfers_per_s(stack.postgres.superuser_url, stack.directory, bench.sizes.pgbench_s)
    return {"pgbench_transfers_per_s": round(per_s)}


def transfers_per_s(superuser_url: str, directory: Path, seconds: int = 8, clients: int = 8) -> float:
    """Run pgbench for this many seconds; return its transactions per second."""
    url = superuser_url.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS yardstick")
        connection.execute("CREATE DATABASE yardstick")
    database = re.sub(r"/[^/]*$", "/yardstick", url)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SCHEMA)
    script = directory / "yardstick.sql"
    script.write_text(SCRIPT)
    pgbench = str(binaries() / "pgbench")
    command = [pgbench, "-n", "-f", str(script), "-M", "prepared", "-c", str(clients), "-j", "2", "-T", str(seconds)]
    done = subprocess.run([*command, database], capture_output=True, text=True, check=True, timeout=seconds + 60)
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    return float(found[1])
