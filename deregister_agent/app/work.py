"""Work: what one app has in hand. Make a Work where the app is made, and count with it."""

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from deregister_agent.app import neighbours
from deregister_agent.app.asgi import AsgiApp, AsgiWork
from deregister_agent.app.board import KINDS, Ticket, open_board
from deregister_agent.app.child_process import start_counted
from deregister_agent.app.counted import Counted, F, finishing, handed_on
from deregister_agent.app.executor import CountedExecutor, CountedThreadPool
from deregister_agent.app.hooks import Hook, Hooks
from deregister_agent.app.intake import Intake
from deregister_agent.app.outcome import end_with
from deregister_agent.app.own_port import serve
from deregister_agent.app.page import UnknownWorkError, WorkPage, hold
from deregister_agent.app.rpc import NO_WORK, WorkInterceptor
from deregister_agent.app.wsgi import WsgiApp, WsgiWork

if TYPE_CHECKING:
    from deregister_agent.app.rpc_aio import AioWorkInterceptor

T = TypeVar("T")
H = TypeVar("H", bound=Hook)

SHARED = "DEREGISTER_AGENT_WORK"
"""The environment variable that names the shared file when Work() is given none."""
SHARE = (
    f'let them share their counts: Work(shared="/run/<instance>/work"), or set {SHARED} to '
    "such a path, one for each instance"
)


class Work:
    """
    Counts the work in hand, by kind, and tells the agent.

    *shared*: a file in which all processes of this instance count together; without
    it, the environment variable DEREGISTER_AGENT_WORK. Children that are forked after
    this was made share the counts in any case.
    *path*: where the middleware answers. *token*: what a caller has to send.
    *ignored*: paths that are no work, such as health checks.
    *hook_timeout*: seconds that on_stop and on_start may take together.
    """

    def __init__(
        self,
        shared: str | os.PathLike[str] | None = None,
        *,
        path: str = "/-/work",
        token: str | None = None,
        ignored: Collection[str] = (),
        hook_timeout: float = 30.0,
    ) -> None:
        file = shared or os.environ.get(SHARED)
        self._board = open_board(Path(file) if file else None)
        self._hooks = Hooks(self._board, hook_timeout)
        self._page = WorkPage(
            self, path.rstrip("/"), token=token, ignored=ignored, hook_timeout=hook_timeout
        )
        self._token = token
        _works.add(self)

    # What counts.

    def begin(self, kind: str = "tasks") -> Ticket:
        """Count a piece of work by hand, from now until the ticket's end() is called."""
        return self._board.begin(_number(kind))

    def count(self, kind: str) -> Counted:
        """Count a ``with`` block, or as a decorator each call of a function."""
        return Counted(partial(self._board.begin, _number(kind)))

    def task(self) -> Counted:
        """Count a task: a thread's, a job's, whatever is done outside of a request."""
        return self.count("tasks")

    def message(self) -> Counted:
        """Count a message, from receiving it until it is acknowledged."""
        return self.count("messages")

    def create_task(self, job: Coroutine[Any, Any, T], **options: Any) -> asyncio.Task[T]:
        """Make an asyncio task that counts from now until its callbacks have run."""
        ticket = self.begin("tasks")
        try:
            task = asyncio.get_running_loop().create_task(job, **options)
        except BaseException:
            ticket.end()
            job.close()
            raise
        end_with(task, ticket)
        return task

    def start_thread(
        self,
        target: Callable[..., object],
        *args: object,
        name: str | None = None,
        daemon: bool | None = None,
    ) -> threading.Thread:
        """Start a thread that counts from now, so without a gap, until *target* has ended."""
        begin = partial(self.begin, "tasks")
        ticket = begin()
        try:
            thread = threading.Thread(
                target=finishing, args=(begin, ticket, target, args), name=name, daemon=daemon
            )
            thread.start()
        except BaseException:
            ticket.end()
            raise
        return thread

    def start_process(self, start: Any, *args: Any, **options: Any) -> Any:
        """
        Start a child process that counts from now until it has exited, and return it.

        *start*: ``subprocess.Popen`` with its arguments, or a ``multiprocessing.Process``.
        """
        return start_counted(self.begin("tasks"), start, args, options)

    def handed_on(self, function: F, kind: str = "tasks") -> F:
        """
        Return *function* such that its next call counts from now on: for whoever calls it later.

        That is a framework's list of background tasks, a timer, a queue. One that is dropped
        without a call is no work any more; a second call counts for itself.
        """
        return handed_on(partial(self._board.begin, _number(kind)), function)

    def executor(self, inner: Executor, kind: str = "tasks") -> Executor:
        """
        Return *inner* such that what is submitted counts, from the queue to its callbacks.

        In front of a ThreadPoolExecutor it is one itself, and may be a loop's default executor.
        """
        begin = partial(self._board.begin, _number(kind))
        if isinstance(inner, ThreadPoolExecutor):
            return CountedThreadPool(inner, begin)
        return CountedExecutor(inner, begin)

    def wsgi(self, app: WsgiApp) -> WsgiWork:
        """Return a WSGI app that counts its requests: Flask, Django."""
        begin = partial(self._board.begin, _number("requests"))
        return WsgiWork(app, begin, self._page, self._hooks.letting_go)

    def asgi(self, app: AsgiApp) -> AsgiWork:
        """Return an ASGI app that counts its requests and WebSockets: FastAPI, Starlette."""
        return AsgiWork(app, self._board.begin, self._page, self._hooks.letting_go)

    def grpc(self, ignored: Collection[str] = NO_WORK) -> WorkInterceptor:
        """
        Return an interceptor for grpc.server(interceptors=[...]).

        *ignored* methods do not count: full names, and prefixes, which end in a slash.
        """
        return WorkInterceptor(partial(self._board.begin, _number("requests")), ignored)

    def grpc_aio(self, ignored: Collection[str] = NO_WORK) -> "AioWorkInterceptor":
        """Return an interceptor for grpc.aio.server(interceptors=[...])."""
        # grpc.aio takes only children of its own class, and an app without gRPC has no grpc.
        from deregister_agent.app.rpc_aio import AioWorkInterceptor  # noqa: PLC0415

        return AioWorkInterceptor(partial(self._board.begin, _number("requests")), ignored)

    # What the agent asks.

    def serve(self, port: int, host: str = "127.0.0.1") -> int:
        """
        PageAnswer on a port of its own, for as long as the process lives. Returns the port.

        *host* is an IP address; one that is not loopback needs a token. Raises OSError when
        the port is taken, unless the counts are in a shared file: then the process that has
        the port answers for all, and another takes over when it exits.
        """
        if self._token is None and not ip_address(host).is_loopback:
            raise ValueError(f"{host} can be reached from elsewhere; make it Work(token=...)")
        return serve((host, port), self._page, shared=self._board.path is not None)

    def on_stop(self, hook: H) -> H:
        """Call *hook* when the agent stops traffic: pause the consumer. May be a decorator."""
        self._hooks.add(hook, stop=True)
        return hook

    def on_start(self, hook: H) -> H:
        """Call *hook* when the agent starts traffic again: resume it. May be a decorator."""
        self._hooks.add(hook, stop=False)
        return hook

    def intake(self) -> Intake:
        """Return where one consumer takes its messages: shut while the app is stopped."""
        return self._hooks.add_intake()

    @property
    def stopped(self) -> bool:
        """Whether the agent has stopped traffic, and every hook has returned."""
        return self._hooks.stopped()

    @property
    def letting_go(self) -> bool:
        """Whether each answer is to say that its connection ends. Cheap: ask for each answer."""
        return self._hooks.letting_go()

    def is_idle(self) -> bool:
        """Tell whether no process of the app has anything in hand."""
        tally = self._board.tally()
        return tally.sound and not any(tally.in_flight.values())

    def wait_idle(self, timeout: float) -> bool:
        """Block until nothing is in hand, for at most *timeout* seconds; return if so."""
        return hold(self.is_idle, timeout)

    def report(self, *, many: bool = False) -> dict[str, object]:
        """
        Return what ``GET /-/work`` answers; *many*: the server says it has several processes.

        Raises UnknownWorkError when a process may have work in hand that is not counted here.
        """
        board = self._board
        tally = board.tally()
        if board.broken:
            raise UnknownWorkError("a process could not be counted; see the app's log, restart it")
        if not tally.sound:
            raise UnknownWorkError("more work was ended than was begun in one process; restart it")
        alone = board.path is None and board.creator == os.getpid()
        # A bridge from ASGI always says that there are many, which is no reason where they
        # would be seen (asgiref/wsgi.py, a2wsgi/wsgi.py).
        if many and alone and not neighbours.can_be_told():
            raise UnknownWorkError(f"several processes serve this app, each for itself; {SHARE}")
        if others := neighbours.strangers(tally.pids):
            raise UnknownWorkError(
                f"process {', '.join(map(str, others))} serves the same port and does not count "
                f"here; {SHARE}"
            )
        return {
            "in_flight": tally.in_flight,
            "started": tally.started,
            "process": {"mark": board.mark, "pids": tally.pids},
            "stopped": self.stopped,
            "letting_go": self.letting_go,
        }

    # What the page calls.

    def ask(self, *, stop: bool, hold: bool = False) -> None:
        """Ask every process to call its hooks; *hold*: connections stay until let_go()."""
        self._hooks.ask(stop=stop, hold=hold)

    def let_go(self) -> bool:
        """Let connections go until the start; return False, having done nothing, if not stopped."""
        return self._hooks.let_go()

    def settled(self) -> bool:
        """Tell whether the hooks of every process have returned or failed."""
        return self._hooks.settled()

    def trouble(self) -> str | None:
        """Say which hooks have failed."""
        return self._hooks.trouble()

    def _forked(self) -> None:
        """Start afresh in a child: nothing in hand."""
        self._board.forked()
        self._hooks.forked()


_works: weakref.WeakSet[Work] = weakref.WeakSet()


def _number(kind: str) -> int:
    if kind not in KINDS:
        raise ValueError(f"no such kind of work: {kind!r}; there are {', '.join(KINDS)}")
    return KINDS.index(kind)


def _after_fork() -> None:
    for work in list(_works):
        work._forked()  # noqa: SLF001 - this module's own


os.register_at_fork(after_in_child=_after_fork)
