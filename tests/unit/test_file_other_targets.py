"""Whatever else in a target file leads to the instance is named; what does not is passed over."""

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.errors import ConfigError, RegistryError, UnrecognisedError
from deregister_agent.model import Instance
from deregister_agent.registries.file.other_targets import Place, place_of
from deregister_agent.registries.file.registry import FileRegistry, Options, build

NAMES = {
    "orders.internal": "198.51.100.7",
    "web-1": "127.0.1.1",
    "web-2.internal": "198.51.100.8",
    "proxy.internal": "198.51.100.9",
}
OURS = "198.51.100.7:8080"


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the resolver know the names of a fleet besides its own."""
    real = socket.getaddrinfo

    def know(name: str, *more: Any, **how: Any) -> Any:
        return real(NAMES.get(name, name), *more, **how)

    monkeypatch.setattr(socket, "getaddrinfo", know)


def registry(folder: Path, *groups: Any, at: str = OURS, **options: Any) -> FileRegistry:
    """Return the registry of the instance at an address, in a file with these groups."""
    path = folder / "targets.json"
    if groups:
        made = [one if isinstance(one, dict) else {"targets": one} for one in groups]
        path.write_text(json.dumps(made))
    address, _, port = at.rpartition(":")
    instance = Instance("orders-1", "orders", address.strip("[]"), int(port))
    return build(Options(kind="file", path=path, **options), instance)


@pytest.mark.parametrize(
    "target",
    [
        *("[::ffff:198.51.100.7]:8080", "http://198.51.100.7:8080", "orders.internal:8080"),
        *("http://198.51.100.7:8080/metrics", "198.51.100.7:8080/metrics", "ORDERS.internal.:8080"),
        *("localhost:8080", "127.0.0.1:8080", "[::1]:8080", "0.0.0.0:8080", "app.localhost:8080"),
        *("https://user:secret@orders.internal:8080/a?b", " 198.51.100.7:8080", "web-1:8080"),
        *("host.docker.internal:8080", "[::ffff:c633:6407]:8080", "tcp://localhost:8080"),
        # In words that are not understood, and yet plainly of it.
        *("198.51.100.7:8080;orders", "tcp@198.51.100.7:8080", "orders-198-51-100-7:8080"),
    ],
)
def test_what_leads_to_it(tmp_path: Path, target: str) -> None:
    """It is named with the line to write, in the same group or another, and is then left out."""
    for groups in ([OURS, target], [[OURS, "198.51.100.8:8080"], ["a:1", target]]):
        grouped = groups if isinstance(groups[0], list) else [groups]
        (sentence,) = registry(tmp_path, *grouped).other_registrations()
        assert repr(target) in sentence
        assert f"not_ours = {json.dumps([target])}" in sentence
        one = registry(tmp_path, not_ours=(target,))
        assert one.other_registrations() == []
        one.withdraw()
        assert not one.look().listed
        assert target in (tmp_path / "targets.json").read_text()


@pytest.mark.parametrize(
    "target",
    [
        *("198.51.100.8:8080", "web-2.internal:8080", "198.51.100.7:8081", "orders.internal:9"),
        *("172.17.0.2:8080", "[fe80::1]:8080", "http://web-2.internal:8080/metrics"),
        *(
            "198.51.100.7",
            "http://198.51.100.7",
            "orders",
            "",
            "::",
            "http://[::",
            "198.51.100.70:8080",
        ),
    ],
)
def test_what_does_not(tmp_path: Path, target: str) -> None:
    """Another port, another host, another container, what is no address."""
    one = registry(tmp_path, [OURS, target])
    assert (one.other_registrations(), one.notes(None)) == ([], ())


@pytest.mark.parametrize("target", ["198.51.100.7", "http://198.51.100.7", "orders.internal"])
def test_the_port_of_the_scheme(tmp_path: Path, target: str) -> None:
    """A target without a port gets that of its scheme from whoever reads the file."""
    at = "198.51.100.7:80"
    (sentence,) = registry(tmp_path, [at, target], at=at).other_registrations()
    assert repr(target) in sentence


def test_the_same_target_in_several_groups(tmp_path: Path) -> None:
    """That is one, and withdraw() takes it out of each."""
    one = registry(tmp_path, [OURS], ["a:1", OURS], {"targets": [OURS], "labels": {"zone": "b"}})
    assert one.other_registrations() == []
    one.withdraw()
    assert not one.look().listed


@pytest.mark.parametrize(("key", "target"), [("Targets", OURS), ("TARGETS", "localhost:8080")])
def test_below_a_key_that_is_not_read(tmp_path: Path, key: str, target: str) -> None:
    """Go takes it for targets: before the drain it is told what to write."""
    one = registry(tmp_path, [OURS], {key: [target]})
    assert one.look().listed
    (sentence,) = one.other_registrations()
    assert f"write targets for {key} in the file" in sentence
    assert ("not_ours" in sentence) == (target != OURS)


def test_a_name_that_is_not_known(tmp_path: Path) -> None:
    """It holds up nobody, as a file may have hundreds; a note says so until the next question."""
    targets = [f"nobody-{n}.invalid:8080" for n in range(9)]
    one = registry(tmp_path, [OURS, *targets, "nobody.invalid:9"])
    assert one.other_registrations() == []
    (note,) = one.notes(None)
    assert "no address here: nobody-0.invalid:8080, " in note
    assert note.endswith(" and 4 more")
    registry(tmp_path, [OURS])
    assert one.other_registrations() == []
    assert one.notes(None) == ()


def test_an_instance_that_is_named_otherwise(tmp_path: Path) -> None:
    """By a target of another name and port: both places are the instance's."""
    groups = [["proxy.internal:80", "198.51.100.9:80", "orders.internal:8080", "web-2.internal:80"]]
    said = registry(tmp_path, *groups, target="proxy.internal:80").other_registrations()
    assert len(said) == 2
    assert "'198.51.100.9:80'" in said[0]
    assert "'orders.internal:8080'" in said[1]
    said = registry(tmp_path, ["orders-1", OURS], target="orders-1").other_registrations()
    assert len(said) == 1
    assert registry(tmp_path, ["a", "b"], target="a").other_registrations() == []


def test_it_is_bounded(tmp_path: Path) -> None:
    """However many there are; and the line has what stood there before."""
    targets = [OURS, *(f"http://{OURS}/{n}" for n in range(9))]
    said = registry(tmp_path, targets, not_ours=("x",)).other_registrations()
    assert len(said) == 6
    assert said[-1] == f"4 more targets lead to it: {', '.join(sorted(targets)[6:])}"
    assert f'not_ours = ["x", "http://{OURS}/0"]' in said[0]


def test_another_spelling_is_named_in_the_look_once(tmp_path: Path) -> None:
    """Where the target itself is not there, the look says so, unless it is left out."""
    mapped = "[::ffff:198.51.100.7]:8080"
    with pytest.raises(UnrecognisedError, match="not_ours = "):
        registry(tmp_path, [mapped]).look()
    told = registry(tmp_path, [mapped, "a:1"], not_ours=(mapped,))
    assert not told.look().listed
    assert all("a:1" in each for each in told.look_alikes())
    two = "[::ffff:c633:6407]:8080"
    with pytest.raises(UnrecognisedError, match="c633"):
        registry(tmp_path, [mapped, two], not_ours=(mapped,)).look()


def test_a_resolver_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is part of the limit, and what is known without it is told."""
    over = threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        over.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "nobody knows")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        one = registry(tmp_path, [OURS, "localhost:8080", "hangs.invalid:8080"], timeout=0.3)
        assert len(one.other_registrations()) == 1
        assert "hangs.invalid:8080" in one.notes(None)[0]
        assert not over.is_set()
    finally:
        over.set()


def test_no_answer_is_an_error(tmp_path: Path) -> None:
    """A file that is not there is not one in which there is nothing."""
    with pytest.raises(RegistryError, match="file: cannot look for what else leads to"):
        registry(tmp_path).other_registrations()


def test_it_cannot_leave_itself_out(tmp_path: Path) -> None:
    """That would be to ask for nothing."""
    for more in ({"not_ours": (OURS,)}, {"not_ours": ("a",), "target": "a"}):
        with pytest.raises(ConfigError, match=r"not_ours: .* is the target of the instance itself"):
            registry(tmp_path, [OURS], **more)


@pytest.mark.parametrize(
    ("target", "host", "ports"),
    [
        ("a:8080", "a", {8080}),
        ("[::1]:8080", "::1", {8080}),
        ("::1", None, set()),
        ("HTTPS://A/b", "a", {443}),
        ("ftp://a", "a", set()),
        ("a", "a", {80, 443}),
        ("a:99999", None, set()),
        ("a:b", None, set()),
        ("http://", None, set()),
    ],
)
def test_where_a_target_is(target: str, host: str | None, ports: set[int]) -> None:
    assert place_of(target) == (None if host is None else Place(host, frozenset(ports)))
