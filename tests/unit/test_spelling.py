"""Addresses that are written differently and mean the same."""

import pytest

from deregister_agent.host.addresses import host, host_and_port


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
