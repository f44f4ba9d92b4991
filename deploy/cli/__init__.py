"""`popfax`: the command line of whoever runs the product. One module a command, and what they share."""

import sys

INTERRUPTED = 130


def main() -> None:
    """Run it. Its imports take a second, and on a busy machine several: Ctrl-C may come meanwhile."""
    try:
        from deploy.cli.app import main as run  # noqa: PLC0415

        run()
    except KeyboardInterrupt:
        print("popfax: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
