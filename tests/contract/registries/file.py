"""The file registry for the shared tests: JSON and YAML."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from deregister_agent.host.files import replace_durably
from deregister_agent.model import Instance
from deregister_agent.ports import Registry
from deregister_agent.registries.file.registry import Options, build
from tests.contract.registries import World

ORDERS = Instance("orders-1", "orders", "10.0.0.1", 8080)
GROUPS = [
    {"labels": {"service": "orders"}, "targets": ["10.0.0.2:8080", "10.0.0.1:8080"]},
    {"labels": {"service": "orders", "zone": "b"}, "targets": ["10.0.0.3:8080"]},
]


def _registry(path: Path, instance: Instance = ORDERS, **options: Any) -> Registry:
    return build(Options(kind="file", path=path, **options), instance)


def _targets(path: Path) -> list[str]:
    groups = yaml.safe_load(path.read_text())  # JSON is YAML too
    return [target for group in groups for target in group["targets"]]


@contextmanager
def _world(suffix: str, folder: Path) -> Iterator[World]:
    path = folder / f"targets{suffix}"
    write = json.dumps if suffix == ".json" else yaml.safe_dump
    content = write(GROUPS).encode()
    path.write_bytes(content)

    def add_other() -> str:
        name = "http://10.0.0.1:8080/metrics"
        replace_durably(path, write([*GROUPS, {"targets": [name]}]).encode())
        return name

    others = {"10.0.0.2:8080", "10.0.0.3:8080"}
    yield World(
        registry=_registry(path),
        relist=lambda: replace_durably(path, content),
        neighbours=lambda: len(others.intersection(_targets(path))),
        absent=_registry(path, Instance("orders-9", "orders", "10.0.0.9", 8080)),
        alike=_registry(path, target="http://10.0.0.1:8080"),
        alike_named="'10.0.0.1:8080'",
        add_other=add_other,
        leaving_out=lambda name: _registry(path, not_ours=(name,)),
    )


WORLDS = {"json": partial(_world, ".json"), "yaml": partial(_world, ".yml")}
