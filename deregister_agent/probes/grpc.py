"""
What a gRPC server has in hand, by its own count: the service ``grpc.channelz.v1.Channelz``.

Needs grpcio (``pip install 'deregister-agent[grpc]'``) and nothing else: of the messages
only five numbers matter, and the generated classes want one certain version of grpcio.
https://github.com/grpc/grpc-proto/blob/master/grpc/channelz/v1/channelz.proto
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import grpc
from pydantic import Field

from deregister_agent.errors import ConfigError, ProbeError
from deregister_agent.model import Instance, Reading
from deregister_agent.options import BackendOptions, Timeout
from deregister_agent.ports import IdleProbe
from deregister_agent.reads import Doubt, Starts, Turn, above

METHOD = "/grpc.channelz.v1.Channelz/GetServers"
LIMIT = 262_144  # bytes
OWN = 1  # the question itself is a call, and under way when it is answered

# The numbers of the fields, by message.
SERVER, END = 1, 2  # GetServersResponse
DATA = 2  # Server
STARTED, SUCCEEDED, FAILED = 2, 3, 4  # ServerData

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # how a field is written


class Options(BackendOptions):
    """A gRPC server that tells how many calls it has begun and ended."""

    target: Annotated[str, Field(min_length=1)] = ""
    """Where it listens: ``127.0.0.1:50051`` or ``unix:///run/orders.sock``; the instance's own
    address and port, unless it is given."""
    tls: bool = False
    """Whether it speaks TLS."""
    server_name: str | None = None
    """The name in the server's certificate, where that is not the one in ``target``."""
    timeout: Timeout = 2.0
    """The limit of one read, in seconds."""
    ca: Path | None = None
    """The certificates to trust instead of the system's."""
    certificate: Path | None = None
    """The agent's own certificate, for a server that asks for one."""
    key: Path | None = None
    """The key of that certificate, if it is not in the same file."""


class GrpcProbe(IdleProbe):
    """Asks channelz, on a connection of its own, one read at a time."""

    def __init__(self, options: Options, target: str) -> None:
        self.name = options.label
        self._options, self._target = options, target
        self._starts, self._turn = Starts(OWN), Turn()

    def read(self, wait: float) -> Reading:
        """Tell the calls that have begun and not ended. Raises ProbeError unless it is told."""
        del wait
        try:
            with self._turn.taken(self._options.timeout) as left:
                return self._reading(self._asked(left))
        except grpc.RpcError as e:
            raise self._unknown(_reason(e, self._options.timeout)) from e
        except (Doubt, OSError) as e:
            raise self._unknown(e) from e

    def _unknown(self, why: object) -> ProbeError:
        return ProbeError(self.name, f"tell what is in flight from {self._target}", why)

    def _asked(self, limit: float) -> bytes:
        settings: list[tuple[str, object]] = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),  # no backoff is left over from the last read
            ("grpc.max_receive_message_length", LIMIT),
        ]
        if self._options.server_name is not None:
            settings.append(("grpc.ssl_target_name_override", self._options.server_name))
        with self._channel(settings) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
            return call(b"", timeout=limit)

    def _channel(self, settings: Sequence[tuple[str, object]]) -> grpc.Channel:
        options = self._options
        if not options.tls:
            return grpc.insecure_channel(self._target, settings)
        chain = None if options.certificate is None else options.certificate.read_bytes()
        key = options.key or options.certificate
        credentials = grpc.ssl_channel_credentials(
            None if options.ca is None else options.ca.read_bytes(),
            None if key is None else key.read_bytes(),
            chain,
        )
        return grpc.secure_channel(self._target, credentials, settings)

    def _reading(self, answer: bytes) -> Reading:
        numbers = list(_servers(answer))
        started = sum(begun for begun, _ in numbers)
        ended = sum(ended for _, ended in numbers)
        if ended > started:
            raise Doubt(f"{started} calls have begun, but {ended} have ended")
        calls = above("calls", started - ended, OWN)
        return Reading({"calls": calls}, self._starts.count(started))


def _servers(answer: bytes) -> Iterator[tuple[int, int]]:
    """Give for each server of the process how many calls have begun and ended."""
    fields = list(_fields(answer))
    if (END, 1) not in fields:
        raise Doubt("it tells only of some of its servers: there are too many in one process")
    found = [value for number, value in fields if number == SERVER]
    if not found:
        raise Doubt("it tells of no server; channelz may be off (grpc.enable_channelz)")
    for server in found:
        data = [value for number, value in _fields(server) if number == DATA]
        if len(data) != 1:
            raise Doubt("it does not tell of the calls of a server")
        calls = dict(_fields(data[0]))
        counts = [_count(calls.get(number, 0)) for number in (STARTED, SUCCEEDED, FAILED)]
        yield counts[0], counts[1] + counts[2]


def _count(value: int | bytes) -> int:
    if not isinstance(value, int) or value >= 1 << 63:
        raise Doubt(f"it tells of {value!r} calls, not of a whole number of at least 0")
    return value


def _fields(message: int | bytes) -> Iterator[tuple[int, int | bytes]]:
    """Give number and value of each field of a message; raises Doubt if it is none."""
    if isinstance(message, int):
        raise Doubt("the answer is not one of channelz")
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, how = tag >> 3, tag & 7
        if how == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if how == BYTES:
            size, at = _varint(message, at)
        elif how in (FIXED32, FIXED64):
            size = 4 if how == FIXED32 else 8
        else:
            raise Doubt("the answer is not one of channelz")
        if at + size > len(message):
            raise Doubt("the answer breaks off")
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at *at*, and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(message):
            raise Doubt("the answer breaks off")
        value |= (message[at] & 0x7F) << shift
        at += 1
        if message[at - 1] < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, at
    raise Doubt("the answer is not one of channelz")


def _reason(error: grpc.RpcError, timeout: float) -> str:
    """Return why there is no answer, on one line."""
    code, details = error.code(), " ".join(str(error.details()).split())[:300]
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {timeout:g} s"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"the server does not offer channelz: register that service with it ({details})"
    return f"{code.name}: {details}"


def build(options: Options, instance: Instance) -> GrpcProbe:
    """Return the probe. Raises ConfigError if the options contradict each other."""
    if not options.tls and (options.ca or options.certificate or options.server_name):
        raise ConfigError(
            f"probe {options.label}", ["ca, certificate, server_name: say nothing without tls"]
        )
    host = f"[{instance.address}]" if ":" in instance.address else instance.address
    return GrpcProbe(options, options.target or f"{host}:{instance.port}")
