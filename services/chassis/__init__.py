"""The code that every service shares. It knows no business: nothing of groups, units or accounts.

The path of a message, from top to bottom: `consumer` takes a batch from Kafka, `shell` carries it through one database
transaction (`messages` decodes it, `rows` holds what it touches, `postgres` or `memory` load and save), `relay`
publishes the resulting messages. `timers` feeds the same shell from the database: timers that are due, and parked
messages to be retried. `sagas` has handlers like any other. `runtime` starts everything in order.
"""
