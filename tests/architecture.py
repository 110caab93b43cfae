"""
The rooms of the package: what stands in each, and which arrows lead from one to another.

``python -m tests.architecture`` prints them as a table; ``tests/unit/test_architecture.py``
keeps them.
"""

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import deregister_agent

PACKAGE = Path(inspect.getfile(deregister_agent)).parent
NAME = PACKAGE.name

SINGLE_FILES = {"config.options", "cli.client", "host.files"}
"""
Files of a folder that are rooms of their own, because lower rooms need them.

Backends describe their tables with the first; the demonstration, which the command line
runs, talks to its agent by the second; with the third the first reads secrets.
"""


@dataclass(frozen=True, slots=True)
class Module:
    """One file of the package: its dotted name below the package, and its syntax."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        """The folder or the loose file that it belongs to."""
        return self.name if self.name in SINGLE_FILES else self.name.partition(".")[0]

    @property
    def lines(self) -> int:
        """How long the file is."""
        return len(self.path.read_text().splitlines())


def modules() -> dict[str, Module]:
    """Return every module of the package by its name; the two dunders of the root apart."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and name != "__main__":
            found[name] = Module(name, path, ast.parse(path.read_text()))
    return found


def imported(module: Module, known: dict[str, Module]) -> set[str]:
    """Return the modules of the package that *module* imports, for types only as well."""
    found = set()
    for target, names in _imports(module.tree):
        for each in names:
            whole = f"{target}.{each}" if target else each
            found.add(whole if whole in known else target)
    return found & set(known) - {module.name}


def _imports(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            top, _, rest = node.module.partition(".")
            if top == NAME:
                yield rest, [each.name for each in node.names]


def arrows(known: dict[str, Module]) -> dict[str, set[str]]:
    """Return which rooms each room imports from."""
    found: dict[str, set[str]] = {module.room: set() for module in known.values()}
    for module in known.values():
        rooms = {known[name].room for name in imported(module, known)}
        found[module.room] |= rooms - {module.room}
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return one circle of *graph*, as the names on the way; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := visit(other, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def table() -> str:
    """Return the rooms as a table for a person, the lowest first."""
    known = modules()
    graph = arrows(known)
    rows = [("room", "files", "lines", "what it imports")]
    for room in sorted(graph, key=lambda one: (_height(one, graph), one)):
        files = [module for module in known.values() if module.room == room]
        lines = str(sum(module.lines for module in files))
        rows.append((room, str(len(files)), lines, ", ".join(sorted(graph[room])) or "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}"
        for row in rows
    )


def _height(room: str, graph: dict[str, set[str]]) -> int:
    """Return on which floor *room* stands; a circle is on the floor of its lowest room."""
    heights: dict[str, int] = {}

    def of(one: str) -> int:
        if one not in heights:
            heights[one] = 0
            heights[one] = 1 + max((of(other) for other in graph[one]), default=-1)
        return heights[one]

    return of(room)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
