"""What a consumer of Redis streams has in hand: entries delivered to it and not acknowledged."""

import ssl
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from deregister_agent.config.options import Secret
from deregister_agent.errors import AgentError, ConfigError, ProbeError, excerpt
from deregister_agent.model import Instance, Reading
from deregister_agent.net.tls import tls_context
from deregister_agent.ports import IdleProbe
from deregister_agent.probes.counting import Unclear, a_count, fits_name
from deregister_agent.probes.http_endpoint import TlsProbeOptions
from deregister_agent.probes.redis_stream.place import RedisPlace, place
from deregister_agent.probes.redis_stream.resp import RedisConnection, RedisRefusal, RedisReply

RedisName = Annotated[str, Field(min_length=1)]


def _url(value: str) -> str:
    place(value)
    return value


class Options(TlsProbeOptions):
    """A consumer of one group of one stream, or of several."""

    url: Annotated[str, AfterValidator(_url)]
    """``redis://HOST:PORT/DATABASE``, ``rediss://...`` (TLS) or
    ``unix:///path/to/socket?db=DATABASE``."""
    streams: Annotated[tuple[RedisName, ...], Field(min_length=1)]
    """The keys of the streams."""
    group: RedisName
    """The consumer group."""
    consumer: RedisName
    """This instance's consumer in that group; ``*`` stands for any characters, so that one name
    fits several consumers of this instance."""
    absent: Literal["unknown", "zero"] = "unknown"
    """What it means that a group has no such consumer: ``zero`` for a consumer that appears with
    its first entry, or that the app removes when it stops."""
    user: str | None = None
    """The user to be, where Redis has several; the default user, unless it is given."""
    password: Secret | None = None
    """That user's password."""


class RedisStreamProbe(IdleProbe):
    """Asks the master, on a connection of its own, what each group says of the consumer."""

    def __init__(self, options: Options) -> None:
        self.name = options.label
        self._options = options
        self._place: RedisPlace = place(options.url)

    def read(self, wait: float) -> Reading:
        """Return what is pending. Raises ProbeError unless a master of Redis says so."""
        del wait
        options = self._options
        try:
            replies = self._asked()
            pending = [
                self._pending(stream, reply)
                for stream, reply in zip(options.streams, replies, strict=True)
            ]
        except (AgentError, OSError) as e:
            doing = f"tell what {options.consumer} has in hand from {options.url}"
            raise ProbeError(self.name, doing, e) from e
        return Reading({"messages": sum(pending)})

    def _asked(self) -> Sequence[RedisReply]:
        """Return what Redis says of each stream's group."""
        before = self._introduction()
        groups = [("XINFO", "CONSUMERS", s, self._options.group) for s in self._options.streams]
        connection = RedisConnection(
            self._place.address,
            limit=self._options.timeout,
            tls=self._trusted() if self._place.tls else None,
        )
        try:
            replies = connection.ask([*before, ("HELLO",), *groups])
        finally:
            connection.close()
        for command, reply in zip(before, replies, strict=False):
            if reply != "OK":
                raise Unclear(f"{command[0]}: {reply}")
        _must_be_master(replies[len(before)])
        return replies[len(before) + 1 :]

    def _introduction(self) -> list[tuple[str, ...]]:
        options, found = self._options, list[tuple[str, ...]]()
        if options.password is not None:
            user = () if options.user is None else (options.user,)
            found.append(("AUTH", *user, options.password.read()))
        # A connection begins in database 0; SELECT would be one more right to be given.
        if self._place.database:
            found.append(("SELECT", str(self._place.database)))
        return found

    def _trusted(self) -> ssl.SSLContext:
        return tls_context(*self._options.tls_files)

    def _pending(self, stream: str, reply: RedisReply) -> int:
        """Return how many entries of *stream* are pending, all consumers that fit together."""
        if not isinstance(reply, list):
            raise Unclear(f"XINFO CONSUMERS {stream} {self._options.group}: {_shown(reply)}")
        consumers = [_fields(consumer) for consumer in reply]
        own = [c for c in consumers if fits_name(c.get("name"), self._options.consumer)]
        if not own and self._options.absent == "unknown":
            names = ", ".join(sorted(str(c.get("name")) for c in consumers)[:5]) or "none"
            raise Unclear(
                f"group {self._options.group} of {stream} has no consumer "
                f"{self._options.consumer}, but {names}"
            )
        return sum(a_count(consumer.get("pending"), "pending") for consumer in own)


def _must_be_master(hello: RedisReply) -> None:
    """Raise Unclear unless the server is a master: a replica may be behind."""
    if not isinstance(hello, list):
        raise Unclear(f"HELLO: {_shown(hello)}")
    role = _fields(hello).get("role")
    if role != "master":
        raise Unclear(f"this is no master but a {_shown(role)}, which may be behind")


def _fields(reply: RedisReply) -> Mapping[str, RedisReply]:
    """Return an array of names and values, in turn, as a mapping."""
    if not isinstance(reply, list) or len(reply) % 2:
        raise Unclear(f"the answer holds {_shown(reply)} where names and values were expected")
    return {str(name): value for name, value in zip(reply[::2], reply[1::2], strict=True)}


def _shown(value: RedisReply) -> str:
    return excerpt(str(value), 200) if isinstance(value, RedisRefusal) else excerpt(repr(value), 80)


def build(options: Options, instance: Instance) -> RedisStreamProbe:
    """Return the probe. Raises ConfigError if the options contradict each other."""
    del instance
    mistakes = []
    if options.user is not None and options.password is None:
        mistakes.append("user: says nothing without password")
    if (options.ca or options.certificate) and not place(options.url).tls:
        mistakes.append("ca, certificate: say nothing unless the url begins with rediss:")
    if mistakes:
        raise ConfigError(f"probe {options.label}", mistakes)
    return RedisStreamProbe(options)
