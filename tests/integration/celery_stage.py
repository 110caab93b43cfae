"""What the tests of the celery probe share: a probe of a worker, and what it tells."""

import json
import sys
from contextlib import suppress
from pathlib import Path

from deregister_agent.errors import ProbeError
from deregister_agent.model import Instance, Reading
from deregister_agent.probes.celery import Options, build
from deregister_agent.probes.celery.probe import CeleryProbe
from tests.apps.celery_shop import Worker
from tests.servers.child import wait_until

HERE = Path(__file__).parents[2]


def probe(asked: Worker, /, **more: object) -> CeleryProbe:
    """Return a probe of that worker; *more* are options."""
    table: dict[str, object] = {
        "kind": "celery",
        "app": "tests.apps.celery_shop",
        "worker": asked.name,
        "python": [sys.executable],
        "folder": str(HERE),
        "env": asked.environment,
        "timeout": 20.0,
    }
    options = Options.model_validate_json(json.dumps(table | more))
    return build(options, Instance("shop-1", "shop", "127.0.0.1", 80))


def told(asked: CeleryProbe) -> Reading:
    """Return what it tells, as soon as it does: on a busy machine a reply may come too late."""
    found: list[Reading] = []

    def is_told() -> bool:
        with suppress(ProbeError):
            found.append(asked.read(0.0))
        return bool(found)

    wait_until(is_told, "it tells", limit=60)
    return found[0]


def refusal(asked: CeleryProbe, holds: str) -> str:
    """Return why it does not tell, as soon as *holds* is in that; a reading before may succeed."""
    found: list[str] = []

    def is_refused() -> bool:
        try:
            asked.read(0.0)
        except ProbeError as e:
            found.append(str(e))
            return holds in found[-1]
        return False

    try:
        wait_until(is_refused, f"it says {holds!r}", limit=60)
    except AssertionError as e:
        raise AssertionError(f"{e}; it said {found[-1:]}") from None
    return found[-1]


def is_idle(asked: CeleryProbe) -> bool:
    """Tell whether a reading says so; what is not known is not idle."""
    try:
        return asked.read(0.0).idle
    except ProbeError:
        return False
