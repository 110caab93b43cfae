"""What an admin API shows of an instance: listed, out, absent, or under another spelling."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.errors import RegistryError, UnrecognisedError
from deregister_agent.model import Instance, Listing, Look
from deregister_agent.registries.http.registry import Http, Options, build
from tests.servers.admin import Eureka, Nacos, NginxPlus, Said, as_json, serving

CONFIG = """
[[instance]]
name = "orders-1"
service = "orders"
port = 8001
[[instance.registry]]
kind = "http"
preset = "nacos"
url = "http://127.0.0.1:1/nacos"
{more}
[[instance.probe]]
kind = "tcp"
"""


def made(address: str = "127.0.0.1", **table: Any) -> Http:
    options = Options.model_validate_json(json.dumps({"kind": "http"} | table))
    return build(options, Instance("orders-1", "orders", address, 8001))


def plus(url: str, address: str = "127.0.0.1") -> Http:
    variables = {"upstream": "orders"}
    return made(address, preset="nginx_plus", url=f"{url}/api/9", variables=variables)


def upstream(*servers: str, down: bool = False) -> NginxPlus:
    entries = [{"id": n, "server": server, "down": down} for n, server in enumerate(servers)]
    return NginxPlus(entries)


def test_listed_then_out() -> None:
    """The read-back tells; whose withdrawal it is it does not."""
    system = Nacos()
    system.register("127.0.0.1", 8001)
    with serving(system) as url:
        one = made(preset="nacos", url=f"{url}/nacos")
        assert one.look() == Look(Listing.LISTED)
        one.withdraw()
        assert one.look() == Look(Listing.OUT)
        system.leave(8001)
        assert one.look() == Look(Listing.ABSENT)
        assert (one.lists(), one.snapshot(), list(one.look_alikes())) == (False, None, [])


def test_entries_of_others_only() -> None:
    """Absent, and the most alike comes first with the line to write; never more than five."""
    system = Nacos()
    for n in range(2, 8):
        system.register(f"10.0.0.{n}", 8080)
    system.register("10.0.0.9", 8001)
    with serving(system) as url:
        one = made(preset="nacos", url=f"{url}/nacos")
        assert one.look() == Look(Listing.ABSENT)
        alike = one.look_alikes()
        assert alike[0] == 'it has /ip 10.0.0.9, /port 8001: variables = { address = "10.0.0.9" }'
        assert len(alike) == 5
        assert 'variables = { address = "10.0.0.2", port = "8080" }' in alike[1]
        one.withdraw()
        assert all(entry["enabled"] for entry in system.entries)
        right = made(preset="nacos", url=f"{url}/nacos", variables={"address": "10.0.0.9"})
        assert right.look() == Look(Listing.LISTED)


def test_an_address_of_two_variables() -> None:
    """Each gets what it means; a port that is the same need not be written."""
    with serving(upstream("10.0.0.7:9", "[fd00::7]:8001")) as url:
        assert plus(url).look_alikes() == [
            'it has /server [fd00::7]:8001: variables = { host = "[fd00::7]" }',
            'it has /server 10.0.0.7:9: variables = { host = "10.0.0.7", port = "9" }',
        ]


def test_a_condition_without_a_variable() -> None:
    """Then the line is that of the condition itself."""
    where = {"/zone": "a", "/who": "{name}.{service}"}
    look: dict[str, Any] = {"path": "/", "entries": "", "where": where}
    look |= {"pointer": "/up", "listed": [True], "withdrawn": [False]}
    answer = as_json([{"zone": "b", "who": "orders-1.orders", "up": True}])
    with serving(Says(answer)) as url:
        one = made(url=url, look=look, withdraw={}, restore={})
        (alike,) = one.look_alikes()
        assert alike == 'it has /zone b, /who orders-1.orders: look.where."/zone" = "b"'


class Says:
    """Says one thing."""

    def __init__(self, said: Said) -> None:
        self.said = said

    def answer(self, asked: object) -> Said:
        del asked
        return self.said


@pytest.mark.parametrize(
    ("there", "address"),
    [
        ("[fd00:0:0::7]:8001", "fd00::7"),
        ("[::ffff:10.0.0.7]:8001", "10.0.0.7"),
        ("ORDERS.example.:8001", "orders.example"),
        ("10.0.0.7:08001", "10.0.0.7"),
    ],
)
def test_listed_in_another_spelling(there: str, address: str) -> None:
    """That is an error with the line to write, and no absence; where it is out it may be."""
    with serving(upstream(there, "10.0.0.8:8001")) as url:
        one = plus(url, address)
        for call in (one.look, one.lists):
            with pytest.raises(
                UnrecognisedError, match=r"in another spelling.*variables = \{"
            ) as why:
                call()
            assert f"it lists /server {there}" in str(why.value)
    with serving(upstream(there, down=True)) as url:
        assert plus(url, address).look().listing is Listing.ABSENT


def test_statuses_that_mean_absent() -> None:
    """Nothing looks like it where the read-back has no entries."""
    with serving(Eureka({"other": "UP"})) as url:
        variables = {"app": "ORDERS", "id": "orders-1"}
        table: dict[str, Any] = {"preset": "eureka", "url": f"{url}/eureka"}
        table["variables"] = variables
        one = made(**table)
        assert (one.look(), list(one.look_alikes())) == (Look(Listing.ABSENT), [])
        one.withdraw()
        for absent, snapshot in (("refuse", None), ("withdrawn", {"listed": True})):
            with pytest.raises(RegistryError, match="there is no such instance yet"):
                made(**table, absent=absent).restore(snapshot)
        made(**table, absent="withdrawn").restore(None)


def test_a_wrong_url_is_an_error() -> None:
    """A status that no option gives a meaning says nothing."""
    with serving(NginxPlus([])) as url, pytest.raises(RegistryError, match="answered 404"):
        made(preset="nginx_plus", url=url, variables={"upstream": "orders"}).look()


def test_missing_is_called_absent(tmp_path: Path) -> None:
    """The name of the version before is read, and check-config prints the line to write."""
    said = {}
    for more in ('missing = "withdrawn"', 'absent = "withdrawn"', 'missing = "x"'):
        config = tmp_path / "agent.toml"
        config.write_text(CONFIG.format(more=more))
        command = [sys.executable, "-m", "deregister_agent", "--config", str(config)]
        done = subprocess.run(
            [*command, "check-config"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        said[more] = done.returncode, done.stdout + done.stderr
    line = 'http: missing is called absent now; write absent = "withdrawn"'
    assert (said['missing = "withdrawn"'][0], said['absent = "withdrawn"'][0]) == (0, 0)
    assert line in said['missing = "withdrawn"'][1]
    assert "is called" not in said['absent = "withdrawn"'][1]
    assert said['missing = "x"'][0] == 2
