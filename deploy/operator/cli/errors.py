"""Errors that end a command with one line, and the exit codes that scripts rely on."""

from enum import IntEnum
from errno import EACCES, EDQUOT, ENOSPC, EPERM, EROFS


class Exit(IntEnum):
    """The exit codes of every command."""

    OK = 0
    NO = 1
    """The answer is no: refused, violated, different, or not found."""
    USAGE = 2
    """The command line is invalid."""
    UNREACHABLE = 3
    """Something can't be reached, or did not answer in time."""
    INTERRUPTED = 130
    """Ctrl-C: 128 + SIGINT, as shells report it."""


class Failure(Exception):
    """Ends a command. The message is one readable line."""

    exit_code = Exit.NO


class UsageError(Failure):
    """The command line is invalid."""

    exit_code = Exit.USAGE


class Unreachable(Failure):
    """Something can't be reached, or did not answer in time."""

    exit_code = Exit.UNREACHABLE


class Refused(Unreachable):
    """It answers, and refuses: a privilege is missing, or it is another version's."""


_FULL = frozenset({ENOSPC, EDQUOT})
_DENIED = frozenset({EACCES, EPERM, EROFS})


def what_failed(error: OSError) -> str:
    """Say in one line what the operating system refused, and what to do about it."""
    where = f": {error.filename}" if error.filename else ""
    if error.errno in _FULL:
        return f"the disk is full{where}: make room, and try again (--directory is another place)"
    if error.errno in _DENIED:
        return f"not allowed to write{where}: {error.strerror} (--directory is another place)"
    if isinstance(error, TimeoutError):
        return f"no answer in time: {error or 'the machine may be too busy'}; try again"
    return f"{error.strerror or type(error).__name__}{where or f': {error}'}"
