"""A whole agent in this process, on another socket, with a registry of its own."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deregister_agent.api.serve import prepare
from deregister_agent.config.load import validated
from deregister_agent.demo.stage import free_ports
from deregister_agent.engine.agent import Agent
from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.model import Instance, Phase
from deregister_agent.registries.agent.registry import FarAgent, Options, build
from deregister_agent.wiring import build_agent
from tests.contract.registries import World
from tests.servers.child import wait_until

LIMIT = 0.5


@contextmanager
def far_agent(folder: Path, ports: list[int]) -> Iterator[Agent]:
    """Run an agent with one instance for each port, listed in one file."""
    targets = folder / "targets.json"
    targets.write_text(json.dumps([{"targets": [f"127.0.0.1:{port}" for port in ports]}]))
    data = {
        "agent": {"journal": str(folder / "journal.db")},
        "server": {"listen": [f"unix:{folder}/far.sock"]},
        "instance": [
            {
                "name": f"orders-{n}",
                "service": "orders",
                "port": port,
                "registry": [{"kind": "file", "path": str(targets)}],
                "probe": [{"kind": "tcp"}],
            }
            for n, port in enumerate(ports)
        ],
    }
    config = validated(data, "the far agent")
    agent = build_agent(config)
    server = prepare(agent, config.server)
    agent.start()
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        for loop in agent.instances.values():
            wait_until(partial(_has_asked, loop), "it has asked")
        yield agent
    finally:
        server.stop()
        thread.join(30)
        server.close()


def _has_asked(loop: InstanceLoop) -> bool:
    return loop.known.registries[0].word is not None


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Give an agent with three instances."""
    ports = free_ports(4)
    url = f"http+unix://{quote(f'{folder}/far.sock', safe='')}"

    def registry(n: int, **more: Any) -> FarAgent:
        options = {"kind": "agent", "url": url} | more
        return build(Options(**options), Instance(f"orders-{n}", "orders", "127.0.0.1", ports[n]))

    def at(port: int) -> FarAgent:
        return registry(0, url=f"http://127.0.0.1:{port}", timeout=LIMIT)

    def targets() -> list[str]:
        return [t for g in json.loads((folder / "targets.json").read_text()) for t in g["targets"]]

    with far_agent(folder, ports[:3]) as agent:
        loop = agent.instances["orders-0"]

        def relist() -> None:
            loop.start_traffic("by hand", "operator")
            loop.wait(lambda drain: drain.phase is Phase.SERVING, 20)

        yield World(
            registry=registry(0),
            relist=relist,
            neighbours=lambda: sum(f"127.0.0.1:{port}" in targets() for port in ports[1:3]),
            absent=registry(3, absent="withdrawn"),
            silent=at,
            refused=at,
        )


WORLDS = {"agent": world}
