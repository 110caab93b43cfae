"""Text from elsewhere steers no terminal and forges no line, whichever way it goes out."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deregister_agent.cli.commands import print_json
from deregister_agent.cli.logs import JsonLines, TextLines
from deregister_agent.errors import ConfigError, harmless, harmless_json

HOSTILE = {
    "an escape sequence": "a\x1b[2Jb",
    "C1": "a\x9b2Jb",
    "a carriage return": "a\rb",
    "a line feed": "a\nb",
    "a mark of direction": "a\u202eb",
    "an isolate": "a\u2066b",
    "a line separator": "a\u2028b",
    "a paragraph separator": "a\u2029b",
    "a byte order mark": "a\ufeffb",
    "a soft hyphen": "a\u00adb",
    "half a pair": "a\udc9bb",
    "a tag": "a\U000e0041b",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_each_kind_becomes_a_space_and_is_escaped_in_json(kind: str) -> None:
    """And a reader of the JSON gets exactly what was there."""
    text = HOSTILE[kind]
    assert harmless(text)[0] + harmless(text)[-1] == "ab"
    assert harmless(text).isprintable()
    document = harmless_json(json.dumps({"said": text}, ensure_ascii=False, indent=2))
    assert document.replace("\n", "").isprintable()
    assert json.loads(document) == {"said": text}


def test_plain_text_stays_as_it_is() -> None:
    """Letters of any language among it."""
    text = "Größe 订单-1: été → 100 %"
    assert harmless(text) == text
    assert harmless_json(json.dumps(text, ensure_ascii=False)) == f'"{text}"'


@given(st.text())
def test_json_means_the_same(text: str) -> None:
    """Whatever is in it."""
    document = harmless_json(json.dumps([text], ensure_ascii=False))
    assert json.loads(document) == [text]
    assert document.isprintable()


def line_of(formatter: logging.Formatter, text: str, *, failed: bool = False) -> str:
    """Return what is logged of *text*, in the message or as the message of an exception."""
    error = (ValueError, ValueError(text), None) if failed else None
    said = "failed" if failed else "%s"
    record = logging.LogRecord("x", logging.INFO, "", 0, said, () if failed else (text,), error)
    return formatter.format(record)


@pytest.mark.parametrize("failed", [False, True])
def test_no_log_line_is_forged(*, failed: bool) -> None:
    """A message is one line; below it stand those of a traceback alone."""
    for text in HOSTILE.values():
        lines = line_of(TextLines(), text, failed=failed).split("\n")
        assert all(line.isprintable() for line in lines)
        assert failed or len(lines) == 1
        assert line_of(JsonLines(), text, failed=failed).isprintable()


def test_errors_of_the_command_line(tmp_path: Path) -> None:
    """A key of the configuration is foreign text, too."""
    config = tmp_path / "config.toml"
    config.write_text('"a\\u001b[2J\\u009b\\nforged: line" = 1\n')
    for more in ([], ["--json"]):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "deregister_agent",
                "--config",
                str(config),
                "check-config",
                *more,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 2
        assert "forged" in said
        assert all(line.isprintable() for line in said.split("\n"))
        assert not any(line.startswith("forged") for line in said.split("\n"))


def test_a_mistake_is_one_line() -> None:
    """Each stands on a line of its own, and on one."""
    error = ConfigError("config.toml", ["key: a\nb", "other"])
    assert str(error).split("\n") == ["config.toml:", "  key: a b", "  other"]


def test_a_file_name_that_is_no_text_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The half of a pair that stands for a byte would end the command with a traceback."""
    print_json({"path": "a\udc9bb"})
    assert "\\udc9b" in capsys.readouterr().out
