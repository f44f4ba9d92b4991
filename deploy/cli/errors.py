"""What a command can't do, said in one line, and the exit codes that scripts go by."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of every command."""

    OK = 0
    NO = 1
    """The answer is no: refused, violated, different, or not found."""
    USAGE = 2
    """The command line asks for something that can't be."""
    UNREACHABLE = 3
    """Something can't be reached, or gave no answer in time."""
    INTERRUPTED = 130
    """Ctrl-C, as shells have it."""


class Failure(Exception):
    """A command ends here. The message is one readable line."""

    exit_code = Exit.NO


class UsageError(Failure):
    """What was asked for can't be."""

    exit_code = Exit.USAGE


class Unreachable(Failure):
    """Something can't be reached, or gave no answer in time."""

    exit_code = Exit.UNREACHABLE
