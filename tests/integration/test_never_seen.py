"""A registry that never showed the instance refuses the drain, before anything is withdrawn."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deregister_agent.cli.client import AgentAnswer
from tests.integration.presence_stage import LIMIT, Host, TargetFile, running_host
from tests.integration.test_standalone import BACKENDS
from tests.integration.wrong_names import ROWS, Makers, Row, makers


@dataclass
class Said:
    """What the agent answered of an instance whose registry is configured wrongly."""

    row: Row
    answer: AgentAnswer
    command: subprocess.CompletedProcess[str]
    after: dict[str, object]


@dataclass
class Site:
    """What was said of each row, and the agent whose configuration has been corrected since."""

    host: Host
    beside: TargetFile
    said: dict[str, Said]
    before: object
    after: object


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Ask of each row; write what the texts say; give the agent that then runs, on its journal."""
    root = tmp_path_factory.mktemp("host")
    _third_party(root / "site")
    with running_host(root) as host, makers(root, host.port) as worlds:
        beside = TargetFile(root / "beside.json", *(f"{name}:80" for name in ROWS))
        rows = {name: make(worlds) for name, make in ROWS.items()}
        for name, row in rows.items():
            _add(host, beside, name, row, row.table)
        before = _truth(worlds, beside)
        with host.agent():
            said = {name: _ask(host, name, row) for name, row in rows.items()}
        after = _truth(worlds, beside)
        for name, row in rows.items():
            _add(host, beside, name, row, row.fix(said[name].answer.detail))
        with host.agent():
            yield Site(host, beside, said, before, after)


def _third_party(site: Path) -> None:
    """Write the package of somebody else's registry to where the agent finds it."""
    info = site / "t_presence-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: t-presence\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[deregister_agent.registries]\nt_list = t_list\n")
    exported = "from t_all import ListOptions as Options, ListFile as build\n"
    (site / "t_all.py").write_text(BACKENDS)
    (site / "t_list.py").write_text(exported)


def _add(host: Host, beside: TargetFile, name: str, row: Row, table: str) -> None:
    right = beside.table(f'target = "{name}:80"', 'name = "beside"')
    host.add(name, right, table, **row.instance)


def _truth(worlds: Makers, beside: TargetFile) -> object:
    return worlds.truth(), beside.path.read_text()


def _ask(host: Host, name: str, row: Row) -> Said:
    answer = host.post(name, "stop-traffic")
    command = host.run("drain", name, "--wait", "--force")
    return Said(row, answer, command, host.get(name).body)


@pytest.mark.parametrize("name", ROWS)
def test_a_wrong_name_is_refused_and_named(site: Site, name: str) -> None:
    """409 of its own type, exit 4, the look-alike and the line; and nothing is withdrawn."""
    said = site.said[name]
    problem = said.answer.body
    assert (said.answer.status, problem["type"]) == (409, "urn:deregister-agent:never-seen")
    assert said.row.alike in problem["detail"]
    assert said.row.line in problem["detail"]
    command = said.command
    if not command.stdout:
        assert (command.returncode, command.stderr) == (
            4,
            f"deregister-agent: {problem['detail']}\n",
        )
        assert (said.after["phase"], said.after["drain"]) == ("serving", None)
    else:  # on a busy host its answer may come too late, and undoes the drain
        assert (command.returncode, "NOT drained: refused: " in command.stdout) == (4, True)
        assert said.row.line in command.stdout
    assert site.after == site.before


@pytest.mark.parametrize("name", ROWS)
def test_once_it_is_corrected_the_same_drain_ends(site: Site, name: str) -> None:
    """With the very line of the text in the configuration, or the registry mended."""
    assert f"{name}:80" in site.beside.targets()
    assert site.host.post(name, "stop-traffic").status == 202
    drained = site.host.get(name, "traffic-drained", wait=LIMIT)
    assert (drained.status, drained.body["drain"]["outcome"]) == (200, "drained"), drained.body
    assert f"{name}:80" not in site.beside.targets()
