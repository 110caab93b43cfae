"""Which processes and interpreters are waited for, and what names an app through all of them."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.app_server import GUNICORN, SHARED, UVICORN, Server, Start, servers
from tests.integration.test_app_fork import run
from tests.integration.test_app_servers import FLASK

HOOKED = """
work = Work(hook_timeout=60)
work.on_stop(lambda: Path(f"stopped-{os.getpid()}").touch())
with work.task():
    pass

def stopped():
    work.ask(stop=True)
    until(work.settled)
    assert work.trouble() is None
    assert work.stopped
    return {int(path.name[8:]) for path in Path().glob("stopped-*")}
"""

STRANGE_CHILDREN = {
    "pool": """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))
assert list(pool.map(abs, [-1, -2])) == [1, 2]
end = pool.shutdown
""",
    "multiprocessing": """
import multiprocessing
process = multiprocessing.get_context("fork").Process(target=signal.pause)
process.start()
end = process.kill
""",
    "fork": """
pid = child(signal.pause)
end = lambda: os.kill(pid, signal.SIGKILL)
""",
    "fork and exec": """
pid = child(lambda: os.execv("/bin/sleep", ["sleep", "60"]))
until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes())
end = lambda: os.kill(pid, signal.SIGKILL)
""",
    "preexec_fn": """
import subprocess
process = subprocess.Popen(["sleep", "60"], preexec_fn=os.getpid)
end = lambda: (process.kill(), process.wait())
""",
    "grandchild": """
reading, writing = os.pipe()
succeeded(child(lambda: os.write(writing, b"%d" % child(signal.pause))))
pid = int(os.read(reading, 20))
end = lambda: os.kill(pid, signal.SIGKILL)
""",
}


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("name", STRANGE_CHILDREN)
def test_a_child_that_is_no_worker_is_not_waited_for(
    tmp_path: Path, name: str, *, shared: bool
) -> None:
    """It has never counted, so it has no hook to run, and nobody waits for one."""
    hooked = HOOKED.replace("Work(", 'Work("work", ') if shared else HOOKED
    run(
        f"""
{hooked}
{STRANGE_CHILDREN[name]}
assert stopped() == {{os.getpid()}}
assert busy(work) == {{}}
end()
""",
        tmp_path,
    )


def test_a_child_that_counts_has_the_hooks_from_then_on(tmp_path: Path) -> None:
    """A worker of a server that forks: waited for, also if it begins when all are stopped."""
    run(
        f"""
{HOOKED}
reading, writing = os.pipe()
def worker(late):
    if late:
        until(lambda: work._board.cells[2])
    with work.message():
        pass
    os.write(writing, b"x")
    signal.pause()
first = child(lambda: worker(False))
os.read(reading, 1)
assert stopped() == {{os.getpid(), first}}
second = child(lambda: worker(True))
os.read(reading, 1)
until(lambda: stopped() == {{os.getpid(), first, second}})
for pid in (first, second):
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
""",
        tmp_path,
    )


def test_a_child_that_registers_a_hook_is_waited_for(tmp_path: Path) -> None:
    """As gunicorn's post_fork does: the process says itself that it consumes."""
    run(
        """
work = Work()
reading, writing = os.pipe()
def worker():
    work.on_stop(lambda: Path("stopped").touch())
    os.write(writing, b"x")
    signal.pause()
pid = child(worker)
os.read(reading, 1)
work.ask(stop=True)
until(work.settled)
assert work.stopped
assert Path("stopped").exists()
os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
""",
        tmp_path,
    )


@pytest.mark.parametrize(
    "other",
    ['os.link("work", "other"); Work("other")', 'os.chdir("/tmp"); Work(here / "work")'],
    ids=["link", "directory"],
)
def test_two_works_on_one_file_are_one(tmp_path: Path, other: str) -> None:
    """However the file is called: neither writes the other's work off."""
    run(
        f"""
here = Path.cwd()
one = Work("work")
ticket = one.begin()
{other.rpartition("; ")[0]}
two = {other.rpartition("; ")[2]}
with two.message():
    assert busy(one) == busy(two) == {{"tasks": 1, "messages": 1}}
ticket.end()
assert busy(one) == busy(two) == {{}}
""",
        tmp_path,
    )


def test_two_threads_that_open_one_file_share_it(tmp_path: Path) -> None:
    """There is one board for both, and one place on it."""
    run(
        """
works = []
threads = [threading.Thread(target=lambda: works.append(Work("work"))) for _ in range(8)]
for t in threads: t.start()
for t in threads: t.join()
assert len({id(work._board) for work in works}) == 1
assert works[0].report()["process"]["pids"] == [os.getpid()]
""",
        tmp_path,
    )


def test_each_interpreter_of_a_process_counts(tmp_path: Path) -> None:
    """mod_wsgi and uWSGI run several in one process: none writes off what another has in hand."""
    run(
        """
try:
    import _interpreters as interpreters
    run = interpreters.exec
except ImportError:
    import _xxsubinterpreters as interpreters
    run = interpreters.run_string
others = [interpreters.create() for _ in range(3)]
for each in others:
    run(each, '''
from deregister_agent.app import Work
work = Work("work")
ticket = work.begin("messages")
''')
work = Work("work")
ticket = work.begin()
assert busy(work) == {"messages": 3, "tasks": 1}, busy(work)
assert work.report()["process"]["pids"] == [os.getpid()]
run(others[0], 'assert work.report()["in_flight"]["tasks"] == 1')
for each in others:
    run(each, "ticket.end()")
ticket.end()
assert busy(work) == {}
assert work.report()["started"] == 4
""",
        tmp_path,
    )


@pytest.mark.parametrize("when", ["before", "after"])
def test_counts_take_no_lock_that_was_put_in_place_of_a_real_one(tmp_path: Path, when: str) -> None:
    """As gevent and eventlet do: theirs hang between real threads, patched early or late."""
    imported = "import deregister_agent.app.rpc"
    run(
        f"""
import _thread, asyncio
def patch():
    original = threading.Lock, threading.RLock
    def refusing(make):
        def lock(*args):
            caller = sys._getframe(1).f_globals["__name__"]
            assert not caller.startswith("deregister_agent"), caller
            return make(*args)
        return lock
    threading.Lock, threading.RLock = map(refusing, original)
    _thread.allocate_lock = refusing(_thread.allocate_lock)
if {when == "before"}:
    for name in [name for name in sys.modules if name.startswith("deregister_agent")]:
        del sys.modules[name]
    patch()
    from deregister_agent.app import Work
else:
    patch()
{imported}
work = Work()
async def app(scope, receive, send):
    await asyncio.to_thread(int)
asyncio.run(work.asgi(app)({{"type": "http", "path": "/"}}, None, None))
with work.task():
    assert busy(work) == {{"tasks": 1}}
context = type("", (), {{"add_callback": lambda *_: True}})
part = deregister_agent.app.rpc._begin_call(work.begin, context)
part(); part()
assert busy(work) == {{}}
""",
        tmp_path,
    )


CHILDREN = {
    "subprocess": "import subprocess; start = lambda: work.start_process("
    "subprocess.Popen, ['cat'], stdin=subprocess.PIPE)",
    "spawn": "import multiprocessing; start = lambda: work.start_process("
    "multiprocessing.get_context('spawn').Process(target=time.sleep, args=(60,)))",
    "fork": "import multiprocessing; start = lambda: work.start_process("
    "multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,)))",
}


@pytest.mark.parametrize("name", CHILDREN)
def test_a_child_process_counts_until_it_has_exited(tmp_path: Path, name: str) -> None:
    """Whether or not anybody waits for it, or is told by a signal; and one that never came up."""
    run(
        f"""
work = Work()
{CHILDREN[name]}
first, second = start(), start()
assert busy(work) == {{"tasks": 2}}
os.kill(first.pid, signal.SIGKILL)
until(lambda: busy(work) == {{"tasks": 1}})
second.kill()
second.wait() if hasattr(second, "wait") else second.join()
until(lambda: busy(work) == {{}})
first.wait() if hasattr(first, "wait") else first.join()
if hasattr(first, "wait"):
    assert first.returncode == -signal.SIGKILL
    for each in (first, second):
        each.stdin.close()
try:
    import subprocess
    work.start_process(subprocess.Popen, ["/nowhere"])
except FileNotFoundError:
    until(lambda: busy(work) == {{}})
else:
    raise AssertionError("it has started nothing")
""",
        tmp_path,
    )


def test_a_child_that_nobody_could_follow_is_not_started(tmp_path: Path) -> None:
    """Where the host has no thread left, it would run on uncounted."""
    run(
        """
import threading
work, called = Work(), []
def none_left(_):
    raise RuntimeError("can't start new thread")
threading.Thread.start = none_left
try:
    work.start_process(lambda: called.append("it was started"))
except RuntimeError:
    assert (busy(work), called) == ({}, [])
else:
    raise AssertionError("it was started")
""",
        tmp_path,
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers that the test ends."""
    with servers(tmp_path) as run:
        yield run


def process_of(server: Server) -> dict[str, object]:
    """Return what the server says of its process once it answers."""
    server.until_in_flight()
    found = server.ask()[1]["process"]
    assert isinstance(found, dict)
    return found


LONE = {
    "alone": (GUNICORN, {}),
    "shared": (GUNICORN, SHARED),
    "preload": ((*GUNICORN, "--preload"), {}),
}


@pytest.mark.parametrize("name", LONE)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["recycled", "killed"])
def test_a_lone_workers_successor_has_its_mark(start: Start, name: str, how: int) -> None:
    """The service lives: only another run of the server has another mark."""
    command, env = LONE[name]
    server = start(FLASK, *command, "shop:app", **env)
    before = process_of(server)
    started = server.ask()[1]["started"]
    worker = max(before["pids"])  # type: ignore[call-overload]
    os.kill(worker, how)
    server.until(lambda: worker not in server.ask()[1]["process"]["pids"])
    assert process_of(server)["mark"] == before["mark"]
    assert server.ask()[1]["started"] >= started
    server.end()
    assert process_of(start(FLASK, *command, "shop:app", **env))["mark"] != before["mark"]


def test_a_lone_worker_that_is_stopped_has_a_stopped_successor(start: Start) -> None:
    """The wish is the instance's: a worker that dies does not start it again."""
    server = start(FLASK, *GUNICORN, "shop:app", TOKEN="t", **SHARED)
    token = {"Authorization": "Bearer t"}
    server.until(lambda: server.ask(**token)[0] == 200)
    assert server.ask("/-/work/stop", "POST", **token)[1]["stopped"] is True
    (worker,) = server.ask(**token)[1]["process"]["pids"]
    os.kill(worker, signal.SIGKILL)
    server.until(lambda: worker not in server.ask(**token)[1]["process"]["pids"])
    server.until(lambda: server.ask(**token)[1]["stopped"] is True)


def test_a_worker_that_answers_a_stop_has_run_its_own_hooks(start: Start) -> None:
    """Of preloaded workers the first request of one may be the stop itself."""
    server = start(FLASK, *GUNICORN, "--preload", "shop:app", TOKEN="t")
    token = {"Authorization": "Bearer t"}
    answers: list[tuple[int, dict[str, object]]] = []

    def answered() -> bool:
        answers.append(server.ask("/-/work/stop", "POST", **token))
        return True

    server.until(answered)
    status, report = answers[0]
    assert (status, report["stopped"]) == (200, True)
    # The master has made the Work, and the hook with it; the other is the worker.
    assert len(list(server.folder.glob("stopped-*"))) == 2


BRIDGED = (
    FLASK
    + """
from asgiref.wsgi import WsgiToAsgi
app = WsgiToAsgi(app)
"""
)


def test_a_bridge_that_says_many_processes_is_believed_where_there_are(start: Start) -> None:
    """One process that serves through a bridge knows that it is alone."""
    server = start(BRIDGED, *UVICORN)
    server.until_in_flight()
    assert server.ask("/job") == (200, 1)
    server.until_in_flight(tasks=1)
    server.release()
    server.until_in_flight()


def test_several_processes_behind_a_bridge_are_unknown(start: Start) -> None:
    """Each counts for itself, and says so."""
    server = start(BRIDGED, *UVICORN, "--workers", "2")
    server.until(lambda: server.ask()[0] == 503)
    for _ in range(20):
        status, answer = server.ask()
        assert status == 503
        assert "serves the same port" in answer["error"]
