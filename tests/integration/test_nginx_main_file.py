"""Which file a real master was started with, whatever its command line; and Angie's titles."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deregister_agent.errors import RegistryError
from deregister_agent.registries.nginx.main_file import main_file
from deregister_agent.registries.nginx.processes import Master
from tests.integration.nginx_stage import World, make_world
from tests.servers.child import Child, wait_until
from tests.servers.nginx import NEWEST, VERSIONS, program

GIVEN = [
    # arguments, and where it is started; {f} is the folder with nginx.conf
    ("-c {f}/nginx.conf", "/"),
    ("-c{f}/nginx.conf -q", "/"),
    ("-qc {f}/nginx.conf -e stderr", "/"),
    ("-c {f}/tmp/../nginx.conf -p relative", "{f}"),
    ("-p {f} -c nginx.conf", "/"),
    ("-p {f}/ -c ./tmp/../nginx.conf", "/tmp"),
    ("-c nginx.conf -p{f}", "/"),
    ("-p . -c nginx.conf", "{f}"),
    ("-p .. -c nginx.conf", "{f}/tmp"),
    ("-p ./tmp/ -c ../nginx.conf", "{f}"),
    ("-c /nowhere -c {f}/a(folder/nginx.conf", "/"),
    ("-p {f}/a(folder -c nginx.conf", "/"),
]
"""The opening bracket stands for a space: the arguments are split at spaces."""
BUILT_IN = [
    # of a program that was built with --prefix=. --conf-path=nginx.conf
    ("", "{f}"),
    ("-c tmp/../nginx.conf", "{f}"),
    ("-p {f}", "/"),
    ("-p tmp/..", "{f}"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "nginx"
    found.mkdir()
    return found


def started(stack: ExitStack, world: World, version: str, arguments: str, where: str) -> Child:
    """Start another master on the same file, in another way."""
    nginx = world.nginx
    nginx.kill()
    (nginx.folder / "a folder").mkdir()
    (nginx.folder / "a folder" / "nginx.conf").symlink_to(nginx.conf)
    (nginx.folder / "nginx.pid").unlink(missing_ok=True)
    words = [one.format(f=nginx.folder).replace("(", " ") for one in arguments.split()]
    command = [str(program(version, nginx.folder)), *words, "-g", "daemon off;"]
    cwd = where.format(f=nginx.folder)
    again = Child(["env", "-C", cwd, *command], nginx.folder / "again")
    stack.enter_context(again)
    pid_file = nginx.folder / "nginx.pid"
    again.wait_ready(lambda: pid_file.exists() and pid_file.read_text().strip() != "")
    return again


def is_held_to_that_file(world: World) -> None:
    """Check that the right file is worked with, and that a copy of it is refused and left alone."""
    copy = world.nginx.folder / "copy.conf"
    shutil.copy(world.nginx.conf, copy)
    other = world.nginx.registry(world.a.port, config=copy)
    with pytest.raises(RegistryError, match=r"was started with .*nginx.conf and not with .*copy"):
        other.withdraw()
    assert any("was started with" in said for said in other.advice())
    assert copy.read_bytes() == world.nginx.conf.read_bytes()
    registry = world.nginx.registry(world.a.port)
    assert not any("started with" in said for said in registry.advice())
    snapshot = registry.snapshot()
    registry.withdraw()
    assert (registry.lists(), world.reaches_a()) == (False, False)
    registry.restore(snapshot)
    assert (registry.lists(), world.reaches_a()) == (True, True)


@pytest.mark.parametrize(("arguments", "where"), GIVEN)
def test_a_file_that_is_given(arguments: str, where: str, folder: Path) -> None:
    """Absolute, relative to a prefix, and to one that is relative itself; the last one counts."""
    with ExitStack() as stack:
        world = make_world(stack, VERSIONS[-1], folder)
        started(stack, world, VERSIONS[-1], arguments, where)
        is_held_to_that_file(world)


@pytest.mark.parametrize(("arguments", "where"), BUILT_IN)
def test_a_file_that_was_built_in(arguments: str, where: str, folder: Path) -> None:
    """Where no file or no prefix is given, the program itself says which."""
    with ExitStack() as stack:
        world = make_world(stack, NEWEST, folder)
        started(stack, world, NEWEST, arguments, where)
        is_held_to_that_file(world)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_distributions_have_built_in(version: str, folder: Path) -> None:
    """Without any argument it would be theirs: the same that ``nginx -V`` prints."""
    with ExitStack() as stack:
        world = make_world(stack, version, folder)
        master = Master(folder / "nginx.pid")
        master.command = "nginx -g daemon off;"
        assert main_file(master)[0] == "/etc/nginx/nginx.conf"
        master.command = "nginx -c sites/x.conf"
        assert main_file(master)[0] == "/usr/share/nginx/sites/x.conf"
        assert world.reaches_a()


@pytest.fixture
def angie(folder: Path) -> Iterator[World]:
    """Run Nginx under the name by which Angie calls its processes."""
    with ExitStack() as stack:
        world = make_world(stack, VERSIONS[-1], folder)
        renamed = folder / "angie"
        real = folder / "bin" / "nginx"
        source = real if real.exists() else program(VERSIONS[-1], folder)
        renamed.write_bytes(source.read_bytes().replace(b"nginx: ", b"angie: "))
        renamed.chmod(0o755)
        world.nginx.kill()
        (folder / "nginx.pid").unlink(missing_ok=True)
        wrapper = folder / "bin" / "run"
        command = [str(renamed)]
        if wrapper.exists():  # which tells it where its libraries are
            wrapper.write_text(wrapper.read_text().replace(str(real), str(renamed)))
            command = [str(wrapper)]
        arguments = ["-p", str(folder), "-c", "nginx.conf", "-g", "daemon off;"]
        again = Child([*command, *arguments], folder / "again")
        stack.enter_context(again)
        again.wait_ready((folder / "nginx.pid").exists)
        assert "angie: master process" in world.nginx.title(again.pid)
        yield world


def test_processes_with_the_name_of_angie(angie: World) -> None:
    """They are a master and workers like any others; what is no master is named."""
    wait_until(angie.reaches_a, "it answers")
    is_held_to_that_file(angie)


def test_another_master_is_named(folder: Path) -> None:
    """A pid file of php-fpm, whose title says "master process" as well, names no Nginx."""
    with ExitStack() as stack:
        world = make_world(stack, VERSIONS[-1], folder)
        script = "exec -a 'php-fpm: master process (/etc/php/fpm.conf)' sleep 60"
        other = Child(["bash", "-c", script], folder / "other")
        stack.enter_context(other)
        wait_until(lambda: world.nginx.title(other.pid).startswith("php-fpm"), "it has its name")
        (folder / "other.pid").write_text(f"{other.pid}\n")
        registry = world.nginx.registry(world.a.port, pid_file=folder / "other.pid")
        with pytest.raises(RegistryError, match=r"which is another one \(php-fpm:\)"):
            registry.withdraw()
