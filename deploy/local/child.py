"""Becomes the command that it is given, after it has bound that command's life to its parent's.

    python -I -S child.py PARENT_PID DEATH_SIGNAL USER COMMAND…

USER is "-" to stay who we are. A script of its own, and not a `preexec_fn`, because Python code between fork and exec
can deadlock when the parent has threads. It uses the standard library alone, and starts in about 20 ms.
"""

import ctypes
import os
import pwd
import signal
import sys

_PR_SET_PDEATHSIG = 1


def _become(user: str) -> None:
    """Switch from root to `user`, for good."""
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def _die_with_parent(parent: int, death_signal: int) -> None:
    """Have the kernel send us `death_signal` when our parent ends, however it ends.

    On Linux only: elsewhere the next start ends what an earlier one left.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:  # it ended before we asked
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Never returns: it becomes the command."""
    parent, death_signal, user, *command = sys.argv[1:]
    os.umask(0o077)  # what servers write holds addresses, mails and passwords
    if user != "-":
        _become(user)
    _die_with_parent(int(parent), int(death_signal))  # after the change of user, which would undo it
    os.execv(command[0], command)  # noqa: S606 - becoming the command is what this is for


if __name__ == "__main__":
    main()
