"""The ``http`` registry: each preset against what behaves like the real system, traps included."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.app import Work
from deregister_agent.errors import ConfigError, RegistryError
from deregister_agent.model import Instance, Listing, Look
from deregister_agent.registries.http.presets import PRESETS, PresetName
from deregister_agent.registries.http.registry import Http, Options, build, warnings
from tests.servers.admin import (
    Asked,
    Dubbo,
    Eureka,
    Nacos,
    NginxPlus,
    Said,
    Spring,
    System,
    as_json,
    serving,
)
from tests.servers.envoy import Envoy
from tests.servers.talking import answering, talking

ORDERS = Instance("orders-1", "orders", "127.0.0.1", 8001)
LOOK = {"path": "/", "listed": ["in"], "withdrawn": ["out"]}


def made(table: dict[str, Any]) -> Http:
    """Build it as from a configuration file."""
    return build(Options.model_validate_json(json.dumps({"kind": "http"} | table)), ORDERS)


@contextmanager
def registry(system: System, preset: str, path: str = "", **variables: str) -> Iterator[Http]:
    with serving(system) as url:
        yield made({"preset": preset, "url": url + path, "variables": variables})


def goes_out_and_back(one: Http) -> None:
    """Withdraw and restore, each read back."""
    assert one.lists()
    before = one.snapshot()
    one.withdraw()
    assert not one.lists()
    one.restore(before)
    assert one.lists()


@pytest.mark.parametrize("form", ["list", "object"])
def test_spring(form: str) -> None:
    """The actuator stops a binding, in each form of its answer."""
    with registry(Spring(form=form), "spring_bindings", "/actuator", binding="input-in-0") as one:
        goes_out_and_back(one)


def test_spring_pauses_where_told_to() -> None:
    """PAUSED and RESUMED avoid a rebalance of Kafka's consumers."""
    words = {"binding": "input-in-0", "stop": "PAUSED", "start": "RESUMED"}
    with registry(Spring(), "spring_bindings", "/actuator", **words) as one:
        goes_out_and_back(one)


def test_an_endpoint_that_is_not_exposed() -> None:
    """404 is not "not listed"."""
    with registry(Spring(), "spring_bindings", "/nothing", binding="input-in-0") as one:
        with pytest.raises(RegistryError, match="it answered 404, not 200"):
            one.lists()
        with pytest.raises(RegistryError, match="it answered 404"):
            one.withdraw()


@pytest.mark.parametrize("form", ["{}", "nacos-A({})"])
def test_dubbo(form: str) -> None:
    """All services go offline, as the table of either version says."""
    with registry(Dubbo(form=form), "dubbo") as one:
        goes_out_and_back(one)


def test_dubbo_with_a_service_that_stays() -> None:
    """One service that is still registered is enough to be listed, whatever "OK" says."""
    with registry(Dubbo(stuck=True), "dubbo") as one:
        one.withdraw()
        assert one.lists()


def test_envoy(tmp_path: Path) -> None:
    """A real Envoy fails its health check, and answers it again."""
    with Envoy(tmp_path) as envoy:
        one = made({"preset": "envoy", "url": envoy.admin})
        assert envoy.health() == 200
        before = one.snapshot()
        one.withdraw()
        assert not one.lists()
        assert envoy.health() == 503
        one.restore(before)
        assert one.lists()
        assert envoy.health() == 200


def test_envoy_that_has_yet_to_begin() -> None:
    """What it says before it serves is neither."""
    with serving(Echo(as_json({"version": "1.40", "state": "INITIALIZING"}))) as url:
        one = made({"preset": "envoy", "url": url})
        with pytest.raises(RegistryError, match="neither listed nor withdrawn"):
            one.lists()


def test_the_hooks_of_an_app() -> None:
    """The app's own consumers pause and resume; a hook that fails is no withdrawal."""
    work, calls = Work(), list[str]()
    work.on_stop(lambda: calls.append("stop"))
    work.on_start(lambda: calls.append("start"))
    one = made({"preset": "app", "url": f"http://127.0.0.1:{work.serve(0)}/-/work"})
    goes_out_and_back(one)
    assert calls == ["stop", "start"]


def test_a_hook_that_fails() -> None:
    """The app says 500, so it is not withdrawn."""
    work = Work()
    work.on_stop(lambda: 1 / 0)
    one = made({"preset": "app", "url": f"http://127.0.0.1:{work.serve(0)}/-/work"})
    with pytest.raises(RegistryError, match="it answered 500, not 200"):
        one.withdraw()
    assert one.lists()


# --- Nacos ---


@contextmanager
def nacos(system: Nacos, **variables: str) -> Iterator[Http]:
    preset = "nacos3" if system.version == 3 else "nacos"
    with registry(system, preset, "/nacos", **variables) as one:
        yield one


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("ephemeral", [True, False])
def test_nacos_keeps_everything_else(ephemeral: bool, version: int) -> None:
    """Weight, metadata and kind of the instance stay; no second instance appears."""
    system = Nacos(version=version)
    metadata = {"zone": "a&b=c", "version": "1 2"}
    system.register("127.0.0.1", 8001, weight=2.5, metadata=metadata, ephemeral=ephemeral)
    before = json.dumps(system.entries)
    with nacos(system) as one:
        goes_out_and_back(one)
    assert json.dumps(system.entries) == before


def test_nacos_remembers() -> None:
    """A new version comes up disabled on the old address; restore enables it explicitly."""
    system = Nacos()
    system.register("127.0.0.1", 8001)
    with nacos(system) as one:
        before = one.snapshot()
        one.withdraw()
        system.leave(8001)
        with pytest.raises(RegistryError, match="no such instance"):
            one.restore(before)
        system.register("127.0.0.1", 8001, metadata={"version": "2"})
        assert not one.lists()
        one.restore(before)
        assert one.lists()
    assert system.entries[0]["metadata"] == {"version": "2"}


def test_nacos_with_a_wrong_name() -> None:
    """A service that it does not know is an error, and an instance is absent."""
    system = Nacos()
    system.register("10.0.0.9", 8001)
    with nacos(system) as one:
        assert one.look() == Look(Listing.ABSENT)
        assert one.look_alikes() == [
            'it has /ip 10.0.0.9, /port 8001: variables = { address = "10.0.0.9" }'
        ]
        one.withdraw()
        with pytest.raises(RegistryError, match="there is no such instance yet"):
            one.restore(None)
    with nacos(system, service="oders") as one, pytest.raises(RegistryError, match="answered 500"):
        one.withdraw()
    assert system.entries[0]["enabled"]


def test_two_entries_of_one_instance() -> None:
    """What was registered twice is not known to be out."""
    system = Nacos()
    system.register("127.0.0.1", 8001)
    system.register("127.0.0.1", 8001, ephemeral=False)
    with nacos(system) as one, pytest.raises(RegistryError, match="2 entries"):
        one.lists()


# --- Eureka, NGINX Plus ---


def test_eureka_survives_heartbeats() -> None:
    """Heartbeats say UP all the time, and the override stays; DOWN by itself is no override."""
    system = Eureka({"orders-1": "UP"})
    with registry(system, "eureka", "/eureka", app="ORDERS", id="orders-1") as one:
        system.status["orders-1"] = "DOWN"
        assert one.lists()
        one.withdraw()
        system.status["orders-1"] = "UP"
        assert not one.lists()
        with pytest.raises(RegistryError, match="it was out before the drain"):
            one.restore(one.snapshot())
        one.restore({"listed": True})
        assert one.lists()


def test_an_app_that_takes_itself_out_of_eureka() -> None:
    """OUT_OF_SERVICE by its own word may end at any time: only our override is a withdrawal."""
    system = Eureka({"orders-1": "OUT_OF_SERVICE"})
    with registry(system, "eureka", "/eureka", app="ORDERS", id="orders-1") as one:
        assert one.lists()
        one.withdraw()
        for own in ("OUT_OF_SERVICE", "DOWN", "UP"):
            system.status["orders-1"] = own
            assert not one.lists()
    assert system.overridden == {"orders-1": "OUT_OF_SERVICE"}


@pytest.mark.parametrize("preset", PRESETS)
def test_unproven_presets_are_called_so(preset: PresetName) -> None:
    """check-config warns of each preset but those that these tests run on the real product."""
    options = Options(kind="http", url="http://127.0.0.1:1", preset=preset)
    said = warnings(options, ORDERS)
    assert bool(said) == (preset not in {"app", "envoy"})
    assert all("unproven" in sentence and preset in sentence for sentence in said)


def test_requests_of_ones_own_are_nobodys_preset() -> None:
    """What the operator has described is not called unproven."""
    assert not warnings(Options(kind="http", url="http://127.0.0.1:1"), ORDERS)


def test_nginx_plus_by_ipv6() -> None:
    """The server's address is in brackets there."""
    system = NginxPlus([{"id": 3, "server": "[fd00::7]:8001", "down": False}])
    with serving(system) as url:
        table = {"preset": "nginx_plus", "url": f"{url}/api/9", "variables": {"upstream": "orders"}}
        options = Options.model_validate_json(json.dumps({"kind": "http"} | table))
        goes_out_and_back(build(options, Instance("orders-1", "orders", "fd00::7", 8001)))


def test_nginx_plus_that_may_only_be_read() -> None:
    """Without ``api write=on`` the change is refused, and the error shows why."""
    system = NginxPlus([{"id": 3, "server": "127.0.0.1:8001", "down": False}], writable=False)
    with registry(system, "nginx_plus", "/api/9", upstream="orders") as one:
        with pytest.raises(RegistryError, match=r"answered 405, not 200: 405 .*MethodDisabled"):
            one.withdraw()
        assert one.lists()


# --- described requests ---


class Echo:
    """Says what it is told to, and remembers what it was asked."""

    def __init__(self, said: Said) -> None:
        self.said = said
        self.asked: list[Asked] = []

    def answer(self, asked: Asked) -> Said:
        self.asked.append(asked)
        return self.said


@pytest.mark.parametrize(
    ("said", "look", "why"),
    [
        (as_json({"a": "on"}), {"pointer": "/a"}, 'neither listed nor withdrawn: /a is "on"'),
        (as_json({"a": "out"}), {"pointer": "/b"}, "has nothing at /b"),
        (as_json({"a": "out"}, 500), {"pointer": "/a"}, "answered 500, not 200"),
        ((200, "text/html", "<html>out</html>"), {"pointer": ""}, "is not JSON but text/html"),
        (as_json([1]), {"pointer": "", "listed": [1], "withdrawn": [True]}, "neither"),
        (as_json(True), {"listed": [False], "withdrawn": [1]}, "neither listed nor withdrawn"),
        (as_json("1"), {"listed": [0], "withdrawn": [1]}, "neither listed nor withdrawn"),
        ((204, "", ""), {"by": "text"}, "it answered 204, not 200"),
        ((200, "", "gone"), {"by": "text"}, "neither listed nor withdrawn"),
        (as_json({}, 502), {"by": "status", "listed": [200], "withdrawn": [404]}, "neither"),
        (as_json({"list": {}}), {"entries": "/list", "where": {"/a": "x"}}, "no list at /list"),
        (as_json([{"b": 1}]), {"entries": "", "where": {"/a": "x"}}, "nothing at /a"),
    ],
)
def test_unknown_is_no_good_news(said: Said, look: dict[str, Any], why: str) -> None:
    """An answer that does not say it plainly is an error, and never "not listed"."""
    with serving(Echo(said)) as url:
        table = {"url": url, "withdraw": {}, "restore": {}, "look": LOOK | look}
        with pytest.raises(RegistryError, match=why):
            made(table).lists()


def test_variables(tmp_path: Path) -> None:
    """They are filled in everywhere, and percent-encoded in the path alone; secrets are sent."""
    (tmp_path / "token").write_text("s3cret\n")
    (tmp_path / "key").write_text("k3y\n")
    system = Echo(as_json("in"))
    with serving(system) as url:
        one = made(
            {
                "url": f"{url}/api",
                "variables": {"group": "a/b c"},
                "withdraw": {
                    "path": "/{group}/{name}?at={address}:{port}",
                    "payload": {"who": ["{name}", 1, {"of": "{group}"}]},
                    "headers": {"X-Group": "{service}"},
                },
                "restore": {"body": '{"n": "{name}"}', "headers": {"Content-Type": "text/json"}},
                "look": LOOK,
                "token": {"file": str(tmp_path / "token")},
                "headers": {"X-Key": {"file": str(tmp_path / "key")}},
            }
        )
        one.withdraw()
        asked = system.asked[-1]
        assert asked.parts == ("api", "a/b c", "orders-1")
        assert asked.query == {"at": "127.0.0.1:8001"}
        assert asked.body == {"who": ["orders-1", 1, {"of": "a/b c"}]}
        sent = {name: asked.headers[name] for name in ("X-Group", "X-Key", "Authorization")}
        assert sent == {"X-Group": "orders", "X-Key": "k3y", "Authorization": "Bearer s3cret"}
        system.said = as_json("out")
        with pytest.raises(RegistryError, match="was out before"):
            one.restore({"listed": False})
        one.restore(None)
        assert system.asked[-1].body == {"n": "orders-1"}


def test_a_look_that_fails_holds_up_no_withdrawal() -> None:
    """It is asked for all the same; whether it has worked is for the next look."""
    system = Echo((500, "text/plain", "cannot say"))
    with serving(system) as url:
        withdraw = {"path": "/out", "expect": [500]}
        made({"url": url, "withdraw": withdraw, "restore": {}, "look": LOOK}).withdraw()
    assert [asked.parts for asked in system.asked] == [("",), ("out",)]


def test_mistakes() -> None:
    """Each mistake is named with its key."""
    with pytest.raises(ConfigError) as caught:
        made({"url": "http://127.0.0.1:1"})
    assert [one.partition(":")[0] for one in caught.value.mistakes] == [
        "withdraw",
        "restore",
        "look",
    ]
    with pytest.raises(ConfigError) as caught:
        made({"url": "nowhere", "preset": "eureka", "variables": {"app": "ORDERS"}})
    assert {one.partition(":")[0] for one in caught.value.mistakes} == {"url", "variables.id"}
    look = LOOK | {"entries": "/list", "by": "text", "listed": ["("]}
    with pytest.raises(ConfigError, match=r"(?s)look.where: missing.*no regular expression"):
        made({"url": "http://127.0.0.1:1", "preset": "app", "look": look})


@pytest.mark.parametrize(("age", "listed"), [(b"0", False), (b"7", None)])
def test_an_answer_from_a_cache(age: bytes, *, listed: bool | None) -> None:
    """What it was some seconds ago says nothing about now."""
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nAge: " + age + b'\r\n\r\n"out"'
    with talking(answering(said)) as server:
        url = f"http://127.0.0.1:{server.port}"
        one = made({"url": url, "withdraw": {}, "restore": {}, "look": LOOK})
        if listed is None:
            with pytest.raises(RegistryError, match="7 s old, from a cache"):
                one.lists()
        else:
            assert one.lists() is listed


def test_a_redirect_is_no_answer() -> None:
    """A login page behind a redirect says nothing."""
    said = b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n"
    with talking(answering(said)) as server:
        one = made({"url": f"http://127.0.0.1:{server.port}", "preset": "app"})
        with pytest.raises(RegistryError, match="answered 302"):
            one.lists()
