"""
What a Celery worker says it has in hand: active, prefetched and scheduled tasks.

The app's own Python asks, with the app's own settings, in a child process: so the agent
needs no Celery, no broker's client and no secret of the app, and where the broker hangs,
the child is killed.
https://docs.celeryq.dev/en/stable/userguide/workers.html#inspecting-workers
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from deregister_agent.config.options import BackendOptions, Secret, Timeout
from deregister_agent.errors import AgentError, ProbeError, excerpt
from deregister_agent.host.json_values import is_whole_number
from deregister_agent.host.programs import Partner, Run, environment
from deregister_agent.model import Instance, Reading
from deregister_agent.ports import IdleProbe
from deregister_agent.probes.counting import ReadLock, StartedCounter, Unclear

OUTPUT_LIMIT = 262_144  # bytes: two numbers for each kind of task that the worker has ever begun
TaskState = Literal["active", "reserved", "scheduled"]

# A task goes from scheduled to reserved to active: asked in that order, none slips through
# between two questions. The counters come first, so a task that comes later changes the next
# ones. Celery takes the first reply to each question, so the first question is how many workers
# answer to the name. What the app prints when it is imported goes to standard error. The child
# ends when nobody has asked for a minute, and after ten: the app's code may have been replaced.
QUESTION = """
import json, os, signal, sys, time
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
sys.path.insert(0, os.getcwd())
signal.alarm(60)
from celery.app.utils import find_app
name, worker, within = sys.argv[1:]
control = find_app(name).control
inspect = control.inspect(destination=[worker], timeout=float(within))
end = time.monotonic() + 600
so_called = 0
while time.monotonic() < end and sys.stdin.readline():
    signal.alarm(60)
    so_called = so_called or len(control.broadcast(
        "ping", destination=[worker], reply=True, limit=2, timeout=min(float(within), 0.3)) or ())
    told = {"so_called": so_called}
    for what in ("stats", "registered", "scheduled", "reserved", "active"):
        answer = getattr(inspect, what)(*(("rate_limit",) if what == "registered" else ()))
        if answer is None:
            break
        if what == "stats":
            answer = {n: {"total": a.get("total"), "pid": a.get("pid")} for n, a in answer.items()}
        elif what == "registered":
            answer = {n: [t for t in a if "[rate_limit=" in t][:1] for n, a in answer.items()}
        else:
            answer = {n: len(a) if isinstance(a, list) else a for n, a in answer.items()}
        told[what] = answer
    print(json.dumps(told), file=out, flush=True)
"""


def _with_active(value: tuple[TaskState, ...]) -> tuple[TaskState, ...]:
    if "active" not in value:
        raise ValueError("must have active in it: the tasks that are at work")
    return value


class Options(BackendOptions):
    """One worker of a Celery app."""

    app: Annotated[str, Field(min_length=1)]
    """The app, as after ``celery -A``."""
    worker: Annotated[str, Field(min_length=1)]
    """The worker's name, as ``celery status`` shows it: ``celery@web-1``."""
    python: Annotated[tuple[str, ...], Field(min_length=1)]
    """The Python that runs the app, with arguments if need be: the one of its virtual
    environment."""
    counts: Annotated[tuple[TaskState, ...], AfterValidator(_with_active)] = (
        "active",
        "reserved",
        "scheduled",
    )
    """Which tasks are in hand: active, and with it others. Reserved ones were prefetched and have
    not begun; scheduled ones wait for their time."""
    folder: Path | None = None
    """The directory in which the app can be imported; the agent's own, unless it is given."""
    env: dict[str, str | Secret] = Field(default_factory=dict)
    """Environment variables that the app's settings need: a text, or a table that says where a
    secret is."""
    reply_timeout: Timeout = 1.0
    """How long the worker may take for each of its five replies, in seconds."""
    timeout: Timeout = 10.0
    """The limit of one read, in seconds, the start of Python and the import of the app
    included."""


class CeleryProbe(IdleProbe):
    """Asks one worker through its broker; no reply never means zero."""

    def __init__(self, options: Options, instance: Instance) -> None:
        self.name = options.label
        self._options, self._instance = options, instance
        self._starts, self._reads, self._partner = StartedCounter(0), ReadLock(), Partner()

    def read(self, wait: float) -> Reading:
        """Return what the worker says. Raises ProbeError unless each question is answered."""
        del wait
        try:
            with self._reads.held(self._options.timeout) as left:
                return self._reading(_document(self._partner.ask(self._run(), left)))
        except AgentError as e:
            doing = f"tell what {self._options.worker} has in hand"
            raise ProbeError(self.name, doing, e) from e

    def _run(self) -> Run:
        options = self._options
        arguments = (options.app, options.worker, str(options.reply_timeout))
        return Run(
            (*options.python, "-c", QUESTION, *arguments),
            environment(self._instance, options.env),
            options.folder,
            OUTPUT_LIMIT,
        )

    def _reading(self, told: Mapping[str, Any]) -> Reading:
        stats = self._answer(told, "stats")
        total, pid = (stats.get("total"), stats.get("pid")) if isinstance(stats, dict) else (0, 0)
        if not isinstance(total, dict) or not pid:
            raise Unclear(f"its stats are {_shown(stats)}, without total and pid")
        if told.get("so_called") not in (0, 1):
            raise Unclear(
                "several workers have that name, and each question is answered by another"
            )
        self._must_tell_all(self._answer(told, "registered"))
        states: tuple[TaskState, ...] = ("scheduled", "reserved", "active")
        counts = {state: _count(self._answer(told, state), state) for state in states}
        in_flight = {"tasks": counts["active"]} if "active" in self._options.counts else {}
        for state in ("reserved", "scheduled"):
            if state in self._options.counts:
                in_flight[state] = counts[state]
        started = self._starts.count(sum(_count(n, "total") for n in total.values()))
        return Reading(in_flight, started, str(pid))

    def _must_tell_all(self, limited: Any) -> None:
        """Raise Unclear if a task has a rate limit: no answer shows what waits for that."""
        if limited != [] and "reserved" in self._options.counts:
            raise Unclear(
                f"{_shown(limited)} has a rate limit, and Celery does not tell what waits for "
                "it: leave reserved out of counts; they go back to the broker when the worker stops"
            )

    def _answer(self, told: Mapping[str, Any], what: str) -> Any:
        answers = told.get(what)
        if not isinstance(answers, dict) or not answers:
            raise Unclear(
                f"it did not reply to {what} within {self._options.reply_timeout:g} s: "
                "it is gone, cut off from the broker, or too busy to answer"
            )
        if list(answers) != [self._options.worker]:
            raise Unclear(f"the reply to {what} comes from {', '.join(answers)}")
        return answers[self._options.worker]


def _document(output: bytes) -> Mapping[str, Any]:
    try:
        told = json.loads(output)
    except (ValueError, RecursionError) as e:
        raise Unclear(
            f"the app's Python printed no JSON: {excerpt(output.decode('ascii', 'replace'))!r}"
        ) from e
    if not isinstance(told, dict):
        raise Unclear(f"the app's Python printed {_shown(told)}")
    return told


def _count(value: Any, what: str) -> int:
    if not is_whole_number(value) or value < 0:
        raise Unclear(f"{what} is {_shown(value)}, not a whole number of at least 0")
    return value


def _shown(value: Any) -> str:
    return excerpt(repr(value))


def build(options: Options, instance: Instance) -> CeleryProbe:
    """Return the probe of one worker."""
    return CeleryProbe(options, instance)
