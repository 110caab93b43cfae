"""
What a gRPC server has in hand, by its own count: the service ``grpc.channelz.v1.Channelz``.

Needs grpcio (``pip install 'deregister-agent[grpc]'``) and nothing else: of the messages
only five numbers matter, and the generated classes want one certain version of grpcio.
https://github.com/grpc/grpc-proto/blob/master/grpc/channelz/v1/channelz.proto
"""

import time
from collections.abc import Iterator
from typing import Annotated

import grpc
from pydantic import Field

from deregister_agent.config.options import ClientTlsOptions, Timeout
from deregister_agent.errors import ConfigError, ProbeError
from deregister_agent.model import Instance, Reading
from deregister_agent.net.grpc_client import CallError, call, connect, health
from deregister_agent.net.protobuf import fields
from deregister_agent.ports import IdleProbe
from deregister_agent.probes.counting import Doubt, Starts, Turn, above

METHOD = "/grpc.channelz.v1.Channelz/GetServers"
OWN = 1  # the question itself is a call, and under way when it is answered

KNOWN = ("SERVING", "NOT_SERVING")
"""What a health service says of a service that it knows; an app that drains may be either."""

# The numbers of the fields, by message.
SERVER, END = 1, 2  # GetServersResponse
DATA = 2  # Server
STARTED, SUCCEEDED, FAILED = 2, 3, 4  # ServerData


class Options(ClientTlsOptions):
    """A gRPC server that tells how many calls it has begun and ended."""

    target: Annotated[str, Field(min_length=1)] = ""
    """Where it listens: ``127.0.0.1:50051`` or ``unix:///run/orders.sock``; the instance's own
    address and port, unless it is given."""
    service: Annotated[str, Field(min_length=1)] | None = None
    """A service that the health service (``grpc.health.v1``) on the same connection must know, such
    as ``orders.Orders``: another app at this address is then not taken for an idle one."""
    tls: bool = False
    """Whether it speaks TLS."""
    server_name: str | None = None
    """The name in the server's certificate, where that is not the one in ``target``."""
    timeout: Timeout = 2.0
    """The limit of one read, in seconds."""


class GrpcProbe(IdleProbe):
    """Asks channelz, on a connection of its own, one read at a time."""

    def __init__(self, options: Options, target: str) -> None:
        self.name = options.label
        self._options, self._target = options, target
        self._starts, self._turn = Starts(OWN + (options.service is not None)), Turn()

    def read(self, wait: float) -> Reading:
        """Tell the calls that have begun and not ended. Raises ProbeError unless it is told."""
        del wait
        try:
            with self._turn.taken(self._options.timeout) as left:
                return self._reading(self._asked(left))
        except CallError as e:
            why = f"no answer within {self._options.timeout:g} s" if e.late else e
            raise self._unknown(why) from e
        except (Doubt, OSError) as e:
            raise self._unknown(e) from e

    def _unknown(self, why: object) -> ProbeError:
        return ProbeError(self.name, f"tell what is in flight from {self._target}", why)

    def _asked(self, limit: float) -> bytes:
        end = time.monotonic() + limit
        credentials = _credentials(self._options)
        with connect(self._target, credentials, self._options.server_name) as channel:
            answer = self._channelz(channel, limit)
            # Afterwards, and on the same connection: so it is the same process that answers,
            # and this call has ended before channelz is asked again.
            if self._options.service is not None:
                _known(channel, self._options.service, max(0.001, end - time.monotonic()))
            return answer

    def _channelz(self, channel: grpc.Channel, limit: float) -> bytes:
        try:
            return call(channel, METHOD, b"", limit)
        except CallError as e:
            if e.code is grpc.StatusCode.UNIMPLEMENTED:
                raise Doubt(
                    f"the server does not offer channelz: register that service with it ({e})"
                ) from e
            raise

    def _reading(self, answer: bytes) -> Reading:
        numbers = list(_servers(answer))
        started = sum(begun for begun, _ in numbers)
        ended = sum(ended for _, ended in numbers)
        if ended > started:
            raise Doubt(f"{started} calls have begun, but {ended} have ended")
        calls = above("calls", started - ended, OWN)
        return Reading({"calls": calls}, self._starts.count(started))


def _credentials(options: Options) -> grpc.ChannelCredentials | None:
    if not options.tls:
        return None
    chain = None if options.certificate is None else options.certificate.read_bytes()
    key = options.certificate_key or options.certificate
    return grpc.ssl_channel_credentials(
        None if options.ca is None else options.ca.read_bytes(),
        None if key is None else key.read_bytes(),
        chain,
    )


def _known(channel: grpc.Channel, service: str, limit: float) -> None:
    """Raise Doubt unless the server says that it has this service: serving or not."""
    said = health(channel, service, limit)
    if said not in KNOWN:
        raise Doubt(
            f"the health service there says {said} of service {service!r}: this may be another "
            "server than the app; correct target or service"
        )


def _servers(answer: bytes) -> Iterator[tuple[int, int]]:
    """Give for each server of the process how many calls have begun and ended."""
    parts = list(fields(answer))
    if (END, 1) not in parts:
        raise Doubt("it tells only of some of its servers: there are too many in one process")
    found = [value for number, value in parts if number == SERVER]
    if not found:
        raise Doubt("it tells of no server; channelz may be off (grpc.enable_channelz)")
    for server in found:
        data = [value for number, value in fields(server) if number == DATA]
        if len(data) != 1:
            raise Doubt("it does not tell of the calls of a server")
        calls = dict(fields(data[0]))
        counts = [_count(calls.get(number, 0)) for number in (STARTED, SUCCEEDED, FAILED)]
        yield counts[0], counts[1] + counts[2]


def _count(value: int | bytes) -> int:
    if not isinstance(value, int) or value >= 1 << 63:
        raise Doubt(f"it tells of {value!r} calls, not of a whole number of at least 0")
    return value


def build(options: Options, instance: Instance) -> GrpcProbe:
    """Return the probe. Raises ConfigError if the options contradict each other."""
    if not options.tls and (options.ca or options.certificate or options.server_name):
        raise ConfigError(
            f"probe {options.label}", ["ca, certificate, server_name: say nothing without tls"]
        )
    host = f"[{instance.address}]" if ":" in instance.address else instance.address
    return GrpcProbe(options, options.target or f"{host}:{instance.port}")
