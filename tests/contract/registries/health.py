"""Three instances, whose health checks two balancers poll all the time."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from deregister_agent.demo.stage import free_ports
from deregister_agent.model import Instance
from deregister_agent.registries.health.registry import Health, Options, build
from tests.contract.registries import World
from tests.servers.admin import Asked, Said, as_json, serving
from tests.servers.child import wait_until
from tests.servers.poller import Balancer

EVERY = 0.5
BALANCERS = ("127.0.0.5", "127.0.0.6")


class App:
    """An app that says of itself what the test wants."""

    status = 200

    def answer(self, asked: Asked) -> Said:
        """Answer its own health check."""
        return as_json({"status": "UP"}, self.status)


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Give three instances that are polled, and one that is not."""
    ports = free_ports(4)
    with ExitStack() as stack:
        app = stack.enter_context(serving(App()))

        def registry(n: int, **more: Any) -> Health:
            options = Options(
                kind="health",
                listen=f"127.0.0.1:{ports[n]}",
                path="/up",
                app=f"{app}/healthz",
                polls=2,
                every=EVERY,
                marker=folder / f"orders-{n}.withdrawn",
                **more,
            )
            made = build(options, Instance(f"orders-{n}", "orders", "127.0.0.1", 8000 + n))
            stack.callback(made.close)
            made.lists()  # as the agent does when it starts: this begins to answer
            return made

        made = [registry(n) for n in range(3)]
        polling = [
            [stack.enter_context(Balancer(port, source)) for source in BALANCERS]
            for port in ports[:3]
        ]
        absent = registry(3, nobody="withdrawn")
        wait_until(lambda: not absent.lists(), "it has seen that nobody polls")

        def neighbours() -> int:
            return sum(all(one.up for one in balancers) for balancers in polling[1:])

        yield World(
            registry=made[0],
            relist=(folder / "orders-0.withdrawn").unlink,
            neighbours=neighbours,
            absent=absent,
            counts=False,
        )


WORLDS = {"health": world}
