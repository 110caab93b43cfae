"""gRPC: a call counts until its handler has ended and the call itself is over."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

from deregister_agent.app.board import Ticket
from deregister_agent.app.locks import RLock

_REFLECTION = "ServerReflection/ServerReflectionInfo"
NO_WORK = frozenset(
    {
        *(f"/grpc.health.v1.Health/{name}" for name in ("Check", "List", "Watch")),
        *(f"/grpc.reflection.{version}.{_REFLECTION}" for version in ("v1", "v1alpha")),
        *(
            f"/grpc.channelz.v1.Channelz/Get{name}"
            for name in (
                *("Channel", "Server", "ServerSockets", "Servers", "Socket", "Subchannel"),
                "TopChannels",
            )
        ),
        "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
        "/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus",
        "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics",
    }
)
"""
The methods that only tell how the app is, and never carry work.

A client that watches the app's health or load, or asks by reflection what it offers, holds one
stream for as long as it likes: it would keep the app busy for ever. By full names, since an app
may add methods of its own to these services. From the protocols of gRPC and Envoy:
grpc/health/v1/health.proto, grpc/reflection/v1 and v1alpha/reflection.proto,
grpc/channelz/v1/channelz.proto, envoy/service/status/v3/csds.proto, xds/service/orca/v3/orca.proto.
"""

SORTS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
"""Where gRPC keeps the code of a method, by whether requests and responses are streams."""


class Method:
    """What gRPC calls an RpcMethodHandler: as it was *found*, but for the *code* in one place."""

    unary_unary = unary_stream = stream_unary = stream_stream = None

    def __init__(self, found: Any, name: str, code: Callable[..., Any]) -> None:
        # gRPC looks only at these attributes.
        self.request_streaming = found.request_streaming
        self.response_streaming = found.response_streaming
        self.request_deserializer = found.request_deserializer
        self.response_serializer = found.response_serializer
        setattr(self, name, code)


class LeftOut:
    """Which methods do not count: full names, and prefixes, which end in a slash."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._prefixes = tuple(name for name in self._names if name.endswith("/"))

    def has(self, method: str) -> bool:
        """Whether calls of *method* do not count."""
        return method in self._names or method.startswith(self._prefixes)


class WorkInterceptor:
    """A server interceptor (grpc.ServerInterceptor by shape): counts calls as requests."""

    def __init__(self, begin: Callable[[], Ticket], ignored: Collection[str] = NO_WORK) -> None:
        self._begin, self._ignored = begin, LeftOut(ignored)

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Return the wanted method, counted; None where there is no such method."""
        found = continuation(details)
        if found is None or self._ignored.has(details.method):
            return found
        name = SORTS[found.request_streaming, found.response_streaming]
        count = self._stream if found.response_streaming else self._single
        return Method(found, name, count(getattr(found, name)))

    def _single(self, method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def counted(request: Any, context: Any) -> Any:
            part = _begin_call(self._begin, context)
            try:
                return method(request, context)
            finally:
                part()

        return counted

    def _stream(self, method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def counted(request: Any, context: Any) -> Iterator[Any]:
            part = _begin_call(self._begin, context)
            try:
                yield from method(request, context)
            finally:
                part()

        return counted


def _begin_call(begin: Callable[[], Ticket], context: Any) -> Callable[[], None]:
    """
    Count a call; return what its handler's end is to be told by.

    It is over when the handler has ended and gRPC has too: the answer leaves after
    the handler, and a handler may go on after the client has gone.
    """
    ticket = begin()
    lock, parts = RLock(), [2]

    def part() -> None:
        with lock:
            parts[0] -= 1
        if parts[0] == 0:
            ticket.end()

    try:
        if not context.add_callback(part):
            part()
    except BaseException:
        ticket.end()
        raise
    return part
