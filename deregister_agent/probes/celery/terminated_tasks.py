"""Tasks that were terminated at work: Celery strikes them off its lists before they have ended."""

from deregister_agent.probes.celery.answers import PREFORK, Answers
from deregister_agent.probes.counting import Unclear


class TerminatedTasks:
    """
    Remembers which tasks were terminated, and in which processes of the pool.

    ``revoke(terminate=True)`` sends a signal, and that moment the task is active no more.
    A process that dies of the signal leaves the pool; one that does not (SIGUSR1 raises
    SoftTimeLimitExceeded in the task, which may catch that and go on) works on, and nothing
    that Celery tells shows it until the process takes its next task.
    https://docs.celeryq.dev/en/stable/userguide/workers.html#revoke-revoking-tasks
    """

    def __init__(self) -> None:
        self._tasks: dict[int, str] = {}  # by the process that had the task
        self._worker = 0

    def must_have_ended(self, answers: Answers) -> None:
        """Raise Unclear while the process of a task that was terminated lives on, unoccupied."""
        if answers.pool != PREFORK:  # others refuse to terminate, or end the task at once
            return
        if answers.pid != self._worker:
            self._worker, self._tasks = answers.pid, {}
        self._tasks |= {process: task for task, process in answers.terminated.items()}
        occupied = set(answers.active.values())
        alive = set(answers.processes) - occupied
        self._tasks = {p: task for p, task in self._tasks.items() if p in alive}
        for process, task in self._tasks.items():
            raise Unclear(
                f"task {task} was terminated, which Celery takes for its end, but its process "
                f"{process} lives on and may still be at it: when it is not, end that process"
            )
