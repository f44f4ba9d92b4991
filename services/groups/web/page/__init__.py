"""The group page: what the owner of a group sees and does, and what everybody sees of the groups that they are in.

Server-rendered; htmx exchanges parts of it, and where there is no JavaScript forms and links do. Routes are in `site`,
what they show in `views`, how it is said in `speech` and `words`, who is there in `session`. It keeps no state of its
own: a visit is a cookie with the platform's token, a step of a form carries what the steps before it brought.
"""
