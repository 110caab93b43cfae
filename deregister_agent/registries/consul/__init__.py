"""Consul: services of one agent."""

from deregister_agent.registries.consul.registry import Options, build

__all__ = ["Options", "build"]
