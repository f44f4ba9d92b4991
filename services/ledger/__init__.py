"""The ledger: who has how many Pop units.

Owns accounts in units, transfers, entries and holds. Decides whether the units are there. May touch its own database
and the topics `popfax.ledger.commands` (in) and `popfax.ledger.events` (out). Never knows who is whose member, what a
plan costs, or anybody's name.
"""
