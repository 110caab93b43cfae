"""
The health check that load balancers poll: answered by this agent in the place of the app.

It says what the app says, and 503 while the instance is withdrawn. That it is withdrawn
stands in a file, so it outlives the agent. A balancer goes on sending work until it has
been told often enough, so the answers that each of them has got are what counts.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from deregister_agent.config.options import RegistryOptions, Timeout
from deregister_agent.errors import AgentError, ConfigError, RegistryError, excerpt
from deregister_agent.host.addresses import parse_listen_address, server_and_target
from deregister_agent.host.files import read_plain, remove_durably, replace_durably
from deregister_agent.model import Instance, Listing, Look, Snapshot
from deregister_agent.net.fetcher import Fetcher, FetchError
from deregister_agent.ports import Registry
from deregister_agent.registries.health.listener import HealthAnswer, HealthListener
from deregister_agent.registries.health.pollers import PollAnswer, Polls

FOLDER = Path("/var/lib/deregister-agent")
OURS = "withdrawn by deregister-agent\n"
"""What our own marker says: restore() removes no other."""
POLL = 0.05
"""Seconds between two looks at what was answered."""
BODY_LIMIT = 65536

_OK = range(200, 300)


class Options(RegistryOptions):
    """Where to answer, what the app says, and how the balancers poll."""

    identity_keys: ClassVar[frozenset[str]] = frozenset({"listen", "path", "marker"})
    listen: str
    """``address:port`` that the balancers poll; it needs no token, and takes GET and HEAD only."""
    path: Annotated[str, Field(pattern=r"^/[^?#\s]*$")] = "/healthz"
    """The path that they ask for."""
    app: str
    """The app's own health check, which is asked for each poll."""
    app_timeout: Timeout = 1.0
    """The limit of that, in seconds; an app that does not answer is unhealthy."""
    polls: Annotated[int, Field(ge=1, le=100)] = 3
    """How many equal answers in a row it takes until a balancer believes them: the largest of their
    thresholds, both for down and for up."""
    every: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """The longest time between two polls of any balancer, in seconds."""
    pollers: tuple[IPv4Network | IPv6Network, ...] = ()
    """The networks that balancers poll from (``10.0.0.5/32``); everybody counts unless given."""
    nobody: Literal["refuse", "withdrawn"] = "refuse"
    """What it means that nobody polls: nothing is known, or nobody sends work. ``absent`` is then
    "withdrawn" unless it is given."""
    marker: Path | None = None
    """The file that is there while the instance is withdrawn; ``NAME.withdrawn`` in
    /var/lib/deregister-agent unless given."""
    timeout: Timeout = 10.0
    """How long one operation waits for polls, in seconds."""

    @classmethod
    def read_table(cls, table: Mapping[str, Any]) -> Self:
        """Validate *table*; who says that nobody need poll is not refused because nobody does."""
        implied = {"absent": "withdrawn"} if table.get("nobody") == "withdrawn" else {}
        return super().read_table({**implied, **table})

    @field_validator("listen")
    @classmethod
    def _address(cls, listen: str) -> str:
        if parse_listen_address(listen).path is not None:
            raise ValueError("give address:port, as in 0.0.0.0:8651: balancers poll over TCP")
        return listen


class Health(Registry):
    """One instance, as those who poll its health check are told."""

    listens = True

    def __init__(self, options: Options, instance: Instance, app: Fetcher) -> None:
        self.name = options.label
        self._options, self._instance, self._app = options, instance, app
        self._place = parse_listen_address(options.listen)
        self._marker = options.marker or FOLDER / f"{instance.name}.withdrawn"
        self._lock = threading.Lock()
        self._listener: HealthListener | None = None
        self._polls = Polls(options.every, options.pollers, options.polls)
        self._was_out: bool | None = None  # as last read, should the file become unreadable

    def lists(self) -> bool:
        """Tell whether some poller has not been told often enough that the instance is out."""
        return self.look().listed

    def look(self) -> Look:
        """Say that it is out once everybody has been told, and absent where nobody need be."""
        with self._doing("tell whether balancers send work to"):
            if self._is_unheeded():
                return Look(Listing.ABSENT)
            if not self._is_out() or self._polls.missing(PollAnswer.OUT):
                return Look(Listing.LISTED)
            return Look(Listing.OUT, out_by=self._out_by())

    def snapshot(self) -> Snapshot | None:
        """Return where the marker is; there is nothing else to know."""
        with self._doing("take a snapshot of"):
            return None if self._is_unheeded() else {"marker": str(self._marker)}

    def withdraw(self) -> None:
        """Answer 503 from now on, and wait until everybody who polls has been told."""
        with self._doing("withdraw") as end:
            if not self._is_out():
                replace_durably(self._marker, OURS.encode())
            self._until_told(PollAnswer.OUT, end)

    def restore(self, snapshot: Snapshot | None) -> None:
        """Answer what the app says again, and wait until everybody who polls has been told."""
        del snapshot
        with self._doing("restore") as end:
            if self._is_out():
                if other := self._out_by():
                    raise AgentError(f"{other}; remove it when it may go on")
                remove_durably(self._marker)
            self._until_told(PollAnswer.HEALTHY, end)

    def watch(self, cursor: str | None, timeout: float) -> str:
        """Block until the marker comes or goes, or the last balancer has been told."""
        end = time.monotonic() + timeout
        while (now := self._cursor()) == cursor and (left := end - time.monotonic()) > 0:
            time.sleep(min(POLL, left))
        return now

    def close(self) -> None:
        """Stop answering. The agent need not: its process ends, and the port with it."""
        with self._lock:
            if self._listener is not None:
                self._listener.close()
            self._listener = None

    def _out_by(self) -> str:
        """Say what the marker says where it is not ours; empty where it is, or is just gone."""
        with suppress(FileNotFoundError):
            said = read_plain(self._marker).decode(errors="replace")
            return "" if said == OURS else f"{self._marker} is not ours: {excerpt(said)!r}"
        return ""

    def _cursor(self) -> str:
        try:
            out = self._is_out()
        except OSError as e:
            return f"error {e.errno}"  # lists() says which
        return f"{out} {bool(self._polls.missing(PollAnswer.OUT))} {self._polls.anybody()}"

    def _until_told(self, said: PollAnswer, end: float) -> None:
        while late := self._late(said):
            if time.monotonic() + POLL >= end:
                raise AgentError("; ".join(late))
            time.sleep(POLL)

    def _late(self, said: PollAnswer) -> list[str]:
        return [] if self._is_unheeded() else self._polls.missing(said)

    def _is_unheeded(self) -> bool:
        """Tell whether nobody polls, and nobody need. Raises AgentError where somebody should."""
        if not self._polls.known() or self._polls.anybody():
            return False
        if self._options.nobody == "withdrawn":
            return True
        if not self._is_out():
            return False
        raise AgentError(
            f"nobody polls {self._place}{self._options.path}, so nobody has been told: let the "
            'balancers poll it, or set nobody = "withdrawn" if none sends work'
        )

    def _is_out(self) -> bool:
        try:
            self._marker.stat()
        except FileNotFoundError:
            self._was_out = False
        else:
            self._was_out = True
        return self._was_out

    def _decide(self, source: str) -> HealthAnswer:
        """Answer one poll: 503 while the instance is withdrawn, else what the app says."""
        if self._answers_out():
            return replace(_OUT, sent=partial(self._polls.answered, source, PollAnswer.OUT))
        with ExitStack() as undecided:
            undecided.enter_context(self._polls.in_hand())
            reply, said = self._ask_app()
            if self._answers_out():  # withdrawn while the app was asked
                return replace(_OUT, sent=partial(self._polls.answered, source, PollAnswer.OUT))
            # Counted when it is over, even if it was not sent: in this order nobody is taken
            # to be out whose last answer may have been another one.
            undecided.callback(self._polls.answered, source, said)
            return replace(reply, done=undecided.pop_all().close)

    def _answers_out(self) -> bool:
        """Tell whether to answer 503; a file that cannot be looked at changes nothing."""
        try:
            return self._is_out()
        except OSError:
            return self._was_out is not False

    def _ask_app(self) -> tuple[HealthAnswer, PollAnswer]:
        try:
            answer = self._app.call("GET", server_and_target(self._options.app)[1])
        except FetchError:
            return HealthAnswer(503, body=b"no answer from the app\n"), PollAnswer.SICK
        kind = answer.headers.get("Content-Type", "text/plain")
        said = PollAnswer.HEALTHY if answer.status in _OK else PollAnswer.SICK
        return HealthAnswer(answer.status, kind, answer.body), said

    @contextmanager
    def _doing(self, doing: str) -> Iterator[float]:
        """Start to answer polls where nobody does, and yield the end of one operation's time."""
        end = time.monotonic() + self._options.timeout
        try:
            self._listen()
            yield end
        except (OSError, AgentError) as e:
            raise RegistryError(self.name, f"{doing} {self._instance.name}", e) from e

    def _listen(self) -> None:
        with self._lock:
            if self._listener is None:
                place, path, options = self._place, self._options.path, self._options
                self._polls = Polls(options.every, options.pollers, options.polls)
                try:
                    self._listener = HealthListener(place.address, place.port, path, self._decide)
                except OSError as e:
                    raise AgentError(
                        f"cannot listen on {place}: {os.strerror(e.errno or 0)}; see who has it "
                        f"with 'ss -ltnp sport = :{place.port}', or change listen"
                    ) from e
                self._polls = Polls(self._options.every, self._options.pollers, self._options.polls)


_OUT = HealthAnswer(503, body=OURS.encode())


def build(options: Options, instance: Instance) -> Health:
    """Make the registry. Raises ConfigError; nothing listens before the first call."""
    server, _ = server_and_target(options.app)
    try:
        app = Fetcher(server, timeout=options.app_timeout, body_limit=BODY_LIMIT)
    except FetchError as e:
        raise ConfigError(f"registry {options.label}", [f"app: {e}"]) from e
    return Health(options, instance, app)
