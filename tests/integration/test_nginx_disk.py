"""Real Nginx on a disk that is really full, and on one that is really read-only."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.errors import RegistryError
from deregister_agent.registries.nginx.registry import NginxUpstream
from tests.integration.nginx_stage import World, make_world
from tests.servers.nginx import VERSIONS, conf_files

HTTP = "upstream app {{ include {folder}/disk/*.conf; server 127.0.0.1:{b}; }}"


def mount(*arguments: str) -> None:
    """Mount, or skip the test where this user may not."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this user may not mount a file system: {done.stderr.strip()}")


@dataclass
class Disk:
    """A file system of its own, below an Nginx that includes what is on it."""

    folder: Path

    @contextmanager
    def full(self) -> Iterator[None]:
        """Fill it up to the last byte, until the end of the block."""
        filler = self.folder / "filler"
        with filler.open("wb", buffering=0) as file:
            file.write(bytes(1 << 20))  # takes what there is room for
            with pytest.raises(OSError, match="No space left"):
                file.write(b"one more")
        yield
        filler.unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Refuse every write, root's too, until the end of the block."""
        mount("-o", "remount,ro", str(self.folder))
        yield
        mount("-o", "remount,rw", str(self.folder))


@pytest.fixture(params=VERSIONS)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[World, Disk]]:
    """Run Nginx with the file of server a on a small file system of its own."""
    disk = Disk(tmp_path / "disk")
    disk.folder.mkdir()
    with ExitStack() as stack:
        mount("-t", "tmpfs", "-o", "size=64k,nr_inodes=64", "none", str(disk.folder))
        stack.callback(subprocess.run, ["umount", "-l", str(disk.folder)], check=True)
        world = make_world(stack, str(request.param), tmp_path, http=HTTP)
        (disk.folder / "a.conf").write_text(f"server 127.0.0.1:{world.a.port};\n")
        world.reload()
        yield world, disk


TROUBLES = {
    "full": (Disk.full, r"No space left on device: .*/disk/.*; make room on its disk"),
    "read-only": (Disk.read_only, r"Read-only file system: .*/disk/.*; mount its folder so that"),
}


def check_refused(world: World, call: Callable[[], None], says: str) -> None:
    """Have *call* fail, with every file as it was and no reload."""
    before, reloads = conf_files(world.nginx.folder), world.nginx.reloads()
    with pytest.raises(RegistryError, match=says):
        call()
    assert conf_files(world.nginx.folder) == before
    assert world.nginx.reloads() == reloads
    assert not list(world.nginx.folder.glob("**/.*.tmp"))


@pytest.mark.parametrize("whose", ["the operator's", "the agent's own"])
@pytest.mark.parametrize("trouble", list(TROUBLES))
def test_a_disk_that_takes_nothing(trouble: str, whose: str, stage: tuple[World, Disk]) -> None:
    """No byte changes, Nginx serves on, the error says what to do; then it works, both ways."""
    world, disk = stage
    happens, says = TROUBLES[trouble]
    options: dict[str, Any] = {"file": disk.folder / "a.conf"} if whose == "the agent's own" else {}
    registry: NginxUpstream = world.nginx.registry(world.a.port, **options)
    first, snapshot = conf_files(world.nginx.folder), registry.snapshot()
    with happens(disk):
        check_refused(world, registry.withdraw, says)
        assert (registry.lists(), world.reaches_a()) == (True, True)
    registry.withdraw()
    assert (registry.lists(), world.reaches_a()) == (False, False)
    with happens(disk):
        check_refused(world, lambda: registry.restore(snapshot), says)
        assert world.get() == str(world.b.port)
    assert not world.reaches_a()
    registry.restore(snapshot)
    assert (registry.lists(), world.reaches_a()) == (True, True)
    assert conf_files(world.nginx.folder) == first
