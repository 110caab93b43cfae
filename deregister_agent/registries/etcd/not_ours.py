"""What mentions the instance and sends it no work: keys, or places in a document. Pure."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

AGENTS = "deregister-agent"
"""The folder, below whatever other one, of what agents write for themselves and each other."""


@dataclass(frozen=True, slots=True)
class NotOurs:
    """What the operator has named in ``not_ours``; what the agents wrote is of the kind always."""

    names: tuple[str, ...] = ()

    def covers(self, name: str) -> bool:
        """Whether a key or place is named, or stands below one that is named with a slash."""
        named = any(
            name == each or (each.endswith("/") and name.startswith(each)) for each in self.names
        )
        return named or AGENTS in name.split("/")

    def line(self, *more: str) -> str:
        """Return the line of the configuration that names *more* as well."""
        return f"not_ours = {_toml(dict.fromkeys([*self.names, *more]))}"


def _toml(texts: Iterable[str]) -> str:
    return json.dumps(list(texts), ensure_ascii=False)
