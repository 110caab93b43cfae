"""Replacing files and locking them."""

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from deregister_agent.host.files import locked, read_plain, remove_durably, replace_durably
from tests.apps.receivers import descriptors

HOLD = """
import sys
from pathlib import Path
from deregister_agent.host.files import locked
with locked(Path(sys.argv[1]), 5):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "targets.json"
    path.write_bytes(b"old")
    return path


class TestReplace:
    def test_content_is_replaced_by_a_new_file(self, path: Path) -> None:
        """Who has the old file open still reads all of the old content."""
        with path.open("rb") as reader:
            replace_durably(path, b"new and longer")
            assert reader.read() == b"old"
        assert path.read_bytes() == b"new and longer"
        assert list(path.parent.iterdir()) == [path]

    def test_creates_with_the_umask(self, tmp_path: Path) -> None:
        """A file that was not there gets the mode that any new file gets."""
        replace_durably(tmp_path / "new", b"x")
        (tmp_path / "other").touch()
        assert (tmp_path / "new").stat().st_mode == (tmp_path / "other").stat().st_mode

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
    def test_mode_is_kept(self, path: Path, mode: int) -> None:
        """The mode stays, whatever the umask."""
        path.chmod(mode)
        replace_durably(path, b"new")
        assert stat.S_IMODE(path.stat().st_mode) == mode

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_owner_is_kept(self, path: Path) -> None:
        """Owner and group stay."""
        os.chown(path, 12345, 54321)
        replace_durably(path, b"new")
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)

    def test_extended_attributes_are_kept(self, path: Path) -> None:
        """What the file system keeps beside the content stays: labels, ACLs."""
        try:
            os.setxattr(path, "user.note", b"kept")
        except OSError as e:
            if e.errno != errno.ENOTSUP:
                raise
            pytest.skip("no extended attributes here")
        replace_durably(path, b"new")
        assert os.getxattr(path, "user.note") == b"kept"

    def test_access_control_list_is_kept(self, path: Path) -> None:
        """An ACL is an attribute, in the kernel's own binary form (linux/posix_acl_xattr.h)."""
        entries = [(1, 6, -1), (2, 4, 12345), (4, 4, -1), (16, 4, -1), (32, 0, -1)]
        acl = (2).to_bytes(4, "little") + b"".join(
            tag.to_bytes(2, "little")
            + access.to_bytes(2, "little")
            + (who % 2**32).to_bytes(4, "little")
            for tag, access, who in entries
        )
        try:
            os.setxattr(path, "system.posix_acl_access", acl)
        except OSError as e:
            if e.errno != errno.ENOTSUP:
                raise
            pytest.skip("no access control lists here")
        replace_durably(path, b"new")
        assert os.getxattr(path, "system.posix_acl_access") == acl

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can label files")
    def test_a_security_label_is_kept(self, path: Path) -> None:
        """SELinux keeps its label in an attribute; it can be set where SELinux is off."""
        label = b"system_u:object_r:httpd_config_t:s0\0"
        try:
            os.setxattr(path, "security.selinux", label)
        except OSError as e:
            if e.errno not in {errno.ENOTSUP, errno.EPERM, errno.EINVAL}:
                raise
            pytest.skip("no such label can be set here")
        replace_durably(path, b"new")
        assert os.getxattr(path, "security.selinux") == label

    def test_a_symbolic_link_stays(self, path: Path, tmp_path: Path) -> None:
        """What a link points to is replaced, in its own folder."""
        (tmp_path / "far").mkdir()
        link = tmp_path / "far" / "link"
        link.symlink_to(path)
        replace_durably(link, b"new")
        assert link.is_symlink()
        assert path.read_bytes() == b"new"
        assert list(link.parent.iterdir()) == [link]

    @pytest.mark.parametrize("step", ["fsync", "fchmod", "listxattr", "rename"])
    def test_failure_leaves_no_trace(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        """When any step fails, only the old content is there, and the error has a path."""

        def failing(*_: object, **__: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        if step == "rename":
            monkeypatch.setattr(Path, "replace", failing)
        else:
            monkeypatch.setattr(os, step, failing)
        with pytest.raises(OSError, match=r"targets\.json"):
            replace_durably(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(path.parent.iterdir()) == [path]

    def test_synced_before_and_after_the_rename(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """First the content reaches the disk, then the name, then the folder."""
        steps: list[str] = []
        fsync, replace = os.fsync, Path.replace

        def synced(descriptor: int) -> None:
            is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            steps.append("folder" if is_folder else "content")
            fsync(descriptor)

        def renamed(old: Path, new: Path) -> Path:
            steps.append("name")
            return replace(old, new)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(Path, "replace", renamed)
        replace_durably(path, b"new")
        assert steps == ["content", "name", "folder"]

    def test_refuses_what_is_no_file(self, tmp_path: Path) -> None:
        """A folder or a pipe is not replaced by a file."""
        os.mkfifo(tmp_path / "pipe")
        for odd in (tmp_path, tmp_path / "pipe"):
            with pytest.raises(OSError, match=odd.name):
                replace_durably(odd, b"x")
        assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)

    def test_missing_folder_is_an_error(self, tmp_path: Path) -> None:
        """Folders are not made."""
        with pytest.raises(FileNotFoundError, match="absent"):
            replace_durably(tmp_path / "absent" / "file", b"x")

    def test_remove(self, path: Path) -> None:
        """Removing twice is the same as once."""
        remove_durably(path)
        remove_durably(path)
        assert not path.exists()


class TestLock:
    def test_threads_take_turns(self, path: Path) -> None:
        """Of many read-and-writes by threads of one process, none is lost."""
        path.write_text("0")

        def add() -> None:
            for _ in range(10):
                with locked(path, 30):
                    replace_durably(path, str(int(path.read_text()) + 1).encode())

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert path.read_text() == "40"

    def test_another_process_keeps_us_out_until_it_dies(self, path: Path) -> None:
        """A lock held elsewhere ends the wait with an error; a killed owner holds none."""
        command = [sys.executable, "-c", HOLD, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            try:
                assert other.stdout is not None
                assert other.stdout.readline() == b"held\n"
                with pytest.raises(TimeoutError, match=r"\.targets\.json\.lock"), locked(path, 0.1):
                    pytest.fail("locked twice")
            finally:
                other.kill()
        with locked(path, 5):
            pass

    def test_a_link_and_its_target_share_the_lock(self, path: Path, tmp_path: Path) -> None:
        """Two names of one file cannot be locked at once."""
        (tmp_path / "far").mkdir()
        link = tmp_path / "far" / "link"
        link.symlink_to(path)
        with locked(link, 1), pytest.raises(TimeoutError), locked(path, 0):
            pytest.fail("locked twice")

    def test_an_error_inside_goes_through_unchanged(self, path: Path) -> None:
        """The lock adds nothing to an error of its user, and is free after it."""
        mine = OSError(errno.EIO, "mine")
        with pytest.raises(OSError, match="mine") as caught, locked(path, 1):
            raise mine
        assert caught.value is mine
        with locked(path, 0):
            pass

    def test_missing_folder_is_an_error(self, tmp_path: Path) -> None:
        """Where no lock can be made, nothing is done."""
        with pytest.raises(FileNotFoundError, match="absent"), locked(tmp_path / "absent" / "x", 1):
            pytest.fail("locked")

    def test_descriptors_are_closed(self, path: Path) -> None:
        """Neither locking nor replacing leaves anything open."""
        with locked(path, 1):
            assert descriptors(str(path.parent)) == [str(path.with_name(".targets.json.lock"))]
            replace_durably(path, b"new")
        assert descriptors(str(path.parent)) == []


class TestReadPlain:
    """Files that others write, or have put there in the place of one."""

    def test_a_file_and_a_link_to_one(self, path: Path) -> None:
        """What it holds, up to the limit."""
        link = path.with_name("link")
        link.symlink_to(path)
        assert read_plain(link) == b"old"
        assert read_plain(path, 3) == b"old"
        with pytest.raises(OSError, match="more than 2 bytes") as caught:
            read_plain(path, 2)
        assert caught.value.filename == str(path)

    def test_what_is_no_plain_file_is_refused_at_once(self, tmp_path: Path) -> None:
        """Nobody writes into the FIFO, nothing listens on the socket, the device has no end."""
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "link").symlink_to(tmp_path / "fifo")
        for path, what in (
            (tmp_path / "fifo", "a FIFO"),
            (tmp_path / "link", "a FIFO"),
            (tmp_path, "a folder"),
            (Path("/dev/zero"), "a device"),
        ):
            with pytest.raises(OSError, match=what) as caught:
                read_plain(path)
            assert caught.value.filename == str(path)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(tmp_path / "socket"))
            with pytest.raises(OSError, match=str(tmp_path)):
                read_plain(tmp_path / "socket")

    def test_none_that_was_refused_is_left_open(self, tmp_path: Path) -> None:
        """A look that fails once a second would use up all descriptors."""
        os.mkfifo(tmp_path / "fifo")
        before = descriptors("fifo")
        with pytest.raises(OSError, match="FIFO"):
            read_plain(tmp_path / "fifo")
        assert descriptors("fifo") == before
