"""Any admin API, by requests and answers that the configuration describes."""

from deregister_agent.registries.http.registry import Options, build, warnings

__all__ = ["Options", "build", "warnings"]
