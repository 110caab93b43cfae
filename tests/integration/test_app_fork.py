"""Forks, threads of several processes, and processes that die at any moment."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRELUDE = """
import ctypes, os, signal, sys, threading, time
from pathlib import Path
from deregister_agent.app import UnknownWorkError, Work

def busy(work):
    return {k: n for k, n in work.report()["in_flight"].items() if n}

def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)

def child(job):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            job()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return pid

def succeeded(pid):
    assert os.waitpid(pid, 0)[1] == 0
"""


def run(code: str, tmp_path: Path) -> None:
    """Run a script in a process of its own, where forking disturbs no other test."""
    script = subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = script.communicate(timeout=100)
        assert (script.returncode, said) == (0, "")
    finally:
        # Its children too: a script that fails leaves them waiting.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(script.pid, signal.SIGKILL)
        script.wait(10)
        for pipe in (script.stdout, script.stderr):
            assert pipe
            pipe.close()


def test_a_child_does_not_inherit_what_its_parent_has_in_hand(tmp_path: Path) -> None:
    """The parent's ticket, ended in the child too, ends once; both see the sum."""
    run(
        """
work = Work()
ticket = work.begin()
def job():
    assert busy(work) == {"tasks": 1}
    ticket.end()
    assert busy(work) == {"tasks": 1}
    with work.message():
        assert busy(work) == {"tasks": 1, "messages": 1}
        assert set(work.report()["process"]["pids"]) == {os.getppid(), os.getpid()}
succeeded(child(job))
assert busy(work) == {"tasks": 1}
ticket.end()
assert busy(work) == {}
assert work.report()["process"]["pids"] == [os.getpid()]
assert work.report()["started"] == 2
""",
        tmp_path,
    )


def test_a_fork_amid_counting_threads_does_not_hang_the_child(tmp_path: Path) -> None:
    """Locks that other threads held at the fork do not exist for the child."""
    run(
        """
work, over = Work(), threading.Event()
def count():
    while not over.is_set():
        with work.task():
            work.is_idle()
threads = [threading.Thread(target=count) for _ in range(3)]
for t in threads: t.start()
def job():
    with work.message():
        assert work.report()["in_flight"]["messages"] >= 1
pids = [child(job) for _ in range(30)]
for pid in pids: succeeded(pid)
over.set()
for t in threads: t.join()
assert busy(work) == {}
""",
        tmp_path,
    )


def test_no_count_is_lost_between_processes(tmp_path: Path) -> None:
    """Four processes of three threads each leave neither a rest nor a debt."""
    run(
        """
work = Work()
def count():
    for _ in range(3000):
        with work.task():
            pass
def job():
    threads = [threading.Thread(target=count) for _ in range(3)]
    for t in threads: t.start()
    for t in threads: t.join()
pids = [child(job) for _ in range(4)]
for pid in pids: succeeded(pid)
assert work.report()["started"] == 36000
assert busy(work) == {}
""",
        tmp_path,
    )


def test_work_that_wanders_between_processes_is_never_unseen(tmp_path: Path) -> None:
    """
    While one piece of work is handed from process to process, no look says idle.

    The next holder begins before the last one ends, so at each moment somebody has it.
    """
    run(
        """
work, n = Work(), 3
pipes = [os.pipe() for _ in range(n)]
def hold(i):
    def job():
        ticket = None
        while os.read(pipes[i][0], 1) == b"x":
            ticket = work.begin()
            os.write(acks[i][1], b"y")
            assert os.read(ends[i][0], 1) == b"e"
            ticket.end()
    return job
acks, ends = [os.pipe() for _ in range(n)], [os.pipe() for _ in range(n)]
pids = [child(hold(i)) for i in range(n)]
over, looks, idle = threading.Event(), 0, 0
def look():
    global looks, idle
    while not over.is_set():
        looks += 1
        idle += work.is_idle()
os.write(pipes[0][1], b"x"); os.read(acks[0][0], 1)
watcher = threading.Thread(target=look); watcher.start()
holder = 0
for step in range(1, 3000):
    following = step % n
    os.write(pipes[following][1], b"x"); os.read(acks[following][0], 1)
    os.write(ends[holder][1], b"e")
    holder = following
over.set(); watcher.join()
assert looks > 100, looks
assert idle == 0, idle
for pid in pids: os.kill(pid, signal.SIGKILL)
for pid in pids: os.waitpid(pid, 0)
assert busy(work) == {}
""",
        tmp_path,
    )


def test_work_handed_on_between_two_reads_is_seen(tmp_path: Path) -> None:
    """The very moment at which a look could miss it: one slot is read, the next is not."""
    run(
        """
from deregister_agent.app.board import Board
work = Work()
asked, done = os.pipe(), os.pipe()
def job():
    os.read(asked[0], 1)
    work.begin()
    os.write(done[1], b"y")
    signal.pause()
pid = child(job)
until(lambda: len(work.report()["process"]["pids"]) == 2)
for reads in range(1, 5):
    ticket, left, counts = work.begin(), reads, Board._counts
    def hand_on(board, index, first):
        global left
        found = counts(board, index, first)
        left -= 1
        if left == 0:
            os.write(asked[1], b"x"); os.read(done[0], 1)
            ticket.end()
        return found
    Board._counts = hand_on
    assert not work.is_idle(), reads
    Board._counts = counts
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
    assert work.is_idle()
    pid = child(job)
    until(lambda: len(work.report()["process"]["pids"]) == 2)
os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
""",
        tmp_path,
    )


def test_a_process_that_cannot_be_seen_counts_while_it_holds_its_lock(tmp_path: Path) -> None:
    """As from another container: no such pid here, and still it is there."""
    run(
        """
from deregister_agent.app import memory
memory.exited = lambda pid, birth: True
work = Work()
def job():
    work.begin("messages")
    signal.pause()
pid = child(job)
until(lambda: busy(work) == {"messages": 1})
assert [busy(work) for _ in range(20)] == [{"messages": 1}] * 20
os.kill(pid, signal.SIGKILL)
until(lambda: busy(work) == {})
os.waitpid(pid, 0)
""",
        tmp_path,
    )


def test_a_dead_processs_work_counts_until_it_has_exited(tmp_path: Path) -> None:
    """A stopped process still has its work; a killed one has none, reaped or not."""
    run(
        """
work = Work()
def job():
    work.begin("messages")
    signal.pause()
pid = child(job)
until(lambda: busy(work) == {"messages": 1})
os.kill(pid, signal.SIGSTOP)
os.waitpid(pid, os.WUNTRACED)
assert busy(work) == {"messages": 1}
os.kill(pid, signal.SIGKILL)
until(lambda: busy(work) == {})
assert Path(f"/proc/{pid}").exists()  # a zombie, until waited for
assert work.report()["started"] == 1
os.waitpid(pid, 0)
""",
        tmp_path,
    )


def test_a_lock_that_was_lost_does_not_end_the_work(tmp_path: Path) -> None:
    """A process that has closed all its files, as daemons do, still counts: it is there."""
    run(
        """
work = Work("work")
def job():
    work.begin("messages")
    os.closerange(3, 100)
    signal.pause()
pid = child(job)
until(lambda: busy(work) == {"messages": 1})
until(lambda: not any("work" in os.readlink(f.path) for f in os.scandir(f"/proc/{pid}/fd")))
assert busy(work) == {"messages": 1}
os.kill(pid, signal.SIGKILL)
until(lambda: busy(work) == {})
os.waitpid(pid, 0)
""",
        tmp_path,
    )


def test_a_child_that_cannot_join_makes_the_answer_unknown(tmp_path: Path) -> None:
    """Its work cannot be seen by anybody, so nobody says idle any more."""
    run(
        """
import logging
logging.disable()
work = Work()
def daemonize():
    os.closerange(3, 100)
    succeeded(child(lambda: work.begin()))
succeeded(child(daemonize))
try:
    work.report()
except UnknownWorkError as e:
    assert "could not be counted" in str(e)
else:
    raise AssertionError("it pretends to know")
""",
        tmp_path,
    )


def test_a_server_that_forks_without_pythons_hooks_is_counted_right(tmp_path: Path) -> None:
    """As from C: the child takes its own place when it first counts."""
    run(
        """
work = Work()
ticket = work.begin()
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    ticket.end()
    with work.message():
        good = busy(work) == {"tasks": 1, "messages": 1}
    os._exit(0 if good else 1)
succeeded(pid)
assert busy(work) == {"tasks": 1}
""",
        tmp_path,
    )


def test_a_process_replaced_by_exec_has_nothing_in_hand(tmp_path: Path) -> None:
    """The new program has the old one's pid and start time, and not its work."""
    run(
        """
work = Work("work")
if "again" in sys.argv:
    assert busy(work) == {}
else:
    work.begin()
    assert busy(work) == {"tasks": 1}
    code = Path("/proc/self/cmdline").read_text().split(chr(0))[4]
    os.execv(sys.executable, [sys.executable, "-c", code, "again"])
""",
        tmp_path,
    )


def test_a_port_of_its_own_is_taken_over(tmp_path: Path) -> None:
    """Of the processes with a shared file one answers for all; when it exits, another does."""
    run(
        """
import json, socket, urllib.request
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
def job():
    work = Work("work")
    work.begin("messages")
    work.serve(port)
    signal.pause()
def ask():
    try:
        url = f"http://127.0.0.1:{port}/-/work"
        return json.load(urllib.request.urlopen(url, timeout=10))
    except OSError:
        return {"in_flight": {}, "process": {"pids": []}}
pids = [child(job) for _ in range(3)]
until(lambda: ask()["in_flight"].get("messages") == 3)
for left in (2, 1):
    for pid in pids:
        if any("socket" in os.readlink(f.path) for f in os.scandir(f"/proc/{pid}/fd")):
            break
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0); pids.remove(pid)
    until(lambda: ask()["in_flight"].get("messages") == left)
    assert set(ask()["process"]["pids"]) == set(pids)
os.kill(pids[0], signal.SIGKILL); os.waitpid(pids[0], 0)
""",
        tmp_path,
    )


def test_a_child_does_not_keep_its_parents_port(tmp_path: Path) -> None:
    """Otherwise callers would wait for an answer that nobody gives."""
    run(
        """
import socket
reading, writing = os.pipe()
def parent():
    port = Work().serve(0)
    child(lambda: (os.write(writing, b"%d %d" % (os.getpid(), port)), signal.pause()))
succeeded(child(parent))
pid, port = map(int, os.read(reading, 100).split())
try:
    socket.create_connection(("127.0.0.1", port), timeout=10)
except ConnectionRefusedError:
    pass
else:
    raise AssertionError("somebody still listens")
finally:
    os.kill(pid, signal.SIGKILL)
""",
        tmp_path,
    )


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_a_worker_that_listens_no_more_but_has_a_connection_is_seen(
    tmp_path: Path, *, unix: bool
) -> None:
    """One that a reload has told to go closes its listener first; its request goes on."""
    run(
        f"""
import socket
if {unix}:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("app.sock"); listener.listen()
    other = socket.socket(socket.AF_UNIX)
    other.bind("other.sock"); other.listen()
else:
    listener = socket.create_server(("127.0.0.1", 0))
    other = socket.create_server(("127.0.0.1", 0))
client = socket.socket(listener.family)
client.connect(listener.getsockname())
told = os.pipe(), os.pipe()

def old():
    Work()
    connection, _ = listener.accept()
    listener.close(); other.close(); client.close()
    os.write(told[0][1], b"x")
    os.read(told[1][0], 1)
    connection.close()
    os.write(told[0][1], b"x")
    signal.pause()

def new():
    work = Work()
    other.close(); client.close()
    for _ in (leaving, stranger):
        os.read(told[0][0], 1)
    try:
        work.report()
    except UnknownWorkError as e:
        assert f"process {{leaving}} serves the same port" in str(e), e
    else:
        raise AssertionError("it calls itself alone")
    os.write(told[1][1], b"x")
    os.read(told[0][0], 1)
    assert busy(work) == {{}}

def elsewhere():
    Work()
    listener.close(); client.close()
    os.write(told[0][1], b"x")
    signal.pause()

leaving, stranger = child(old), child(elsewhere)
listener_of_new = child(new)
listener.close(); other.close()
succeeded(listener_of_new)
for pid in (leaving, stranger):
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
""",
        tmp_path,
    )


@pytest.mark.parametrize("content", [b"something else", b"x" * 65664])
def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """It is refused by name, and nothing in it changes."""
    (tmp_path / "work").write_bytes(content)
    run(
        """
try:
    Work("work")
except ValueError as e:
    assert "work is not a work file" in str(e), e
else:
    raise AssertionError("it was taken")
""",
        tmp_path,
    )
    assert (tmp_path / "work").read_bytes() == content
