"""doctor against real servers: each mistake is named, and nothing is the other for having asked."""

import hashlib
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.demo.stage import free_ports
from tests.apps.fake_agent import FakeAgent, FakeInstance, serving
from tests.apps.receivers import Receiver, receiving
from tests.integration.nginx_stage import World, make_world
from tests.loops import eventually
from tests.servers import consul, etcd, nginx
from tests.servers.consul import Consul
from tests.servers.etcd import Etcd
from tests.servers.orders import Orders

LIMIT = 60.0


class Counts(ThreadingHTTPServer):
    """An app that tells its work at /work, counts that request as well at /own, and has no more."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Counting)
        self.started = 0


class _Counting(BaseHTTPRequestHandler):
    server: Counts

    def do_GET(self) -> None:
        if self.path not in {"/work", "/own"}:
            self.send_error(404)
            return
        self.server.started += self.path == "/own"
        body = json.dumps({"requests": 0, "started": self.server.started}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@dataclass
class Scene:
    """A host with an app, whatever sends work to it, and a configuration that grows."""

    root: Path
    app: Counts
    receiver: Receiver
    tables: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.app.server_address[1])

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    def add(self, name: str, registry: str, **more: Any) -> None:
        """Add an instance; each part that is not given is one without a mistake."""
        given = {
            "service": "orders",
            "port": self.port,
            "min_others": 0,
            "page": "work",
            "url": self.receiver.url,
        } | more
        page = f"http://127.0.0.1:{given['port']}/{given['page']}"
        self.tables.append(
            f"[[instance]]\nname = {_toml(name)}\nservice = {_toml(given['service'])}\n"
            f"port = {given['port']}\nmin_others = {given['min_others']}\n"
            f"[[instance.registry]]\n{registry}\n"
            f"[[instance.probe]]\nkind = 'http_json'\nurl = {_toml(page)}\n"
            "in_flight = { requests = '/requests' }\nstarted = '/started'\n"
            f"[[instance.notifier]]\nkind = 'webhook'\nurl = {_toml(given['url'])}\n"
            f"secret = {{ file = {_toml(self.root / 'secret')} }}\n"
            f"[[instance.notifier]]\nkind = 'ready_file'\npath = {_toml(self.root / name)}\n"
            "[[instance.notifier]]\nkind = 'command'\ncommand = ['/bin/sh', '-c', 'exit 1']\n"
            "[[instance.notifier]]\nkind = 'process'\n"
        )
        head = (
            f"[agent]\njournal = {_toml(self.root / 'journal.db')}\n"
            f"[server]\nlisten = [{_toml(f'unix:{self.root}/agent.sock')}]\n"
        )
        self.config.write_text(head + "".join(self.tables))

    def targets(self, file: str, *targets: str) -> str:
        """Write a target file, and return the table of a registry that reads it."""
        path = self.root / file
        path.write_text(json.dumps([{"targets": targets, "labels": {"service": "orders"}}]))
        return f"kind = 'file'\npath = {_toml(path)}"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deregister_agent", "--config", str(self.config), *arguments],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    def reports(self) -> dict[str, dict[str, Any]]:
        """Ask doctor of every instance; return its reports by name."""
        done = self.run("doctor", "--json")
        assert done.returncode == 6, done.stdout + done.stderr
        return {one["instance"]["name"]: one for one in json.loads(done.stdout)["reports"]}

    def files(self) -> dict[str, str]:
        """Return a hash of each file there is."""
        return {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
        }

    def journal(self) -> list[str]:
        """Return all that was decided, as the journal has it."""
        with closing(sqlite3.connect(f"file:{self.root}/journal.db?mode=ro", uri=True)) as db:
            tables = ("drains", "snapshots", "events", "outbox")
            return [str(row) for name in tables for row in db.execute(f"SELECT * FROM {name}")]

    @contextmanager
    def agent(self) -> Iterator[None]:
        """Run the agent of the configuration."""
        with (self.root.parent / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "deregister_agent", "--config", str(self.config), "serve"],
                stderr=log,
            )
            try:
                eventually((self.root / "agent.sock").exists, "the agent listens")
                eventually(self._has_asked, "the agent has asked everybody once")
                yield
            finally:
                process.send_signal(signal.SIGTERM)
                assert process.wait(LIMIT) == 0

    def _has_asked(self) -> bool:
        done = self.run("status", "--json")
        return done.returncode == 0 and all(
            one["asked"] or one["error"]
            for status in json.loads(done.stdout)["instances"]
            for one in (*status["registries"], *status["probes"])
        )


def _toml(value: object) -> str:
    return json.dumps(str(value))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    root = tmp_path / "host"
    root.mkdir()
    (root / "secret").write_text("whsec_" + "c2VjcmV0" * 4)
    with ExitStack() as stack:
        app = stack.enter_context(Counts())
        thread = threading.Thread(target=app.serve_forever, args=(0.02,))
        thread.start()
        stack.callback(thread.join)
        stack.callback(app.shutdown)
        yield Scene(root, app, stack.enter_context(receiving()))


MISTAKES = {  # the instance with the mistake, and the finding that names it; "": in any words
    "misspelt-service": ("registry", "consul", ""),
    "misspelt-id": ("registry", "consul", ""),
    "alone": ("registry", "consul", "the guard would refuse"),
    "other-spelling": ("registry", "file", ""),
    "no-target": ("registry", "file", ""),
    "no-file": ("registry", "file", "missing.json"),
    "no-server": ("registry", "nginx", ""),
    "other-key": ("registry", "etcd", ""),
    "wrong-url": ("probe", "http_json", "404"),
    "own-reads": ("probe", "http_json", "own_starts = 1"),
    "deaf-webhook": ("notifier", "webhook", "refused"),
    "no-folder": ("notifier", "ready_file", "is not there"),
    "not-running": ("process", "process", "nothing listens"),
}
FIT = ("right-consul", "right-file", "right-nginx", "right-etcd")


def _consul(scene: Scene, agent: Consul) -> Orders:
    orders = Orders(agent)
    orders.port = scene.port
    orders.register()
    table = f"kind = 'consul'\nurl = {_toml(agent.url)}\nservice_id = "
    right = table + _toml(orders.id)
    scene.add("right-consul", right, service=orders.service)
    scene.add("alone", right, service=orders.service, min_others=1)
    scene.add("misspelt-service", right, service=orders.service + "p")
    scene.add("misspelt-id", table + _toml(orders.id + "0"), service=orders.service)
    return orders


def _etcd(scene: Scene, node: Etcd) -> str:
    prefix = f"orders-{scene.port}.rpc"
    node.put(f"{prefix}/1", f"127.0.0.1:{scene.port}")
    table = f"kind = 'etcd'\nendpoints = [{_toml(node.url)}]\nprefix = "
    scene.add("right-etcd", table + _toml(prefix))
    scene.add("other-key", table + _toml(prefix + ".v2"))
    return prefix


def _nginx(scene: Scene, world: World) -> None:
    commands = {name: json.dumps(world.nginx.command(*more)) for name, more in _COMMANDS.items()}
    table = f"kind = 'nginx'\nupstream = 'app'\nconfig = {_toml(world.nginx.conf)}\n" + "\n".join(
        f"{name} = {command}" for name, command in commands.items()
    )
    scene.add("right-nginx", table)
    scene.add("no-server", f"{table}\nserver = '127.0.0.1:{free_ports(1)[0]}'")


_COMMANDS: Mapping[str, tuple[str, ...]] = {"test": ("-t", "-q"), "reload": ("-s", "reload")}


def _rest(scene: Scene) -> None:
    target = f"127.0.0.1:{scene.port}"
    right = scene.targets("shop.json", target, "127.0.0.1:9")
    scene.add("right-file", right)
    scene.add("other-spelling", scene.targets("names.json", f"localhost:{scene.port}"))
    scene.add("no-target", scene.targets("others.json", "127.0.0.1:9"))
    scene.add("no-file", f"kind = 'file'\npath = {_toml(scene.root / 'missing.json')}")
    scene.add("wrong-url", right, page="wurk")
    scene.add("own-reads", right, page="own")
    scene.add("deaf-webhook", right, url=f"http://127.0.0.1:{free_ports(1)[0]}/hook")
    scene.add("no-folder", right)
    config = scene.config.read_text()
    lost = config.replace(_toml(scene.root / "no-folder"), _toml(scene.root / "nowhere" / "ready"))
    scene.tables = [lost.partition("\n[[instance]]\n")[2].join(["[[instance]]\n", ""])]
    (nobody,) = free_ports(1)
    scene.add("not-running", scene.targets("gone.json", f"127.0.0.1:{nobody}"), port=nobody)


def _check(reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Fail unless each mistake is named, and nothing else is taken for one."""
    assert set(reports) == {*MISTAKES, *FIT}
    for name in FIT:
        assert reports[name]["would_prove"], reports[name]
    for name, (kind, who, said) in MISTAKES.items():
        report = reports[name]
        wrong = [one for one in report["findings"] if one["ok"] is False]
        assert not report["would_prove"], name
        texts = [f"{one['said']} {one['remedy']}" for one in wrong if one["name"] == who]
        assert any(said in text for text in texts), (name, wrong)
        assert kind in {one["kind"] for one in wrong}, report
        if name != "not-running":
            assert {one["name"] for one in wrong} == {who}, report


def test_each_mistake_is_named_and_nothing_is_changed(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the agent and without one: what is wrong is named, what is right is fit."""
    monkeypatch.delenv("DEREGISTER_URL", raising=False)
    with ExitStack() as stack:
        server = stack.enter_context(consul.shared().joined())
        node = etcd.shared(etcd.VERSIONS[-1])
        orders = _consul(scene, server)
        prefix = _etcd(scene, node)
        http = f"upstream app {{{{ server 127.0.0.1:{scene.port}; server 127.0.0.1:{{b}}; }}}}"
        folder = scene.root / "nginx"
        folder.mkdir()
        world = make_world(stack, nginx.VERSIONS[-1], folder, http=http)
        _nginx(scene, world)
        _rest(scene)

        def outside() -> object:
            entry = orders.entry()
            assert entry is not None
            keys = {key: node.get(key) for key in (f"{prefix}/1",)}
            workers = sorted(world.nginx.workers())
            return entry["Service"], orders.checks(), keys, workers, world.nginx.reloads()

        before = outside(), scene.files()
        _check(scene.reports())
        assert (outside(), scene.files()) == before, "asked without an agent"
        done = scene.run("doctor", "right-nginx")
        assert (done.returncode, done.stderr) == (0, "")
        assert "fit for a drain" in done.stdout
        with scene.agent():
            decided, files = scene.journal(), _settled(scene)
            _check(scene.reports())
            assert scene.run("doctor", "right-consul").returncode == 0
            assert scene.run("doctor", "misspelt-service").returncode == 6
            assert (scene.journal(), _settled(scene)) == (decided, files), "asked of the agent"
            assert outside() == before[0]
    assert scene.receiver.sent == []
    assert not (scene.root / "right-file").exists()


def _settled(scene: Scene) -> dict[str, str]:
    """Return a hash of each file, without those of the journal, which are compared by content."""
    return {name: value for name, value in scene.files().items() if "journal.db" not in name}


def test_what_is_out_is_judged_by_the_phase_of_the_journal(scene: Scene) -> None:
    """After a drain, out is as it should be: asked of the agent, and without one."""
    scene.add("orders-1", scene.targets("shop.json", f"127.0.0.1:{scene.port}", "127.0.0.1:9"))
    text = scene.config.read_text()
    scene.config.write_text(text.partition("[[instance.notifier]]")[0])
    with scene.agent():
        assert scene.run("drain", "orders-1", "--wait").returncode == 0
        told = scene.run("doctor", "orders-1")
    assert (told.returncode, told.stderr) == (0, "")
    files = scene.files()
    alone = scene.run("doctor", "orders-1")
    assert (alone.returncode, alone.stderr) == (0, "")
    for done in (told, alone):
        assert "the phase is drained" in done.stdout
        assert "absent" in done.stdout
    assert scene.files() == files


def test_an_agent_of_before_is_helped_out(scene: Scene) -> None:
    """An agent that has no doctor tells the phases; this process asks the rest."""
    scene.add("orders-1", scene.targets("shop.json", f"127.0.0.1:{scene.port}"))
    for phase in ("serving", "drained"):
        with serving(FakeAgent(FakeInstance("orders-1", phase=phase))) as url:
            done = scene.run("--url", url, "doctor")
            assert scene.run("--url", url, "doctor", "nope").returncode == 2
        assert f"the phase is {phase}" in done.stdout, done.stderr
        assert "earlier version" in done.stdout
        assert done.returncode == (0 if phase == "serving" else 6)


def test_an_agent_that_does_not_answer_is_not_passed_over(scene: Scene, tmp_path: Path) -> None:
    """Only where nobody listens is it asked here; and without a configuration it cannot be."""
    scene.add("orders-1", scene.targets("shop.json", f"127.0.0.1:{scene.port}"))
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]

        def hang_up() -> None:
            held.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        done = scene.run("--url", f"http://127.0.0.1:{port}", "doctor")
        thread.join()
    assert (done.returncode, done.stdout) == (75, "")
    scene.config.unlink()
    (nobody,) = free_ports(1)
    done = scene.run("--url", f"http://127.0.0.1:{nobody}", "doctor")
    assert done.returncode == 75
    assert "no answer from the agent" in done.stderr


def test_the_health_check_is_not_answered_for_a_moment(scene: Scene) -> None:
    """Without an agent its listener is not opened; the agent that has it is asked."""
    (port,) = free_ports(1)
    table = (
        f"kind = 'health'\nlisten = '127.0.0.1:{port}'\nnobody = 'withdrawn'\nevery = 0.05\n"
        f"app = 'http://127.0.0.1:{scene.port}/work'\nmarker = {_toml(scene.root / 'out')}"
    )
    scene.add("orders-1", table)
    done = scene.run("doctor", "orders-1")
    assert done.returncode == 6
    assert re.search(r"BAD +registry +health: not asked", done.stdout)
    with scene.agent():
        told = scene.run("doctor", "orders-1")
    assert "not asked" not in told.stdout
    assert "health" in told.stdout
