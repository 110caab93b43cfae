"""Names are resolved at once, within a limit, and what is not known is left out."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.host.resolving import AT_ONCE, parsed, resolved

LONG = 30.0
"""Seconds that no test waits for, on however busy a machine."""


@pytest.mark.parametrize(
    ("written", "name", "ip"),
    [
        ("10.0.0.7", "10.0.0.7", "10.0.0.7"),
        ("[FD00::0:7]", "fd00::7", "fd00::7"),
        ("::ffff:10.0.0.7", "10.0.0.7", "10.0.0.7"),
        ("LocalHost.", "localhost", "127.0.0.1"),
    ],
)
def test_each_spelling_is_one(written: str, name: str, ip: str) -> None:
    """Addresses stand for themselves; names are asked for without case and dot."""
    assert ip in resolved([written], LONG)[name]


@pytest.mark.parametrize(
    "name",
    ["", "nobody.invalid", "a..b", "x" * 300, "ü" * 90, "a b", "a\0b", "10.0.0.7:80"],
)
def test_what_is_no_name_is_left_out(name: str) -> None:
    """Nothing that a registry may hold breaks the search, or is taken for an address."""
    found = resolved([name, "10.0.0.7"], LONG)
    assert "10.0.0.7" in found
    assert "10.0.0.7" not in found.get(name, ())


class Resolver:
    """Stands for the system's: knows what it is given, and hangs for the rest until it is let."""

    def __init__(self, **known: str) -> None:
        self.known = {name.replace("_", "-"): ip for name, ip in known.items()}
        self.over, self.asked = threading.Event(), list[str]()

    def __call__(self, name: str, *_: Any, **__: Any) -> Any:
        self.asked.append(name)
        if name not in self.known:
            self.over.wait(LONG)
            raise socket.gaierror(socket.EAI_AGAIN, "nobody knows")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (self.known[name], 0))]


def test_a_resolver_that_hangs_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others are known for is there all the same; the call ends by its own limit."""
    resolver = Resolver(web_1="10.0.0.7", web_2="10.0.0.8")
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    try:
        found = resolved(["web-1", "hangs.internal", "web-2"], 1.0)
        assert not resolver.over.is_set()
        assert found == {"web-1": {"10.0.0.7"}, "web-2": {"10.0.0.8"}}
    finally:
        resolver.over.set()


def test_more_names_than_are_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is asked for once, however often it is wanted."""
    names = {f"web_{n}": f"10.0.0.{n}" for n in range(5 * AT_ONCE)}
    resolver = Resolver(**names)
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    found = resolved([*resolver.known, *resolver.known, "WEB-1."], LONG)
    assert found == {name: {ip} for name, ip in resolver.known.items()}
    assert sorted(resolver.asked) == sorted(resolver.known)


def test_who_gives_up_asks_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the limit no other name is taken up, by whichever thread is let go at last."""
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    before = set(threading.enumerate())
    assert resolved([f"hangs-{n}" for n in range(3 * AT_ONCE)], 0.2) == {}
    resolver.over.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(LONG)
    assert len(resolver.asked) == AT_ONCE


HOSTS = """\
127.0.0.1 localhost
127.0.1.1 web-1
10.0.0.7  web-1.internal orders
fd00::7   web-1.internal
10.0.0.8  pool
10.0.0.7  pool
"""
ASK = """
from deregister_agent.host.resolving import resolved
for name, found in sorted(resolved(["web-1", "Web-1.Internal", "orders.", "pool"], 30).items()):
    print(name, *sorted(found))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a mount of its own")
def test_the_resolver_of_the_system(tmp_path: Path) -> None:
    """With a hosts file as Debian writes it, and names of several addresses."""
    (tmp_path / "hosts").write_text(HOSTS)
    script = f"mount --bind '{tmp_path}/hosts' /etc/hosts && exec '{sys.executable}' -c \"$0\""
    command = ["unshare", "-m", "sh", "-c", script, ASK]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "orders 10.0.0.7",
        "pool 10.0.0.7 10.0.0.8",
        "web-1 127.0.1.1",
        "web-1.internal 10.0.0.7 fd00::7",
    ]


@pytest.mark.parametrize(("name", "is_ip"), [("::1", True), ("10.0.0.7", True), ("a", False)])
def test_an_address_is_no_name(name: str, *, is_ip: bool) -> None:
    assert (parsed(name) is not None) == is_ip
