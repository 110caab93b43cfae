"""How a gRPC server is reached. Imports no gRPC: the keys can be described without the extra."""

from typing import Annotated

from pydantic import Field

from deregister_agent.errors import ConfigError
from deregister_agent.host.addresses import joined
from deregister_agent.model import Instance
from deregister_agent.ports import IdleProbe
from deregister_agent.probes.extras import grpc_missing
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


def build(options: Options, instance: Instance) -> IdleProbe:
    """Return the probe. Raises ConfigError if options contradict each other, or without gRPC."""
    missing = grpc_missing()
    mistakes = [f"kind: {missing}"] if missing else []
    if not options.tls and (options.ca or options.certificate or options.server_name):
        mistakes.append("ca, certificate, server_name: say nothing without tls")
    if mistakes:
        raise ConfigError(f"probe {options.label}", mistakes)
    from deregister_agent.probes.grpc.probe import GrpcProbe  # noqa: PLC0415 - the extra is there

    own = joined(instance.address, instance.port)
    return GrpcProbe(options, options.target or own)
