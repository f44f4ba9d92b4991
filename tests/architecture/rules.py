"""What the code's shape must be, as functions from a tree of sources to the places that break the rule.

Each takes the directory that holds `services/`, so that a test can show it a tree that is wrong.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SERVICES = ("groups", "ledger", "notifications", "provisioning")

ROOMS = (
    "__init__.py",
    "app.py",
    "consumers.py",
    "domain.py",
    "handlers.py",
    "migrations",
    "store.py",
    "tables.py",
)
"""What every service has. It may have more (`sagas`, `sender.py`)."""

NO_SERVICE = frozenset({"chassis", "__pycache__"})
"""What stands beside the services and is none."""

BUSINESS = frozenset(
    {"group", "unit", "account", "member", "membership", "owner", "plan", "fax", "price", "invitation"}
)

NOT_BUSINESS = frozenset(
    {
        "group.id",  # Kafka's consumer group
        "group.instance.id",
        "GroupCoordinator",
        "LoadPlan",  # what a batch needs
        "plan_cache_mode",
        "force_custom_plan",  # PostgreSQL's query plans
        "a stable name of this replica (static membership)",  # of Kafka's consumer group
        "popfax-groups",  # the package's name
    }
)
"""Names and strings of the chassis in which a word of the business means something else."""

IO_MODULES = frozenset(
    {
        "aiokafka",
        "aiosmtplib",
        "asyncio",
        "confluent_kafka",
        "faststream",
        "http",
        "io",
        "logging",
        "os",
        "pathlib",
        "psycopg",
        "random",
        "requests",
        "secrets",
        "smtplib",
        "socket",
        "sqlalchemy",
        "starlette",
        "structlog",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "urllib",
    }
)
"""What a handler has no use for: it does no I/O, and has time and randomness from its arguments."""


def business_words(tree: Path) -> list[str]:
    """Find names and strings in the chassis that speak of the business."""
    return [
        f"{path.relative_to(tree)}:{line}: {text}"
        for path in sorted((tree / "services" / "chassis").rglob("*.py"))
        for line, text in _spoken(ast.parse(path.read_text()))
        if text not in NOT_BUSINESS and not any(text.startswith(known) for known in NOT_BUSINESS if " " in known)
        if BUSINESS & set(_words(text))
    ]


def impure_handlers(tree: Path) -> list[str]:
    """Find what no handler's module may contain: async code, I/O, caught errors, rows changed instead of replaced."""
    found = []
    for path in handler_modules(tree):
        for node in ast.walk(ast.parse(path.read_text())):
            if (what := _impurity(node)) is not None:
                found.append(f"{path.relative_to(tree)}:{getattr(node, 'lineno', 0)}: {what}")
    return found


def handler_modules(tree: Path) -> list[Path]:
    """Return the modules that decide: handlers, domains, what becomes of decisions, and the sagas' files."""
    services = tree / "services"
    rooms = ("handlers.py", "handlers/*.py", "transitions.py", "domain.py", "sagas/*.py")
    found = [path for name in SERVICES for room in rooms for path in services.glob(f"{name}/{room}")]
    return sorted([*found, services / "chassis" / "sagas.py"])


def missing_rooms(tree: Path) -> list[str]:
    """Find what a service lacks of what every service has, and services without a charter."""
    services = tree / "services"
    present = sorted(p.name for p in services.iterdir() if p.is_dir() and p.name not in NO_SERVICE)
    found = [
        f"services/{name}/{room}: missing" for name in present for room in ROOMS if not _there(services / name / room)
    ]
    for name in present:
        charter = services / name / "__init__.py"
        text = (ast.get_docstring(ast.parse(charter.read_text())) or "") if charter.exists() else ""
        found += [
            f"{name}: its charter does not say: {w}"
            for w in ("Owns", "May touch", "Never")
            if w.lower() not in text.lower()
        ]
    return found


def doing_at_import(tree: Path) -> list[str]:
    """Find modules whose import opens a socket, starts a process or a thread, or runs an event loop."""
    modules = [
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for root, package in ((tree / "contracts", "popfax_contracts"), (tree, "services"))
        for path in sorted((root / package).rglob("*.py"))
        # Alembic executes these files itself; they are no modules.
        if "migrations" not in path.parts
    ]
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, *modules],
        cwd=tree,
        env={"PYTHONPATH": f"{tree}:{tree}/contracts", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        return [f"the imports failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'silently'}"]
    return done.stdout.splitlines()


_IMPORT_ALL = """
import importlib, sys, threading
doing = []
WATCHED = ("socket.connect", "socket.bind", "subprocess.Popen", "os.system", "os.fork")
def watch(event, args):
    if event in WATCHED:
        doing.append(event)
def start(thread, start=threading.Thread.start):  # Python 3.11 has no audit event for it
    doing.append("threading.Thread.start")
    start(thread)
sys.addaudithook(watch)
threading.Thread.start = start
sys.path.insert(0, ".")
for name in sys.argv[1:]:
    before = len(doing)
    importlib.import_module(name)
    for event in doing[before:]:
        print(f"{name}: {event}")
"""


def _spoken(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield a module's names and strings, without its prose (docstrings, comments)."""
    prose = {id(string) for node in ast.walk(module) for string in _docstrings(node)}
    for node in ast.walk(module):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield line, node.value
        for field in ("id", "attr", "name", "arg"):
            if isinstance(name := getattr(node, field, None), str):
                yield line, name


def _docstrings(node: ast.AST) -> Iterator[ast.Constant]:
    """Yield the strings that are statements: docstrings, and what is said below a constant."""
    for statement in getattr(node, "body", ()) if isinstance(getattr(node, "body", ()), list) else ():
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            yield statement.value


def _words(text: str) -> list[str]:
    """Split `MemberJoined`, `member_joined` and `"a member"` into words, plurals made singular."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text)
    return [part.lower().removesuffix("s") for part in parts]


def _impurity(node: ast.AST) -> str | None:
    if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
        return "async"
    if isinstance(node, ast.Try):
        return "catches"
    if isinstance(node, ast.Import):
        roots = {alias.name.partition(".")[0] for alias in node.names}
        return f"imports {', '.join(sorted(roots & IO_MODULES))}" if roots & IO_MODULES else None
    if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in IO_MODULES:
        return f"imports {node.module}"
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del) and not _may_change(node.value):
        return f"assigns to {node.attr}"
    if isinstance(node, ast.Call):
        return _impure_call(node.func)
    return None


def _may_change(owner: ast.expr) -> bool:
    """Say whether an object may be changed: a load plan, or a turn of a saga. Rows are replaced."""
    return isinstance(owner, ast.Name) and owner.id in ("self", "load")


def _impure_call(called: ast.expr) -> str | None:
    if isinstance(called, ast.Name) and called.id in ("open", "print", "input", "setattr", "delattr"):
        return f"calls {called.id}"
    if isinstance(called, ast.Attribute) and called.attr in ("now", "utcnow", "today", "uuid4", "uuid1"):
        return f"calls {called.attr}"
    return f"calls {called.id}" if isinstance(called, ast.Name) and called.id in ("uuid4", "uuid1") else None


def _there(path: Path) -> bool:
    """Say whether a room is there: a module, or a package of that name."""
    return path.exists() if path.is_file() else any(path.with_suffix("").glob("*.py"))
