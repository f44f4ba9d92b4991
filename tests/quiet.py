"""Silence, for tests that break things on purpose."""

import logging

import structlog


def silence_logs() -> None:
    """Silence the services' own logs: a simulation breaks things on purpose, thousands of times."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
