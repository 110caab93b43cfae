"""The shape of the program: arrows point one way, and a backend is one new file."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import deregister_agent
from deregister_agent import backends
from deregister_agent.backends import BackendPort

PACKAGE = Path(inspect.getfile(deregister_agent)).parent
TESTS = PACKAGE.parent / "tests"
DOCS = PACKAGE.parent / "docs"
PORTS: tuple[BackendPort, ...] = ("registries", "probes", "notifiers")

SPINE = ["errors", "model", "drain", "ports", "journal", "loop", "agent", "http_api", "cli"]
"""A module of the spine imports only modules of the spine that stand before it."""

LOOP = {
    "agent",
    "acting",
    "loop",
    "journal",
    "journal_file",
    "letters",
    "history",
    "registry_view",
    "views",
    "sighting",
    "outbox",
    "report",
    "wiring",
    "serve",
}
"""What no backend may know: how it is used."""


def imported(path: Path) -> set[str]:
    """Return the modules of the package that *path* imports, types included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "deregister_agent":
                found |= {parts[1]} if len(parts) > 1 else {name.name for name in node.names}
    return found


def test_arrows_point_one_way() -> None:
    """Along the spine each module imports only what stands before it."""
    for height, name in enumerate(SPINE):
        for other in imported(PACKAGE / f"{name}.py") & set(SPINE):
            assert SPINE.index(other) < height, f"{name} imports {other}"


def test_the_decision_does_no_io() -> None:
    """The machine, its words and the quiet window import nothing that could touch the world."""
    pure = {"collections.abc", "dataclasses", "enum", "typing"}
    for name in ("model", "drain", "quiet"):
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
            if isinstance(node, ast.Import):
                modules = {each.name for each in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules = {str(node.module)}
            else:
                continue
            assert modules <= pure | {"deregister_agent.model"}, f"{name} imports {modules}"


@pytest.mark.parametrize("port", PORTS)
def test_a_backend_does_not_know_how_it_is_used(port: BackendPort) -> None:
    """No backend imports the loop, the journal or another backend."""
    for kind in backends.built_in(port):
        found = imported(PACKAGE / port / f"{kind}.py")
        assert not found & (LOOP | set(PORTS)), f"{port}/{kind} imports {found}"


@pytest.mark.parametrize("port", PORTS)
def test_nothing_names_a_backend(port: BackendPort) -> None:
    """Only configurations name a kind: no module outside a backend's own imports it."""
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name not in PORTS:
            assert port not in imported(path), f"{path.name} imports a backend"


@pytest.mark.parametrize("port", PORTS)
def test_each_backend_is_documented_and_passes_the_shared_suite(port: BackendPort) -> None:
    """Beside a backend's one file stand its reference page and its line in the contract suite."""
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
