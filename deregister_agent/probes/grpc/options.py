"""How a gRPC server is reached. Imports no gRPC: the keys can be described without the extra."""

from typing import Annotated

from pydantic import Field

from deregister_agent.probes.http_endpoint import TlsProbeOptions


class Options(TlsProbeOptions):
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
