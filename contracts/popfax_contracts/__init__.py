"""The contracts: topics, messages, refusal codes, and the few rules that both ends of a topic must share.

The services have no other language in common, and programs of other teams can install this package by itself. Nothing
here knows of a database, of a Kafka client or of a framework other than pydantic.
"""

from popfax_contracts._version import __version__

__all__ = ["__version__"]
