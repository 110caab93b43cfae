"""The shape of the program: arrows point one way, and a backend is one new file or folder."""

import ast
import re

import pytest

from deregister_agent.config import backends
from deregister_agent.config.backends import BackendPort
from tests import architecture
from tests.architecture import PACKAGE, Module

TESTS = PACKAGE.parent / "tests"
DOCS = PACKAGE.parent / "docs"
PORTS: tuple[BackendPort, ...] = ("registries", "probes", "notifiers")
MODULES = architecture.modules()

_BACKEND = {"errors", "model", "ports", "config.options", "net", "host"}

ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "model": set(),
    "drain": {"model"},
    "ports": {"model"},
    "config.options": {"errors", "model"},
    "net": {"errors"},
    "host": {"errors", "model", "ports", "config.options"},
    "journal": {"errors", "model", "host"},
    "registries": {*_BACKEND, "config"},
    "probes": {*_BACKEND, "config"},
    "notifiers": _BACKEND,
    "engine": {"errors", "model", "drain", "ports", "host", "journal"},
    "config": {"errors", "model", "config.options", "host", "probes"},
    "api": {"errors", "model", "drain", "config", "engine", "journal", "host"},
    "wiring": {"config", "engine", "host", "journal", "ports", "probes"},
    "cli.client": {"errors"},
    "cli": {"errors", "model", "drain", "config", "engine", "wiring", "api", "cli.client", "demo"},
    "app": {"host"},
    "demo": {"errors", "app", "cli.client"},
}
"""What each room may import from: itself, and these."""

NO_CIRCLE = {"errors", "model", "drain", "ports", "journal", "engine"}
"""The rooms among which there is no circle; the others are yet to be freed of theirs."""

CIRCLES_WITHIN = {"api"}
"""The rooms whose modules are yet to be freed of a circle."""

LOOSE = {"errors", "model", "drain", "ports", "wiring"}
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
    modules = {
        name: architecture.imported(module, MODULES)
        for name, module in MODULES.items()
        if module.room not in CIRCLES_WITHIN
    }
    assert not architecture.circle(modules)
    rooms = architecture.arrows(MODULES)
    assert not architecture.circle({room: rooms[room] & NO_CIRCLE for room in NO_CIRCLE})


def test_the_engine_takes_of_the_host_only_its_clock_and_files() -> None:
    """Which sockets, processes and programs there are is for backends and finders to say."""
    for module in MODULES.values():
        if module.room in {"engine", "journal"}:
            imported = architecture.imported(module, MODULES)
            of_the_host = {name for name in imported if MODULES[name].room == "host"}
            assert of_the_host <= {"host.clock", "host.files"}, module.name


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
