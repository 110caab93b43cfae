"""
Find workers of Nginx that may serve the same clients, but are not those of its master.

During an upgrade of the binary, after a restart while old workers still had something
to finish, and where a master was killed, such workers know an older configuration, and
no reload reaches them.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from deregister_agent.host import pids
from deregister_agent.host.sockets import LISTENING
from deregister_agent.registries.nginx.processes import (
    Master,
    NginxError,
    Worker,
    Workers,
    held_by,
    parent_of,
    title_of,
    worker_of,
)
from deregister_agent.registries.nginx.titles import command_of, is_worker


def with_foreign(master: Master, own: Workers) -> Workers:
    """
    Return the workers of *master* and the retiring workers of masters before it.

    Raises NginxError if a worker of another master accepts clients of the same ports.
    """
    found = [worker for worker in _foreign(master) if worker.id not in own.ids]
    serving = [w for w in found if not w.retiring and _may_share_a_port(w, own)]
    if serving:
        pids = ", ".join(str(worker.pid) for worker in serving)
        raise NginxError(
            f"nginx workers {pids} serve beside those of master {master.pid}, and no reload "
            "reaches them: finish the upgrade of the binary, or end what a killed master has left"
        )
    retiring = tuple(worker for worker in found if worker.retiring)
    return Workers(own.active, (*own.retiring, *retiring), own.unnamed)


def _foreign(master: Master) -> Iterator[Worker]:
    """Yield every worker whose master has the same command line, or whose master has gone."""
    program = pids.name(master.pid)
    for entry in os.listdir("/proc"):  # noqa: PTH208 - many times as fast, and done often
        if not entry.isdigit() or pids.name(int(entry)) != program:
            continue
        with suppress(NginxError):  # the process has exited in the meantime, or hides
            title = title_of(int(entry))
            if not is_worker(title):
                continue
            parent = parent_of(int(entry))
            if parent == master.pid:
                continue
            above = command_of(title_of(parent))
            same_space = _space(int(entry)) in {None, _space(master.pid)}
            if same_space and above in {None, master.command}:
                yield worker_of(int(entry), title)


def _space(pid: int) -> int | None:
    """Return the pid namespace of a process; None where this user may not see it."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/ns/pid").stat().st_ino
    return None


def _may_share_a_port(worker: Worker, own: Workers) -> bool:
    """Tell whether *worker* may accept clients of the same port: unless it is seen not to."""
    theirs = _ports(worker)
    if theirs is not None and not theirs:
        return False
    # Each worker has all the ports of its master; a worker that has just exited shows none.
    ours = next((ports for one in own.active if (ports := _ports(one))), None)
    return theirs is None or ours is None or not theirs.isdisjoint(ours)


def _ports(worker: Worker) -> set[int] | None:
    """Return the TCP ports that a worker listens on; None where its sockets cannot be read."""
    listening = held_by(worker, LISTENING)
    if listening is not None:
        return {one.local_port for one in listening}
    return None if title_of(worker.pid) else set()  # an exited worker listens no more
