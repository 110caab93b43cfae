"""What a consumer of Redis streams has in hand."""

from deregister_agent.probes.redis_stream.probe import Options, build

__all__ = ["Options", "build"]
