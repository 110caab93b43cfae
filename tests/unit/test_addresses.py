"""Addresses: written in one way, read from all."""

import pytest

from deregister_agent.host.addresses import host, host_and_port, joined, server_and_target, split


@pytest.mark.parametrize(
    ("written", "one"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("FD00:0:0::7", "fd00::7"),
        ("[fd00:0000::0007]", "fd00::7"),
        ("Orders.Example.", "orders.example"),
        ("10.0.0.07", "10.0.0.07"),
    ],
)
def test_one_spelling(written: str, one: str) -> None:
    """What means the same host is the same text; what is no address stays a name."""
    assert host(written) == one


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("10.0.0.7:8080", ("10.0.0.7", 8080)),
        ("[FD00::0:7]:08080", ("fd00::7", 8080)),
        ("10.0.0.7", None),
        (":80", None),
        ("a:b", None),
    ],
)
def test_host_and_port(written: str, meant: tuple[str, int] | None) -> None:
    """Both are needed."""
    assert host_and_port(written) == meant


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("Orders.Example:80", ("Orders.Example", 80)),
        ("[FD00::7]:0", ("FD00::7", 0)),
        ("a:65536", None),
        ("a:" + "9" * 5000, None),
        ("a:٣", None),
    ],
)
def test_split(written: str, parts: tuple[str, int] | None) -> None:
    """The host is as written; what is no port of TCP is no address."""
    assert split(written) == parts


@pytest.mark.parametrize("host", ["10.0.0.7", "fd00::7", "orders.example"])
def test_joined(host: str) -> None:
    """What was joined is split into the same."""
    assert split(joined(host, 8080)) == (host, 8080)
    assert ("[" in joined(host, 8080)) == (":" in host)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://a:80", ("http://a:80", "/")),
        ("https://a/b/c?d=e&f", ("https://a", "/b/c?d=e&f")),
        ("http+unix://%2Frun%2Fa/b", ("http+unix://%2Frun%2Fa", "/b")),
        ("http://a?b", ("http://a", "/?b")),
    ],
)
def test_server_and_target(url: str, parts: tuple[str, str]) -> None:
    """A URL is the server and what is asked of it, as written."""
    assert server_and_target(url) == parts
