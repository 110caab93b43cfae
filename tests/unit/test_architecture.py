"""The shape of the program: arrows point one way, and a backend is one new file or folder."""

import ast
import re
from collections.abc import Iterator

import pytest

import deregister_agent
from deregister_agent.config import backends
from deregister_agent.config.backends import BackendPort
from tests import architecture
from tests.architecture import PACKAGE, Module

TESTS = PACKAGE.parent / "tests"
DOCS = PACKAGE.parent / "docs"
PORTS: tuple[BackendPort, ...] = ("registries", "probes", "notifiers")
MODULES = architecture.modules()

_BACKEND = {"errors", "model", "ports", "config.options", "net", "host", "host.files"}

ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "model": set(),
    "status": {"errors", "model"},
    "drain": {"model"},
    "ports": {"model"},
    "config.options": {"errors", "model", "host.files"},
    "net": {"errors", "host.files"},
    "host": {"errors", "model", "ports", "config.options", "host.files"},
    "host.files": set(),
    "journal": {"errors", "model", "host", "host.files"},
    "registries": {*_BACKEND, "status"},
    "probes": _BACKEND,
    "notifiers": _BACKEND,
    "engine": {"errors", "model", "status", "drain", "ports", "host", "journal"},
    "config": {"errors", "model", "config.options", "host", "probes"},
    "api": {
        *{"errors", "model", "status", "drain", "config", "engine", "journal", "host"},
        "host.files",
    },
    "wiring": {"config", "engine", "host", "journal", "ports", "probes"},
    "cli.client": {"errors"},
    "cli": {
        *{"errors", "model", "status", "drain", "config", "engine"},
        *{"wiring", "api", "cli.client", "demo", "host"},
    },
    "app": {"host"},
    "demo": {"errors", "app", "cli.client"},
}
"""What each room may import from: itself, and these."""

LOOSE = {"errors", "model", "status", "drain", "ports", "wiring"}
"""The files of the root; six at most, beside the two dunders."""


def test_the_rooms_are_these() -> None:
    """Every file stands in one of these folders, or is one of a few loose ones."""
    loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert loose == LOOSE
    assert len(LOOSE) <= 6
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert folders == set(ARROWS) - LOOSE - architecture.SINGLE_FILES


def test_arrows_lead_where_they_may() -> None:
    """A room imports only from the rooms that are named for it, for types as well."""
    for room, others in architecture.arrows(MODULES).items():
        assert others <= ARROWS[room], f"{room} imports {others - ARROWS[room]}"


def test_there_is_no_circle() -> None:
    """Neither modules nor rooms import one another in a circle, for types as well."""
    modules = {name: architecture.imported(module, MODULES) for name, module in MODULES.items()}
    assert architecture.circle(modules) == []
    assert architecture.circle(architecture.arrows(MODULES)) == []


def test_the_engine_takes_of_the_host_only_its_clock_files_and_threads() -> None:
    """Which sockets, processes and programs there are is for backends and finders to say."""
    for module in MODULES.values():
        if module.room in {"engine", "journal"}:
            imported = architecture.imported(module, MODULES)
            of_the_host = {name for name in imported if MODULES[name].room == "host"}
            assert of_the_host <= {"host.clock", "host.files", "host.threads"}, module.name


def test_the_map_is_the_same_everywhere() -> None:
    """The package's docstring and CONTRIBUTING say the same of the rooms, and of each of them."""
    told = str(deregister_agent.__doc__).partition("\n\n")[2].strip()
    page = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    assert f"```text\n{told}\n```" in page
    names = {line.split()[0].removesuffix(".py").removesuffix("/") for line in told.splitlines()}
    assert names == set(ARROWS) - architecture.SINGLE_FILES


def test_the_walks_lead_through_files_that_are_there() -> None:
    """The walks of CONTRIBUTING name no file that has been moved since."""
    page = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    walks = [line for line in page.splitlines() if line.startswith("- ") and "→" in line]
    assert len(walks) == 3
    for walk in walks:
        for file in re.findall(r"`([\w/]+\.py)`", walk):
            assert (PACKAGE / file).is_file(), file


_READS = {"read_text", "read_bytes", "open"}
_READERS = {
    "host.files": "the one place",
    "cli.client": "a person may give the token by a pipe",
    "config.load": "a person may give the configuration by a pipe",
    "net.connections": "opens connections",
    "net.pools": "opens connections",
    "engine.knowledge": "opens a process to newcomers",
    "journal.file": "the journal, a file of our own",
    "journal.generation": "a file of our own",
    "api.trust": "the token, which it makes",
    "cli.logs": "standard streams",
    "probes.celery.probe": "what is in the package",
    "registries.nginx.main_file": "the program of a running process",
    "registries.nginx.processes": "what the kernel shows",
    **dict.fromkeys(
        ("host.pids", "host.relatives", "host.clock", "host.forwarders", "host.sockets"),
        "what the kernel shows",
    ),
}


def test_files_of_others_are_read_in_one_place() -> None:
    """To open what may be a FIFO would wait for ever, so files.read_plain() opens it."""
    readers = {name for name, module in MODULES.items() if _READS & set(_methods(module.tree))}
    found = {name for name in readers if MODULES[name].room not in {"app", "demo"}}
    assert found == set(_READERS)


def _methods(tree: ast.AST) -> Iterator[str]:
    """Yield the names of the methods that are called anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr


def test_the_decision_does_no_io() -> None:
    """The machine, its words and the quiet window import nothing that could touch the world."""
    pure = {"collections.abc", "dataclasses", "enum", "typing"}
    for name in ("model", "drain", "engine.quiet_window"):
        for node in ast.walk(MODULES[name].tree):
            if isinstance(node, ast.Import):
                modules = {each.name for each in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules = {str(node.module)}
            else:
                continue
            assert modules <= pure | {"deregister_agent.model"}, f"{name} imports {modules}"


def _backend(module: Module) -> str:
    """Return the backend that a module belongs to, as ``registries.nginx``; empty if to none."""
    port, _, rest = module.name.partition(".")
    kind = rest.partition(".")[0]
    return f"{port}.{kind}" if port in PORTS and kind in backends.built_in(port) else ""


def test_nothing_names_a_backend() -> None:
    """Only configurations name a kind: no module outside a backend's own imports it."""
    for module in MODULES.values():
        for name in architecture.imported(module, MODULES):
            other = _backend(MODULES[name])
            assert other in {"", _backend(module)}, f"{module.name} imports {name}"


@pytest.mark.parametrize("port", PORTS)
def test_each_backend_is_documented_and_passes_the_shared_suite(port: BackendPort) -> None:
    """Beside a backend stand its reference page and its line in the contract suite."""
    for kind in backends.built_in(port):
        assert (DOCS / "reference" / port / f"{kind}.md").is_file(), f"no page for {port}/{kind}"
        assert (TESTS / "contract" / port / f"{kind}.py").is_file(), f"{port}/{kind} is not tested"


def test_a_file_fits_in_the_head() -> None:
    """A file of more than 300 lines has two jobs."""
    assert not {module.name for module in MODULES.values() if module.lines > 300}


def test_no_file_has_a_name_that_says_nothing() -> None:
    """A name says what is in the file."""
    hollow = {"utils", "helpers", "common", "manager", "handler", "core", "base", "misc"}
    assert not {path.stem for path in PACKAGE.rglob("*.py")} & hollow


def test_nothing_broad_is_caught_but_where_a_thread_would_die() -> None:
    """``except Exception`` stands only where a thread of somebody else's code would die."""
    allowed = {"agent.py", "calls.py", "hooks.py"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else ""
                reraised = any(isinstance(each, ast.Raise) for each in ast.walk(node))
                broad = caught in {"", "Exception", "BaseException"} and not reraised
                assert not broad or path.name in allowed, f"{path.name}:{node.lineno}"


def test_no_pattern_repeats_a_group_possessively() -> None:
    """Python 3.11.0 to 3.11.4 match such a group wrongly (cpython issue 106052): use (?>...)."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
                assert not re.search(r"\)[*+?]\+", text), f"{path.name}:{node.lineno}"


def test_compose_knows_nothing_of_bench() -> None:
    """Arrows lead from the measurements to the stack: one home for the app and its load."""
    for path in (PACKAGE.parent / "compose").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert str(node.module).partition(".")[0] != "bench", path.name
