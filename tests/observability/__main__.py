"""Make every fault once, print when its alerts fired and resolved, and write that into the document: `make alerts`.

    python -m tests.observability [ALERT...]

With alerts, only their faults are made, and nothing is written.
"""

import os
import re
import sys
import time

from deploy.paths import CHECKOUT, STATE
from tests.observability.faults import FAULTS
from tests.observability.run import Seen, as_table, run
from tests.observability.scene import scene
from tests.quiet import silence_logs

DOCUMENT = CHECKOUT / "docs" / "operations" / "alerts.md"

MEASURED = re.compile(r"(?<=<!-- measured: faults \(make alerts\) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def _tell(seen: Seen) -> None:
    print(f"{seen.alert}: fired after {seen.fired_s:.1f} s, resolved after {seen.resolved_s:.1f} s", flush=True)


def main() -> None:
    """Do so."""
    silence_logs()
    only = [fault for fault in FAULTS if {name for name, _ in fault.alerts} & {*sys.argv[1:]}]
    begun = time.monotonic()
    with scene(STATE / f"test-{os.getpid()}-alerts") as made:
        print(f"the product runs after {time.monotonic() - begun:.0f} s", flush=True)
        seen = as_table(run(made, _tell, only))
    print(f"\n{seen}\n\n{time.monotonic() - begun:.0f} s in all")
    if only:
        return
    DOCUMENT.write_text(MEASURED.sub(lambda _: seen + "\n", DOCUMENT.read_text()))


if __name__ == "__main__":
    main()
