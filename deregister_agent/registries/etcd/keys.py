"""
Keys of etcd: one, or all that begin alike, and what etcd says of one.

In the JSON gateway 64-bit numbers are strings, and what is zero or empty is left out.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class KeyRange:
    """One key, or all that begin alike."""

    start: bytes
    end: bytes | None = None

    @classmethod
    def below(cls, prefix: str) -> "KeyRange":
        """Return all keys that begin with *prefix*, which must not be empty."""
        start = prefix.encode()
        return cls(start, start[:-1] + bytes([start[-1] + 1]))

    def asked(self) -> dict[str, str]:
        """Return the range as a part of a request."""
        only = {"key": encoded(self.start)}
        return only if self.end is None else only | {"range_end": encoded(self.end)}


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as etcd has it; ``lease`` is 0 for none."""

    key: bytes
    value: bytes
    lease: int = 0
    created: int = 0  # the revision of its creation
    modified: int = 0  # the revision of its last change

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> "KeyValue":
        """Return what a KeyValue says, as the gateway writes it."""
        numbers = (int(raw.get(name, 0)) for name in ("lease", "create_revision", "mod_revision"))
        return cls(b64decode(raw["key"]), b64decode(raw.get("value", "")), *numbers)

    @property
    def name(self) -> str:
        """The key as a text; of bytes that are none their numbers."""
        return self.key.decode(errors="backslashreplace")

    @property
    def line(self) -> str:
        """The line of the configuration that means this key."""
        return f"key = {json.dumps(self.name, ensure_ascii=False)}"

    def __str__(self) -> str:
        """Return the key, and its lease as etcdctl writes it."""
        lease = f"lease {self.lease:x}" if self.lease else "no lease"
        return f"{self.name} ({lease})"


def encoded(content: bytes) -> str:
    """Return bytes as the gateway takes them."""
    return b64encode(content).decode()


def decoded(text: str) -> bytes:
    """Return the bytes that encoded() was given."""
    return b64decode(text)
