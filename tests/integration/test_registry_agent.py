"""Gateways on other hosts: real agents beside real Nginx, asked over TLS by the app's agent."""

import http.client
import json
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest

from deregister_agent.cli.client import AgentAddress, AgentClient, Unreachable, path_of
from deregister_agent.demo.stage import Apps, config_text, free_ports
from deregister_agent.engine.agent import Agent
from deregister_agent.errors import ConfigError, RefusedThere, RegistryError, UnrecognisedError
from deregister_agent.model import Instance, Listing, Look, Phase, StopRequest, Straggler
from deregister_agent.registries.agent import remote_status
from deregister_agent.registries.agent.registry import POLL, FarAgent, Options, build
from tests.contract.registries.agent import far_agent
from tests.servers.certificates import make_certificates
from tests.servers.child import Child, wait_until
from tests.servers.nginx import VERSIONS, Nginx, nginx, settled
from tests.servers.talking import Talk, talking

NAME = "shop-1"

_GATEWAY = """
[agent]
journal = "{folder}/journal.db"
[server]
listen = ["127.0.0.1:{port}", "unix:{folder}/agent.sock"]
token_file = "{folder}/token"
[server.tls]
certificate = "{keys}/server.pem"
key = "{keys}/server.key"
client_ca = "{keys}/ca.pem"
[[instance]]
name = "shop-1"
service = "shop"
port = {app}
process = {{ by = "probe" }}
[[instance.registry]]
kind = "nginx"
upstream = "shop"
config = "{conf}"
test = {test}
reload = {reload}
[[instance.probe]]
kind = "http_json"
url = "http://127.0.0.1:{app}/-/work"
in_flight = {{ requests = "/in_flight/requests" }}
mark = "/process/mark"
"""

_REGISTRY = """[[instance.registry]]
kind = "agent"
name = "{name}"
url = "https://127.0.0.1:{port}"
token = {{ file = "{folder}/token" }}
ca = "{keys}/ca.pem"
certificate = "{keys}/client.pem"
certificate_key = "{keys}/client.key"
"""


def serve(folder: Path) -> Child:
    """Start an agent on the configuration in *folder*."""
    command = [sys.executable, "-m", "deregister_agent", "--config", f"{folder}/agent.toml"]
    return Child([*command, "serve"], folder / "agent.log")


def ready(child: Child, folder: Path) -> AgentClient:
    """Return the client of an agent once it answers."""
    client = AgentClient(AgentAddress(f"unix:{folder}/agent.sock"))

    def answers() -> bool:
        try:
            return client.get("/healthz").status == 200
        except Unreachable:
            return False

    child.wait_ready(answers)
    return client


@dataclass
class Gateway:
    """A gateway host: its Nginx and its agent, which a test may kill and start again."""

    name: str
    folder: Path
    nginx: Nginx
    door: int  # where Nginx listens
    stack: ExitStack
    port: int
    child: Child = field(init=False)

    def start(self) -> AgentClient:
        """Start its agent."""
        self.child = self.stack.enter_context(serve(self.folder))
        return ready(self.child, self.folder)

    def ask(self, target: str) -> tuple[int, str]:
        """Send a request through Nginx; return the status and which app has answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.door, timeout=30)
        try:
            connection.request("GET", target)
            answer = connection.getresponse()
            answer.read()
            return answer.status, str(answer.headers["X-Answered-By"]).rpartition(":")[2]
        finally:
            connection.close()


@dataclass
class Site:
    """An app's host and its gateways."""

    apps: Apps
    agent: AgentClient
    gateways: Mapping[str, Gateway]
    log: Path

    def phase(self) -> str:
        return str(self.report()["phase"])

    def report(self) -> dict[str, Any]:
        return self.agent.get(path_of(NAME)).body

    def in_hand(self) -> int:
        """Ask the app itself how many requests it has in hand."""
        connection = http.client.HTTPConnection("127.0.0.1", self.apps.ports[NAME], timeout=30)
        connection.request("GET", "/-/work")
        report = json.loads(connection.getresponse().read())
        connection.close()
        return int(report["in_flight"]["requests"])

    def stop(self, **wish: object) -> None:
        assert self.agent.post(path_of(NAME, "stop-traffic"), wish).status == 202

    def old_workers(self) -> list[str]:
        found = [what for one in self.report()["registries"] for what in one["stragglers"]]
        return [what for what in found if "old nginx worker" in what]

    def drained(self) -> int:
        return self.agent.get(path_of(NAME, "traffic-drained"), wait=60).status

    def start(self) -> int:
        assert self.agent.post(path_of(NAME, "start-traffic"), {}).status == 202
        return self.agent.get(path_of(NAME, "traffic-started"), wait=60).status

    def error(self, gateway: str) -> str:
        found = {one["name"]: one["error"] for one in self.report()["registries"]}
        return str(found[gateway])


@contextmanager
def gateway(name: str, version: str, folder: Path, apps: Apps) -> Iterator[Gateway]:
    """Run Nginx before both apps, and prepare its agent."""
    port, door = free_ports(2)
    servers = "".join(f"server 127.0.0.1:{app};\n" for app in apps.ports.values())
    http_block = (
        f"upstream shop {{ {servers} }}\n"
        f"server {{ listen 127.0.0.1:{door}; location / {{ proxy_pass http://shop;\n"
        "add_header X-Answered-By $upstream_addr always; } }"
    )
    folder.mkdir()
    with ExitStack() as stack:
        running = stack.enter_context(nginx(version, folder, http_block))
        config = _GATEWAY.format(
            folder=folder,
            port=port,
            keys=folder.parent,
            app=apps.ports[NAME],
            conf=running.conf,
            test=json.dumps(running.command("-t", "-q")),
            reload=json.dumps(running.command("-s", "reload")),
        )
        (folder / "agent.toml").write_text(config)
        yield Gateway(name, folder, running, door, stack, port)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Two apps, two gateways with an agent each, and the agent of the first app."""
    make_certificates(tmp_path)
    apps = Apps([NAME, "shop-2"])
    with ExitStack() as stack:
        stack.callback(apps.close)
        for name in apps.ports:
            apps.start(name)
        gateways = {
            name: stack.enter_context(gateway(name, version, tmp_path / name, apps))
            for name, version in zip(("east", "west"), VERSIONS, strict=True)
        }
        for one in gateways.values():
            one.start()
        tables = "".join(
            _REGISTRY.format(name=one.name, port=one.port, folder=one.folder, keys=tmp_path)
            for one in gateways.values()
        )
        own = tmp_path / "app"
        own.mkdir()
        only = Apps([])
        only.ports[NAME] = apps.ports[NAME]
        (own / "agent.toml").write_text(config_text(own, only, {NAME: tables}, quiet=0.5))
        agent = ready(stack.enter_context(serve(own)), own)
        yield Site(apps, agent, gateways, own / "agent.log")


def test_two_gateways(site: Site) -> None:
    """Both gateways let go, what was in hand is answered, and both get back the file they had."""
    before = {name: one.nginx.conf.read_bytes() for name, one in site.gateways.items()}
    with ThreadPoolExecutor(4) as pool:
        slow = [
            pool.submit(one.ask, "/work?seconds=5") for one in site.gateways.values() for _ in "ab"
        ]
        wait_until(site.in_hand, "work is in hand")
        site.stop()
        wait_until(lambda: len(site.old_workers()) >= 2, "old workers of both are named")
        assert site.drained() == 200
        assert [future.result()[0] for future in slow] == [200] * 4
    site.apps.kill(NAME)
    other = str(site.apps.ports["shop-2"])
    for one in site.gateways.values():
        assert {one.ask("/") for _ in range(6)} == {(200, other)}
    site.apps.start(NAME)
    assert site.start() == 200
    for name, one in site.gateways.items():
        assert one.nginx.conf.read_bytes() == before[name]
        settled(one.nginx)
        assert len({one.ask("/") for _ in range(12)}) == 2
    assert "ERROR" not in site.log.read_text()


def test_one_gateway_is_down(site: Site) -> None:
    """Its agent does not answer: not withdrawn, by name; when it answers again it is asked."""
    west = site.gateways["west"]
    west.child.kill()
    site.stop(deadline=4)
    assert site.drained() == 504
    assert "Connection refused" in site.error("west")
    assert site.error("east") == "None"
    west.start()
    site.stop()
    assert site.drained() == 200


def test_a_gateway_is_frozen(site: Site) -> None:
    """A gateway that hangs holds up its own answer only, and nothing is drained."""
    site.gateways["east"].child.stop()
    site.stop(deadline=6)
    assert site.drained() == 504
    assert "no answer within" in site.error("east")
    assert " down;" in site.gateways["west"].nginx.conf.read_text()
    site.gateways["east"].child.cont()
    site.stop()
    assert site.drained() == 200


def test_the_gateways_agent_is_killed_in_mid_drain(site: Site) -> None:
    """It goes on from its journal, and the drain ends the same way."""
    east = site.gateways["east"]
    with ThreadPoolExecutor(1) as pool:
        slow: Future[tuple[int, str]] = pool.submit(_through_the_first, east, site)
        wait_until(site.in_hand, "work is in hand")
        site.stop()
        wait_until(lambda: "down;" in east.nginx.conf.read_text(), "it is being withdrawn")
        east.child.kill()
        east.start()
        assert site.drained() == 200
        assert slow.result()[0] == 200
    assert east.ask("/") == (200, str(site.apps.ports["shop-2"]))


def _through_the_first(east: Gateway, site: Site) -> tuple[int, str]:
    """Ask slowly, twice: one of the two comes to the instance."""
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(east.ask, ["/work?seconds=4"] * 2))
    assert str(site.apps.ports[NAME]) in {port for _, port in both}
    return both[0]


def test_listed_again_on_the_gateway(site: Site) -> None:
    """Nginx gets it back by hand after "drained": the word is taken back until it is out again."""
    site.stop()
    assert site.drained() == 200
    east = site.gateways["east"].nginx
    east.conf.write_text(east.conf.read_text().replace(" down;", ";"))
    Child(list(east.command("-s", "reload")), east.folder / "reload").process.wait()

    def taken_back() -> bool:
        drains = site.agent.get(path_of(NAME, "drains")).body["drains"]
        events = site.agent.get(path_of(NAME, "drains", drains[0]["id"])).body["events"]
        return [event["kind"] for event in events].count("withdrawing") == 2

    wait_until(taken_back, "the return is seen")
    assert site.drained() == 200
    assert " down;" in east.conf.read_text()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"certificate": None, "certificate_key": None},
            "TLS failed|without an answer|reset by peer|Broken pipe",
        ),
        ({"ca": "other.pem"}, "TLS failed: .*certificate verify failed"),
        ({"token": {"file": "wrong"}}, "HTTP 401.*the bearer token is wrong"),
        ({"token": None}, "HTTP 401.*the bearer token is missing"),
    ],
)
def test_trust(site: Site, tmp_path: Path, options: dict[str, Any], why: str) -> None:
    """Without the CA, the client certificate or the token nothing is learned or done."""
    (tmp_path / "wrong").write_text("nonsense")
    east = site.gateways["east"]
    table: dict[str, Any] = {
        "kind": "agent",
        "url": f"https://127.0.0.1:{east.port}",
        "token": {"file": str(east.folder / "token")},
        "ca": str(tmp_path / "ca.pem"),
        "certificate": str(tmp_path / "client.pem"),
        "certificate_key": str(tmp_path / "client.key"),
    }
    instance = Instance(NAME, "shop", "127.0.0.1", site.apps.ports[NAME])
    assert built(table, instance).lists()
    table |= options
    if "ca" in options:
        table["ca"] = str(tmp_path / "other.pem")
    if options.get("token"):
        table["token"] = {"file": str(tmp_path / "wrong")}
    with pytest.raises(RegistryError, match=why):
        built(table, instance).lists()
    with pytest.raises(RegistryError, match=why):
        built(table, instance).withdraw()


def built(table: dict[str, Any], instance: Instance) -> FarAgent:
    return build(Options.model_validate_json(json.dumps(table)), instance)


# --- what the other agent may say, with an agent in this process ---


@dataclass
class Far:
    """An agent in this process, and the registry that asks it."""

    agent: Agent
    url: str
    ports: list[int]

    def registry(self, **more: Any) -> FarAgent:
        instance = Instance("orders-0", "orders", "127.0.0.1", self.ports[0])
        return build(Options(kind="agent", **{"url": self.url} | more), instance)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    ports = free_ports(2)
    with far_agent(tmp_path, ports) as agent:
        yield Far(agent, f"http+unix://{quote(f'{tmp_path}/far.sock', safe='')}", ports)


def test_the_guard_there_refuses(far: Far) -> None:
    """The refusal is an error with its sentence; force leaves the guard to this side."""
    loop = far.agent.instances["orders-0"]
    object.__setattr__(loop.known.policy, "min_others", 2)
    loop.known.guard._min_others = 2
    with pytest.raises(RegistryError, match=r"HTTP 409.*lists 1 other instance.*min_others is 2"):
        far.registry().withdraw()
    assert far.registry().lists()
    far.registry(force=True).withdraw()
    assert not far.registry().lists()


def test_what_asking_again_does_not_change_is_a_refusal(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the drain here is undone at once, and does not wait there for its deadline."""
    view = far.agent.instances["orders-0"].known.registries[0]
    monkeypatch.setattr(view.registry, "other_registrations", lambda: ["ID 'orders-metrics'"])
    with pytest.raises(RefusedThere, match=r"cannot withdraw .*HTTP 409.*orders-metrics"):
        far.registry().withdraw()
    answers = [["ID 'orders-metrics'"], []]

    def late() -> list[str]:
        answer = answers.pop()
        if not answer:
            raise RegistryError(view.name, "look for other registrations", "no answer in time")
        return answer

    monkeypatch.setattr(view.registry, "other_registrations", late)
    with pytest.raises(RefusedThere, match=r"has undone its drain: .*orders-metrics"):
        far.registry().withdraw()
    wait_until(lambda: far.registry().look().listed, "that agent to have put it back")


def test_another_instance_is_not_taken_for_this_one(far: Far) -> None:
    """A name that means another instance there is a mistake, and nothing is stopped."""
    wrong = far.registry(remote="orders-1")
    with pytest.raises(RegistryError, match=r"orders-1 there is 127.0.0.1:.* set known_as"):
        wrong.withdraw()
    with pytest.raises(UnrecognisedError, match="set known_as"):
        wrong.look()
    assert far.agent.instances["orders-1"].drain.phase is Phase.SERVING
    assert far.registry(remote="orders-1", known_as=f"127.0.0.1:{far.ports[1]}").lists()


def test_an_unknown_instance_is_absent(far: Far) -> None:
    """That agent has no such instance: absent, and what it has is named, ours first."""
    one = far.registry(remote="nobody")
    assert one.look() == Look(Listing.ABSENT)
    assert (one.lists(), one.snapshot(), one.others()) == (False, None, None)
    one.withdraw()
    places = [f"127.0.0.1:{port}" for port in far.ports]
    assert one.look_alikes() == [
        f'that agent has orders-{n} at {place}: remote = "orders-{n}"'
        for n, place in enumerate(places)
    ]
    second = far.registry(remote="nobody", known_as=places[1]).look_alikes()
    assert second[0].startswith("that agent has orders-1")
    for absent, snapshot in (("refuse", None), ("withdrawn", {"stopped_by": ""})):
        with pytest.raises(RegistryError, match="no instance called 'nobody' now: whoever"):
            far.registry(remote="nobody", absent=absent).restore(snapshot)
    far.registry(remote="nobody", absent="withdrawn").restore(None)


def test_what_others_have_stopped_is_not_restored(far: Far) -> None:
    """A drain that somebody else began there, before or since, stays; the error says whose."""
    loop = far.agent.instances["orders-0"]
    loop.stop_traffic(StopRequest(asked_by="operator"))
    registry = far.registry()
    before = registry.snapshot()
    assert before == {"stopped_by": "operator"}
    registry.withdraw()
    assert registry.look().out_by == "traffic was stopped there by operator"
    for snapshot in (before, None):
        with pytest.raises(RegistryError, match="traffic was stopped there by operator"):
            registry.restore(snapshot)
    assert not registry.lists()


def test_an_expired_drain_is_asked_for_again(far: Far) -> None:
    """What has expired there counts as listed; the next withdraw says so and asks again."""
    loop = far.agent.instances["orders-0"]
    registry = far.registry()
    loop.stop_traffic(StopRequest(deadline=0.3, asked_by="operator"))
    loop.wait(lambda drain: drain.phase is Phase.EXPIRED, 20)
    assert registry.lists()
    with pytest.raises(RegistryError, match="had expired; it has been asked for again"):
        registry.withdraw()
    registry.withdraw()
    assert not registry.lists()
    assert loop.drain.limit == 86400


def test_restored_there_by_somebody_else(far: Far) -> None:
    """Start-traffic there lists it again, and it can be withdrawn again."""
    registry = far.registry()
    registry.withdraw()
    cursor = registry.watch(None, 5)
    loop = far.agent.instances["orders-0"]
    loop.start_traffic("by hand", "operator")
    assert registry.watch(cursor, 20) != cursor
    assert registry.lists()


def status(*, listed: bool | None = False, phase: str = "draining") -> dict[str, Any]:
    """Return what an agent says of one instance with one registry."""
    word: dict[str, Any] = {"name": "nginx", "listed": listed, "others": 1}
    word["stragglers"] = []
    return {
        "instance": {"name": "a", "service": "a", "address": "10.0.0.7", "port": 80},
        "phase": phase,
        "drain": None,
        "in_flight": {},
        "probes": [],
        "blocking": [],
        "cursor": phase,
        "registries": [{**word, "error": "nginx: cannot say"}],
    }


def saying(said: Any, *, asked: list[str] | None = None, nonce: str = "") -> Talk:
    """Answer each request with *said*, and with its own nonce unless another is given."""

    def talk(connection: Any, over: Any) -> None:
        while request := connection.recv(65536).decode():
            question = dict(parse_qsl(urlsplit(request.split(" ")[1]).query))
            (asked if asked is not None else []).append(",".join(sorted(question)))
            its = {"nonce": nonce or question["nonce"]}
            body = said if isinstance(said, bytes) else json.dumps(said | its).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)

    return talk


def asking(port: int, **more: Any) -> FarAgent:
    options = Options(kind="agent", url=f"http://127.0.0.1:{port}", timeout=1.0, **more)
    return build(options, Instance("a", "a", "10.0.0.7", 80))


def test_an_old_word_is_no_proof() -> None:
    """A "not listed" that was there before the question is not known, whatever was asked for."""
    with talking(saying(status(), nonce="of-before")) as server:
        one = asking(server.port)
        with pytest.raises(RegistryError, match="answer to another question"):
            one.lists()


def test_a_new_word_is_proof() -> None:
    """That agent is told to ask its registries again, and has done so in the one answer."""
    asked: list[str] = []
    with talking(saying(status(), asked=asked)) as server:
        assert not asking(server.port).lists()
    assert asked == ["look,nonce"]


def test_old_workers_are_those_of_the_new_word() -> None:
    """A look names what that agent waits for; an older agent's "waived" is passed over."""
    word = status()
    word["registries"][0] |= {"stragglers": ["worker 7"], "waived": ["worker 5"]}
    with talking(saying(word)) as server:
        assert asking(server.port).look() == Look(Listing.OUT, [Straggler("nginx: worker 7")])


def test_an_agent_that_does_not_hold_its_answer() -> None:
    """One that is ending answers at once: it is asked again now and then, and not without end."""
    asked: list[str] = []
    with talking(saying(status(), asked=asked)) as server:
        one = asking(server.port)
        assert one.watch(None, 1.0) == "draining"
        assert one.watch("draining", 0.5) == "draining"
    assert asked[:2] == ["nonce", "cursor,nonce,wait"]
    assert len(asked) <= 1 + 0.5 / POLL


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (status(listed=None), "nginx: cannot say"),
        (status() | {"registries": []}, "not this agent.*registries"),
        ({"instances": []}, "not this agent"),
        (b"<html>ok</html>", "not this agent"),
        (status() | {"phase": 7}, "not this agent.*phase"),
    ],
)
def test_unknown_is_no_good_news(said: Any, why: str) -> None:
    """An answer that does not say it plainly is an error, and never "not listed"."""
    with talking(saying(said)) as server, pytest.raises(RegistryError, match=why):
        asking(server.port).lists()


@pytest.mark.parametrize("phase", ["withdrawing", "restoring", "expired"])
def test_phases_that_prove_nothing(phase: str) -> None:
    """While that agent has yet to act, or has given up, the instance counts as listed."""
    with talking(saying(status(phase=phase))) as server:
        assert asking(server.port).lists()


def registries(*words: dict[str, Any]) -> dict[str, Any]:
    """Return what an agent says that serves, with a registry for each of *words*."""
    said = status(phase="serving")
    usual = said["registries"][0]
    said["registries"] = [{**usual, "name": f"r{n}", **word} for n, word in enumerate(words)]
    return said


IN, OFF, UNTOLD = ({"listed": listed} for listed in (True, False, None))
NONE = OFF | {"listing": "absent"}
DOWN = OFF | {"listing": "out"}


@pytest.mark.parametrize(
    ("words", "listing", "noted"),
    [
        ([IN, IN], Listing.LISTED, ""),
        ([IN, OFF], Listing.LISTED, "not stopped there, and yet r1 does not list it"),
        ([OFF, UNTOLD], Listing.LISTED, "yet r0 does not list it"),
        ([OFF, OFF], Listing.OUT, "yet r0, r1 does not list it"),
        ([DOWN], Listing.OUT, "yet r0 does not list it"),
        ([DOWN, NONE], Listing.OUT, "yet r0, r1 does not list it"),
        ([NONE, NONE], Listing.ABSENT, "yet r0, r1 does not list it"),
    ],
)
def test_serving_there_and_not_listed(words: Any, listing: Listing, noted: str) -> None:
    """It is listed as long as one lists it, or has not told; what is odd there is a note."""
    with talking(saying(registries(*words))) as server:
        one = asking(server.port)
        assert one.notes(None) == []
        assert one.look().listing is listing
        assert bool(one.notes(None)) is bool(noted)
        assert noted in "".join(one.notes(None))


class Lost:
    """An agent that serves, whose registry has lost the instance until start-traffic."""

    def __init__(self, *, heals: bool, after: str = "serving") -> None:
        self.heals, self.after = heals, after
        self.asked: list[str] = []
        self.listed = False

    def talk(self, connection: Any, over: Any) -> None:
        del over
        while request := connection.recv(65536).decode():
            method, target, _ = request.split(" ", 2)
            path, _, query = target.partition("?")
            self.asked.append(f"{method} {path.rpartition('/')[2]}")
            if method == "POST" and self.heals:
                self.listed = True
            said = status(listed=self.listed, phase="serving" if method == "GET" else self.after)
            body = json.dumps(said | dict(parse_qsl(query))).encode()
            head = f"HTTP/1.1 {'200 OK' if method == 'GET' else '202 Accepted'}\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def test_what_was_lost_while_serving_is_asked_for() -> None:
    """Restore asks for start-traffic there, once; what is listed there is left alone."""
    lost = Lost(heals=True, after="restoring")
    with talking(lost.talk) as server:
        one = asking(server.port)
        one.restore({"stopped_by": ""})
        assert lost.asked.count("POST start-traffic") == 1
        one.restore({"stopped_by": ""})
        one.restore(None)
        assert lost.asked.count("POST start-traffic") == 1


def test_what_was_lost_and_does_not_come_back() -> None:
    """The error says what is odd there."""
    lost = Lost(heals=False)
    with talking(lost.talk) as server:
        one = asking(server.port)
        with pytest.raises(RegistryError, match="and yet nginx does not list it: see what"):
            one.restore(None)
    assert "POST start-traffic" in lost.asked


def with_outcome(outcome: str, **more: Any) -> dict[str, Any]:
    drain: dict[str, Any] = {"id": "d", "outcome": outcome, "reason": "withdrawn by the agent of a"}
    drain |= {"asked_by": "agent", "forced": False, "on_deadline": "hold"}
    return status() | {"drain": drain | more}


@pytest.mark.parametrize(
    ("said", "word"),
    [
        (status(phase="parked"), "phase 'parked'"),
        (with_outcome("absent"), "outcome 'absent'"),
        (with_outcome("drained", on_deadline="wait"), "on_deadline 'wait'"),
        (with_outcome("restored") | {"phase": "asleep"}, "phase 'asleep', outcome 'restored'"),
    ],
)
def test_a_newer_agent(said: dict[str, Any], word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that is not known here: it counts as listed, and the sentence says which."""
    monkeypatch.setattr(remote_status, "Outcome", OutcomeOfBefore)
    with talking(saying(said)) as server:
        one = asking(server.port)
        assert one.look().listing is Listing.LISTED
        assert f"newer agent there: it says {word}" in "".join(one.notes(None))


def test_a_newer_agent_that_is_asked_to_do_something() -> None:
    """Neither withdrawn nor restored is believed of a phase that is not known."""
    lost = Lost(heals=True, after="parked")
    with talking(lost.talk) as server:
        one = asking(server.port)
        for call in (one.withdraw, lambda: one.restore(None)):
            lost.listed = False
            with pytest.raises(RegistryError, match="newer agent there: it says phase 'parked'"):
                call()


class OutcomeOfBefore(StrEnum):
    """The outcomes that an agent of before knows."""

    DRAINED = "drained"


def test_an_url_that_is_none() -> None:
    """It is refused when the registry is made."""
    with pytest.raises(ConfigError, match="url: "):
        build(Options(kind="agent", url="gateway-1"), Instance("a", "a", "10.0.0.7", 80))
    with pytest.raises(ValueError, match="must be address:port"):
        Options(kind="agent", url="http://127.0.0.1:1", known_as="10.0.0.7")
