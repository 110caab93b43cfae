"""What the app has in hand, by its metrics: their text, and which of them count."""

from deregister_agent.probes.prometheus.probe import Options, build, warnings

__all__ = ["Options", "build", "warnings"]
