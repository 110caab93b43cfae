"""What cannot be a hook, told when it is registered: hours before anybody asks it to stop."""

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

VAGUE = {"", "args", "arguments", "exc", "exc_info", "ignored", "params", "unused"}
"""Names of ``*parameters`` that say nothing of what the function acts on (``*_`` is the first)."""


def name_of(hook: object) -> str:
    """Return what messages call *hook*."""
    return getattr(hook, "__qualname__", None) or repr(hook)


def check_hook(hook: Callable[[], Any]) -> None:
    """
    Raise TypeError if a call of *hook* without arguments cannot do what it is there for.

    That is what cannot be called, what needs arguments, and a method that acts on the
    things it is given: with none it returns at once and has done nothing, as with
    ``pause(*partitions)`` of aiokafka and kafka-python. What does not tell its signature,
    as some functions written in C, is let pass: its call will fail.
    """
    if not callable(hook):
        raise TypeError(_not_callable(hook))
    try:
        parameters = inspect.signature(hook).parameters.values()
    except ValueError:
        return
    needed = [each.name for each in parameters if _is_needed(each)]
    if not needed and _is_bare_method(hook):
        needed = [each.name for each in parameters if _acts_on(each)]
    if needed:
        raise TypeError(
            f"the hook {name_of(hook)} acts on {', '.join(needed)}, and a hook is called without "
            f"arguments: register a function that calls it with them"
        )


def _is_bare_method(hook: object) -> bool:
    if isinstance(hook, partial):
        return not hook.args and inspect.ismethod(hook.func)
    return inspect.ismethod(hook)


def _is_needed(parameter: inspect.Parameter) -> bool:
    variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return not variable and parameter.default is parameter.empty


def _acts_on(parameter: inspect.Parameter) -> bool:
    return (
        parameter.kind is parameter.VAR_POSITIONAL
        and parameter.name.strip("_").lower() not in VAGUE
    )


def _not_callable(hook: object) -> str:
    if isinstance(hook, Coroutine):
        hook.close()
    if isinstance(hook, Awaitable):
        return f"the hook {name_of(hook)} has been called already: give the function itself"
    return f"a hook is a function, and this is {type(hook).__name__}: {hook!r}"
