"""Prometheus target files (``file_sd``): their format, and edits that keep every other byte."""

from deregister_agent.registries.file.registry import Options, build

__all__ = ["Options", "build"]
