"""
The program that asks a Celery worker what it has in hand, and prints the answers.

The agent does not import this file: the probe hands the text to the app's own Python
(``python -c``), which has Celery and the app's settings and may be older than the agent's.
For each line of standard input the program prints one line of JSON, until nobody has asked
for a minute; it ends after ten, as the app's code may have been replaced meanwhile.
https://docs.celeryq.dev/en/stable/userguide/workers.html#inspecting-workers
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from celery import bootsteps  # type: ignore[import-untyped]
from celery.app.utils import find_app  # type: ignore[import-untyped]
from kombu.utils.imports import symbol_by_name

UNASKED = 60  # seconds
LIFE = 600.0  # seconds
SECOND_REPLY = 0.5  # seconds that a second worker of the same name may take longer
NAMES_AGE = 5.0  # seconds for which "one worker has that name" is repeated while tasks are active
ORDINARY = "Strategy=celery.worker.strategy:default]"  # how Celery itself treats a message
NO_QUEUE, EXCLUSIVE = 404, 405  # what AMQP answers of a queue that is not there, or another's own
# A task goes from scheduled to reserved to active: asked in that order, none slips through
# between two questions. The counters come first, so what begins later changes the next ones.
QUESTIONS = ("stats", "registered", "scheduled", "reserved", "active")


class Worker:
    """One worker, by the name that it has among the workers of its app."""

    def __init__(self, app: Any, name: str, within: float) -> None:
        self._app, self._name, self._within = app, name, within
        self._was_active: dict[str, Any] = {}
        self._revoked: set[str] = set()  # of these, and at that moment
        self._went_on: set[str] = set()  # of these, though revoked
        self._so_called, self._counted_at = 0, -NAMES_AGE

    def answers(self) -> dict[str, Any]:
        """Ask all questions; the first that is not answered is the last one asked."""
        conf = self._app.conf
        told: dict[str, Any] = {"steps": consumer_steps(self._app)}
        for what in QUESTIONS:
            # Celery's own tasks are asked for as well: an app may call one of its so.
            more = {"taskinfoitems": ["rate_limit", "Strategy"], "builtins": True}
            answer = self._ask(what, more if what == "registered" else {})
            if not answer:
                told["remote_control"] = bool(conf.worker_enable_remote_control)
                told["fanout"], told["listeners"] = self._broker()
                return told
            told[what] = {name: getattr(self, "_" + what)(a) for name, a in answer.items()}
        told["terminated"] = self._terminated(told["active"].get(self._name))
        told["so_called"] = self._named(decides=not any(told["active"].values()))
        return told

    def _ask(self, what: str, arguments: Any = None) -> dict[str, Any]:
        replies = self._replies(what, arguments, 1, self._within)
        return {name: reply for each in replies for name, reply in each.items()}

    def _replies(self, what: str, arguments: Any, limit: int, within: float) -> list[Any]:
        found = self._app.control.broadcast(
            what, arguments, destination=[self._name], reply=True, limit=limit, timeout=within
        )
        return found or []

    def _named(self, *, decides: bool) -> int:
        """
        Count the workers of that name; Celery believes whoever answers first.

        A second one may come up at any time, so an answer that may end the drain is
        never one that was kept.
        """
        now = time.monotonic()
        if decides or now - self._counted_at >= NAMES_AGE:
            _, listeners = self._broker()
            if listeners is None:
                within = min(self._within, SECOND_REPLY)
                listeners = len(self._replies("ping", {}, 2, within))
            self._so_called, self._counted_at = listeners, now
        return self._so_called

    def _broker(self) -> tuple[bool, int | None]:
        """
        Tell whether the broker can reach all workers, and who listens to that name.

        Only AMQP counts its consumers, frozen ones included; None for others. Nor would
        replies tell there: two that share a queue get every other question each.
        """
        with self._app.connection_or_acquire() as connection:
            fanout = connection.supports_exchange_type("fanout")
            if connection.transport.driver_type != "amqp":
                return fanout, None
            queue = self._app.control.mailbox.get_queue(self._name)
            try:
                with connection.channel() as channel:
                    return fanout, queue(channel).queue_declare(passive=True).consumer_count
            except connection.channel_errors as e:
                known = {NO_QUEUE: 0, EXCLUSIVE: 1}
                if e.code not in known:
                    raise
                return fanout, known[e.code]

    def _terminated(self, active: Any) -> list[Any]:
        """
        Return of the tasks that are active no more those that were revoked at that moment.

        A task that was active for a while after it was revoked has not been terminated:
        revoking alone changes nothing for a task that is at work.
        """
        now = dict(active) if isinstance(active, list) else {}
        left = {task: process for task, process in self._was_active.items() if task not in now}
        revoked = set(self._ask("revoked").get(self._name) or () if now or left else ())
        found = [[t, process] for t, process in left.items() if t in revoked - self._went_on]
        self._went_on = (self._went_on | self._revoked) & set(now)
        self._was_active, self._revoked = now, revoked & set(now)
        return found

    def _stats(self, told: Any) -> Any:
        pool = told.get("pool") or {}
        return {
            "total": told.get("total"),
            "pid": told.get("pid"),
            "pool": pool.get("implementation"),
            "processes": pool.get("processes"),
        }

    def _registered(self, told: Any) -> Any:
        tasks = [task.rpartition(" [") for task in told]
        limited = [name for name, _, more in tasks if more.startswith("rate_limit=")]
        if limited and self._ask("conf").get(self._name, {}).get("worker_disable_rate_limits"):
            limited = []
        odd = [name or more for name, _, more in tasks if not more.endswith(ORDINARY)]
        return {"limited": limited, "odd": odd}

    def _scheduled(self, told: Any) -> Any:
        return len(told) if isinstance(told, list) else told

    _reserved = _scheduled

    def _active(self, told: Any) -> Any:
        return [[t["id"], t["worker_pid"]] for t in told] if isinstance(told, list) else told


def consumer_steps(app: Any) -> list[str]:
    """Name the steps of the app that take messages by themselves, past Celery's tasks."""
    found = [symbol_by_name(step) for step in app.steps["consumer"]]  # type: ignore[no-untyped-call]
    taking = [step for step in found if issubclass(step, bootsteps.ConsumerStep)]
    return sorted(f"{step.__module__}.{step.__name__}" for step in taking)


def main() -> None:
    """Answer each line. What the app prints goes to standard error: it may print anything."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as Celery does it
    signal.alarm(UNASKED)
    app, name, within = sys.argv[1:]
    worker = Worker(find_app(app), name, float(within))
    end = time.monotonic() + LIFE
    while time.monotonic() < end and sys.stdin.readline():
        signal.alarm(UNASKED)
        print(json.dumps(worker.answers()), file=out, flush=True)


if __name__ == "__main__":
    main()
