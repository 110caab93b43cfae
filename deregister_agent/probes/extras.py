"""What has to be installed beside the agent for some of the probes."""

from importlib.util import find_spec

_GRPC = ("grpc_channelz", "grpc_health")


def grpc_missing() -> str:
    """Return how to install what gRPC needs; an empty text where it is installed."""
    if all(find_spec(module) is not None for module in _GRPC):
        return ""
    return "gRPC needs an extra: pip install 'deregister-agent[grpc]'"
