"""
Base images made of Debian's packages, for where no image registry can be reached.

``local/python`` is Debian with Python; ``local/servers`` has all servers of the stack in
one. ``local.env`` names them. Needs root and a Debian mirror, and takes some minutes once.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from compose.engine import CannotStart, Docker
from tests.servers.apt import ROOT, _mirror, fetch
from tests.servers.table import SERVERS, Server

SUITE = "bookworm"
PYTHON, ALL = f"local/python:{SUITE}", f"local/servers:{SUITE}"
IN_PYTHON = ("ca-certificates", "python3", "python3-venv")
IN_SERVERS = (
    "curl",
    "etcd-client",
    "etcd-server",
    "nginx",
    "prometheus",
    "rabbitmq-server",
    "redis-server",
)
DEBOOTSTRAP = Server("debootstrap", SUITE, ("debootstrap",), "usr/sbin/debootstrap", "debootstrap")


def make(docker: Docker) -> None:
    """Make those of the two images that *docker* does not have. Raises CannotStart."""
    there = docker.run(["images", "--format", "{{.Repository}}:{{.Tag}}"]).split()
    if {PYTHON, ALL} <= set(there):
        return
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".image-") as name:
        root = Path(name) / "root"
        try:
            _debootstrap(root)
            _import(docker, root, PYTHON)
            _add_servers(root)
            _import(docker, root, ALL)
        except subprocess.CalledProcessError as e:
            said = str(e.stdout)[-2000:]
            raise CannotStart(f"the base images cannot be made: {e.cmd} said:\n{said}") from e


def _debootstrap(root: Path) -> None:
    unpacked = fetch(DEBOOTSTRAP)
    program, include = unpacked / DEBOOTSTRAP.program, f"--include={','.join(IN_PYTHON)}"
    _run(
        [str(program), "--variant=minbase", include, SUITE, str(root), _mirror()],
        DEBOOTSTRAP_DIR=str(unpacked / "usr/share/debootstrap"),
    )


def _add_servers(root: Path) -> None:
    """Install the servers, and start none of them; Consul was in Debian up to 11."""
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    apt = ["chroot", str(root), "apt-get", "-qy"]
    _run([*apt, "update"])
    _run(
        [*apt, "install", "--no-install-recommends", *IN_SERVERS], DEBIAN_FRONTEND="noninteractive"
    )
    consul = SERVERS["consul"]
    shutil.copy(fetch(consul) / consul.program, root / consul.program)


def _import(docker: Docker, root: Path, image: str) -> None:
    left = [*root.glob("var/cache/apt/archives/*.deb"), *root.glob("var/lib/apt/lists/*_*")]
    for path in left:
        path.unlink()
    archive = root.with_suffix(".tar")
    _run(["tar", "--create", "--file", str(archive), "--directory", str(root), "."])
    docker.run(["import", str(archive), image])
    archive.unlink()


def _run(command: Sequence[str], **variables: str) -> None:
    subprocess.run(
        command,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
        check=True,
    )
