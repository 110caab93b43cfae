"""The redis_stream probe as whom, where and with which rights: every spelling its page tells."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from pydantic import ValidationError

from deregister_agent.demo.stage import free_ports
from deregister_agent.errors import ProbeError
from deregister_agent.model import Instance
from deregister_agent.probes.redis_stream.probe import Options, RedisStreamProbe, build
from tests.servers.certificates import make_certificates
from tests.servers.child import wait_until
from tests.servers.redis import Redis

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "probes" / "redis_stream.md"
PENDING = {"default": 2, "3": 5}
"""How many entries the consumer has in hand, in each database."""


def probe(url: str, **more: object) -> RedisStreamProbe:
    table: dict[str, object] = {"kind": "redis_stream", "url": url, "timeout": 10.0}
    table |= {"streams": ["orders"], "group": "shop", "consumer": "web-1"}
    options = Options.model_validate_json(json.dumps(table | more))
    return build(options, Instance("orders-1", "orders", "127.0.0.1", 80))


def seen(url: str, **more: object) -> int:
    return probe(url, **more).read(0.0).in_flight["messages"]


def fill(redis: Redis) -> None:
    """Give the consumer entries of the same stream in two databases, by scripts of the server."""
    for database, count in (("0", PENDING["default"]), ("3", PENDING["3"])):
        script = """
        redis.call('SELECT', ARGV[1])
        redis.call('XGROUP', 'CREATE', 'orders', 'shop', '$', 'MKSTREAM')
        for _ = 1, tonumber(ARGV[2]) do redis.call('XADD', 'orders', '*', 'n', '1') end
        redis.call('XREADGROUP', 'GROUP', 'shop', 'web-1', 'STREAMS', 'orders', '>')
        """
        redis.call("EVAL", script, "0", database, str(count))


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    folder = tmp_path_factory.mktemp("redis")
    with Redis(folder) as running:
        fill(running)
        yield running


def user_of(redis: Redis, *rules: str) -> None:
    """Make the user drain anew."""
    redis.call("ACL", "DELUSER", "drain")
    redis.call("ACL", "SETUSER", "drain", "on", *rules)


def of_the_page() -> list[str]:
    """Return the rules of the page's user, but for its password."""
    (line,) = re.findall(r"^ACL SETUSER drain on >\.\.\. (.*)$", PAGE.read_text(), re.MULTILINE)
    return str(line).split()


class TestRights:
    def test_the_user_of_the_page(self, redis: Redis, tmp_path: Path) -> None:
        """The page's user suffices for the page's URL, and for no other database."""
        user_of(redis, ">s3cret", *of_the_page())
        (tmp_path / "password").write_text("s3cret\n")
        whom = {"user": "drain", "password": {"file": str(tmp_path / "password")}}
        (shown,) = re.findall(r'^url = "redis://[\d.:]+(/\d+)"', PAGE.read_text(), re.MULTILINE)
        assert shown == "/0"
        for url in (redis.url, f"{redis.url}{shown}", f"{redis.url}?db=0", f"{redis.url}/00"):
            assert seen(url, **whom) == PENDING["default"], url
        with pytest.raises(ProbeError, match="SELECT: NOPERM"):
            probe(f"{redis.url}/3", **whom).read(0.0)

    def test_the_page_says_what_another_database_needs(
        self, redis: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the one right more that the page names, the other database is read."""
        assert "`+select`" in PAGE.read_text()
        user_of(redis, ">s3cret", *of_the_page(), "+select")
        monkeypatch.setenv("PASSWORD", "s3cret")
        whom = {"user": "drain", "password": {"env": "PASSWORD"}}
        assert seen(f"{redis.url}/3", **whom) == PENDING["3"]
        assert seen(f"{redis.url}/0", **whom) == PENDING["default"]

    @pytest.mark.parametrize(
        "rules",
        [
            "%R~orders -@all +xinfo +hello",
            "~ord* resetchannels -@all +@read +@connection",
            "allkeys allcommands",
            "-@all +hello (~orders +xinfo|consumers)",
            "allkeys +@all -@dangerous -@write +xinfo",
        ],
    )
    def test_other_ways_to_give_the_rights(
        self, redis: Redis, monkeypatch: pytest.MonkeyPatch, rules: str
    ) -> None:
        """Read-only keys, categories, selectors: whatever lets the two commands through."""
        words = re.findall(r"\([^)]*\)|\S+", rules)
        user_of(redis, ">s3cret", *words)
        monkeypatch.setenv("PASSWORD", "s3cret")
        whom = {"user": "drain", "password": {"env": "PASSWORD"}}
        assert seen(f"{redis.url}/0", **whom) == PENDING["default"]

    @pytest.mark.parametrize("rules", ["~orders -@all +hello", "~bills -@all +hello +xinfo"])
    def test_a_right_that_is_missing_is_said(
        self, redis: Redis, monkeypatch: pytest.MonkeyPatch, rules: str
    ) -> None:
        """Redis' own words name it; it is never taken for nothing in hand."""
        user_of(redis, ">s3cret", *rules.split())
        monkeypatch.setenv("PASSWORD", "s3cret")
        with pytest.raises(ProbeError, match=r"NOPERM.*(xinfo|keys)"):
            probe(redis.url, user="drain", password={"env": "PASSWORD"}).read(0.0)


class TestPasswords:
    @pytest.mark.parametrize(
        "password",
        [
            "p@ss:w/rd?#[]%41&=+",
            "two words, \"quoted\" and 'quoted'",
            "passwört-密码-🔑",
            "$6$rounds\\n$*3\t~* +@all",
            "0000",
        ],
    )
    def test_any_characters_are_sent_as_they_are(
        self, redis: Redis, tmp_path: Path, password: str
    ) -> None:
        """Nothing in a password is read as part of a URL, of TOML or of the protocol."""
        user_of(redis, f">{password}", *of_the_page())
        file = tmp_path / "password"
        file.write_bytes(password.encode() + b"\n")
        whom = {"user": "drain", "password": {"file": str(file)}}
        assert seen(f"{redis.url}/0", **whom) == PENDING["default"]
        file.write_bytes(password.encode() + b"x")
        with pytest.raises(ProbeError, match="AUTH: WRONGPASS") as caught:
            probe(redis.url, **whom).read(0.0)
        assert password not in str(caught.value)

    def test_the_default_user(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A password without a user is that of requirepass; so is the user called default."""
        monkeypatch.setenv("PASSWORD", "s3 cret")
        right = {"env": "PASSWORD"}
        with Redis(tmp_path) as redis:
            fill(redis)
            redis.call("CONFIG", "SET", "requirepass", "s3 cret")
            assert seen(f"{redis.url}/0", password=right) == PENDING["default"]
            assert seen(f"{redis.url}/3", user="default", password=right) == PENDING["3"]
            with pytest.raises(ProbeError, match="NOAUTH"):
                probe(f"{redis.url}/0").read(0.0)

    def test_a_user_without_password(self, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that needs none is let in with any."""
        user_of(redis, "nopass", *of_the_page())
        monkeypatch.setenv("PASSWORD", "any")
        assert seen(redis.url, user="drain", password={"env": "PASSWORD"}) == PENDING["default"]


class TestPlaces:
    @pytest.mark.parametrize(
        ("more", "database"),
        [("", "default"), ("/", "default"), ("/0", "default"), ("/3", "3"), ("?db=3", "3"),
         ("/?db=3", "3"), ("/03", "3"), ("/%33", "3")],
    )  # fmt: skip
    def test_spellings_of_a_database(self, redis: Redis, more: str, database: str) -> None:
        """Each means the same database as it does for the client of the app."""
        assert seen(f"{redis.url}{more}") == PENDING[database]

    def test_names_of_the_host(self, redis: Redis) -> None:
        """A scheme in capitals and a name are as good as an address."""
        assert seen(f"REDIS://LocalHost:{redis.port}/3") == PENDING["3"]

    @pytest.mark.parametrize("name", ["s", "a b", "q?db=0", "50%20", "h#3", "ü@x:1"])
    def test_socket_files(self, redis: Redis, tmp_path: Path, name: str) -> None:
        """The database of a socket file is a parameter; it was ignored, and 0 was read."""
        file = tmp_path / name
        file.symlink_to(redis.socket)
        url = f"unix://{quote(str(file))}"
        assert seen(url) == PENDING["default"]
        assert seen(f"{url}?db=3") == PENDING["3"]

    def test_tls_with_user_and_database(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All of it together."""
        make_certificates(tmp_path)
        (port,) = free_ports(1)
        lines = [f"tls-port {port}", "tls-cert-file server.pem", "tls-key-file server.key"]
        more = ["tls-ca-cert-file ca.pem", "tls-auth-clients no"]
        with Redis(tmp_path, *lines, *more) as redis:
            fill(redis)
            user_of(redis, ">s3cret", *of_the_page(), "+select")
            monkeypatch.setenv("PASSWORD", "s3cret")
            whom = {"user": "drain", "password": {"env": "PASSWORD"}}
            trusted = {"ca": str(tmp_path / "ca.pem")}
            assert seen(f"rediss://127.0.0.1:{port}/3", **whom, **trusted) == PENDING["3"]
            assert seen(f"REDISS://127.0.0.1:{port}", **whom, **trusted) == PENDING["default"]

    def test_a_cluster(self, tmp_path: Path) -> None:
        """A cluster has database 0 only, and a node without the key's slot knows nothing."""
        (bus,) = free_ports(1)
        with Redis(tmp_path, "cluster-enabled yes", f"cluster-port {bus}") as redis:
            with pytest.raises(ProbeError, match="CLUSTERDOWN"):
                probe(f"{redis.url}/0").read(0.0)
            redis.call("CLUSTER", "ADDSLOTSRANGE", "0", "16383")

            def there() -> bool:
                return "cluster_state:ok" in str(redis.call("CLUSTER", "INFO"))

            wait_until(there, "the cluster is formed")
            redis.call("XGROUP", "CREATE", "orders", "shop", "$", "MKSTREAM")
            redis.call("XGROUP", "CREATECONSUMER", "orders", "shop", "web-1")
            assert seen(f"{redis.url}/0") == 0
            with pytest.raises(ProbeError, match="SELECT is not allowed in cluster mode"):
                probe(f"{redis.url}/1").read(0.0)

    @pytest.mark.parametrize(
        "url",
        ["redis://h/1?db=1", "redis://h/0/", "redis://h/a", "redis://h?db=", "redis://h?db=1&db=2",
         "redis://h?timeout=2", "redis://h#0", "redis://h/-1", "unix:///s?path=/t", "unix:///s?db=x",
         "unix:///s#1", "valkey://h", "redis+tls://h", "redis:///0", "redis://u@h/0"],
    )  # fmt: skip
    def test_what_would_be_guessed_at_is_refused(self, url: str) -> None:
        """Before anything is asked, and with the forms that are understood."""
        with pytest.raises(ValidationError, match=r"must (be redis://HOST|name the|not hold)"):
            probe(url)
