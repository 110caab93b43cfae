"""The progress of a drain, as the person who waits for the end sees it."""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TextIO

from deregister_agent.errors import harmless
from deregister_agent.model import Phase
from deregister_agent.status import ProbeStatus, ProcessStatus, RegistryStatus, Status

_COLOURS = {
    Phase.SERVING: 32,
    Phase.WITHDRAWING: 33,
    Phase.SETTLING: 33,
    Phase.DRAINING: 33,
    Phase.DRAINED: 32,
    Phase.EXPIRED: 31,
    Phase.GONE: 32,
    Phase.RESTORING: 33,
}
_BOLD_RED = "1;31"
_PASSING = re.compile(  # what differs from second to second while nothing happens
    r"\d+\.\d+|\d+(?= s\b| in the )|\d+ connections? of|, \d+ waiting for an answer"
)

Paint = Callable[[str, object], str]


class ProgressView(Protocol):
    """Where the progress of a drain is shown."""

    def show(self, status: Status) -> None:
        """Show the status of now."""
        ...

    def say(self, sentence: str) -> None:
        """Tell something that is not in the status."""
        ...


class Silent:
    """Shows nothing: for ``--json``."""

    def show(self, status: Status) -> None:
        """Show nothing."""

    def say(self, sentence: str) -> None:
        """Say nothing."""


class Plain:
    """One line per change: for logs of pipelines."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last = ""

    def show(self, status: Status) -> None:
        """Print a line if anything but the passing of time has changed."""
        text = f"{status.instance.name}: {summary(status)}"
        kind = _PASSING.sub("", text)
        if kind != self._last:
            self._print(text)
            self._last = kind

    def say(self, sentence: str) -> None:
        """Print *sentence*, once until something else is printed, however its seconds pass."""
        kind = _PASSING.sub("", sentence)
        if kind != self._last:
            self._print(sentence)
            self._last = kind

    def _print(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {harmless(text)}", file=self._out, flush=True)


class Live:
    """A few lines of a terminal, drawn again in place."""

    def __init__(self, out: TextIO, *, colour: bool) -> None:
        self._out, self._paint = out, painted if colour else unpainted
        self._drawn = 0
        self._lines: list[str] = []

    def show(self, status: Status) -> None:
        """Draw the status over the one before."""
        self._lines = describe(status, self._paint)
        self._draw(self._lines)

    def say(self, sentence: str) -> None:
        """Draw the sentence below the last status."""
        self._draw([*self._lines, f"  {harmless(sentence)}"])

    def _draw(self, lines: list[str]) -> None:
        """
        Go up over what was drawn, clear, draw.

        Wrapping is off meanwhile: the terminal cuts long lines, so that the
        count of lines holds, whatever the width of a letter.
        """
        lines = lines[: shutil.get_terminal_size().lines - 1]
        up = f"\x1b[{self._drawn}F" if self._drawn else ""
        self._out.write(f"{up}\x1b[J\x1b[?7l" + "".join(f"{line}\n" for line in lines) + "\x1b[?7h")
        self._out.flush()
        self._drawn = len(lines)


def view_on(out: TextIO) -> ProgressView:
    """Return the view that fits where *out* leads: in place on a terminal, else line by line."""
    if out.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return Live(out, colour=wants_colour(out))
    return Plain(out)


def wants_colour(out: TextIO) -> bool:
    """Whether to use colours: on a terminal, and NO_COLOR (no-color.org) is not set."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def painted(text: str, colour: object) -> str:
    """Return *text* in an ANSI colour."""
    return f"\x1b[{colour}m{text}\x1b[0m"


def unpainted(text: str, colour: object) -> str:
    """Return *text* as it is."""
    del colour
    return text


def summary(status: Status) -> str:
    """Return one line: the phase, what each registry says, what is in flight and waited for."""
    parts = [str(status.phase)]
    parts += [f"{registry.name} {_listing(registry)}" for registry in status.registries]
    if in_hand := counted(status.in_flight):
        parts.append(f"in flight: {in_hand}")
    text = ", ".join(parts)
    return f"{text}; waits for: {status.what_blocks}" if status.blocking else text


def describe(status: Status, paint: Paint = unpainted) -> list[str]:
    """Return the whole status, in lines."""
    trouble = [status.error] if status.error else []
    return [
        _head(status, paint),
        *(f"  registry  {_registry(registry, paint)}" for registry in status.registries),
        *(f"  probe     {_probe(probe, paint)}" for probe in status.probes),
        *_labelled("process ", _process(status.process)),
        *_labelled("waits for", status.blocking),
        *_labelled("note    ", status.notes),
        *(paint(line, _BOLD_RED) for line in _labelled("TROUBLE ", trouble)),
    ]


def counted(counts: Mapping[str, int]) -> str:
    """Return counts by kind as text, without those of zero: ``3 requests, 1 task``."""
    return ", ".join(
        f"{count} {kind.removesuffix('s') if count == 1 else kind}"
        for kind, count in counts.items()
        if count
    )


def _head(status: Status, paint: Paint) -> str:
    one = status.instance
    where = f"{one.name} ({one.service}, {one.address}:{one.port})"
    missed, colour = status.phase is Phase.SERVING and status.blocking, _COLOURS[status.phase]
    phase = f"serving, but {_missed(status)}" if missed else str(status.phase)
    text = f"{harmless(where)}: {paint(phase, _BOLD_RED if missed else colour)}"
    if status.outcome:
        text += f", outcome {status.outcome}"
    if status.since:
        text += f", since {status.since}"
    if status.remaining is not None:
        text += f", {max(0.0, status.remaining):.0f} s to the deadline"
    return text


def _missed(status: Status) -> str:
    """Say of an instance in service whether it is missing somewhere, or somebody does not tell."""
    untold = {one.error for one in status.registries}
    if untold.issuperset(status.blocking):
        return "NOT known to be listed everywhere"
    return "NOT listed everywhere"


def _listing(registry: RegistryStatus) -> str:
    match registry.listed:
        case False if registry.out_by:
            return f"has it out by another hand ({registry.out_by})"
        case True:
            return "lists it"
        case False if registry.stragglers:
            return "does not list it, but has stragglers"
        case False:
            return "does not list it"
        case _:
            return "has not told"


def _registry(registry: RegistryStatus, paint: Paint) -> str:
    more = [_listing(registry)]
    if registry.acknowledged:
        more.append("acknowledged")
    if registry.others is not None:
        more.append(f"others: {registry.others}")
    return _named(registry, [*more, *registry.stragglers], paint)


def _probe(probe: ProbeStatus, paint: Paint) -> str:
    if probe.in_flight is None:
        return _named(probe, ["has not told"], paint)
    return _named(probe, [counted(probe.in_flight) or "nothing in flight"], paint)


def _named(one: RegistryStatus | ProbeStatus, more: Iterable[str], paint: Paint) -> str:
    text = harmless(f"{one.name:<12} {', '.join(more)}")
    return f"{text}: {paint(harmless(one.error), _BOLD_RED)}" if one.error else text


def _process(process: ProcessStatus) -> list[str]:
    said = []
    if process.pids:
        said.append("pid " + ", ".join(str(pid) for pid in process.pids))
    if process.exited:
        said.append("the process that was drained has exited")
    return [*said, *([process.note] if process.note else [])]


def _labelled(label: str, sentences: Iterable[str]) -> list[str]:
    return [f"  {label:<9} {harmless(sentence)}" for sentence in sentences]
