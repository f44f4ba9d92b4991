"""`popfax`: the command line of whoever runs the product. One module a command, and what they share."""

from deploy.cli.app import main

__all__ = ["main"]
