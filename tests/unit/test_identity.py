"""What a registry's fingerprint is over: where and as what it looks, and nothing else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from deregister_agent.config import backends
from deregister_agent.config.backends import identity
from deregister_agent.config.options import RegistryOptions
from deregister_agent.model import Instance

ORDERS = Instance("orders-1", "orders", "10.0.0.7", 8080)
LEAST: dict[str, dict[str, Any]] = {
    "agent": {"url": "https://gateway:8650"},
    "command": {"withdraw": ["true"], "restore": ["true"], "lists": ["true"]},
    "consul": {},
    "etcd": {},
    "file": {"path": "/etc/targets.json"},
    "health": {"listen": "127.0.0.1:8651", "app": "http://127.0.0.1:8080/healthz"},
    "http": {"url": "http://127.0.0.1:9901", "preset": "envoy"},
    "nginx": {"upstream": "orders"},
}
"""The least that each kind has to be told."""
REQUEST = {"path": "/other", "method": "POST"}
OTHERS: tuple[Any, ...] = (
    *("other", "other:81", "/other.json", "http://other", 17, 0.5, 3.5, True, False),
    *(["other"], ["http://other:1"], ["10.9.0.0/16"], {"env": "OTHER"}, {"a": "other"}),
    *({"a": {"env": "OTHER"}}, REQUEST, REQUEST | {"listed": ["y"], "withdrawn": ["n"]}),
)
"""Something else to write, for whatever a key takes; words of a choice are tried as well."""
WORDS = (
    *("maintenance", "app", "agent", "withdrawn", "stream", "document", "value", "kratos"),
    *("eureka", "count-as-withdrawn", "refuse", "skip"),
)


def _kinds() -> list[str]:
    return list(backends.built_in("registries"))


def _options(kind: str) -> RegistryOptions:
    made = backends.find("registries", kind).Options.read_table({"kind": kind} | LEAST[kind])
    assert isinstance(made, RegistryOptions)
    return made


def _fields() -> list[tuple[str, str]]:
    return [(k, name) for k in _kinds() for name in _model(k) if name != "kind"]


def _model(kind: str) -> Mapping[str, FieldInfo]:
    fields: Mapping[str, FieldInfo] = backends.find("registries", kind).Options.model_fields
    return fields


def _looked_for(kind: str) -> frozenset[str]:
    """Return the keys that count: all, where a kind names none."""
    options = backends.find("registries", kind).Options
    return getattr(options, "identity_keys", frozenset(options.model_fields))


def _with(options: RegistryOptions, name: str, value: object) -> RegistryOptions:
    return options.model_copy(update={name: value})


def _another(field: FieldInfo, before: object) -> object:
    """Return a value that the key takes and that is not *before*."""
    annotated: Any = Annotated[field.annotation, field]
    takes: TypeAdapter[object] = TypeAdapter(annotated)
    for value in (*WORDS, *OTHERS):
        try:
            made = takes.validate_json(json.dumps(value))
        except (ValidationError, ValueError):
            continue
        if made != before:
            return made
    pytest.fail(f"nothing else is known that this key takes: {field}")


@pytest.mark.parametrize(("kind", "name"), _fields())
def test_only_where_and_as_what_it_looks_counts(kind: str, name: str) -> None:
    """Another value of such a key is another fingerprint; of any other key it is not."""
    options = _options(kind)
    changed = _with(options, name, _another(_model(kind)[name], getattr(options, name)))
    differs = identity(changed, ORDERS) != identity(options, ORDERS)
    assert differs == (name in _looked_for(kind))


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, name in _fields() if name not in _looked_for(kind)]
)
def test_a_default_that_is_written_out(kind: str, name: str) -> None:
    """It changes nothing, where the key does not say where or as what is looked."""
    options = _options(kind)
    written = _with(options, name, getattr(options, name))
    assert name in written.model_fields_set
    assert identity(written, ORDERS) == identity(options, ORDERS)


@pytest.mark.parametrize("kind", _kinds())
def test_the_keys_are_keys(kind: str) -> None:
    """What counts is the name of a key; a secret and a time limit never are among it."""
    options = backends.find("registries", kind).Options
    named: frozenset[str] = getattr(options, "identity_keys", frozenset())
    assert named <= set(_model(kind))
    never = {"timeout", "token", "password", "ca", "certificate", "certificate_key", "absent"}
    assert not named & (never | {"name", "restore_by", "definition", "labels", "lease"})


@pytest.mark.parametrize("kind", _kinds())
def test_another_instance_is_another_fingerprint(kind: str) -> None:
    """Name, service, address and port of the instance count, whatever the registry."""
    options = _options(kind)
    seen = {
        identity(options, each)
        for each in (
            ORDERS,
            Instance("orders-2", "orders", "10.0.0.7", 8080),
            Instance("orders-1", "shop", "10.0.0.7", 8080),
            Instance("orders-1", "orders", "10.0.0.8", 8080),
            Instance("orders-1", "orders", "10.0.0.7", 8081),
        )
    }
    assert len(seen) == 5


def test_two_kinds_are_never_alike(tmp_path: Path) -> None:
    """The kind counts."""
    assert len({identity(_options(kind), ORDERS) for kind in _kinds()}) == len(_kinds())
