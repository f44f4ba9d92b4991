"""What people see of groups over HTTP: the query API, and the page on top of it.

Owns nothing: it reads groups' own database (`queries`), and what somebody asks for leaves through the outbox, to be
decided by the handlers like everything else (`commands`). May know web frameworks, which nothing else of groups may;
`app` alone may import it. Never shows anybody what is the owner's, but the owner: every query begins with who asks.
"""
