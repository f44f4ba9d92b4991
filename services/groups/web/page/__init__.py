"""The group page: what the owner of a group sees and does, and what everybody sees of the groups that they are in.

It is rendered on the server. htmx exchanges parts of it; without JavaScript, forms and links do. The routes are in
`site`, one module for each flow in `flows`, what they show in `views`, its wording in `speech` and `words`, the
visitor's cookie in `session`. The page keeps no state: each step of a form carries what the steps before it brought.
"""
