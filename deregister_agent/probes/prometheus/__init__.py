"""Metrics of other programs: their text, and what of it is meant."""

from deregister_agent.probes.prometheus.probe import Options, build

__all__ = ["Options", "build"]
