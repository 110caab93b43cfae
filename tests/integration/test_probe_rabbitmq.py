"""The rabbitmq probe: against a real RabbitMQ, and against servers that tell nothing."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.errors import ConfigError, ProbeError
from deregister_agent.model import Instance
from deregister_agent.probes.rabbitmq import Options, build
from tests.apps.pages import JSON, Pages, document, page, pages
from tests.apps.rabbit_consumer import Consumer
from tests.integration.rabbit_stage import error, probe, told
from tests.servers.child import wait_until
from tests.servers.rabbitmq import RabbitMQ, own_host

pytestmark = pytest.mark.usefixtures("rabbit_password")


class TestRabbitMQ:
    def test_a_consumer_at_work(self, rabbit: RabbitMQ) -> None:
        """Its messages and its subscription are told, down to nothing."""
        with Consumer(rabbit) as consumer:
            asked = probe(rabbit.url, lag=rabbit.lag)
            consumer.consume()
            for _ in range(3):
                consumer.channel.basic_publish("", "orders", b"x")
            consumer.wait_for(3)
            wait_until(lambda: told(asked) == {"messages": 3, "consumers": 1}, "it has three")
            consumer.cancel()
            wait_until(lambda: told(asked) == {"messages": 3, "consumers": 0}, "it takes no more")
            consumer.take(0)
            wait_until(lambda: told(asked) == {"messages": 0, "consumers": 0}, "it is idle")

    def test_its_idleness_is_late(self, rabbit: RabbitMQ) -> None:
        """What was taken a moment ago shows within the time that each reading says."""
        with Consumer(rabbit) as consumer:
            asked = probe(rabbit.url, lag=rabbit.lag, absent="zero")
            consumer.take(1)
            taken = time.monotonic()
            reading = asked.read(0.0)
            assert reading.late >= rabbit.lag
            wait_until(lambda: told(asked) == {"messages": 1, "consumers": 0}, "it shows")
            assert time.monotonic() - taken < reading.late
            consumer.take(0)

    def test_only_its_own(self, rabbit: RabbitMQ) -> None:
        """Connections have names; what another one has in hand is not told."""
        with Consumer(rabbit, "web-1") as mine, Consumer(rabbit, "web-2") as other:
            asked = probe(rabbit.url, lag=rabbit.lag, connection="web-1*")
            both = probe(rabbit.url, lag=rabbit.lag)
            mine.take(1)
            other.take(2)
            wait_until(lambda: (told(both) or {}).get("messages") == 3, "all three are told")
            assert told(asked) == {"messages": 1, "consumers": 0}
            mine.take(0)
            wait_until(lambda: told(asked) == {"messages": 0, "consumers": 0}, "it is idle")
            other.take(0)

    def test_nobody_there(self, rabbit: RabbitMQ) -> None:
        """Without a connection it is unknown, unless absent says otherwise."""
        with pytest.raises(ProbeError, match="it has no connection"):
            probe(rabbit.url, connection="nobody").read(0.0)
        asked = probe(rabbit.url, peer="192.0.2.1", absent="zero", lag=rabbit.lag)
        assert told(asked) == {"messages": 0, "consumers": 0}

    def test_messages_without_acknowledgement(self, rabbit: RabbitMQ) -> None:
        """Where consumers do not count, one whose messages nobody can see is unknown."""
        with Consumer(rabbit) as consumer:
            consumer.consume(acknowledges=False)
            blind = probe(rabbit.url, lag=0.0, count_consumers=False)
            wait_until(lambda: "without acknowledging" in error(blind), "it is seen")
            consumer.cancel()
            wait_until(lambda: told(blind) == {"messages": 0}, "it is gone")

    def test_users(self, rabbit: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
        """A user who sees only a part is refused; the password is never shown."""
        for tags in ("management", "monitoring"):
            rabbit.call("PUT", f"/api/users/{tags}", {"password": "s3cret", "tags": tags})
            rights = {"configure": "", "write": "", "read": ""}
            rabbit.call("PUT", f"/api/permissions/%2F/{tags}", rights)
        monkeypatch.setenv("RIGHT", "s3cret")
        more: dict[str, Any] = {"password": {"env": "RIGHT"}, "peer": "192.0.2.1"}
        with pytest.raises(ProbeError, match="has not the tag monitoring"):
            probe(rabbit.url, user="management", **more).read(0.0)
        with pytest.raises(ProbeError, match="no connection"):
            probe(rabbit.url, user="monitoring", **more).read(0.0)
        with pytest.raises(ProbeError, match="no connection"):
            probe(rabbit.url, user="monitoring", vhost="/", **more).read(0.0)
        with pytest.raises(ProbeError, match="status 404"):
            probe(rabbit.url, user="monitoring", vhost="none", **more).read(0.0)
        with pytest.raises(ProbeError, match="status 401") as caught:
            probe(rabbit.url, user="guest", **more).read(0.0)
        assert "s3cret" not in str(caught.value)

    def test_statistics_that_are_lost(self, rabbit: RabbitMQ) -> None:
        """When RabbitMQ forgets its statistics, what it does not tell is not taken for nothing."""
        with own_host(rabbit) as host, Consumer(rabbit, host=host) as consumer:
            asked = probe(rabbit.url, lag=rabbit.lag, vhost=host)
            consumer.take(2)
            wait_until(lambda: (told(asked) or {}).get("messages") == 2, "both are told")
            rabbit.call("DELETE", "/api/reset")
            seen = [told(asked)]
            while seen[-1] is None or seen == seen[:1]:
                seen.append(told(asked))
            assert {(s or {}).get("messages", 2) for s in seen} == {2}

    def test_names_are_taken_as_they_are(self, rabbit: RabbitMQ) -> None:
        """Nothing but a star has a meaning in the name of a connection."""
        with own_host(rabbit) as host, Consumer(rabbit, "web[1]?", host=host) as consumer:
            asked = probe(rabbit.url, lag=0.0, vhost=host, connection="web[1]*")
            consumer.take(1)
            wait_until(lambda: (told(asked) or {}).get("messages") == 1, "it is told")

    def test_frozen_and_gone(self, tmp_path: Path) -> None:
        """A RabbitMQ that hangs, or is not there, is not idle."""
        with RabbitMQ(tmp_path) as rabbit:
            rabbit.stop()
            with pytest.raises(ProbeError, match=r"no answer within 0\.5 s"):
                probe(rabbit.url, timeout=0.5).read(0.0)
            rabbit.kill()
            with pytest.raises(ProbeError, match="Connection refused"):
                probe(rabbit.url).read(0.0)


NAME = "127.0.0.1:4 -> 127.0.0.1:5672"
WHO = {"name": "guest", "tags": ["administrator"]}
CONNECTION = {"name": NAME, "peer_host": "127.0.0.1", "user_provided_name": "web-1"}
CHANNEL = {
    "name": f"{NAME} (1)",
    "connection_details": {"name": NAME, "peer_host": "127.0.0.1"},
    "messages_unacknowledged": 0,
    "acks_uncommitted": 0,
}
CONSUMER = {
    "channel_details": {"name": f"{NAME} (1)", "peer_host": "127.0.0.1"},
    "ack_required": True,
}
WHOLE: dict[str, object] = {
    "whoami": WHO,
    "overview": {"disable_stats": False},
    "nodes": [{"name": "rabbit@a", "running": True}],
    "connections": [CONNECTION],
    "channels": [CHANNEL],
    "consumers": [],
}


def without(entry: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in entry.items() if k != key}


ODD: dict[str, tuple[str, object, str]] = {
    "negative": ("channels", [CHANNEL | {"messages_unacknowledged": -1}], "of channel"),
    "missing": ("channels", [without(CHANNEL, "messages_unacknowledged")], "is None"),
    "uncommitted": (
        "channels",
        [without(CHANNEL, "acks_uncommitted")],
        "acks_uncommitted of channel",
    ),
    "nan": ("channels", [CHANNEL | {"messages_unacknowledged": float("nan")}], "is nan"),
    "text": ("channels", [CHANNEL | {"messages_unacknowledged": "0"}], "is '0'"),
    "boolean": ("channels", [CHANNEL | {"messages_unacknowledged": False}], "is False"),
    "begun": ("channels", [{"name": f"{NAME} (1)"}], "is None"),
    "nameless channel": ("channels", [{}], "does not tell whose it is"),
    "nameless": ("connections", [{}], "a connection has no name"),
    "unnamed yet": ("connections", [{"name": NAME}], "does not tell its name yet"),
    "unknown connection": ("connections", [], "has just begun, or just ended"),
    "no list": ("channels", {"error": "no"}, "is not a list of objects"),
    "odd list": ("consumers", [0], "is not a list of objects"),
    "no tags": ("whoami", {"name": "guest"}, "has not the tag monitoring"),
    "odd tags": ("whoami", {"tags": 3}, "has not the tag monitoring"),
    "nobody": ("whoami", [], "is no object"),
    "no statistics": ("overview", {"disable_stats": True}, "statistics are switched off"),
    "odd overview": ("overview", [], "is no object"),
    "a node away": ("nodes", [{"name": "rabbit@b", "running": False}], "rabbit@b is not running"),
    "an odd node": ("nodes", [{"name": "rabbit@b"}], "rabbit@b is not running"),
    "without channels": (
        "connections",
        [CONNECTION | {"name": f"{NAME}2", "protocol": "MQTT 5-0"}, CONNECTION],
        "speaks MQTT 5-0 and has no channel",
    ),
}
FAIL_CLOSED = {
    "html": (page("<html>0</html>", "text/html"), "not JSON but text/html"),
    "truncated": (document([])[:-1], "breaks off"),
    "truncated json": (page("[", JSON), "not JSON"),
    "failing": (page("[]", JSON, "503 Service Unavailable"), "status 503"),
    "huge": (page("x" * 9_000_000), "larger than 8388608 bytes"),
    "no answer": (b"", "closed the connection"),
}


@pytest.fixture
def api() -> Iterator[Pages]:
    """Run a management API whose answers a test can change."""
    answers = dict(WHOLE)
    with pages(lambda target: document(answers[_last(target)])) as server:
        server.answers = answers
        yield server


def _last(target: str) -> str:
    return target.partition("?")[0].rpartition("/")[2]


class TestFailsClosed:
    @pytest.mark.parametrize("case", FAIL_CLOSED)
    def test_what_is_no_answer_is_not_known(self, api: Pages, case: str) -> None:
        """The error says what was there instead."""
        api.said, why = FAIL_CLOSED[case]
        with pytest.raises(ProbeError, match=r"^rabbitmq: cannot tell what 127\.0\.0\.1") as caught:
            probe(api.url).read(0.0)
        assert why in str(caught.value)

    @pytest.mark.parametrize("case", ODD)
    def test_odd_answers(self, api: Pages, case: str) -> None:
        """Every entry has to say whose it is and, if it is the app's, a plain count."""
        what, answer, why = ODD[case]
        api.answers[what] = answer
        with pytest.raises(ProbeError) as caught:
            probe(api.url, lag=0.0, connection="web-1").read(0.0)
        assert why in str(caught.value)

    def test_a_whole_answer(self, api: Pages) -> None:
        """The answer that the odd ones are made of is believed; strangers do not matter."""
        stranger = {"name": "10.0.0.9:4 -> 127.0.0.1:5672"}
        api.answers["connections"] = [CONNECTION, stranger]
        api.answers["channels"] = [CHANNEL, {"name": stranger["name"] + " (1)"}]
        api.answers["whoami"] = {"tags": "a,monitoring"}
        asked = probe(api.url, lag=0.0, connection="web-1")
        assert asked.read(0.0).in_flight == {"messages": 0, "consumers": 0}
        api.answers["channels"] = [CHANNEL | {"acks_uncommitted": 2}]
        api.answers["consumers"] = [CONSUMER]
        assert asked.read(0.0).in_flight == {"messages": 2, "consumers": 1}

    @pytest.mark.parametrize(
        ("host", "peer"),
        [
            ("[2001:db8::7]", "2001:db8::7"),
            ("2001:db8::7", "2001:DB8:0::7"),
            ("[::ffff:10.0.0.7]", "10.0.0.7"),
        ],
    )
    def test_addresses(self, api: Pages, host: str, peer: str) -> None:
        """An address is the same however it is written, also where only the name tells it."""
        name = f"{host}:4 -> [2001:db8::1]:5672"
        api.answers["connections"] = [{"name": name, "protocol": "AMQP 0-9-1"}]
        api.answers["channels"] = [without(CHANNEL, "connection_details") | {"name": f"{name} (1)"}]
        api.answers["channels"][0]["messages_unacknowledged"] = 3  # type: ignore[index]
        assert probe(api.url, peer=peer).read(0.0).in_flight["messages"] == 3

    def test_a_host_name_is_no_address(self) -> None:
        """RabbitMQ shows addresses: an instance that has only a name needs the peer's."""
        table = {"kind": "rabbitmq", "user": "guest", "password": {"env": "RABBIT"}}
        with pytest.raises(ConfigError, match=r"peer: needed, since .* 'web\.internal'"):
            build(
                Options.model_validate_json(json.dumps(table)),
                Instance("orders-1", "orders", "web.internal", 80),
            )

    def test_slow(self, api: Pages) -> None:
        """An answer that comes byte by byte is given up at the timeout."""
        api.slowly = True
        with pytest.raises(ProbeError, match="no answer within"):
            probe(api.url, timeout=0.3).read(0.0)

    def test_answers_that_take_long(self, api: Pages) -> None:
        """RabbitMQ gives an answer again for five times as long as it took: so late is the news."""
        asked = probe(api.url, lag=1.0, connection="web-1")
        quick = asked.read(0.0).late

        def slow(target: str) -> bytes:
            api.over.wait(0.3)
            return document(api.answers[_last(target)])

        api.answer, at_once = slow, api.answer
        assert asked.read(0.0).late >= 1.0 + 5 * 0.3
        api.answer = at_once
        wait_until(lambda: asked.read(0.0).late <= quick + 0.5, "that is forgotten")

    def test_no_url(self) -> None:
        """A URL that is none is refused before anything runs."""
        with pytest.raises(ConfigError, match="url: "):
            probe("amqp://127.0.0.1")
