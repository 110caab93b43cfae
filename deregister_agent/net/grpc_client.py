"""
Calls to a gRPC server that end in time, and what its health service says.

Needs the extra ``grpc``: import this module only where a configuration asks a gRPC server.
https://github.com/grpc/grpc-proto/blob/master/grpc/health/v1/health.proto
"""

import time
from types import TracebackType
from typing import Self, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from deregister_agent.errors import AgentError, excerpt

CHECK = "/grpc.health.v1.Health/Check"
ANSWER_LIMIT = 262_144  # bytes
_Answer = TypeVar("_Answer", bound=Message)


class GrpcError(AgentError):
    """There was no answer, or none that can be read. A fragment of a sentence: why."""

    def __init__(self, why: str, code: grpc.StatusCode | None = None) -> None:
        super().__init__(why)
        self.code = code


class GrpcConnection:
    """
    A connection of its own to *target*, made at the first call; leave it to close it.

    All calls on it together have *limit* seconds, name look-up and handshake included.
    """

    def __init__(
        self,
        target: str,
        limit: float,
        credentials: grpc.ChannelCredentials | None = None,
        server_name: str | None = None,
    ) -> None:
        self._limit, self._end = limit, time.monotonic() + limit
        settings: list[tuple[str, object]] = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),  # no backoff is left over from the last one
            ("grpc.max_receive_message_length", ANSWER_LIMIT),
        ]
        if server_name is not None:
            settings.append(("grpc.ssl_target_name_override", server_name))
        if credentials is None:
            self._channel = grpc.insecure_channel(target, settings)
        else:
            self._channel = grpc.secure_channel(target, credentials, settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def call(self, method: str, request: Message, answer: type[_Answer]) -> _Answer:
        """Return what *method* answers to *request*. Raises GrpcError unless it answers so."""
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
        left = max(0.001, self._end - time.monotonic())
        try:
            return answer.FromString(ask(request.SerializeToString(), timeout=left))
        except grpc.RpcError as e:
            raise GrpcError(self._reason(e), e.code()) from e
        except DecodeError as e:
            raise GrpcError(
                "the answer breaks off, or is not of the kind that was asked for"
            ) from e

    def health(self, service: str) -> str:
        """
        Return the status of *service* by the health service, such as SERVING or NOT_SERVING.

        The empty name is the server as a whole. Raises GrpcError unless that service is known.
        """
        known = f"service {service!r}" if service else "the server as a whole"
        try:
            status = self.call(
                CHECK, HealthCheckRequest(service=service), HealthCheckResponse
            ).status
        except GrpcError as e:
            if e.code is grpc.StatusCode.NOT_FOUND:
                raise GrpcError(f"the health service there does not know {known}") from e
            if e.code is grpc.StatusCode.UNIMPLEMENTED:
                raise GrpcError(
                    f"there is no health service (grpc.health.v1): register it ({e})"
                ) from e
            raise
        names = HealthCheckResponse.ServingStatus
        if status not in names.values():
            raise GrpcError(f"the health service says {status} of {known}, which is no status")
        return names.Name(status)

    def _reason(self, error: grpc.RpcError) -> str:
        """Return why there is no answer, on one line."""
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"no answer within {self._limit:g} s"
        return f"{error.code().name}: {excerpt(str(error.details()), 300)}"
