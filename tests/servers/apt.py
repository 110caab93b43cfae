"""
Fetches servers from Debian's archive and unpacks them, as any user and installing nothing.

apt gets folders of its own, so the machine's package lists stay as they are. The mirror
is the one the machine already uses; ``DEBIAN_MIRROR`` names one where it uses none.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.table import Server

ROOT = Path(__file__).resolve().parents[2] / ".servers"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
RELEASES = {"bullseye", "bookworm", "trixie", "forky", "sid"}
SUITES = RELEASES | {"oldoldstable", "oldstable", "stable", "testing", "unstable"}


class FetchFailed(Exception):  # noqa: N818 - it reads better where it is raised
    """A server could not be fetched; the message says what was tried and what came of it."""


def fetch(server: Server) -> Path:
    """Return the folder that *server* is unpacked in; fetch it if it is not there yet."""
    folder = ROOT / server.name
    with _lock():
        if not folder.is_dir():
            ROOT.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=ROOT, prefix=".new-") as new:
                _unpack(server, Path(new))
                (Path(new) / "root").rename(folder)
    return folder


@contextmanager
def _lock() -> Iterator[None]:
    """Let one process fetch at a time: parallel test workers ask for the same servers."""
    ROOT.mkdir(exist_ok=True)
    with (ROOT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpack(server: Server, new: Path) -> None:
    """Download the packages of *server* and unpack all of them into ``root`` in *new*."""
    options = _options(server.suite)
    (new / "root").mkdir()
    _run(["apt-get", *options, "update"], new)
    _run(["apt-get", *options, "download", *server.packages], new)
    for package in sorted(new.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(new / "root")], new)


def _options(suite: str) -> list[str]:
    """Return the options that give apt its own folders and one suite as its only source."""
    own = ROOT / ".apt" / suite
    (own / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (own / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    (own / "status").touch()
    sources = own / "debian.sources"
    sources.write_text(
        f"Types: deb\nURIs: {_mirror()}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n"
    )
    settings = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Dir::State": own,
        "Dir::State::lists": own / "lists",
        "Dir::State::status": own / "status",
        "Dir::Cache": own / "cache",
        "APT::Sandbox::User": "root",  # no change of user: the folders are the caller's
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    return ["-q", *(f"-o{key}={value}" for key, value in settings.items())]


def _mirror() -> str:
    """Return the URL of the Debian mirror that this machine's own apt is set up for."""
    if mirror := os.environ.get("DEBIAN_MIRROR"):
        return mirror
    if not (KEYRING.is_file() and shutil.which("apt-get")):
        raise FetchFailed(f"this needs apt-get and {KEYRING} (package debian-archive-keyring)")
    targets = _run(
        ["apt-get", "indextargets", "--no-release-info", "--format", "$(RELEASE) $(REPO_URI)"],
        ROOT,
    )
    for line in targets.splitlines():
        suite, _, url = line.partition(" ")
        if suite in SUITES:
            return url
    raise FetchFailed("apt on this machine has no Debian mirror; name one with DEBIAN_MIRROR")


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise FetchFailed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout
