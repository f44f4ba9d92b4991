"""Brings a service whose database went back in time to what it had told the others.

The messages that the database no longer knows are handled again, by the service's own handlers. What the service
published meanwhile is the record of what it decided: its events say which message each follows from, and when it was
handled. So the messages are taken in that order, at that time, and whatever they bring is compared with what was
published, byte for byte: what is there already is not published again, what was lost is, and a difference is never
committed.

`window` reads the topics, `story` finds the order, `again` has it happen again in one transaction, and `particular`
knows what is particular about each service. `looks` takes over what groups' looks led to, which can't be decided again.
"""
