"""What is sent to an address gets to the instance, or does not, or it cannot be told."""

import socket

import pytest

from deregister_agent.host.own_addresses import OwnAddresses, is_of_its_host

NAMES = {
    "web-1.internal": frozenset({"10.0.0.7"}),
    "web-1": frozenset({"127.0.1.1"}),
    "web-2.internal": frozenset({"10.0.0.8"}),
    "pool": frozenset({"10.0.0.8", "10.0.0.7"}),
    "six": frozenset({"fd00::7"}),
    "container": frozenset({"172.17.0.2"}),
    "10.0.0.7": frozenset({"10.0.0.7"}),
}


def meant(written: str, own: str = "10.0.0.7", *, here: bool) -> bool | None:
    return OwnAddresses(own, NAMES).are_meant_by(written, here=here)


@pytest.mark.parametrize(
    "written",
    [
        *("10.0.0.7", "::ffff:10.0.0.7", "[::ffff:a00:7]", "0:0:0:0:0:ffff:a00:7"),
        *("web-1.internal", "WEB-1.Internal.", "pool"),
    ],
)
def test_its_address_and_its_names_from_everywhere(written: str) -> None:
    """However they are spelled; a name of several hosts brings a part of the work."""
    assert meant(written, here=True)
    assert meant(written, here=False)


@pytest.mark.parametrize(
    "written",
    [
        *("127.0.0.1", "127.8.9.1", "::1", "localhost", "LOCALHOST.", "app.localhost"),
        *("0.0.0.0", "::", "host.docker.internal", "ip6-localhost", "localhost.localdomain"),
    ],
)
def test_what_means_each_host(written: str) -> None:
    """It means the instance's own where it is said on the instance's machine."""
    assert is_of_its_host(written)
    assert meant(written, here=True)
    assert meant(written, here=False) is False


@pytest.mark.parametrize(
    "written",
    ["10.0.0.8", "web-2.internal", "fd00::7", "six", "192.0.2.7", "fe80::1", "172.17.0.2"],
)
def test_others(written: str) -> None:
    """Another host's address or name; the container beside it is another app."""
    assert meant(written, here=True) is False
    assert meant(written, here=False) is False


def test_a_name_that_nobody_knows() -> None:
    """That is no answer."""
    assert meant("web-9.internal", here=True) is None
    assert meant("web-9.internal", here=False) is None


@pytest.mark.parametrize("own", ["172.17.0.2", "fe80::7", "127.0.0.1"])
def test_an_own_address_that_is_not_unique(own: str) -> None:
    """The same on another host is another app."""
    assert meant(own, own, here=True)
    assert meant(own, own, here=False) is False


def test_a_name_of_a_container() -> None:
    """A name means from here what it stands for here."""
    assert meant("container", "172.17.0.2", here=False)


def test_an_instance_that_is_known_by_name() -> None:
    """By its name, by what that stands for, and by other names of that."""
    for written in ("web-1.internal", "10.0.0.7", "pool"):
        assert meant(written, "web-1.internal", here=False)
    assert meant("10.0.0.8", "web-1.internal", here=True) is False
    assert meant("web-9", "web-9", here=False)
    assert meant("10.0.0.7", "web-9", here=True) is False


def _way_out() -> str:
    """Return the address that this machine has besides loopback; empty if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_way:
        try:
            any_way.connect(("192.0.2.7", 9))
        except OSError:
            return ""
        return str(any_way.getsockname()[0])


@pytest.mark.parametrize("own", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_all_addresses_of_its_machine(own: str) -> None:
    """Where the instance is known by loopback, another address of the machine leads to it too."""
    address = _way_out()
    if not address:
        pytest.skip("this machine has no other address")
    names = {"localhost": frozenset({"127.0.0.1"}), "me": frozenset({address})}
    mine = OwnAddresses(own, names)
    assert mine.are_meant_by(address, here=True)
    assert mine.are_meant_by("me", here=False)
    assert OwnAddresses(own, NAMES).are_meant_by("192.0.2.7", here=True) is False


def test_the_machine_s_own_name() -> None:
    """Debian's stands for 127.0.1.1 there: it is the instance's where the instance is there."""
    assert meant("web-1", "127.0.0.1", here=False)
    assert meant("web-1", here=True)
    assert meant("web-1", here=False) is False
