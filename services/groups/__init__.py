"""Groups: who may do what to whom.

Owns groups, memberships, and a directory of who has which e-mail address. Runs the account-creation saga. May touch its
own database, the topics `popfax.groups.*`, and publish commands to `ledger` and `provisioning`. Never knows a balance.
"""
