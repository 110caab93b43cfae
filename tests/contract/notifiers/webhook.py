"""The webhook notifier, with a server of the test behind it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deregister_agent.config.options import Secret
from deregister_agent.model import Event
from deregister_agent.notifiers.webhook import Options, build
from tests.apps.receivers import ORDERS, event, receiving

from . import World


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Give a webhook to a real server."""
    secret = folder / "secret"
    secret.write_text("whsec_bm90IGEgcmVhbCBzZWNyZXQsIGJ1dCBsb25n\n")
    with receiving() as server:
        options = Options(kind="webhook", url=server.url, secret=Secret(file=secret))

        def refuse() -> Event:
            server.status = 500
            return event()

        yield World(
            build(options, ORDERS),
            event(),
            lambda: bool(server.sent) and server.status == 204,
            refuse,
        )
