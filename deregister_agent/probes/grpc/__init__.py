"""The calls that a gRPC server has in hand, by its own count."""

from deregister_agent.probes.grpc.options import Options, build

__all__ = ["Options", "build"]
