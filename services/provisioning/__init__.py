"""Provisioning: subscribers' accounts, plans, options and prices, fax numbers.

Owns who exists, with which e-mail address, on which plan, with which options, until when. Decides whether an account
can exist, what may be bought for it, and when it has expired; runs the saga of what an account pays with its own units;
erases who the holder was when an account is closed. May touch its own database, the topics `popfax.provisioning.*`, and
publish commands to `ledger`. Never knows a balance, or who is whose member.
"""
