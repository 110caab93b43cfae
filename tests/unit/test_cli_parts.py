"""The parts of the command line that need no agent: addresses, patience, views, last lines."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.cli import follow as following
from deregister_agent.cli.client import (
    DEFAULT_TOKEN_FILE,
    DEFAULT_URL,
    AgentAnswer,
    Unreachable,
    address,
)
from deregister_agent.cli.follow import (
    ExitCode,
    Failed,
    StatusAndCode,
    ending,
    follow,
    refusal,
)
from deregister_agent.cli.progress import (
    Live,
    Plain,
    Silent,
    counted,
    describe,
    summary,
)
from deregister_agent.cli.standalone import drain_code, restore_code
from deregister_agent.config.server_options import ServerOptions
from deregister_agent.errors import AgentError
from deregister_agent.model import Drain, Instance, OnDeadline, Outcome, Phase
from deregister_agent.status import DrainStatus, ProbeStatus, RegistryStatus, Status


def registry(name: str = "consul", **more: Any) -> RegistryStatus:
    said: dict[str, Any] = {"listed": False, "stragglers": (), "others": None, "error": None}
    return RegistryStatus(name=name, **{**said, **more})


def status(phase: Phase = Phase.DRAINING, **more: Any) -> Status:
    said: dict[str, Any] = {
        "remaining": 12.0,
        "drain": None,
        "in_flight": {},
        "blocking": (),
        "registries": (registry(),),
        "probes": (ProbeStatus(name="tcp", in_flight={"connections": 1}),),
        "cursor": "",
    }
    instance = Instance("orders-1", "orders", "10.0.0.7", 80)
    return Status(instance=instance, phase=phase, **{**said, **more})


def drain_of(outcome: Outcome | None) -> DrainStatus:
    return DrainStatus(
        id="d-1",
        outcome=outcome,
        reason="",
        asked_by="",
        forced=False,
        on_deadline=OnDeadline.HOLD,
    )


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ("", DEFAULT_URL),
        ("listen = []", DEFAULT_URL),
        ("listen = 3", DEFAULT_URL),
        ("listen = ['127.0.0.1:9', 'unix:/run/a.sock']", "http://127.0.0.1:9"),
        ("listen = ['unix:/run/a.sock', '127.0.0.1:9']", "unix:/run/a.sock"),
        ("listen = ['[::1]:9']", "http://[::1]:9"),
        ("listen = ['0.0.0.0:9']\n[server.tls]", "https://127.0.0.1:9"),
        ("listen = ['[::]:9']\n[server.tls]", "https://[::1]:9"),
        ("listen = ['0.0.0.0:9', 'unix:/run/a.sock']\n[server.tls]", "unix:/run/a.sock"),
    ],
)
def test_the_first_listen_entry_is_where_the_agent_is(
    tmp_path: Path, server: str, url: str
) -> None:
    """Every form of listen becomes a URL; a Unix socket goes before TLS."""
    config = tmp_path / "config.toml"
    config.write_text(f"[server]\n{server}\n")
    assert address(config, None, None).url == url
    assert address(config, "http://other:1", None).url == "http://other:1"


@pytest.mark.parametrize("text", [None, b"not = toml = at all", b"server = 3", b"\xff"])
def test_a_configuration_that_cannot_be_read_means_defaults(
    tmp_path: Path, text: bytes | None
) -> None:
    """Who may not read the configuration may still talk to the agent where it usually is."""
    config = tmp_path / "config.toml"
    if text is not None:
        config.write_bytes(text)
    found = address(config, None, None)
    assert (found.url, found.token_file) == (DEFAULT_URL, DEFAULT_TOKEN_FILE)


def test_a_configuration_that_was_named_must_be_there(tmp_path: Path) -> None:
    """Else a typing mistake would talk to whatever agent is at the usual place."""
    absent = tmp_path / "typo.toml"
    with pytest.raises(AgentError, match=f"there is no configuration {absent}"):
        address(absent, None, None, must_exist=True)
    assert address(absent, "http://other:1", None, must_exist=True).url == "http://other:1"
    assert address(tmp_path, None, None, must_exist=True).url == DEFAULT_URL  # there, unreadable


def test_the_defaults_are_those_of_the_server() -> None:
    """Client and server agree on where the agent listens and where its token lies."""
    options = ServerOptions()
    assert [f"http://{options.listen[0]}", options.token_file] == [DEFAULT_URL, DEFAULT_TOKEN_FILE]


class Absent:
    """An agent that answers so many times and then never again."""

    def __init__(self, answers: int, remaining: float | None) -> None:
        self.answers, self.remaining, self.asked = answers, remaining, 0

    def __call__(self, wait: float) -> StatusAndCode:
        self.asked += 1
        if self.asked > self.answers:
            raise Unreachable("no answer from the agent")
        return StatusAndCode(None, status(remaining=self.remaining))


@pytest.mark.parametrize(("answers", "remaining"), [(0, None), (2, 0.05), (2, None)])
def test_an_agent_that_stays_away_is_given_up(
    monkeypatch: pytest.MonkeyPatch, answers: int, remaining: float | None
) -> None:
    """Past the deadline that was told last, nobody waits any longer; before it, they do."""
    monkeypatch.setattr(following, "PAUSE", 0.01)
    monkeypatch.setattr(following, "SLACK", 0.1)
    agent = Absent(answers, remaining)
    with pytest.raises(Unreachable):
        follow(agent, Silent(), patience=0.05)
    assert agent.asked > answers + 1


def test_a_drained_that_is_in_doubt_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An agent that was restarted and sees no registry cannot tell: 75, with what is in the way."""
    monkeypatch.setattr(following, "SLACK", 0.1)
    doubt = StatusAndCode(
        None, status(Phase.DRAINED, remaining=None, blocking=("consul does not answer",))
    )
    with pytest.raises(Unreachable, match="consul does not answer"):
        follow(lambda _: doubt, Silent(), patience=0.05)


def test_a_drain_that_ends_is_returned_with_its_code() -> None:
    """The first word with a code ends it, and is shown before."""
    out = io.StringIO()
    words = iter(
        [
            StatusAndCode(None, status()),
            StatusAndCode(ExitCode.DONE, status(Phase.DRAINED, remaining=None)),
        ]
    )
    word = follow(lambda _: next(words), Plain(out), patience=1.0)
    assert word.code is ExitCode.DONE
    assert [line.split()[2].rstrip(",") for line in out.getvalue().splitlines()] == [
        "draining",
        "drained",
    ]


@pytest.mark.parametrize(
    ("status", "code"), [(400, 2), (401, 2), (403, 2), (404, 2), (409, 4), (422, 2)]
)
def test_a_refusal_has_the_code_of_its_reason(status: int, code: int) -> None:
    """What a person must change is 2; the guard's refusal is 4."""
    error = refusal(AgentAnswer(status, {"detail": "why"}))
    assert isinstance(error, Failed)
    assert error.code == code
    assert "why" in str(error)


def test_an_agent_in_trouble_is_tried_later() -> None:
    """5xx says nothing about the drain: like no answer."""
    assert isinstance(refusal(AgentAnswer(503, {"detail": "the journal is full"})), Unreachable)


DRAINED = {Outcome.DRAINED, Outcome.APP_EXITED, Outcome.ABSENT}


@pytest.mark.parametrize("outcome", [None, *Outcome])
@pytest.mark.parametrize("phase", Phase)
def test_standalone_says_drained_only_when_it_is(phase: Phase, outcome: Outcome | None) -> None:
    """Of all phases and outcomes, 0 means drained or gone with a good outcome; nothing else."""
    code = drain_code(Drain("d", "orders-1", phase, 0.0, 0.0, outcome=outcome))
    good = phase in {Phase.DRAINED, Phase.GONE} and outcome in DRAINED
    assert (code is ExitCode.DONE) is good
    assert (code is ExitCode.EXPIRED) is (outcome is Outcome.EXPIRED)


@pytest.mark.parametrize("phase", Phase)
def test_standalone_says_serving_only_when_it_is(phase: Phase) -> None:
    """0 means serving; a restore that is overdue is 3; another phase was not asked for."""
    drain = Drain("d", "orders-1", phase, 0.0, 0.0)
    overdue = Drain("d", "orders-1", phase, 0.0, 0.0, overdue=True)
    assert (restore_code(drain) is ExitCode.DONE) is (phase is Phase.SERVING)
    assert (restore_code(drain) is None) is (phase is Phase.RESTORING)
    assert (restore_code(overdue) is ExitCode.EXPIRED) is (phase is Phase.RESTORING)


def test_only_a_good_end_says_safe_to_kill() -> None:
    """The words "safe to kill" come with exit code 0 and with nothing else."""
    for code in ExitCode:
        for outcome in (*(set(Outcome) - {Outcome.APP_EXITED, Outcome.ABSENT}), None):
            for restore in (True, False):
                line = ending(StatusAndCode(code, status(drain=drain_of(outcome))), restore=restore)
                safe = code is ExitCode.DONE and not restore
                assert ("safe to kill" in line) is safe


NOTE = "nginx: not waited for: vouched for by alice (burnt down)"


def test_the_last_line_carries_the_notes() -> None:
    """Who vouched is told to whoever acts on the word, whatever the word is."""
    one = status(Phase.DRAINED, drain=drain_of(Outcome.DRAINED), notes=(NOTE,))
    assert ending(StatusAndCode(ExitCode.DONE, one)) == f"orders-1: drained: safe to kill; {NOTE}"
    assert ending(StatusAndCode(ExitCode.EXPIRED, one)).endswith(f"; {NOTE}")


def test_the_last_line_says_why_it_was_refused() -> None:
    """In the words of the refusal: force is no answer to every one."""
    drain = replace(drain_of(Outcome.REFUSED), refusal="orders-1: nginx does not show it")
    one = status(Phase.RESTORING, drain=drain)
    line = ending(StatusAndCode(ExitCode.REFUSED, one))
    assert line == "orders-1: NOT drained: refused: nginx does not show it"


def test_the_last_line_of_a_restore_names_who_does_not_list_it() -> None:
    """Whether nobody waits for that one, or it is for others to end."""
    both = (registry("nginx"), registry(listed=True))
    one = status(Phase.SERVING, registries=both)
    line = ending(StatusAndCode(ExitCode.DONE, one), restore=True)
    assert line == "orders-1: serving: consul lists it; nginx is not waited for"
    one = status(Phase.SERVING, blocking=("nginx has it out, by another hand (down)",))
    line = ending(StatusAndCode(ExitCode.NOT_ASKED, one), restore=True)
    assert "by another hand (down)" in line


def test_plain_prints_changes_and_not_the_passing_of_time() -> None:
    """Seconds that pass are no change; a count that changes is."""
    out = io.StringIO()
    view = Plain(out)
    for quiet, count in (("0.1", 2), ("0.6", 2), ("0.2", 1)):
        blocking = (f"quiet for {quiet} of 2 s", f"{count} requests in flight")
        view.show(status(blocking=blocking))
    view.say("no answer; will try again for 20 s")
    view.say("no answer; will try again for 19 s")
    assert len(out.getvalue().splitlines()) == 3


def test_plain_prints_once_that_work_keeps_arriving() -> None:
    """How much has come so far, and over how many connections, would be a line each second."""
    out = io.StringIO()
    view = Plain(out)
    for late, total, age, peers in (
        (5, 9, 2, "1 connection of 10.0.0.9, 1 waiting for an answer, last byte 0.0 s ago"),
        (10, 19, 4, "2 connections of 10.0.0.9, last byte 0.3 s ago"),
    ):
        came = f"work keeps arriving (app): {late} in the last 5 s, {total} in the {age} s since"
        view.show(status(blocking=(came, peers)))
    assert len(out.getvalue().splitlines()) == 1
    view.show(status(blocking=("3 connections of 10.0.0.12, idle 7 s",)))
    assert len(out.getvalue().splitlines()) == 2


def test_live_draws_over_what_it_drew() -> None:
    """The cursor goes up by exactly the lines drawn before, a message below them included."""
    out = io.StringIO()
    view = Live(out, colour=False)
    view.show(status(blocking=("a", "b")))
    view.say("no answer from the agent")
    view.show(status())
    frames = out.getvalue().split("\x1b[J")
    assert [frame[-len("\x1b[5F") :] for frame in frames[1:3]] == ["\x1b[5F", "\x1b[6F"]
    assert frames[1].count("\n") == 5
    assert frames[2].count("\n") == 6


def test_live_never_draws_more_than_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report longer than the terminal is cut: the cursor cannot go up past its top."""
    monkeypatch.setenv("LINES", "5")
    monkeypatch.setenv("COLUMNS", "80")
    out = io.StringIO()
    Live(out, colour=False).show(status(notes=("note",) * 20))
    assert out.getvalue().count("\n") == 4


def test_what_is_not_known_is_said_so() -> None:
    """A registry or probe without a word is shown as such, never as good news."""
    lines = describe(
        status(
            registries=(registry("etcd", listed=None, error="no answer within 3.0 s"),),
            probes=(ProbeStatus(name="tcp", in_flight=None),),
            error="the journal cannot be written",
        )
    )
    assert lines[1:] == [
        "  registry  etcd         has not told: no answer within 3.0 s",
        "  probe     tcp          has not told",
        "  TROUBLE   the journal cannot be written",
    ]


def test_in_service_who_does_not_tell_is_not_said_to_lack_it() -> None:
    """Missing somewhere, and nobody can tell, are two things to a person."""
    no_answer, missing = "consul: cannot list: no answer within 3.0 s", "etcd does not list it"
    silent = registry(listed=None, error=no_answer)
    first = describe(status(Phase.SERVING, registries=(silent,), blocking=(no_answer,)))[0]
    assert "serving, but NOT known to be listed everywhere" in first
    both = (silent, registry("etcd"))
    first = describe(status(Phase.SERVING, registries=both, blocking=(missing, no_answer)))[0]
    assert "serving, but NOT listed everywhere" in first


def test_stragglers_are_shown() -> None:
    """A registry that has let go but has old workers left is not shown as done."""
    word = registry("nginx", stragglers=("worker 17",), acknowledged=True)
    text = "\n".join(describe(status(registries=(word,))))
    assert "does not list it, but has stragglers, acknowledged, worker 17" in text
    assert "has stragglers" in summary(status(registries=(word,)))


def test_counts_are_english() -> None:
    """One request, two requests; zero is not worth a word."""
    assert counted({"requests": 0}) == ""
    assert counted({"requests": 1, "tasks": 2}) == "1 request, 2 tasks"
