"""Plumbing for every service, and no business: it knows nothing of groups, units or accounts.

The way of a message, from top to bottom: `consumer` takes a batch off Kafka, `shell` carries it through one database
transaction (`messages` decodes it, `rows` holds what it touches, `postgres` or `memory` load and save), `relay`
publishes what came of it. `timers` and `parking` feed the same shell from the database. `sagas` is a handler like any
other. `runtime` starts all that in order.
"""
