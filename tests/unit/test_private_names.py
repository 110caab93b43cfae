"""No class of ours replaces what a library keeps to itself: the next version may do without."""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator

from tests import architecture


def test_no_private_name_of_a_library_is_overridden() -> None:
    """What begins with an underscore in a class from outside is not defined again in ours."""
    assert sorted(set(_overridden())) == []


def _overridden() -> Iterator[str]:
    for name in architecture.modules():
        module = importlib.import_module(f"{architecture.NAME}.{name}")
        for _, one in inspect.getmembers(module, inspect.isclass):
            if _ours(one):
                foreign = [base for base in one.__mro__ if not _ours(base)]
                for attribute in _written(one):
                    if attribute.startswith("_") and not attribute.startswith("__"):
                        yield from (
                            f"{one.__module__}.{one.__name__}.{attribute} of {base.__name__}"
                            for base in foreign
                            if attribute in vars(base)
                        )


def _ours(one: type) -> bool:
    return one.__module__.partition(".")[0] == architecture.NAME


def _written(one: type) -> set[str]:
    """Return the names that the class statement itself defines, and no metaclass."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
    except OSError:  # made at run time
        return set()
    assert isinstance(tree, ast.ClassDef)
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= {node.attr} if getattr(node.value, "id", "") == "self" else set()
    return found
