"""Notifications: messages to people.

Owns mails, their templates (French, English) and their delivery. May touch its own database, the topics
`popfax.notifications.*`, the directory of people, and an SMTP server. Never decides anything of the business.
"""
