"""The calls that a gRPC server has in hand, by its own count."""

from deregister_agent.errors import ConfigError
from deregister_agent.host.addresses import joined
from deregister_agent.model import Instance
from deregister_agent.ports import IdleProbe
from deregister_agent.probes.extras import grpc_missing
from deregister_agent.probes.grpc.options import Options

__all__ = ["Options", "build"]


def build(options: Options, instance: Instance) -> IdleProbe:
    """Return the probe. Raises ConfigError if options contradict each other, or without gRPC."""
    missing = grpc_missing()
    mistakes = [f"kind: {missing}"] if missing else []
    if not options.tls and (options.ca or options.certificate or options.server_name):
        mistakes.append("ca, certificate, server_name: say nothing without tls")
    if mistakes:
        raise ConfigError(f"probe {options.label}", mistakes)
    from deregister_agent.probes.grpc.probe import GrpcProbe  # noqa: PLC0415 - the extra is there

    return GrpcProbe(options, options.target or joined(instance.address, instance.port))
