"""Write the generated rules and dashboards, or print the rules for a deployment of your own.

python -m deploy.observability
python -m deploy.observability rules [--runbooks URL]
"""

import argparse

from deploy.observability.alerts import ALERTS, OBJECTIVES
from deploy.observability.files import write
from deploy.observability.rules import RUNBOOKS, as_yaml, groups


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.observability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rules = parser.add_subparsers(dest="command").add_parser("rules", help="print Prometheus' rules")
    rules.add_argument("--runbooks", default=RUNBOOKS, metavar="URL", help="where your runbooks are published")
    options = parser.parse_args()
    if options.command == "rules":
        print(as_yaml({"groups": groups(ALERTS, OBJECTIVES, runbooks=options.runbooks)}), end="")
        return
    for path in write():
        print(f"{path} written")


if __name__ == "__main__":
    main()
