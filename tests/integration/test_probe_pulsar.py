"""The pulsar probe: against an admin API of the test that says what brokers say, and worse."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from deregister_agent.errors import ConfigError, ProbeError
from deregister_agent.model import Instance
from deregister_agent.probes.pulsar import Options, PulsarProbe, build
from tests.apps.pages import JSON, Pages, document, page, pages

TOPIC = "persistent://public/default/orders"


def probe(url: str, **more: object) -> PulsarProbe:
    table: dict[str, object] = {"kind": "pulsar", "url": url, "topics": [TOPIC], "timeout": 10.0}
    table |= {"subscription": "shop", "consumer": "web-1"}
    options = Options.model_validate_json(json.dumps(table | more))
    return build(options, Instance("orders-1", "orders", "127.0.0.1", 80))


def consumer(name: str, count: object) -> dict[str, object]:
    return {"consumerName": name, "unackedMessages": count, "availablePermits": 1000}


def stats(*consumers: object, kind: str | None = "Shared") -> dict[str, Any]:
    told: dict[str, object] = {"consumers": list(consumers), "msgBacklog": 7}
    return {"subscriptions": {"shop": told if kind is None else told | {"type": kind}}}


@pytest.fixture
def broker() -> Iterator[Pages]:
    with pages(lambda _: document(stats(consumer("web-1", 0)))) as server:
        yield server


class TestStats:
    def test_work_held_open(self, broker: Pages) -> None:
        """Messages of this instance's consumers are told, up and down to nothing."""
        asked = probe(broker.url, consumer="web-1*")
        told = []
        for count in (0, 3, 1, 0):
            others = consumer("web-2", 5), consumer("web-1-b", 0)
            broker.said = document(stats(consumer("web-1-a", count), *others, kind="Key_Shared"))
            told.append(asked.read(0.0).in_flight)
        assert told == [{"messages": n, "consumers": 2} for n in (0, 3, 1, 0)]

    def test_several_topics(self, broker: Pages) -> None:
        """All topics are asked for, by their escaped names, with the token, and added up."""
        broker.said = document(stats(consumer("web-1", 2)))
        topics = [TOPIC, "persistent://a/b/c d"]
        asked = probe(broker.url, topics=topics, count_consumers=False, token={"env": "HOME"})
        assert asked.read(0.0).in_flight == {"messages": 4}
        assert [request.split(" ")[1] for request in broker.asked] == [
            "/admin/v2/persistent/public/default/orders/stats",
            "/admin/v2/persistent/a/b/c%20d/stats",
        ]
        assert all("Authorization: Bearer /" in request for request in broker.asked)

    def test_partitions(self, broker: Pages) -> None:
        """All partitions are added up; one that is left out is not idle."""
        two = {"p-0": stats(consumer("web-1", 2)), "p-1": stats(consumer("web-1", 1))}
        asked = probe(broker.url, partitioned=True)
        broker.said = document({"metadata": {"partitions": 2}, "partitions": two})
        assert asked.read(0.0).in_flight == {"messages": 3, "consumers": 2}
        assert "/orders/partitioned-stats?perPartition=true" in broker.asked[0]
        broker.said = document({"metadata": {"partitions": 3}, "partitions": two})
        with pytest.raises(ProbeError, match="tells of 2 of its 3 partitions"):
            asked.read(0.0)

    def test_a_partition_without_the_consumer(self, broker: Pages) -> None:
        """One that the consumer has lost does not tell what it has in hand of it."""
        parts = {"p-0": stats(consumer("web-1", 0)), "p-1": stats(kind=None)}
        broker.said = document({"metadata": {"partitions": 2}, "partitions": parts})
        with pytest.raises(
            ProbeError, match=r"of a partition of .* has no consumer web-1, but none"
        ):
            probe(broker.url, partitioned=True).read(0.0)
        closed = probe(broker.url, partitioned=True, absent="zero", count_consumers=False)
        assert closed.read(0.0).idle

    def test_names_are_taken_as_they_are(self, broker: Pages) -> None:
        """Nothing but a star has a meaning in the name of a consumer."""
        broker.said = document(stats(consumer("web[1]?-a", 2), consumer("web1", 5)))
        told = probe(broker.url, consumer="web[1]?*").read(0.0)
        assert told.in_flight == {"messages": 2, "consumers": 1}

    def test_a_consumer_that_is_not_there(self, broker: Pages) -> None:
        """It is unknown, unless absent says otherwise; a subscription that is not there always."""
        gone = probe(broker.url, absent="zero")
        for nobody in (stats(consumer("web-2", 5)), stats(kind=None)):
            broker.said = document(nobody)
            assert gone.read(0.0).idle
            with pytest.raises(ProbeError, match=r"has no consumer web-1, but (web-2|none)"):
                probe(broker.url).read(0.0)
        with pytest.raises(ProbeError, match="has no other"):
            probe(broker.url, subscription="other", absent="zero").read(0.0)


FAIL_CLOSED = {
    "negative": (document(stats(consumer("web-1", -1))), "consumer web-1 is -1"),
    "missing": (document(stats({"consumerName": "web-1"})), "consumer web-1 is None"),
    "nan": (document(stats(consumer("web-1", float("nan")))), "consumer web-1 is nan"),
    "fraction": (document(stats(consumer("web-1", 0.5))), "consumer web-1 is 0.5"),
    "text": (document(stats(consumer("web-1", "0"))), "consumer web-1 is '0'"),
    "boolean": (document(stats(consumer("web-1", False))), "consumer web-1 is False"),
    "exclusive": (document(stats(consumer("web-1", 0), kind="Exclusive")), "is Exclusive: Pulsar"),
    "failover": (document(stats(kind="Failover")), "is Failover: Pulsar counts"),
    "no type": (document(stats(consumer("web-1", 0), kind=None)), "is None: Pulsar counts"),
    "no consumers": (document({"subscriptions": {"shop": {}}}), "does not tell of its consumers"),
    "odd consumers": (document(stats(0)), "does not tell of its consumers"),
    "no subscriptions": (document({}), "has no subscriptions"),
    "list": (document([]), "has no subscriptions"),
    "html": (page("<html>0</html>", "text/html"), "not JSON but text/html"),
    "truncated": (document(stats())[:-9], "breaks off"),
    "truncated json": (page('{"subscriptions": {', JSON), "not JSON"),
    "not found": (page("{}", JSON, "404 Not Found"), "status 404"),
    "other broker": (page("", JSON, "307 Temporary Redirect"), "status 307"),
    "huge": (page("x" * 9_000_000), "larger than 8388608 bytes"),
    "no answer": (b"", "closed the connection"),
}


class TestFailsClosed:
    @pytest.mark.parametrize("case", FAIL_CLOSED)
    def test_what_is_no_plain_count_is_not_known(self, broker: Pages, case: str) -> None:
        """The error says what was there instead."""
        broker.said, why = FAIL_CLOSED[case]
        with pytest.raises(ProbeError, match=r"^pulsar: cannot tell what web-1") as caught:
            probe(broker.url).read(0.0)
        assert why in str(caught.value)

    def test_slow_and_gone(self, broker: Pages) -> None:
        """An answer that comes byte by byte, or never, is given up."""
        broker.slowly = True
        with pytest.raises(ProbeError, match="no answer within"):
            probe(broker.url, timeout=0.3).read(0.0)
        broker.end()
        with pytest.raises(ProbeError, match="Connection refused"):
            probe(broker.url).read(0.0)

    @pytest.mark.parametrize("topic", ["orders", "persistent://a/b", "non-persistent://a/b/c"])
    def test_topics_that_are_refused(self, topic: str) -> None:
        """Only the whole name of a persistent topic will do."""
        with pytest.raises(ValidationError):
            probe("http://127.0.0.1:1", topics=[topic])

    def test_no_url(self) -> None:
        """A URL that is none is refused before anything runs."""
        with pytest.raises(ConfigError, match="url: "):
            probe("pulsar://127.0.0.1")
