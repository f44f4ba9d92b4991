"""The services' only common language: topics, messages, and the few rules that both ends of a topic must share.

Nothing here knows of a database, a broker client or a framework other than pydantic.
"""
