"""One look at a target file for all instances in it: none is told of the past, or not told."""

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deregister_agent.host.files import read_plain, replace_durably
from deregister_agent.registries.file import shared_file as shared_file_module
from deregister_agent.registries.file.shared_file import SharedFile, shared_file
from deregister_agent.registries.file.target_file import FormatError, Syntax, TargetFile
from tests.servers.child import wait_until

OURS, OTHER, THIRD = "10.0.0.7:80", "10.0.0.8:80", "10.0.0.9:80"
SHORT, LONG = 0.2, 30.0


def write(path: Path, *targets: str) -> None:
    replace_durably(path, json.dumps([{"targets": list(targets)}]).encode())


def told(file: SharedFile, target: str, cursor: str) -> str:
    """Return what a watch returns when it is told of a change: not when its time is over."""
    cursors: list[str] = []
    watch = threading.Thread(
        target=lambda: cursors.append(file.watch(target, cursor, 10 * LONG)), daemon=True
    )
    watch.start()
    watch.join(LONG)
    assert cursors, f"{target} was not told"
    return cursors[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "t.json", OURS, OTHER)
    return tmp_path / "t.json"


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count what is parsed."""
    seen: list[str] = []
    init = TargetFile.__init__

    def counted(self: TargetFile, text: str, syntax: Syntax) -> None:
        seen.append(text)
        init(self, text, syntax)

    monkeypatch.setattr(TargetFile, "__init__", counted)
    return seen


def test_a_change_is_parsed_once_for_all(path: Path, parses: list[str]) -> None:
    """However many look, what they read is parsed when it is new."""
    file = SharedFile(path, "json")
    with ThreadPoolExecutor(8) as pool:
        for targets in ((OURS, OTHER), (OTHER,), (OURS, OTHER)):
            write(path, *targets)
            found = list(pool.map(lambda _: file.look(LONG).targets, range(32)))
            assert found == [frozenset(targets)] * 32
    assert len(parses) == 3


def test_a_look_reads_the_file_even_if_nothing_seems_to_have_changed(path: Path) -> None:
    """Another content of the same size, inode and times is another content."""
    file = SharedFile(path, "json")
    assert OURS in file.look(LONG).targets
    before = path.stat()
    with path.open("r+b") as inside:
        inside.write(path.read_bytes().replace(OURS.encode(), THIRD.encode()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_ino, path.stat().st_size) == (before.st_ino, before.st_size)
    assert OURS not in file.look(LONG).targets


def test_only_those_are_woken_whom_a_change_concerns(path: Path) -> None:
    """A watch goes on while others come and go, whoever it is that sees them."""
    file = SharedFile(path, "json")
    file.look(LONG)
    cursor = file.watch(OURS, None, LONG)
    with ThreadPoolExecutor(2) as pool:
        ours = pool.submit(file.watch, OURS, cursor, LONG)
        other = pool.submit(file.watch, OTHER, cursor, LONG)
        write(path, OURS)
        assert other.result(LONG) != cursor
        write(path, OURS, THIRD)
        file.look(LONG)
        assert not ours.done()
        write(path, THIRD)
        assert ours.result(LONG) != cursor


def test_what_has_come_and_gone_is_told_if_anybody_has_seen_it(path: Path) -> None:
    """Whoever was told of a state is woken when it is over, also if it is as it was before."""
    file = SharedFile(path, "json")
    file.look(LONG)
    cursor = file.watch(OURS, None, LONG)
    write(path, OTHER)
    assert OURS not in file.look(LONG).targets
    write(path, OURS, OTHER)
    assert OURS in file.look(LONG).targets
    told(file, OURS, cursor)


def test_another_spelling_concerns_too(path: Path) -> None:
    """The same address, written in another way, is what lists() refuses."""
    file = SharedFile(path, "json")
    file.look(LONG)
    cursor = file.watch("[fd00::7]:80", None, LONG)
    write(path, OURS, OTHER, "[FD00:0::7]:80")
    told(file, "[fd00::7]:80", cursor)


def test_a_file_that_breaks_concerns_all_and_wakes_nobody_twice(path: Path) -> None:
    """What cannot be read is news once; so is what can be read again."""
    file = SharedFile(path, "json")
    file.look(LONG)
    cursor = file.watch(OURS, None, LONG)
    for broken in (lambda: path.write_text("[{"), path.unlink):
        broken()
        now = told(file, OURS, cursor)
        for _ in range(2):
            with pytest.raises((FormatError, FileNotFoundError)):
                file.look(LONG)
        assert file.watch(OURS, now, SHORT) == now
        cursor = now
    write(path, OURS, OTHER)
    told(file, OURS, cursor)


def test_a_cursor_of_another_life_is_worth_nothing(path: Path) -> None:
    """After a restart nobody knows what has changed."""
    file, later = SharedFile(path, "json"), SharedFile(path, "json")
    for one in (file, later):
        one.look(LONG)
    told(later, OURS, file.watch(OURS, None, LONG))


def test_a_cursor_that_is_too_old_is_worth_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has missed more than is remembered is told that all may have changed."""
    monkeypatch.setattr(shared_file_module, "REMEMBERED", 3)
    file = SharedFile(path, "json")
    file.look(LONG)
    cursor = file.watch(OURS, None, LONG)
    for number in range(3):
        write(path, OURS, f"a:{number}")
        file.look(LONG)
    write(path, OURS)
    file.look(LONG)
    told(file, OURS, cursor)


def test_a_look_that_hangs_holds_up_nobody_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for the look of another gets an error when its time is over; nothing stale."""
    file = SharedFile(path, "json")
    file.look(LONG)
    cursor = file.watch(OURS, None, LONG)
    hung, let_go = threading.Event(), threading.Event()

    def hang(one: Path) -> bytes:
        content = read_plain(one)
        hung.set()
        assert let_go.wait(LONG)
        return content

    monkeypatch.setattr(shared_file_module, "LOOK_TIMEOUT", 0.01)
    monkeypatch.setattr(shared_file_module, "read_plain", hang)
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(file.look, LONG)
        assert hung.wait(LONG)
        write(path, OTHER)
        with pytest.raises(TimeoutError, match=r"an earlier look at it has not ended for 0\.01 s"):
            file.look(0.01)
        assert file.watch(OURS, cursor, SHORT) == cursor
        let_go.set()
        assert OURS in looking.result(LONG).targets, "as it was when that look asked"
    told(file, OURS, cursor)  # the change came after it had read


def test_nobody_polls_for_nobody(path: Path) -> None:
    """The thread that looks for changes ends when the last watch has ended."""
    file = SharedFile(path, "json")
    cursor = file.watch(OURS, None, LONG)
    file.watch(OURS, cursor, 0.01)
    wait_until(lambda: not file._polled, "it has ended")
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(file.watch, OURS, cursor, LONG)
        wait_until(lambda: file._polled, "it runs again")
        file.look(LONG)
        write(path, OTHER)
        assert again.result(LONG) != cursor


def test_all_registries_of_a_file_share_its_looks(path: Path) -> None:
    """As long as somebody uses it, there is one for each path."""
    first = shared_file(path, "json")
    assert shared_file(path, "json") is first
    assert shared_file(path.with_name("u.json"), "json") is not first


@pytest.mark.parametrize("seed", range(8))
def test_watching_misses_nothing(path: Path, seed: int) -> None:
    """As the agent does it: whatever order things happen in, the last word is the truth."""
    file, over = SharedFile(path, "json"), threading.Event()
    words: dict[str, bool] = {}

    def follow(target: str) -> None:
        cursor = None
        while not over.is_set():
            cursor = file.watch(target, cursor, LONG)
            words[target] = target in file.look(LONG).targets

    everyone = [f"10.0.1.{number}:80" for number in range(8)]
    threads = [threading.Thread(target=follow, args=(each,), daemon=True) for each in everyone]
    for thread in threads:
        thread.start()
    for chosen in _choices(random.Random(seed), everyone):
        write(path, *chosen)
    last = frozenset(chosen)
    wait_until(
        lambda: words == {each: each in last for each in everyone}, "each knows how it stands"
    )
    over.set()
    write(path, *(set(everyone) - last))
    for thread in threads:
        thread.join(LONG)


def _choices(chance: random.Random, everyone: list[str]) -> Iterator[list[str]]:
    for _ in range(60):
        yield [each for each in everyone if chance.random() < 0.5]
        time.sleep(chance.choice((0.0, 0.001, 0.02)))
