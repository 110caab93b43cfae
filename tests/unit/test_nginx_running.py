"""Whether Nginx reads the files that the agent edits, while somebody replaces them."""

import threading
from pathlib import Path

from deregister_agent.registries.nginx.running import _differ

LOOKS = 5000


def test_a_file_that_is_replaced_is_still_one_file(tmp_path: Path) -> None:
    """Another agent's atomic replace between two looks is not another file."""
    path, over = tmp_path / "nginx.conf", threading.Event()
    path.write_text("0")

    def replace() -> None:
        while not over.is_set():
            fresh = tmp_path / "fresh"
            fresh.write_text("1")
            fresh.replace(path)

    other = threading.Thread(target=replace)
    other.start()
    try:
        assert not any(_differ(tmp_path / "." / "nginx.conf", path) for _ in range(LOOKS))
    finally:
        over.set()
        other.join()


def test_two_files_differ_and_what_cannot_be_seen_does_not(tmp_path: Path) -> None:
    """A link is the file that it means."""
    one, two, link = tmp_path / "one", tmp_path / "two", tmp_path / "link"
    one.write_text("same")
    two.write_text("same")
    link.symlink_to(one)
    assert _differ(one, two)
    assert not _differ(link, one)
    assert not _differ(tmp_path / "absent", one)
