"""What the docs name exists, what exists is named, and the commands they show run."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deregister_agent.api.openapi import document
from deregister_agent.config.load import validated
from deregister_agent.demo.stage import free_ports
from deregister_agent.model import Announcement, OnDeadline, Outcome, Phase

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of *page* in that language."""
    return [text for tag, text in BLOCK.findall(page.read_text()) if tag == language]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page names a file that is there."""
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_words_are_explained() -> None:
    """Each phase, outcome, policy and announcement stands in the reference."""
    phases = (DOCS / "reference" / "phases.md").read_text()
    everything = "\n".join(page.read_text() for page in (DOCS / "reference").rglob("*.md"))
    for word in (*Phase, *Outcome):
        assert f"`{word}`" in phases, word
    for word in (*OnDeadline, *Announcement):
        assert word in everything, word


def test_each_way_of_starting_an_app_names_its_test() -> None:
    """Each row of the table names a test that is there, or says that none runs it."""
    page = (DOCS / "reference" / "process.md").read_text()
    table = page.partition("| run by |\n|---|---|---|---|\n")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ")[-1] for line in table.splitlines()]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`([^`]+)`", row)
        assert bool(named) != (row == "none"), row
        for file, _, name in (each.partition("::") for each in named):
            assert re.search(rf"^(?:class|def) {name}", (ROOT / file).read_text(), re.MULTILINE), (
                row
            )


def test_each_endpoint_is_documented() -> None:
    """Each path of the OpenAPI document stands on the page of the HTTP API."""
    page = (DOCS / "reference" / "http-api.md").read_text()
    for path in document()["paths"]:
        assert path in page, path


def test_the_metrics_are_those_of_the_page(tmp_path: Path) -> None:
    """The page names each metric that an agent shows, and no other."""
    config = tutorial_config(tmp_path)
    shown = subprocess.run(
        [sys.executable, "-c", SHOW_METRICS, str(config)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(shown)
        if not family.name.endswith("_created")
    }
    page = (DOCS / "reference" / "metrics.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == names


SHOW_METRICS = """
import sys
from pathlib import Path
from deregister_agent.config.load import load_config
from deregister_agent import wiring
agent = wiring.build_agent(load_config(Path(sys.argv[1])))
print(agent.metrics().decode())
agent.stop()
"""


def tutorial_config(folder: Path) -> Path:
    """Write the tutorial's configuration into *folder*, its paths changed to there."""
    (shell,) = [text for text in tutorial_blocks() if "<<'TOML'" in text]
    toml = shell.partition("<<'TOML'\n")[2].partition("\nTOML")[0]
    path = folder / "agent.toml"
    path.write_text(toml.replace("/tmp/first-drain", str(folder)))
    return path


def tutorial_blocks() -> list[str]:
    return blocks(DOCS / "tutorial" / "first-drain.md", "sh")


def test_the_tutorial_runs(tmp_path: Path) -> None:
    """Typed as they stand, the commands of the tutorial drain an instance and put it back."""
    port, other = free_ports(2)
    script = "\n".join(text for text in tutorial_blocks() if "make demo" not in text)
    script = script.replace("/tmp/first-drain", str(tmp_path)).replace("8081", str(port))
    script = script.replace("8082", str(other)).replace(
        ".venv/bin/", f"{Path(sys.executable).parent}/"
    )
    script = script.replace("work?seconds=8", "work?seconds=2")
    waits = f"until [ -S {tmp_path}/agent.sock ]; do sleep 0.05; done\n"
    script = script.replace("curl -s", f"{waits}curl -s", 1)
    ends = "trap 'kill $(jobs -p); wait' EXIT\n"
    listed = (tmp_path / "shop.json").exists
    done = subprocess.run(
        ["bash", "-c", f"set -e\n{ends}{script}"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert listed()
    assert "drained" in done.stdout
    assert "serving" in done.stdout
    assert str(port) in (tmp_path / "shop.json").read_text()


def test_the_commands_of_doctor_run(tmp_path: Path) -> None:
    """Each command of the page finds the tutorial's instance fit, or says that the app is not."""
    port, other = free_ports(2)
    config = tutorial_config(tmp_path)
    config.write_text(config.read_text().replace("8081", str(port)))
    targets = [f"127.0.0.1:{port}", f"127.0.0.1:{other}"]
    (tmp_path / "shop.json").write_text(json.dumps([{"labels": {}, "targets": targets}]))
    commands = "".join(blocks(DOCS / "how-to" / "doctor.md", "sh")).splitlines()
    assert len(commands) == 2

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deregister_agent", *command.split()[1:]],
            env={**os.environ, "DEREGISTER_CONFIG": str(config)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert [run(command).returncode for command in commands] == [6, 6]
    app = [sys.executable, "-m", "deregister_agent.demo.app", str(port)]
    with subprocess.Popen(app) as process:
        try:
            end = time.monotonic() + 60
            while run(commands[0]).returncode != 0:
                assert time.monotonic() < end, run(commands[0]).stdout
            for command in commands:
                done = run(command)
                assert (done.returncode, done.stderr) == (0, "")
                assert "fit for a drain" in done.stdout
        finally:
            process.terminate()
    assert not (tmp_path / "journal.db").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_whole_configurations_are_valid(page: Path) -> None:
    """A TOML block that holds a whole configuration passes check-config."""
    import tomllib  # noqa: PLC0415 - only here

    for text in blocks(page, "toml"):
        table = tomllib.loads(text)
        whole = table.get("instance", [{}])
        if isinstance(whole, list) and {"registry", "probe", "name"} <= whole[0].keys():
            validated(table, str(page))


def test_the_readme_shows_commands_that_exist() -> None:
    """Each deregister-agent command of the README is one that the program knows."""
    shown = "\n".join(blocks(ROOT / "README.md", "sh"))
    for command in set(re.findall(r"^deregister-agent ([a-z-]+)", shown, re.MULTILINE)):
        subprocess.run(
            [sys.executable, "-m", "deregister_agent", command, "--help"],
            check=True,
            capture_output=True,
        )
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", shown, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
