"""The health check that the agent answers for an instance, and who has heard what."""

from deregister_agent.registries.health.registry import Options, build

__all__ = ["Options", "build"]
