"""The table of what `popfax doctor` finds, from what it says."""

from string import Formatter

from deploy.operator.cli.doctor.findings import CASES, Area, Case, Code
from tests.documents.tables import table


def table_of_findings() -> str:
    """Return every code with its severity, what it means, and the command that follows."""
    rows = [
        (f"`{code}`", case.severity, _shown(case, case.meaning), f"`{_shown(case, case.command)}`", _link(case.runbook))
        for code, case in ((code, CASES[code]) for code in Code)
    ]
    return table(("code", "severity", "means", "next", "runbook"), rows)


def _shown(case: Case, text: str) -> str:
    """Return a text with the names of what is filled in, in capitals."""
    subject = "BROKER" if case.area is Area.BROKERS else "SERVICE"
    names = {name: name.upper() for _, name, _, _ in Formatter().parse(text) if name}
    names |= {"subject": subject, "whose": f"{subject}'s", "variable": subject}
    return text.format_map(names).replace("|", "\\|")


def _link(runbook: str | None) -> str:
    return f"[{runbook.removeprefix('Popfax')}](runbooks/{runbook}.md)" if runbook else ""
