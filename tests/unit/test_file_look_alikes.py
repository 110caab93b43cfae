"""Targets that may be the instance in another form: they are told, and what to write."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.errors import RegistryError, UnrecognisedError
from deregister_agent.model import Instance, Listing
from deregister_agent.registries.file.registry import FileRegistry, Options, build

ORDERS = Instance("orders-1", "orders", "10.0.0.7", 8080)


def registry(folder: Path, groups: object, **options: Any) -> FileRegistry:
    path = folder / "targets.json"
    path.write_text(json.dumps(groups))
    return build(Options(kind="file", path=path, **options), ORDERS)


def told(one: FileRegistry) -> list[str]:
    """Return what is said of the instance, which must not be listed."""
    try:
        assert one.look().listing is Listing.ABSENT
    except UnrecognisedError as e:
        return [str(e)]
    return list(one.look_alikes())


@pytest.mark.parametrize(
    "target",
    [
        "localhost:8080",
        "127.0.0.1:8080",
        f"{socket.gethostname()}:8080",
        "http://10.0.0.7:8080",
        "https://10.0.0.7:8080/metrics",
        "http://localhost:8080/health",
        "[::ffff:10.0.0.7]:8080",
        # What nobody has told of: a path, no port, a label in it, a module of an exporter.
        "10.0.0.7:8080/metrics",
        "10.0.0.7",
        "orders.internal.:8080",
        "10.0.0.7:8080;orders",
        " 10.0.0.7:8080",
        "tcp://orders:8080",
        "ip-10-0-0-7.internal:8080",
    ],
)
def test_another_form(tmp_path: Path, target: str) -> None:
    """The very target is told as what to write, alone, and it works."""
    groups = [{"targets": ["10.0.0.8:8080", target]}, {"targets": ["10.0.0.7:9100", "a:1"]}]
    (sentence,) = told(registry(tmp_path, groups))
    assert f"target = {json.dumps(target)}" in sentence
    assert registry(tmp_path, groups, target=target).look().listed


@pytest.mark.parametrize("key", ["Targets", "TARGETS", "target"])
def test_an_odd_key(tmp_path: Path, key: str) -> None:
    """Go, and so Prometheus, takes it in JSON for what it looks like: no absence."""
    (sentence,) = told(registry(tmp_path, [{key: ["10.0.0.7:8080"]}]))
    assert repr(key) in sentence
    (sentence,) = told(registry(tmp_path, [{key: ["10.0.0.8:8080"]}]))
    assert repr(key) in sentence
    assert "10.0.0.8:8080" in sentence


def test_what_is_there_is_named_where_nothing_is_like_it(tmp_path: Path) -> None:
    """Three targets at most."""
    named = told(registry(tmp_path, [{"targets": [f"10.0.1.{n}:8080" for n in range(9)]}]))
    assert len(named) == 3
    assert 'target = "10.0.1.0:8080"' in named[0]


def test_it_is_bounded(tmp_path: Path) -> None:
    """However many there are, five are named; this machine's own name is the first."""
    own = f"{socket.gethostname()}:8080"
    named = told(registry(tmp_path, [{"targets": [*(f"a{n}:8080" for n in range(9)), own]}]))
    assert len(named) == 5
    assert repr(own) in named[0]


def test_nothing_at_all(tmp_path: Path) -> None:
    """Nothing is said of nothing; a file that is not there is an error."""
    one = registry(tmp_path, [])
    assert told(one) == []
    (tmp_path / "targets.json").unlink()
    with pytest.raises(RegistryError, match="file: cannot look for what looks like"):
        one.look_alikes()


def test_a_target_that_is_no_address(tmp_path: Path) -> None:
    """Whatever the instance is called in the file."""
    named = told(registry(tmp_path, [{"targets": ["orders-1"]}], target="orders-one"))
    assert 'target = "orders-1"' in named[0]


def test_the_error_reads_as_those_of_the_look_do(tmp_path: Path) -> None:
    """Name, what was done, why."""
    with pytest.raises(UnrecognisedError) as caught:
        registry(tmp_path, [{"targets": ["[::ffff:a00:7]:8080"]}]).look()
    assert str(caught.value).startswith(f"file: cannot look for 10.0.0.7:8080 in {tmp_path}")
