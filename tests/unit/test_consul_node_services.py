"""Where a service in Consul gets its work: what no Consul at hand can be told to have."""

import pytest

from deregister_agent.host.own_addresses import OwnAddresses
from deregister_agent.registries.consul.node_services import NodeService, OwnPlace, Place
from deregister_agent.registries.consul.watch import OwnEntries

OURS = OwnPlace(OwnEntries("orders-1", "10.0.0.7", 8080), "n", OwnAddresses("10.0.0.7", {}))


@pytest.mark.parametrize(
    ("address", "port", "place"),
    [
        ("http://10.0.0.7", 8080, ("10.0.0.7", 8080)),
        ("http://10.0.0.7:8080/api", 0, ("10.0.0.7", 8080)),
        ("10.0.0.7:9", 8080, ("10.0.0.7", 8080)),
        ("http://[fd00::7]:9/", 0, ("fd00::7", 9)),
        ("fd00::7", 8080, ("fd00::7", 8080)),
        ("[fd00::7]", 8080, ("[fd00::7]", 8080)),
        ("web-1.internal", 8080, ("web-1.internal", 8080)),
        ("http://", 8080, ("http://", 8080)),
    ],
)
def test_addresses_as_some_write_them(address: str, port: int, place: tuple[str, int]) -> None:
    """A URL, or with the port; the port that is given by itself is the port."""
    raw = {"ID": "web", "Service": "web", "Address": address, "Port": port}
    assert NodeService.read(raw, "n").places == (Place(*place),)


def test_parts_that_are_null() -> None:
    """Consul writes null for what is empty, in some versions."""
    empty = dict.fromkeys(("Address", "Port", "Kind", "Proxy", "TaggedAddresses"))
    one = NodeService.read({"ID": "web", "Service": "web"} | empty, "n")
    assert (one.at, one.port, one.places, OURS.lead(one)) == ("", 0, (Place("", 0),), None)
