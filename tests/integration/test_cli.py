"""The command line as a process of its own, against something that answers as an agent does."""

import getpass
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.apps.fake_agent import FakeAgent, FakeInstance, orders, serving

LIMIT = 30.0
UP = re.compile(r"\x1b\[\d+F\x1b\[J")
COLOUR = re.compile(r"\x1b\[[\d;]*m")


def environment(**more: str) -> dict[str, str]:
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    return {**kept, "DEREGISTER_CONFIG": "/nonexistent.toml", "PYTHONUNBUFFERED": "1", **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "deregister_agent", *arguments]


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


@contextmanager
def started(*arguments: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(*arguments),
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Read lines of standard output until one holds *text*."""
    assert process.stdout is not None
    seen = ""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        line = process.stdout.readline()
        seen += line
        if text in line:
            return seen
        if not line:
            break
    raise AssertionError(f"{text!r} never came; this did: {seen!r}")


ENDS = [
    (["drain", "--wait"], orders("draining", "drained"), 0, "drained: safe to kill"),
    (["drain", "--wait"], orders("draining", "gone"), 0, "drained: safe to kill"),
    (
        ["drain", "--wait"],
        orders("drained", outcome="app-exited"),
        0,
        "drained: the app has exited by itself",
    ),
    (["drain", "--wait"], orders("draining", "expired"), 3, "NOT drained: the deadline passed"),
    (["drain", "--wait"], orders("restoring", outcome="refused"), 4, "NOT drained: refused"),
    (["drain", "--wait"], orders("restoring", outcome="cancelled"), 5, "start-traffic came first"),
    (["restore", "--wait"], orders("restoring", "serving"), 0, "serving: every registry lists it"),
    (["restore", "--wait"], orders("restoring", overdue=True), 3, "NOT serving yet"),
    (["restore", "--wait"], orders("drained"), 5, "drained again since"),
]


@pytest.mark.parametrize(("arguments", "one", "code", "said"), ENDS)
def test_waiting_ends_with_the_code_of_the_outcome(
    arguments: list[str], one: FakeInstance, code: int, said: str
) -> None:
    """Each end of a drain has its own exit code and a sentence that says the same."""
    with serving(FakeAgent(one)) as url:
        done = run("--url", url, *arguments)
    assert (done.returncode, done.stderr) == (code, "")
    assert said in done.stdout.splitlines()[-1]


def test_a_drain_that_is_not_waited_for_is_accepted() -> None:
    """Without --wait, 0 means accepted, and the output says how to wait."""
    one = orders("draining")
    with serving(FakeAgent(one)) as url:
        done = run("--url", url, "drain", "orders-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "orders-1: withdrawing" in done.stdout
    assert "deregister-agent drain orders-1 --wait" in done.stdout
    assert "safe to kill" not in done.stdout


def test_what_is_asked_for_reaches_the_agent() -> None:
    """Each option becomes the key of the API; what is left out is not sent."""
    one = orders("drained")
    agent = FakeAgent(one)
    options = ["--deadline", "60", "--on-deadline", "kill", "--reason", "deploy", "--force"]
    with serving(agent) as url:
        assert run("--url", url, "drain", *options).returncode == 0
        assert run("--url", url, "drain").returncode == 0
        assert run("--url", url, "restore", "--reason", "called off").returncode == 0
    assert one.asked == [
        {"deadline": 60.0, "on_deadline": "kill", "reason": "deploy", "force": True},
        {},
        {"reason": "called off"},
    ]
    assert set(agent.asked_by) == {getpass.getuser()}


def test_the_guard_refuses_with_a_code_of_its_own() -> None:
    """4 and the agent's sentence; --force gets past it."""
    with serving(FakeAgent(orders("drained", others=0))) as url:
        refused = run("--url", url, "drain", "--wait")
        forced = run("--url", url, "drain", "--wait", "--force")
    assert (refused.returncode, refused.stdout) == (4, "")
    assert "consul lists 0 other instance(s)" in refused.stderr
    assert forced.returncode == 0


def test_no_agent_means_try_later() -> None:
    """Nobody listening is 75, with the address and the reason."""
    with serving(FakeAgent()) as url:
        pass
    done = run("--url", url, "status")
    assert done.returncode == 75
    assert done.stderr == (
        f"deregister-agent: no answer from the agent at {url}: Connection refused\n"
    )


def test_a_stranger_on_the_port_is_no_agent(tmp_path: Path) -> None:
    """What answers without JSON is not taken for an agent."""
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "instances").write_text("hello")
    files = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(
        files, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"port (\d+)", server.stdout.readline())
            assert found is not None
            done = run("--url", f"http://127.0.0.1:{found[1]}", "status")
        finally:
            server.kill()
    assert done.returncode == 2
    assert "is not this agent" in done.stderr


@pytest.mark.parametrize("action", ["drain", "restore"])
def test_200_alone_is_not_taken_for_the_answer(action: str) -> None:
    """A proxy that says 200 to everything does not make an instance drained, or serving."""
    with serving(YesToAll(orders("settling"))) as url:
        done = run("--url", url, action, "--wait")
    assert done.returncode == 2
    assert "200 without the phase that it stands for" in done.stderr
    assert "safe to kill" not in done.stdout


@pytest.mark.parametrize("command", ["status", "drain", "history"])
def test_an_object_of_another_kind_is_no_answer(command: str) -> None:
    """A service that says 200 and {} to everything is told from an agent, in a sentence."""
    with serving(NothingToSay(orders())) as url:
        done = run("--url", url, command, "orders-1")
        every = run("--url", url, command)
    assert (done.returncode, every.returncode) == (2, 2)
    assert "what answers is not this agent" in done.stderr
    assert "what answers is not this agent" in every.stderr


class NothingToSay(FakeAgent):
    """Every answer is an empty object."""

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, {}


def test_a_gateway_in_trouble_is_no_word_on_the_drain() -> None:
    """A 504 of a proxy is not "expired": the agent is asked again, and then says how it ended."""
    with serving(BehindGateway(orders("draining", "drained"))) as url:
        done = run("--url", url, "drain", "--wait")
    assert done.returncode == 0
    assert "upstream took too long; will try again" in done.stdout


class BehindGateway(FakeAgent):
    """The first question about the drain does not come through."""

    lost = False

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path.endswith("traffic-drained") and not self.lost:
            self.lost = True
            return 504, {"title": "Gateway Timeout", "detail": "upstream took too long"}
        return super().answer(method, path, body)


def test_a_token_file_that_holds_something_else_is_not_shown(tmp_path: Path) -> None:
    """A file with more lines than one is refused in a sentence that has nothing of it."""
    token = tmp_path / "token"
    token.write_text("-----BEGIN PRIVATE KEY-----\ns3cret\n")
    with serving(FakeAgent(orders())) as url:
        done = run("--url", url, "--token-file", str(token), "status")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("holds more than a token; see --token-file\n")
    assert "s3cret" not in done.stderr


class YesToAll(FakeAgent):
    """Every answer is 200."""

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, super().answer(method, path, body)[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["drain", "orders-7"], "no instance 'orders-7'"),
        (["drain"], "which instance? say one of orders-1, orders-2"),
        (["history"], "which instance? say one of orders-1, orders-2"),
        (["drain", ""], "is empty; leave it out only where there is one instance"),
        (["drain", "", "--standalone"], "is empty; leave it out only where there is one instance"),
        (["drain", "orders-1", "--deadline", "0"], "0.0 is not in the range"),
        (["nonsense"], "No such command 'nonsense'"),
        (["--url", "ftp://x", "status"], "must look like http://127.0.0.1:8650 or unix:"),
        (["--token-file", "/nonexistent", "status"], "cannot read the token file /nonexistent"),
    ],
)
def test_wrong_usage_is_2(arguments: list[str], said: str) -> None:
    """What the person has to change is 2, and the sentence says what."""
    agent = FakeAgent(FakeInstance("orders-1"), FakeInstance("orders-2"))
    with serving(agent) as url:
        done = run(*arguments, DEREGISTER_URL=url)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_status_shows_every_instance_or_one() -> None:
    """Without a name all of them; text for people, and nothing that drives their terminal."""
    agent = FakeAgent(FakeInstance("orders-1"), FakeInstance("orders-2", phase="draining"))
    with serving(agent) as url:
        everything = run("--url", url, "status")
        one = run("--url", url, "status", "orders-2")
    assert everything.returncode == 0
    assert "orders-1 (orders, 10.0.0.7:8080): serving" in everything.stdout
    assert "orders-2 (orders, 10.0.0.7:8080): draining" in everything.stdout
    assert "orders-1" not in one.stdout
    assert "3 requests in flight (http_json)" in one.stdout
    assert "\x1b" not in everything.stdout


def test_json_is_what_the_agent_said() -> None:
    """--json prints the API's own objects, one per command, and nothing else."""
    one = orders("draining", "drained")
    with serving(FakeAgent(one)) as url:
        status = run("--url", url, "status", "--json")
        named = run("--url", url, "status", "orders-1", "--json")
        begun = run("--url", url, "drain", "--json")
        ended = run("--url", url, "drain", "--wait", "--json")
        history = run("--url", url, "history", "--limit", "2", "--json")
        wrong = run("--url", url, "status", "orders-7", "--json")
    assert json.loads(status.stdout)["instances"][0]["phase"] == "serving"
    assert json.loads(named.stdout)["phase"] == "serving"
    assert json.loads(begun.stdout)["phase"] == "withdrawing"
    assert json.loads(ended.stdout)["drain"]["outcome"] == "drained"
    assert [drain["id"] for drain in json.loads(history.stdout)["drains"]] == ["d-2", "d-1"]
    assert wrong.returncode == json.loads(wrong.stdout)["exit_code"] == 2


def test_history_is_a_line_per_drain() -> None:
    """Newest first: when, how it ended, who asked and why."""
    with serving(FakeAgent(orders())) as url:
        done = run("--url", url, "history")
    assert done.stdout.splitlines() == [
        "2026-11-21T03:45:00.000Z  draining under way  d-2  pipeline  deploy 4711",
        "2026-11-20T03:45:00.000Z  expired 2026-11-20T03:48:00.000Z  forced  d-1  pipeline",
    ]


def test_the_configuration_tells_where_the_agent_is(tmp_path: Path) -> None:
    """Without --url, the first listen entry and the token file of the configuration are used."""
    (tmp_path / "token").write_text("s3cret\n")
    config = tmp_path / "config.toml"
    with serving(FakeAgent(orders(), token="s3cret")) as url:
        listen = url.removeprefix("http://")
        config.write_text(
            f'[server]\nlisten = ["{listen}"]\ntoken_file = "{tmp_path}/token"\nother = 1\n'
        )
        allowed = run("--config", str(config), "status")
        token = str(tmp_path / "token")
        named = run("--url", url, "--token-file", token, "status")
        refused = run("--url", url, "status")
    assert (allowed.returncode, named.returncode, refused.returncode) == (0, 0, 2)
    assert "the bearer token is missing; see --token-file" in refused.stderr


def test_the_agent_is_reached_by_a_unix_socket(tmp_path: Path) -> None:
    """unix:/path works as URL and as listen entry."""
    config = tmp_path / "config.toml"
    with serving(FakeAgent(orders()), unix=tmp_path / "agent.sock") as url:
        config.write_text(f'[server]\nlisten = ["{url}"]\n')
        assert run("--url", url, "status").returncode == 0
        assert run("--config", str(config), "status").returncode == 0


def test_plain_progress_is_a_line_per_change() -> None:
    """Without a terminal: no escape codes, and no line that repeats the one before."""
    steps = ["withdrawing", "withdrawing", "draining", "draining", "draining", "drained"]
    with serving(FakeAgent(orders(*steps))) as url:
        done = run("--url", url, "drain", "--wait", TERM="xterm")
    phases = [line.split()[2].rstrip(",;") for line in done.stdout.splitlines()[:-1]]
    assert phases == ["withdrawing", "draining", "drained"]
    assert "\x1b" not in done.stdout


def test_an_agent_that_is_restarted_is_waited_for() -> None:
    """A refused connection in mid-wait is said, and tried again; the drain's end still counts."""
    with ExitStack() as first_life, ExitStack() as command_line:
        url = first_life.enter_context(serving(FakeAgent(orders("draining"))))
        process = command_line.enter_context(started("--url", url, "drain", "--wait"))
        read_until(process, "draining")
        first_life.close()
        read_until(process, "will try again")
        again = orders("draining", "drained", phase="draining")
        with serving(FakeAgent(again), port=int(url.rpartition(":")[2])):
            read_until(process, "drained: safe to kill")
            assert process.wait(LIMIT) == 0


@pytest.mark.parametrize("action", ["drain", "restore"])
def test_ctrl_c_detaches_and_the_drain_goes_on(action: str) -> None:
    """130, nothing is undone, and the message says how to."""
    phase = {"drain": "draining", "restore": "restoring"}[action]
    undo = {"drain": "restore", "restore": "drain"}[action]
    one = orders(phase)
    with serving(FakeAgent(one)) as url, started("--url", url, action, "--wait") as process:
        read_until(process, phase)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "goes on" in error
    assert f"deregister-agent {undo} orders-1" in error
    assert (one.phase, len(one.asked)) == (phase, 1)


def on_terminal(url: str, env: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    """Run a command on a terminal of its own; return its exit code and all that it drew."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command("--url", url, *arguments),
        env=environment(**env),
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    drawn = b""
    end = time.monotonic() + LIMIT
    try:
        while time.monotonic() < end:
            if not select.select([master], [], [], 1.0)[0]:
                continue
            try:
                chunk = os.read(master, 65536)
            except OSError:  # EIO: the other side has closed its end
                break
            drawn += chunk
        return process.wait(LIMIT), drawn.decode()
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_a_terminal_shows_a_live_view() -> None:
    """The report is drawn again in place, in colour, and the outcome stays below it."""
    with serving(FakeAgent(orders("withdrawing", "draining", "drained"))) as url:
        code, drawn = on_terminal(url, {"TERM": "xterm"}, "drain", "--wait")
    assert code == 0
    assert len(UP.findall(drawn)) == 2
    assert "\x1b[33mdraining\x1b[0m, since" in drawn
    assert "171 s to the deadline" in drawn
    assert "3 requests in flight (http_json)" in drawn
    assert "\x1b[2J" not in drawn  # what a note contains does not drive the terminal
    assert "orders-1: drained: safe to kill; a note" in drawn.splitlines()[-1]


@pytest.mark.parametrize("env", [{"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}, {}])
def test_the_live_view_does_without(env: dict[str, str]) -> None:
    """NO_COLOR keeps the view and drops the colours; a dumb terminal gets plain lines."""
    with serving(FakeAgent(orders("withdrawing", "draining", "drained"))) as url:
        code, drawn = on_terminal(url, env, "drain", "--wait")
    assert code == 0
    assert not COLOUR.search(drawn)
    assert bool(UP.search(drawn)) is ("NO_COLOR" in env)


def test_status_starts_cold_without_the_server() -> None:
    """What scripts call often loads none of the heavy libraries."""
    probe = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(sorted(\n"
        "    {name.partition('.')[0] for name in sys.modules}\n"
        "    & {'flask', 'pydantic', 'requests', 'hypercorn', 'yaml', 'sqlite3'})))\n"
        "from deregister_agent.cli.main import main\n"
        "main()\n"
    )
    with serving(FakeAgent(orders())) as url:
        done = subprocess.run(
            [sys.executable, "-c", probe, "--url", url, "status"],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=True,
        )
    assert done.stdout.splitlines()[-1] == "[]"


def test_check_config_lists_every_mistake(tmp_path: Path) -> None:
    """2, and all mistakes; as JSON, they are a list."""
    config = tmp_path / "config.toml"
    config.write_text('[agent]\njurnal = "x"\n[[instance]]\nname = "a b"\n')
    text = run("--config", str(config), "check-config")
    as_json = run("--config", str(config), "check-config", "--json")
    assert (text.returncode, as_json.returncode) == (2, 2)
    assert "agent.jurnal: no such key; did you mean 'journal'?" in text.stderr
    assert "instance[0].port: missing" in text.stderr
    assert len(json.loads(as_json.stdout)["mistakes"]) == 6


def test_check_config_prints_the_schema() -> None:
    """--schema needs no configuration file."""
    done = run("check-config", "--schema")
    assert done.returncode == 0, done.stderr
    assert "InstanceConfig" in json.loads(done.stdout)["$defs"]


def test_serve_refuses_a_configuration_with_mistakes(tmp_path: Path) -> None:
    """The agent does not start on a file that it does not understand."""
    done = run("--config", str(tmp_path / "none.toml"), "serve")
    assert done.returncode == 2
    assert "No such file or directory" in done.stderr
