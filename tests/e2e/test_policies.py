"""What the policies promise, with a real agent, a real app and a real kill."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deregister_agent.cli.client import AgentClient
from deregister_agent.demo.stage import Apps, list_in_file, running_agent, targets_in_file
from tests.crash.stage import Work
from tests.servers.child import wait_until

CONFIG = """
[agent]
journal = "{folder}/journal.db"
[server]
listen = ["unix:{folder}/agent.sock"]
[[instance]]
name = "web"
service = "shop"
port = {port}
quiet = {quiet}
min_others = 0
{policy}
[[instance.ready]]
url = "http://127.0.0.1:{port}/healthz"
passes = 2
every = 0.05
[[instance.probe]]
kind = "http_json"
url = "http://127.0.0.1:{port}/-/work"
in_flight = {{ requests = "/in_flight/requests" }}
[[instance.notifier]]
kind = "process"
grace = 5.0
{registry}
"""


class Scene:
    """An app, an agent beside it, and the file in which it is listed."""

    def __init__(self, agent: AgentClient, apps: Apps, listed: Path) -> None:
        self.agent, self.apps, self._listed = agent, apps, listed
        self.port = apps.ports["web"]

    def listed(self) -> bool:
        return f"127.0.0.1:{self.port}" in targets_in_file(self._listed)

    def phase(self) -> str:
        return str(self.agent.get("/v1/instances/web").body["phase"])

    def kinds(self) -> list[str]:
        drain = self.agent.get("/v1/instances/web").body["drain"]["id"]
        events = self.agent.get(f"/v1/instances/web/drains/{drain}").body["events"]
        return [event["kind"] for event in events]


@contextmanager
def scene(folder: Path, policy: str, quiet: float = 0.2) -> Iterator[Scene]:
    apps = Apps(["web"])
    try:
        apps.start("web")
        listed = folder / "shop.json"
        table = list_in_file(listed, apps)["web"]
        port = apps.ports["web"]
        text = CONFIG.format(folder=folder, port=port, policy=policy, quiet=quiet, registry=table)
        with running_agent(folder, text) as agent:
            yield Scene(agent, apps, listed)
    finally:
        apps.close()


def test_drained_kill_restart_and_back_by_itself(tmp_path: Path) -> None:
    """With restore = "when-ready" nobody has to call start-traffic after the kill."""
    with scene(tmp_path, 'restore = "when-ready"') as here:
        work = Work(here.port, 1.0)
        work.begin()
        assert here.agent.post("/stop-traffic", {}).status == 202
        wait_until(lambda: not here.apps.alive("web"), "the drained process is killed")
        assert work.answer == 200
        assert not here.listed()
        wait_until(lambda: here.phase() == "gone", "the exit is noticed")
        here.apps.start("web")
        wait_until(lambda: here.phase() == "serving", "the new process is put back")
        assert here.listed()
        assert here.kinds()[-3:] == ["gone", "restoring", "serving"]


def test_a_restart_before_drained_changes_nothing(tmp_path: Path) -> None:
    """An app that crashes in mid-drain and comes back busy is drained like the old one."""
    with scene(tmp_path, "", quiet=5.0) as here:  # longer than a start of the app takes
        work = Work(here.port, 20.0)
        work.begin()
        here.agent.post("/stop-traffic", {})
        wait_until(lambda: here.phase() == "draining", "it drains")
        here.apps.kill("web")
        work.end()
        here.apps.start("web")
        again = Work(here.port, 1.5)
        again.begin()
        answer = here.agent.get("/traffic-drained", wait=30)
        assert answer.status == 200
        assert answer.body["drain"]["outcome"] == "drained"
        assert again.answer == 200
        assert "app-restarted" in here.kinds()


def test_an_app_that_exits_and_stays_away_is_drained(tmp_path: Path) -> None:
    """Nothing can be in the hands of a process that is not there."""
    with scene(tmp_path, "") as here:
        work = Work(here.port, 20.0)
        work.begin()
        here.agent.post("/stop-traffic", {})
        wait_until(lambda: here.phase() == "draining", "it drains")
        here.apps.kill("web")
        work.end()
        answer = here.agent.get("/traffic-drained", wait=30)
        assert answer.status == 200
        assert answer.body["drain"]["outcome"] == "app-exited"


def test_on_deadline_kill_is_announced_as_forced(tmp_path: Path) -> None:
    """Past the deadline the process is killed with work in hand, and nobody is told "drained"."""
    with scene(tmp_path, 'deadline = 1.0\non_deadline = "kill"') as here:
        work = Work(here.port, 20.0)
        work.begin()
        here.agent.post("/stop-traffic", {})
        assert here.agent.get("/traffic-drained", wait=30).status == 504
        wait_until(lambda: not here.apps.alive("web"), "it is killed")
        work.end()
        wait_until(lambda: here.phase() == "gone", "the exit is noticed")
        assert here.agent.get("/traffic-drained").status == 504
        assert "drained" not in here.kinds()


def test_on_deadline_restore_puts_it_back(tmp_path: Path) -> None:
    """Past the deadline the instance takes traffic again; the drain stays expired."""
    with scene(tmp_path, 'deadline = 1.0\non_deadline = "restore"') as here:
        work = Work(here.port, 4.0)
        work.begin()
        here.agent.post("/stop-traffic", {})
        wait_until(lambda: here.phase() == "serving", "it is put back")
        assert here.listed()
        assert here.agent.get("/traffic-drained").status == 504
        work.end()
        assert work.answer == 200


def test_on_deadline_hold_keeps_it_out(tmp_path: Path) -> None:
    """Past the deadline the instance stays out until somebody decides."""
    with scene(tmp_path, "deadline = 1.0") as here:
        work = Work(here.port, 4.0)
        work.begin()
        here.agent.post("/stop-traffic", {})
        answer = here.agent.get("/traffic-drained", wait=30)
        assert answer.status == 504
        assert "1 requests in flight" in answer.body["blocking"][0]
        assert not here.listed()
        work.end()
        here.agent.post("/stop-traffic", {})
        assert here.agent.get("/traffic-drained", wait=30).status == 200
        wait_until(lambda: not here.apps.alive("web"), "the drained process is killed")
        here.apps.start("web")
        here.agent.post("/start-traffic", {})
        assert here.agent.get("/traffic-started", wait=30).status == 200
        assert here.listed()
