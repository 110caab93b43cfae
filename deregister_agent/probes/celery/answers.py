"""What a worker has answered to worker_questions.py: believed where it is whole and its own."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deregister_agent.errors import excerpt
from deregister_agent.host.json_values import is_whole_number
from deregister_agent.probes.counting import MOST_STARTED, Unclear, a_count

POOLS = frozenset(
    f"celery.concurrency.{name}:TaskPool"
    for name in ("prefork", "thread", "solo", "gevent", "eventlet")
)
"""The pools of Celery itself, of which is known that a task is active until it has ended."""
PREFORK = "celery.concurrency.prefork:TaskPool"
OWN_NAME = "give each worker a name of its own (celery worker -n NAME@%h)"
_ALIKE = "let another probe count it, and then write counted_elsewhere = [{name!r}]"


@dataclass(frozen=True)
class Answers:
    """
    All that one worker has answered, checked.

    *told* is the program's document, *worker* who has to have answered, *within* how long
    each reply could take, in seconds. Everything raises Unclear, which says why, where an
    answer is missing, is another worker's, or is not what Celery says.
    """

    told: Mapping[str, Any]
    worker: str
    within: float

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return a_count(self._stats.get("pid"), "its process id")

    @property
    def started(self) -> int:
        """How many tasks it has begun in its life."""
        total = self._stats.get("total")
        if not isinstance(total, dict):
            raise Unclear(f"its stats have {shown(total)} as total, not a count for each task")
        return sum(a_count(n, "total", most=MOST_STARTED) for n in total.values())

    @property
    def pool(self) -> str:
        """What works on its tasks, as ``module:class``."""
        pool = self._stats.get("pool")
        if not isinstance(pool, str):
            raise Unclear(f"its stats have {shown(pool)} as the pool's implementation")
        return pool

    @property
    def processes(self) -> Sequence[int]:
        """The process ids of its pool."""
        found = self._stats.get("processes")
        if not isinstance(found, list):
            raise Unclear(f"its stats have {shown(found)} as the pool's processes")
        return [a_count(pid, "a process of the pool") for pid in found]

    @property
    def active(self) -> Mapping[str, Any]:
        """The tasks at work, by id, and the process (or thread, or greenlet) of each."""
        return dict(_pairs(self._own("active"), "active"))

    @property
    def terminated(self) -> Mapping[str, int]:
        """The tasks that were revoked and are active no more, each with its process."""
        pairs = _pairs(self.told.get("terminated"), "terminated")
        return {task: a_count(pid, "the process of a task") for task, pid in pairs}

    @property
    def limited(self) -> Sequence[str]:
        """The tasks that begin only so often."""
        return self._registered("limited")

    def count(self, state: str) -> int:
        """Return how many tasks are in that state: active, reserved or scheduled."""
        if state == "active":
            return len(_pairs(self._own("active"), "active"))
        return a_count(self._own(state), state)

    def must_be_of_one_worker(self) -> None:
        """Raise Unclear where the name is not that of one worker alone."""
        named = self.told.get("so_called")
        if named != 1:
            raise Unclear(
                f"{shown(named)} workers have that name, not one, and each question is answered "
                f"by another of them: {OWN_NAME}"
            )

    def unlisted(self) -> Mapping[str, str]:
        """Return what works past Celery's lists, by its name, each with the reason."""
        found = {
            task: f"task {task} has a Strategy of its own, as those of celery-batches have, so "
            "what it has in hand is in none of Celery's lists: " + _ALIKE.format(name=task)
            for task in self._registered("odd")
        }
        steps = self.told.get("steps")
        if not isinstance(steps, list):
            raise Unclear(f"the app's consumer steps are {shown(steps)}")
        found |= {
            step: f"the app has the consumer step {step}, which takes messages by itself, and "
            "Celery does not tell of them: " + _ALIKE.format(name=step)
            for step in steps
        }
        if self.pool not in POOLS:
            found[self.pool] = (
                f"its pool is {self.pool}, which is none of Celery's, so what is active may have "
                "ended, and the other way round: " + _ALIKE.format(name=self.pool)
            )
        return found

    @property
    def _stats(self) -> Mapping[str, Any]:
        stats = self._own("stats")
        if not isinstance(stats, dict):
            raise Unclear(f"its stats are {shown(stats)}")
        return stats

    def _registered(self, what: str) -> Sequence[str]:
        told = self._own("registered")
        names = told.get(what) if isinstance(told, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise Unclear(f"its tasks are {shown(told)}")
        return names

    def _own(self, what: str) -> Any:
        answers = self.told.get(what)
        if not isinstance(answers, dict) or not answers:
            raise Unclear(f"it did not reply to {what} within {self.within:g} s: {self._why()}")
        if list(answers) != [self.worker]:
            raise Unclear(f"the reply to {what} comes from {', '.join(answers)}")
        return answers[self.worker]

    def _why(self) -> str:
        """Say why nobody may have replied."""
        count = "switch that on, or let the app count its tasks itself"
        if self.told.get("fanout") is False:
            return (
                "Celery has no remote control on this kind of broker, and without that no worker "
                "tells what it has in hand: let the app count its tasks itself"
            )
        if self.told.get("remote_control") is False:
            return (
                "the app's settings have worker_enable_remote_control off, and without that no "
                f"worker tells what it has in hand: {count}"
            )
        listeners = self.told.get("listeners")
        if is_whole_number(listeners) and listeners > 1:
            return (
                f"the broker has {listeners} who listen to that name, and one of them does not "
                f"answer: {OWN_NAME}"
            )
        if listeners == 0:
            return (
                "the broker has nobody who listens to that name: it is gone, cut off from the "
                f"broker, has another name, or was started with remote control off ({count})"
            )
        return (
            "it is gone, cut off from the broker, too busy to answer, as a solo worker is while "
            f"it works, or was started with remote control off ({count})"
        )


def document(output: bytes) -> Mapping[str, Any]:
    """Return what the program printed. Raises Unclear if that is no JSON object."""
    try:
        told = json.loads(output)
    except (ValueError, RecursionError) as e:
        printed = excerpt(output.decode("ascii", "replace"))
        raise Unclear(f"the app's Python printed no JSON: {printed!r}") from e
    if not isinstance(told, dict):
        raise Unclear(f"the app's Python printed {shown(told)}")
    return told


def shown(value: Any) -> str:
    """Return a value as a sentence shows it, cut where it is long."""
    return excerpt(repr(value))


def _pairs(value: Any, what: str) -> Sequence[tuple[str, Any]]:
    whole = isinstance(value, list) and all(isinstance(v, list) and len(v) == 2 for v in value)  # noqa: PLR2004
    if not whole or not all(isinstance(task, str) for task, _ in value):
        raise Unclear(f"{what} is {shown(value)}, not a list of tasks and their processes")
    return [(task, process) for task, process in value]
