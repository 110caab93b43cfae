"""A day in the life of web apps: a real agent deploys each of them again and again under load."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from deregister_agent.config.backends import find
from deregister_agent.model import Instance, Outcome, Phase, Policy, StopRequest
from deregister_agent.ports import IdleProbe
from tests.apps import day_apps
from tests.apps.app_server import GUNICORN, SHARED, UVICORN, Server, servers
from tests.apps.day_load import Balancer, Diary, Load
from tests.integration.test_app_drains import documented
from tests.loops import LIMIT, running_loop, until
from tests.servers.child import wait_until

APPS: Mapping[str, tuple[str, Sequence[str], Mapping[str, str]]] = {
    "gunicorn, Flask": (day_apps.FLASK, (*GUNICORN, "-w", "2", "shop:app"), SHARED),
    "uvicorn, FastAPI": (day_apps.FASTAPI, UVICORN, {}),
    "hypercorn, Quart": (day_apps.QUART, ("hypercorn", "-b", "127.0.0.1:PORT", "shop:app"), {}),
    "daphne, Django": (
        day_apps.DJANGO,
        ("-m", "daphne", "-b", "127.0.0.1", "-p", "PORT", "shop:app"),
        {},
    ),
}
LAST = ("stream", "impatient", "background", "pool", "thread", "framework", "plain")
"""Which kind of work is the last in hand, deploy after deploy."""
MANY = [pytest.mark.nightly, pytest.mark.timeout(3000)]


def probe_of(server: Server, instance: Instance) -> IdleProbe:
    """Return the probe that the how-to names."""
    table = {
        "kind": "http_json",
        "url": f"http://127.0.0.1:{server.port}/-/work",
        "timeout": 20.0,
        **documented(),
    }
    backend = find("probes", "http_json")
    made: IdleProbe = backend.build(
        backend.Options.model_validate_json(json.dumps(table)), instance
    )
    return made


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("deploys", "name"),
    [
        *((3, name) for name in ("gunicorn, Flask", "uvicorn, FastAPI")),
        *(pytest.param(50, name, marks=MANY) for name in APPS),
    ],
)
def test_never_drained_with_a_piece_in_hand(tmp_path: Path, name: str, deploys: int) -> None:
    """
    Whatever clients leave, time out and come back: what "drained" has killed was idle.

    The app is killed as soon as it is drained, and the next one is started in its place: a
    piece that was in hand has begun for ever, and its end is in no line of the record.
    """
    app, command, env = APPS[name]
    with servers(tmp_path) as start:
        server = start(app, *command, **env)
        server.until_in_flight()
        instance = Instance("web", "web", "127.0.0.1", server.port)
        balancer, diary = Balancer(server.port), Diary(tmp_path / "record")
        policy = Policy(deadline=LIMIT, quiet=0.2, min_others=0)
        probe = probe_of(server, instance)
        with running_loop(tmp_path, instance, [balancer], [probe], policy) as loop:
            load = Load(server.port, balancer, diary, clients=8)
            try:
                for _, last in zip(range(deploys), itertools.cycle(LAST), strict=False):
                    wait_until(_more(diary, 20), "it is at work", limit=LIMIT)
                    with load.outlasted_by(last):
                        loop.stop_traffic(StopRequest())
                        drain = until(loop, lambda drain: drain.outcome is not None, "an outcome")
                    server.end()
                    assert drain.outcome is Outcome.DRAINED
                    assert diary.in_hand() == set()
                    server = start(app, *command, port=server.port, **env)
                    server.until_in_flight()
                    loop.start_traffic("deployed", "a test")
                    until(loop, lambda drain: drain.phase is Phase.SERVING, "serving")
            finally:
                load.stop()
        assert load.troubles == []
        assert all(load.ways.values()), load.ways


def _more(diary: Diary, pieces: int) -> Callable[[], bool]:
    before = diary.begun()
    return lambda: diary.begun() >= before + pieces
