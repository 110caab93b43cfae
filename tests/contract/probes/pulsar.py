"""The pulsar probe, with a broker's admin API of the test behind it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from deregister_agent.probes.pulsar import Options, build
from tests.apps.pages import JSON, document, page, pages

from . import Nothing, World, orders


def stats(*consumers: tuple[str, int]) -> dict[str, object]:
    """Return the statistics of a topic, as the broker says them."""
    listed = [
        {"consumerName": name, "address": "/10.0.0.7:40112", "unackedMessages": count}
        for name, count in consumers
    ]
    return {
        "msgRateIn": 0.0,
        "subscriptions": {
            "shop": {"type": "Shared", "unackedMessages": 9, "consumers": listed},
            "else": {"type": "Exclusive", "consumers": []},
        },
    }


@contextmanager
def world() -> Iterator[World]:
    """Give a probe of a consumer whose numbers the test changes."""
    held = {"web-1": 0}
    with pages(lambda _: document(stats(*held.items(), ("web-2", 5)))) as server:

        def busy(count: int) -> None:
            held["web-1"] = count

        def lose() -> None:
            server.said = page("{}", JSON, "503 Service Unavailable")

        def find() -> None:
            server.said = None

        def hang() -> None:
            server.hanging = True

        table = {
            "kind": "pulsar",
            "url": server.url,
            "topics": ["persistent://public/default/orders"],
            "subscription": "shop",
            "consumer": "web-1",
            "count_consumers": False,
            "timeout": 0.5,
        }

        def strangers() -> Nothing:
            held["web-3"] = 50
            return lambda: held.update({"web-3": 0})

        probe = build(Options.model_validate_json(json.dumps(table)), orders(80))
        lost = "the broker takes back what a connection that is lost had in hand"
        yield World(probe, "messages", busy, lose, find, lost, strangers, hang)
