"""A consumer group of a Redis stream."""

from deregister_agent.probes.redis_stream.probe import Options, build

__all__ = ["Options", "build"]
