"""
What a Celery worker says it has in hand: active, prefetched and scheduled tasks.

The app's own Python asks, with the app's own settings, in a child process: so the agent
needs no Celery, no broker's client and no secret of the app, and where the broker hangs,
the child is killed.
"""

from functools import cache
from importlib import resources

from deregister_agent.errors import AgentError, ProbeError
from deregister_agent.host.programs import Partner, Run, environment
from deregister_agent.model import Instance, Reading
from deregister_agent.ports import IdleProbe
from deregister_agent.probes.celery.answers import Answers, document, shown
from deregister_agent.probes.celery.options import Options
from deregister_agent.probes.celery.terminated_tasks import TerminatedTasks
from deregister_agent.probes.counting import ReadLock, StartedCounter, Unclear, fits_name

OUTPUT_LIMIT = 1_048_576  # bytes: each active task, and a count of each kind ever begun
QUESTIONS = "worker_questions.py"


class CeleryProbe(IdleProbe):
    """Asks one worker through its broker; no reply never means zero."""

    def __init__(self, options: Options, instance: Instance) -> None:
        self.name = options.label
        self._options, self._instance = options, instance
        self._starts, self._reads, self._partner = StartedCounter(0), ReadLock(), Partner()
        self._terminated = TerminatedTasks()

    def read(self, wait: float) -> Reading:
        """Return what the worker says. Raises ProbeError unless each question is answered."""
        del wait
        options = self._options
        try:
            with self._reads.held(options.timeout) as left:
                told = document(self._partner.ask(self._run(), left))
                return self._reading(Answers(told, options.worker, options.reply_timeout))
        except AgentError as e:
            raise ProbeError(self.name, f"tell what {options.worker} has in hand", e) from e

    def _run(self) -> Run:
        options = self._options
        arguments = (options.app, options.worker, str(options.reply_timeout))
        return Run(
            (*options.python, "-c", _questions(), *arguments),
            environment(self._instance, options.env),
            options.folder,
            OUTPUT_LIMIT,
        )

    def _reading(self, answers: Answers) -> Reading:
        pid, started = answers.pid, answers.started
        counts = {
            "tasks": answers.count("active"),
            "reserved": answers.count("reserved"),
            "scheduled": answers.count("scheduled"),
        }
        answers.must_be_of_one_worker()
        self._must_tell_all(answers)
        self._terminated.must_have_ended(answers)
        left_out = {"reserved", "scheduled"}.difference(self._options.counts)
        in_flight = {kind: count for kind, count in counts.items() if kind not in left_out}
        return Reading(in_flight, self._starts.count(started), str(pid))

    def _must_tell_all(self, answers: Answers) -> None:
        """Raise Unclear if the worker may have tasks in hand that no answer shows."""
        if answers.limited and "reserved" in self._options.counts:
            raise Unclear(
                f"{shown(answers.limited[0])} has a rate limit, and Celery does not tell what "
                "waits for it: leave reserved out of counts; they go back to the broker when the "
                "worker stops"
            )
        for name, why in answers.unlisted().items():
            if not any(fits_name(name, wanted) for wanted in self._options.counted_elsewhere):
                raise Unclear(why)


@cache
def _questions() -> str:
    return resources.files(__package__).joinpath(QUESTIONS).read_text(encoding="utf-8")


def build(options: Options, instance: Instance) -> CeleryProbe:
    """Return the probe of one worker."""
    return CeleryProbe(options, instance)
