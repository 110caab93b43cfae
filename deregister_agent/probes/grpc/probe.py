"""
The calls that a gRPC server has begun and not ended, by its service ``grpc.channelz.v1.Channelz``.

https://github.com/grpc/grpc-proto/blob/master/grpc/channelz/v1/channelz.proto
"""

import grpc
from grpc_channelz.v1.channelz_pb2 import GetServersRequest, GetServersResponse

from deregister_agent.errors import ProbeError
from deregister_agent.host.files import read_plain
from deregister_agent.model import Reading
from deregister_agent.net.grpc_client import GrpcConnection, GrpcError
from deregister_agent.ports import IdleProbe
from deregister_agent.probes.counting import (
    MOST_STARTED,
    ReadLock,
    StartedCounter,
    Unclear,
    a_count,
    above_baseline,
)
from deregister_agent.probes.grpc.options import Options

GET_SERVERS = "/grpc.channelz.v1.Channelz/GetServers"
OWN_CALLS = 1  # the question itself is a call, and under way when it is answered

KNOWN = ("SERVING", "NOT_SERVING")
"""What a health service says of a service that it knows; an app that drains may be either."""


class GrpcProbe(IdleProbe):
    """Asks channelz, on a connection of its own, one read at a time."""

    def __init__(self, options: Options, target: str) -> None:
        self.name = options.label
        self._options, self._target = options, target
        self._starts, self._reads = (
            StartedCounter(OWN_CALLS + (options.service is not None)),
            ReadLock(),
        )

    def read(self, wait: float) -> Reading:
        """Tell the calls that have begun and not ended. Raises ProbeError unless it is told."""
        del wait
        try:
            with self._reads.held(self._options.timeout) as left:
                return self._reading(self._servers(left))
        except (Unclear, GrpcError, OSError) as e:
            doing = f"tell what is in flight from {self._target}"
            raise ProbeError(self.name, doing, e) from e

    def _servers(self, limit: float) -> GetServersResponse:
        """Return what channelz tells of the servers of the process."""
        options = self._options
        credentials = _credentials(options)
        with GrpcConnection(self._target, limit, credentials, options.server_name) as connection:
            try:
                servers = connection.call(GET_SERVERS, GetServersRequest(), GetServersResponse)
            except GrpcError as e:
                if e.code is grpc.StatusCode.UNIMPLEMENTED:
                    raise Unclear(
                        f"the server does not offer channelz: register that service with it ({e})"
                    ) from e
                raise
            # Afterwards, and on the same connection: so it is the same process that answers,
            # and this call has ended before channelz is asked again.
            if options.service is not None:
                _must_know(connection, options.service)
            return servers

    def _reading(self, servers: GetServersResponse) -> Reading:
        started, in_flight = _calls(servers)
        calls = above_baseline("calls", in_flight, OWN_CALLS)
        return Reading({"calls": calls}, self._starts.count(started))


def _credentials(options: Options) -> grpc.ChannelCredentials | None:
    if not options.tls:
        return None
    chain = None if options.certificate is None else read_plain(options.certificate)
    key = options.certificate_key or options.certificate
    return grpc.ssl_channel_credentials(
        None if options.ca is None else read_plain(options.ca),
        None if key is None else read_plain(key),
        chain,
    )


def _must_know(connection: GrpcConnection, service: str) -> None:
    """Raise Unclear unless the server says that it has this service: serving or not."""
    status = connection.health(service)
    if status not in KNOWN:
        raise Unclear(
            f"the health service there says {status} of service {service!r}: this may be another "
            "server than the app; correct target or service"
        )


def _calls(answer: GetServersResponse) -> tuple[dict[str, int], int]:
    """
    Return how many calls each server of the process has begun, and how many all have in hand.

    Each by itself: what one has ended too often would hide what another has in hand.
    """
    if not answer.end:
        raise Unclear("it tells only of some of its servers: there are too many in one process")
    if not answer.server:
        raise Unclear("it tells of no server; channelz may be off (grpc.enable_channelz)")
    started, in_flight = dict[str, int](), 0
    for server in answer.server:
        if not server.HasField("data"):
            raise Unclear("it does not tell of the calls of a server")
        data = server.data
        for count in (data.calls_started, data.calls_succeeded, data.calls_failed):
            a_count(count, "a number of calls", most=MOST_STARTED)
        ended = data.calls_succeeded + data.calls_failed
        if ended > data.calls_started:
            raise Unclear(f"{data.calls_started} calls have begun, but {ended} have ended")
        name = f"of server {server.ref.server_id}"
        started[name] = started.get(name, 0) + data.calls_started
        in_flight += data.calls_started - ended
    return started, a_count(in_flight, "calls")
