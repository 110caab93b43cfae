"""The same API on another host, for gateways elsewhere."""

from deregister_agent.registries.agent.registry import Options, build

__all__ = ["Options", "build"]
