"""Provisioning: subscribers' accounts, plans and prices, fax numbers.

Owns who exists, with which e-mail address, on which plan, until when. Decides whether an account can exist. May touch
its own database and the topics `popfax.provisioning.*`. Never knows a balance, or who is whose member.
"""
