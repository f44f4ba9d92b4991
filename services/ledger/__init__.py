"""The ledger: who has how many Pop units.

Owns accounts in units, transfers, entries, holds, and the audit of operators' corrections. Decides whether the units
are there, and keeps an account that has expired or is closed from moving them. May touch its own database and the
topics `popfax.ledger.commands*` and `popfax.provisioning.events` (in), `popfax.ledger.events` and
`popfax.ledger.balances` (out). Never knows who is whose member, what a plan costs, or anybody's name, and never decides
when an account ends.
"""
