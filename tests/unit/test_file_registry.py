"""The file registry: one target in a file_sd file, and no other byte."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deregister_agent.errors import RegistryError
from deregister_agent.host.files import locked, replace_durably
from deregister_agent.model import Instance
from deregister_agent.registries.file.registry import FileRegistry, Options, build
from deregister_agent.registries.file.target_file import TargetFile

ORDERS = Instance("orders-1", "orders", "10.0.0.7", 8080)
OURS = "10.0.0.7:8080"

JSON_INDENTED = """[
    {
        "labels": {"service": "orders", "note": "\\u00e9 \\ud83d\\ude00 a\\"b"},
        "targets": [
            "10.0.0.6:8080",
            "10.0.0.7:8080",
            "10.0.0.8:8080"
        ],
        "owner": null
    }
]
"""
JSON_TABS = '[\n\t{\n\t\t"targets": [\n\t\t\t"10.0.0.7:8080"\n\t\t],\n\t\t"labels": {}\n\t}\n]\n'
JSON_COMPACT = '[{"targets":["10.0.0.7:8080","10.0.0.8:8080"],"labels":{"service":"orders"}}]'
YAML_LINES = """# written by hand - é
- targets:
    # rack 1
    - "10.0.0.6:8080"
    # rack 2
    - '10.0.0.7:8080'   # ours
    - 10.0.0.8:8080
  labels:
    service: orders   # who
    port: 8080
    on: yes

- targets: [10.0.0.9:80]
"""
YAML_LAST = "- labels: {service: orders}\n  targets:\n  - a:1\n  # ours\n\n  - 10.0.0.7:8080\n"
YAML_ALONE = "- targets: # one\n  # ours\n  - 10.0.0.7:8080\n  labels: {a: b}\n"
YAML_BRACKETS = "---\n- targets: [ a:1,  '10.0.0.7:8080' ]  # x\n  labels: {service: orders}\n"
YAML_CRLF = "- targets:\r\n  - 10.0.0.7:8080\r\n  - a:1\r\n"
EXACT = {
    "indented.json": JSON_INDENTED,
    "tabs.json": JSON_TABS,
    "compact.json": JSON_COMPACT,
    "lines.yml": YAML_LINES,
    "last.yml": YAML_LAST,
    "alone.yaml": YAML_ALONE,
    "brackets.yml": YAML_BRACKETS,
    "crlf.yml": YAML_CRLF,
}


def registry(path: Path, **options: Any) -> FileRegistry:
    return build(Options(kind="file", path=path, **options), ORDERS)


def written(folder: Path, text: str, name: str = "targets.yml") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def data(path: Path) -> Any:
    text = path.read_text()
    return json.loads(text) if path.suffix == ".json" else yaml.load(text, yaml.BaseLoader)


class TestExactness:
    @pytest.mark.parametrize("name", EXACT)
    def test_restore_gives_back_the_file_byte_for_byte(self, tmp_path: Path, name: str) -> None:
        """Withdrawn and restored, the file is what it was, whatever its style."""
        path = written(tmp_path, EXACT[name], name)
        ours = registry(path)
        snapshot = json.loads(json.dumps(ours.snapshot()))
        ours.withdraw()
        assert OURS not in path.read_text()
        ours.restore(snapshot)
        assert path.read_bytes() == EXACT[name].encode()

    @pytest.mark.parametrize("name", EXACT)
    def test_withdraw_takes_only_the_target(self, tmp_path: Path, name: str) -> None:
        """All other targets, labels, unknown keys and their order stay."""
        path = written(tmp_path, EXACT[name], name)
        before = data(path)
        registry(path).withdraw()
        for group in before:
            group["targets"] = [target for target in group["targets"] if target != OURS]
        assert data(path) == before

    def test_comments_stay(self, tmp_path: Path) -> None:
        """Only the line of the target goes."""
        path = written(tmp_path, YAML_LINES)
        registry(path).withdraw()
        assert path.read_text() == YAML_LINES.replace("    - '10.0.0.7:8080'   # ours\n", "")

    def test_an_emptied_group_keeps_its_place_and_labels(self, tmp_path: Path) -> None:
        """The group of a target that was alone stays, with an empty list."""
        path = written(tmp_path, YAML_ALONE)
        registry(path).withdraw()
        assert data(path) == [{"targets": [], "labels": {"a": "b"}}]

    def test_every_group_that_has_it(self, tmp_path: Path) -> None:
        """A target in several groups, or twice in one, leaves all, and is put back once in each."""
        text = f"- targets: [{OURS}, b:1, {OURS}]\n- targets: [c:1, {OURS}]\n  labels: {{x: y}}\n"
        path = written(tmp_path, text)
        ours = registry(path)
        snapshot = ours.snapshot()
        ours.withdraw()
        assert [g["targets"] for g in data(path)] == [["b:1"], ["c:1"]]
        ours.restore(snapshot)
        assert [g["targets"] for g in data(path)] == [[OURS, "b:1"], ["c:1", OURS]]

    @pytest.mark.parametrize(
        "text",
        [
            f"- targets: &t [{OURS}]\n- targets: *t\n",
            f"- targets: &t\n  - {OURS}\n  - a:1\n- targets: *t\n",
            f"- targets:\n  - &a {OURS}\n  labels: {{x: *a}}\n",
            f"- targets:\n  - >-\n    {OURS}\n# mine\n",
        ],
    )
    def test_refuses_what_it_cannot_change_exactly(self, tmp_path: Path, text: str) -> None:
        """Rather than render the file anew it says no, says why, and leaves it as it is."""
        path = written(tmp_path, text)
        with pytest.raises(RegistryError, match="cannot be changed exactly"):
            registry(path).withdraw()
        assert path.read_text() == text

    @given(st.data())
    def test_any_json_survives(self, draw: st.DataObject) -> None:
        """Whatever the layout and the neighbours: one target out, the same one in, equal text."""
        target = st.sampled_from([OURS, "a:1", "b:2", "é\U0001f600", 'q"\\', "\x7f"])
        group = st.fixed_dictionaries(
            {"targets": st.lists(target, unique=True), "x": st.text()},
            optional={"labels": st.dictionaries(st.text(), st.text(), max_size=2)},
        )
        groups = draw.draw(st.lists(group, max_size=3))
        text = json.dumps(
            groups,
            indent=draw.draw(st.sampled_from([None, 2, "\t"])),
            ensure_ascii=draw.draw(st.booleans()),
            separators=draw.draw(st.sampled_from([None, (",", ":")])),
        )
        before = TargetFile(text, "json")
        after = before.without(OURS)
        assert not after.holds(OURS)
        for number, place in before.places(OURS):
            after = after.including(OURS, number, place)
        assert json.loads(after.text) == groups
        assert after.text == text


class TestRestore:
    def test_a_target_that_is_back_is_left_alone(self, tmp_path: Path) -> None:
        """The app may have listed itself, with labels of its own: it is not listed twice."""
        path = written(tmp_path, YAML_LINES)
        ours = registry(path)
        snapshot = ours.snapshot()
        text = f"- targets: [{OURS}]\n  labels: {{version: v2}}\n- targets: []\n"
        path.write_text(text)
        ours.restore(snapshot)
        assert path.read_text() == text

    def test_what_others_have_changed_stays(self, tmp_path: Path) -> None:
        """The group is found by its labels wherever it is now, as full as it is now."""
        path = written(tmp_path, JSON_INDENTED, "targets.json")
        ours = registry(path)
        snapshot = ours.snapshot()
        groups = json.loads(path.read_text())
        new = {"targets": ["n:1"], "labels": {"service": "new"}}
        path.write_text(json.dumps([new, {**groups[0], "targets": ["z:1"], "owner": "me"}]))
        ours.restore(snapshot)
        expected = [new, {**groups[0], "targets": ["z:1", OURS], "owner": "me"}]
        assert json.loads(path.read_text()) == expected

    def test_of_groups_with_equal_labels_the_same_one(self, tmp_path: Path) -> None:
        """Two groups with the same labels: the target goes back to the one that it was in."""
        path = written(tmp_path, f"- targets: [a:1]\n- targets: [b:1, {OURS}]\n")
        ours = registry(path)
        snapshot = ours.snapshot()
        ours.withdraw()
        ours.restore(snapshot)
        assert [g["targets"] for g in data(path)] == [["a:1"], ["b:1", OURS]]

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("t.json", "[]"),
            ("t.json", '[\n  {\n    "targets": ["x:1"]\n  }\n]\n'),
            ("t.yml", "- targets: [x:1]"),
            ("t.yml", "[]\n"),
            ("t.yml", "  - targets:\n    - x:1\n"),
        ],
    )
    def test_a_group_that_has_gone_is_made_again(
        self, tmp_path: Path, name: str, text: str
    ) -> None:
        """Nobody has the labels any more: a group like it comes after all others."""
        path = written(tmp_path, "- targets: [10.0.0.7:8080]\n  labels: {service: orders}\n")
        snapshot = registry(path).snapshot()
        path = written(tmp_path, text, name)
        before = data(path)
        registry(path).restore(snapshot)
        assert data(path) == [*before, {"targets": [OURS], "labels": {"service": "orders"}}]

    def test_without_a_snapshot_labels_say_where(self, tmp_path: Path) -> None:
        """The group with the labels of the options gets the target, at its end."""
        path = written(tmp_path, "- targets: [a:1]\n- targets: [b:1]\n  labels: {x: y}\n")
        ours = registry(path, labels={"x": "y"})
        assert ours.snapshot() is None
        ours.restore(None)
        ours.restore(None)
        assert [g["targets"] for g in data(path)] == [["a:1"], ["b:1", OURS]]

    def test_without_a_snapshot_and_labels_it_says_what_to_do(self, tmp_path: Path) -> None:
        """No guess is made about the group."""
        path = written(tmp_path, "- targets: [a:1]\n")
        with pytest.raises(RegistryError, match="set labels, or restore_by"):
            registry(path).restore(None)

    def test_without_a_snapshot_the_app_may_list_itself(self, tmp_path: Path) -> None:
        """restore_by = "app": nothing to do but wait until it is listed."""
        path = written(tmp_path, "- targets: [a:1]\n")
        ours = registry(path, restore_by="app")
        ours.restore(None)
        assert not ours.lists()


class TestUnknown:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("t.json", ""),
            ("t.yml", ""),
            ("t.yml", "# nothing yet\n"),
            ("t.json", '[{"targets": ["10.0.0'),
            ("t.yml", "- targets: ['10.0.0"),
            ("t.yml", "targets: [a:1]\n"),
            ("t.json", '[{"targets": "a:1"}]'),
            ("t.json", '[{"targets": [1]}]'),
            ("t.json", '["a:1"]'),
            ("t.json", '[{"targets": [], "labels": {"a": 1}}]'),
            ("t.yml", "- &x {targets: [a:1]}\n- {<<: *x}\n"),
            ("t.yml", "[]\n---\n[]\n"),
            ("t.json", "[" * 100_000),
        ],
    )
    def test_what_cannot_be_read_is_never_not_listed(
        self, tmp_path: Path, name: str, text: str
    ) -> None:
        """An empty, half-written or odd file is an error for every method, and stays as it is."""
        path = written(tmp_path, text, name)
        ours = registry(path, labels={})
        for method in (
            ours.lists, ours.snapshot, ours.withdraw, ours.others, lambda: ours.restore(None)
        ):  # fmt: skip
            with pytest.raises(RegistryError, match=name):
                method()
        assert path.read_text() == text

    def test_a_missing_file_is_unknown(self, tmp_path: Path) -> None:
        """A file that is not there lists nobody and nothing is known."""
        ours = registry(tmp_path / "absent.json")
        for method in (ours.lists, ours.snapshot, ours.withdraw, ours.others):
            with pytest.raises(RegistryError, match="No such file"):
                method()
        assert not (tmp_path / "absent.json").exists()

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        """A file in another encoding is an error that names it."""
        path = tmp_path / "t.json"
        path.write_bytes(b'[{"targets": ["\xff"]}]')
        with pytest.raises(RegistryError, match="utf-8"):
            registry(path).lists()


class TestOthers:
    @pytest.mark.parametrize(
        ("text", "others"),
        [
            (f"- targets: [{OURS}, a:1, b:1]\n- targets: [c:1]\n  labels: {{x: y}}\n", 2),
            (f"- targets: [{OURS}]\n- targets: [a:1]\n- targets: [c:1]\n  labels: {{x: y}}\n", 1),
            ("- targets: [a:1, b:1]\n  labels: {service: orders}\n- targets: [c:1]\n", 2),
            ("- targets: [a:1, b:1]\n  labels: {service: other}\n- targets: [c:1]\n", 3),
            (f"- targets: [{OURS}, {OURS}, a:1]\n- targets: [a:1]\n", 1),
            (f"- targets: [{OURS}]\n", 0),
        ],
    )
    def test_counts_the_service(self, tmp_path: Path, text: str, others: int) -> None:
        """Groups of the service count, by labels; if none is known to be, all do."""
        assert registry(written(tmp_path, text)).others() == others


class TestWritersAndWatch:
    def test_waits_for_the_lock_and_says_who_is_in_the_way(self, tmp_path: Path) -> None:
        """While another program holds the lock nothing is written."""
        path = written(tmp_path, YAML_LINES)
        ours = registry(path, timeout=0.1)
        with locked(path, 1), pytest.raises(RegistryError, match=r"\.targets\.yml\.lock"):
            ours.withdraw()
        assert path.read_text() == YAML_LINES
        ours.withdraw()
        assert not ours.lists()

    def test_agents_of_one_file_lose_nothing(self, tmp_path: Path) -> None:
        """Many instances withdrawn at once from one file are all withdrawn."""
        targets = [f"10.0.0.{n}:80" for n in range(12)]
        path = written(tmp_path, json.dumps([{"targets": [*targets, "x:1"]}]), "t.json")
        threads = [
            threading.Thread(target=registry(path, target=t, timeout=30.0).withdraw)
            for t in targets
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert json.loads(path.read_text()) == [{"targets": ["x:1"]}]

    def test_nothing_to_do_writes_nothing(self, tmp_path: Path) -> None:
        """A second withdraw leaves even the inode alone, so that no reader is woken."""
        ours = registry(path := written(tmp_path, YAML_LINES))
        ours.withdraw()
        inode = path.stat().st_ino
        ours.withdraw()
        assert path.stat().st_ino == inode

    def test_watch_returns_when_the_file_changes(self, tmp_path: Path) -> None:
        """A change between two calls, or during one, is not missed; without one the time ends."""
        ours = registry(path := written(tmp_path, YAML_LINES))
        cursor = ours.watch(None, 60)
        assert ours.lists()
        assert ours.watch(cursor, 0.01) == cursor
        replace_durably(path, path.read_bytes().replace(OURS.encode(), b"b:1"))
        assert (second := ours.watch(cursor, 60)) != cursor
        timer = threading.Timer(0.1, os.unlink, [path])
        timer.start()
        assert ours.watch(second, 60) != second
        timer.join()

    def test_target_of_an_ipv6_address_is_in_brackets(self, tmp_path: Path) -> None:
        """The default target is what Prometheus would write."""
        path = written(tmp_path, "- targets: ['[::1]:80']\n")
        instance = Instance("a", "a", "::1", 80)
        assert build(Options(kind="file", path=path), instance).lists()

    def test_the_same_address_in_another_spelling(self, tmp_path: Path) -> None:
        """A target that means the instance is not "not listed": the error says how it is named."""
        path = written(tmp_path, "- targets: ['[FD00:0::7]:80', 'a:80', 'http://[fd00::7]:80']\n")
        ours = build(Options(kind="file", path=path), Instance("a", "a", "fd00::7", 80))
        with pytest.raises(RegistryError, match=r"it has '\[FD00:0::7\]:80', .*set target to that"):
            ours.lists()
        other = build(Options(kind="file", path=path), Instance("a", "a", "fd00::7", 81))
        assert not other.lists()

    def test_other_suffixes_are_refused(self, tmp_path: Path) -> None:
        """The suffix says the syntax; another one is a mistake of the configuration."""
        with pytest.raises(ValueError, match=r"\.json, \.yml, \.yaml"):
            Options(kind="file", path=tmp_path / "targets.toml")
