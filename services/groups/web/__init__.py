"""What groups serves over HTTP: the query API, and the page on top of it.

It owns nothing. It reads groups' own database (`queries`); a posted command leaves through the outbox (`posting`), and
the handlers decide it like any other. It may import web frameworks, which nothing else in groups may, and only `app`
imports it. Only owners see what is theirs: every query begins with the caller.
"""
