"""The redis_stream probe on what happens to groups, consumers and entries in mid-drain."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deregister_agent.errors import ProbeError
from deregister_agent.model import Instance
from deregister_agent.probes.redis_stream.probe import Options, RedisStreamProbe, build
from tests.servers.redis import Redis

GROUP = ("orders", "shop")


def probe(redis: Redis, **more: object) -> RedisStreamProbe:
    table: dict[str, object] = {"kind": "redis_stream", "url": f"{redis.url}/0", "timeout": 10.0}
    table |= {"streams": ["orders"], "group": "shop", "consumer": "web-1"}
    options = Options.model_validate_json(json.dumps(table | more))
    return build(options, Instance("orders-1", "orders", "127.0.0.1", 80))


def in_hand(asked: RedisStreamProbe) -> int:
    return asked.read(0.0).in_flight["messages"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def redis(server: Redis) -> Redis:
    """Redis with a group of which web-1 has two entries in hand."""
    server.call("FLUSHALL")
    server.call("XGROUP", "CREATE", *GROUP, "$", "MKSTREAM")
    deliver(server, "web-1", 2)
    return server


def deliver(redis: Redis, consumer: str, count: int, group: str = "shop") -> None:
    for _ in range(count):
        redis.call("XADD", "orders", "*", "n", "1")
    redis.call(
        "XREADGROUP", "GROUP", group, consumer, "COUNT", str(count), "STREAMS", "orders", ">"
    )


class TestWhoseEntries:
    def test_several_groups_take_a_probe_each(self, redis: Redis) -> None:
        """The same consumer's name in another group is another consumer."""
        redis.call("XGROUP", "CREATE", "orders", "audit", "$")
        deliver(redis, "web-1", 3, group="audit")
        assert in_hand(probe(redis, group="audit")) == 3
        assert in_hand(probe(redis)) == 2

    @pytest.mark.parametrize("name", ["web-01", "Web-1", "web-1 ", "web-10", "web"])
    def test_a_name_that_is_only_alike_is_not_ours(self, redis: Redis, name: str) -> None:
        """The error names who is there; absent = "zero" is the operator's own word for it."""
        with pytest.raises(ProbeError, match=f"has no consumer {name}, but web-1"):
            probe(redis, consumer=name).read(0.0)
        assert in_hand(probe(redis, consumer=name, absent="zero")) == 0

    def test_what_another_has_claimed_is_the_others(self, redis: Redis) -> None:
        """The page says so: XAUTOCLAIM moves an entry, whoever still works on it."""
        redis.call("XAUTOCLAIM", *GROUP, "web-2", "0", "0")
        assert in_hand(probe(redis)) == 0
        assert in_hand(probe(redis, consumer="web-*")) == 2
        redis.call("XAUTOCLAIM", *GROUP, "web-1", "0", "0")
        assert in_hand(probe(redis)) == 2

    def test_what_is_read_without_the_group_is_in_no_list(self, redis: Redis) -> None:
        """The page says so: of XREAD and NOACK Redis keeps nothing."""
        redis.call("XADD", "orders", "*", "n", "1")
        redis.call("XREAD", "COUNT", "3", "STREAMS", "orders", "0")
        assert in_hand(probe(redis)) == 2
        redis.call("XREADGROUP", "GROUP", "shop", "web-1", "NOACK", "STREAMS", "orders", ">")
        assert in_hand(probe(redis)) == 2

    def test_an_entry_that_was_deleted_is_still_in_hand(self, redis: Redis) -> None:
        """Trimming the stream ends no work: only an acknowledgement does."""
        redis.call("XTRIM", "orders", "MAXLEN", "0")
        assert in_hand(probe(redis)) == 2


class TestGroupsThatGo:
    def test_a_group_that_is_deleted_and_made_again(self, redis: Redis) -> None:
        """Unknown while it is gone, and after that until the consumer is there once more."""
        asked = probe(redis)
        assert in_hand(asked) == 2
        redis.call("XGROUP", "DESTROY", *GROUP)
        with pytest.raises(ProbeError, match="NOGROUP"):
            asked.read(0.0)
        redis.call("XGROUP", "CREATE", *GROUP, "$")
        with pytest.raises(ProbeError, match="has no consumer web-1, but none"):
            asked.read(0.0)
        deliver(redis, "web-1", 1)
        assert in_hand(asked) == 1

    def test_a_consumer_that_is_deleted(self, redis: Redis) -> None:
        """Its entries go with it, acknowledged by nobody, so nothing is known."""
        redis.call("XGROUP", "DELCONSUMER", *GROUP, "web-1")
        with pytest.raises(ProbeError, match="has no consumer web-1, but none"):
            probe(redis).read(0.0)

    @pytest.mark.parametrize("made", ["DEL", "FLUSHDB", "RENAME"])
    def test_a_stream_that_goes(self, redis: Redis, made: str) -> None:
        """Deleted, flushed or renamed, whatever stands in its place afterwards."""
        words = {"DEL": ("orders",), "FLUSHDB": (), "RENAME": ("orders", "old")}[made]
        redis.call(made, *words)
        with pytest.raises(ProbeError, match="no such key"):
            probe(redis, absent="zero").read(0.0)
        redis.call("XADD", "orders", "*", "n", "1")
        with pytest.raises(ProbeError, match="NOGROUP"):
            probe(redis, absent="zero").read(0.0)


class TestServersThatMayBeBehind:
    def test_a_master_that_becomes_a_replica(self, tmp_path: Path) -> None:
        """A failover in mid-drain: the old master is asked no more once it follows another."""
        for name in "ab":
            (tmp_path / name).mkdir()
        with Redis(tmp_path / "a") as old, Redis(tmp_path / "b") as new:
            for each in (old, new):
                each.call("XGROUP", "CREATE", *GROUP, "$", "MKSTREAM")
                each.call("XGROUP", "CREATECONSUMER", *GROUP, "web-1")
            asked = probe(old)
            assert in_hand(asked) == 0
            old.call("REPLICAOF", "127.0.0.1", str(new.port))
            with pytest.raises(ProbeError, match="no master but a 'replica'"):
                asked.read(0.0)

    def test_a_replica_without_its_master(self, tmp_path: Path) -> None:
        """It may be told to answer nothing; that is no zero either."""
        with Redis(tmp_path, "replica-serve-stale-data no") as replica:
            replica.call("REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(ProbeError, match=r"MASTERDOWN|no master but a 'replica'"):
                probe(replica).read(0.0)
            replica.call("REPLICAOF", "NO", "ONE")
            with pytest.raises(ProbeError, match="no such key"):
                probe(replica, absent="zero").read(0.0)
