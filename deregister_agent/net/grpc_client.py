"""
Calls to a gRPC server, each with an end; and what its health service says.

Needs grpcio (``pip install 'deregister-agent[grpc]'``): import it only where that is wanted.
https://github.com/grpc/grpc-proto/blob/master/grpc/health/v1/health.proto
"""

import grpc

from deregister_agent.net.protobuf import fields, text_field
from deregister_agent.probes.counting import Doubt

CHECK = "/grpc.health.v1.Health/Check"
STATUS = 1  # the field of HealthCheckResponse
STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
LIMIT = 262_144  # bytes of an answer


class CallError(Doubt):
    """There was no answer, or none that can be read. A fragment of a sentence: why."""

    def __init__(self, code: grpc.StatusCode, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.late = code is grpc.StatusCode.DEADLINE_EXCEEDED


def connect(
    target: str, credentials: grpc.ChannelCredentials | None = None, server_name: str | None = None
) -> grpc.Channel:
    """Return a connection of its own to *target*, made at the first call. Close it."""
    settings: list[tuple[str, object]] = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),  # no backoff is left over from the last one
        ("grpc.max_receive_message_length", LIMIT),
    ]
    if server_name is not None:
        settings.append(("grpc.ssl_target_name_override", server_name))
    if credentials is None:
        return grpc.insecure_channel(target, settings)
    return grpc.secure_channel(target, credentials, settings)


def call(channel: grpc.Channel, method: str, message: bytes, limit: float) -> bytes:
    """Call *method*, for at most *limit* seconds. Raises CallError unless it answers."""
    asked: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    try:
        return asked(message, timeout=limit)
    except grpc.RpcError as e:
        raise CallError(e.code(), _reason(e, limit)) from e


def health(channel: grpc.Channel, service: str, limit: float) -> str:
    """
    Return what the health service says of *service*: SERVING or NOT_SERVING, or else no good.

    The empty name is the server as a whole. Raises Doubt unless it knows that service.
    """
    known = f"service {service!r}" if service else "the server as a whole"
    try:
        answer = call(channel, CHECK, text_field(1, service), limit)
    except CallError as e:
        if e.code is grpc.StatusCode.NOT_FOUND:
            raise Doubt(f"the health service there does not know {known}") from e
        if e.code is grpc.StatusCode.UNIMPLEMENTED:
            raise Doubt(f"there is no health service (grpc.health.v1): register it ({e})") from e
        raise
    status = dict(fields(answer)).get(STATUS, 0)
    if not isinstance(status, int) or status >= len(STATUSES):
        raise Doubt(f"the health service says {status!r} of {known}, which is no status")
    return STATUSES[status]


def _reason(error: grpc.RpcError, limit: float) -> str:
    """Return why there is no answer, on one line."""
    details = " ".join(str(error.details()).split())[:300]
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {limit:g} s"
    return f"{error.code().name}: {details}"
