"""Groups: who may do what to whom.

Owns groups, memberships, invitations, a group's history, and a directory of who has which e-mail address. Runs the
account-creation saga and the transfers to members. May touch its own database, the topics `popfax.groups.*`, and
publish commands to `ledger`, `provisioning` and `notifications`. Never decides a balance: it shows what the ledger last
told.
"""
