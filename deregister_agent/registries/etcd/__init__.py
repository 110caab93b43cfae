"""etcd: one key, or one member of a JSON document."""

from deregister_agent.registries.etcd.registry import Options, build

__all__ = ["Options", "build"]
