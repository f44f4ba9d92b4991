"""Answers name the principal that asked."""

ADD_REQUESTER = "ALTER TABLE outbox ADD COLUMN requester TEXT;"
