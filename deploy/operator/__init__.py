"""The operator's room: the command line, and what it works with."""
