"""What holds in every run: it leaves nothing behind, and no test that fails can end it."""

import ast
import functools
import gc
import os
import shlex
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import pytest

from tests import guard

OLDER = ("3.4", "nginx-1.22")
"""How the parameters of tests begin that name a version of etcd or Nginx before the newest."""
_PYTHONS_OWN = {signal.SIGPIPE, signal.SIGXFSZ}  # Popen itself restores these
_OF_TERMINALS = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}  # a handler would try again


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main() -> int | None:
    """Run the same command again below guards; this process only waits for them."""
    if guard.UNDO in os.environ:
        return None
    return guard.run_guarded(sys.orig_argv)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: Sequence[Any]) -> None:
    """Put a guard above each worker: one that dies takes its servers along, and the run goes on."""
    for spec in specs:
        spec.python = shlex.join(guard.command(sys.executable))


def pytest_configure() -> None:
    _give_children_the_default_signals()
    _parse_undisturbed()


def _give_children_the_default_signals() -> None:
    """
    Take care of signals that this process has inherited as ignored or blocked.

    A shell has background jobs ignore SIGINT, and nohup SIGHUP; whatever is started would go
    on ignoring them. A handler that does nothing ignores them as well, and ends at exec().
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - _PYTHONS_OWN - _OF_TERMINALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def _parse_undisturbed() -> None:
    """
    Keep the garbage collector from running finalizers while source text is parsed.

    If one of them parses too, as a traceback does that it prints, CPython's parser raises
    "SystemError: AST constructor recursion depth mismatch" (python/cpython#106905).
    """
    parse = ast.parse

    @functools.wraps(parse)
    def undisturbed(*args: Any, **kwargs: Any) -> Any:
        was_on = gc.isenabled()
        gc.disable()
        try:
            return parse(*args, **kwargs)
        finally:
            if was_on:
                gc.enable()

    ast.parse = undisturbed


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave older versions of servers to the nightly run, and deal out what takes long."""
    for item in items:
        call = getattr(item, "callspec", None)
        values = call.params.values() if call else ()
        if any(isinstance(value, str) and value.startswith(OLDER) for value in values):
            item.add_marker("nightly")
    items[:] = _longest_first(items)


def _longest_first(items: Sequence[pytest.Item]) -> Iterator[pytest.Item]:
    """
    Let each worker begin with its part of what takes long.

    xdist gives each a stretch of the list, and one that has done its own takes from the others.
    At most half of them run whole stacks at the same time, which take all of the processors.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    half = (workers + 1) // 2
    stacks: list[pytest.Item] = []
    others: list[pytest.Item] = []
    rest: list[pytest.Item] = []
    for item in items:
        path = item.path.parent.name
        kind = stacks if path == "e2e" else others if path in ("crash", "simulation") else rest
        kind.append(item)
    for n in range(workers):
        yield from stacks[n::half] if n < half else others[n - half :: workers - half]
        yield from rest[len(rest) * n // workers : len(rest) * (n + 1) // workers]
    if workers == half:
        yield from others


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    """Report as a failure of the test what goes wrong while its failure is described."""
    outcome = yield
    if outcome.exception is not None and call.when != "collect":
        text = f"{call.excinfo}; it cannot be described: {outcome.exception!r}"
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", text, call.when)
        outcome.force_result(report)
