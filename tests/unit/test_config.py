"""The configuration: what is accepted, and what is said about what is not."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.config import backends
from deregister_agent.config.load import (
    Config,
    config_schema,
    load_config,
    refusals,
    warnings,
)
from deregister_agent.config.options import ClientTlsOptions
from deregister_agent.errors import AgentError, ConfigError
from deregister_agent.model import Instance, OnDeadline, Policy, RestoreWhen
from deregister_agent.wiring import build_agent

DOCS = Path(__file__).parents[2] / "docs" / "reference"

BACKEND = '''
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from deregister_agent.errors import ConfigError
from deregister_agent.model import Announcement
from deregister_agent.config.options import {base}, Secret, Seconds, Timeout


class Options({base}):
    """A test."""

    url: str
    token: Secret | None = None
    mode: Literal["maintenance", "deregister"] = "maintenance"
    timeout: Timeout = 3.0
    ttl: Annotated[int, Field(ge=5)] = 10
{extra}

def build(options, instance):
    if options.url == "refuse":
        raise ConfigError("it", ["url: is refused for " + instance.name])
    return options.label
'''
QUIET_NOTIFIER = "    announces: tuple[Announcement, ...] = (Announcement.DRAINED,)"

GOOD = """
[[instance]]
name = "orders-1"
service = "orders"
port = 8080

[[instance.registry]]
kind = "t_registry"
url = "http://127.0.0.1:8500"

[[instance.probe]]
kind = "t_probe"
url = "http://127.0.0.1:8080/idle"
"""


@pytest.fixture(autouse=True)
def _other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install, on sys.path, a package that brings four backends, one of them broken."""
    site = tmp_path / "site"
    info = site / "t_backends-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: t-backends\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[deregister_agent.registries]\n"
        "t_registry = t_registry\nt_broken = t_broken\nt_empty = t_empty\n"
        "[deregister_agent.probes]\nt_probe = t_probe\n"
        "[deregister_agent.notifiers]\nt_notifier = t_notifier\nt_shy = t_shy\n"
    )
    for name, base, extra in (
        ("t_registry", "BackendOptions", ""),
        ("t_probe", "BackendOptions", ""),
        ("t_notifier", "NotifierOptions", ""),
        ("t_shy", "NotifierOptions", QUIET_NOTIFIER),
    ):
        (site / f"{name}.py").write_text(BACKEND.format(base=base, extra=extra))
    (site / "t_broken.py").write_text("import t_not_installed\n")
    (site / "t_empty.py").write_text("")
    monkeypatch.syspath_prepend(site)
    yield
    for name in [name for name in sys.modules if name.startswith("t_")]:
        del sys.modules[name]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def loaded(path: Path, text: str) -> Config:
    path.write_text(text)
    return load_config(path)


def mistakes(path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(path, text)
    return caught.value.mistakes


def test_the_smallest_file_has_the_documented_defaults(written: Path) -> None:
    """Four keys, one registry and one probe are enough; the rest are the model's defaults."""
    config = loaded(written, GOOD)
    (orders,) = config.instances
    assert orders.instance() == Instance("orders-1", "orders", "127.0.0.1", 8080)
    assert orders.policy() == Policy()
    assert (orders.ready, orders.notifiers) == ((), ())
    assert orders.process.by == "port"
    assert config.agent.journal == Path("/var/lib/deregister-agent/journal.db")
    assert (config.agent.log_format, config.agent.log_level) == ("auto", "info")


def test_every_policy_key_reaches_the_policy(written: Path) -> None:
    """A key of the file and the field of the same name in Policy hold the same value."""
    keys = (
        "deadline = 60\nquiet = 1.5\nsettle = 35\non_deadline = 'restore'\n"
        "restore = 'when-ready'\nrestore_deadline = 90\nmin_others = 2\n"
    )
    ready = "[[instance.ready]]\nurl = 'http://127.0.0.1:8080/ready'\npasses = 3\n"
    (orders,) = loaded(
        written, GOOD.replace("port = 8080\n", f"port = 8080\n{keys}") + ready
    ).instances
    assert orders.policy() == Policy(
        60.0, 1.5, 35.0, OnDeadline.RESTORE, RestoreWhen.WHEN_READY, 90.0, 2
    )
    assert [(check.url, check.passes) for check in orders.ready] == [
        ("http://127.0.0.1:8080/ready", 3)
    ]


OLD_KEY = """
[[instance.registry]]
kind = "consul"
certificate = "/c.pem"
key = "/k \\"1\\".pem"

[[instance.notifier]]
kind = "webhook"
url = "https://localhost/"
secret = { env = "SECRET" }
certificate = "/c.pem"
key = "/k.pem"
"""


def test_the_name_of_the_version_before_is_read_and_warned_of(written: Path) -> None:
    """A certificate's key may still be called ``key``; the warning is the line to write."""
    config = loaded(written, GOOD + OLD_KEY)
    (orders,) = config.instances
    (*_, consul), (webhook,) = orders.registries, orders.notifiers
    assert isinstance(consul.options, ClientTlsOptions)
    assert isinstance(webhook.options, ClientTlsOptions)
    assert consul.options.tls_files == (None, Path("/c.pem"), Path('/k "1".pem'))
    assert webhook.options.tls_files == (None, Path("/c.pem"), Path("/k.pem"))
    said = "key is called certificate_key now; write certificate_key ="
    assert warnings(config) == [
        f'orders-1: consul: {said} "/k \\"1\\".pem"',
        f'orders-1: webhook: {said} "/k.pem"',
    ]
    today = loaded(written, GOOD + OLD_KEY.replace("\nkey", "\ncertificate_key"))
    assert warnings(today) == []
    assert today.instances[0].registries[1].options.model_dump() == consul.options.model_dump()


def test_an_old_name_is_a_mistake_where_it_says_something_else(written: Path) -> None:
    """Beside the new name the old is unknown; in etcd ``key`` is etcd's; a mistake has a name."""
    both = OLD_KEY.replace("\nkey", "\ncertificate_key = '/n.pem'\nkey", 1)
    assert mistakes(written, GOOD + both) == ["instance[0].registry[1].key: no such key"]
    number = OLD_KEY.replace('"/k.pem"', "1")
    assert mistakes(written, GOOD + number) == [
        "instance[0].notifier[0].certificate_key: must be a string, not 1"
    ]
    etcd = "[[instance.registry]]\nkind = 'etcd'\nkey = '/orders/1'\n"
    config = loaded(written, GOOD + etcd)
    assert warnings(config) == []
    assert config.instances[0].registries[1].options.model_dump()["key"] == "/orders/1"


def test_backends_come_with_their_module_and_validated_options(written: Path) -> None:
    """Each backend table becomes the pair that wiring builds from."""
    (orders,) = loaded(written, GOOD).instances
    ((module, options),) = orders.registries
    assert (module.__name__, options.label) == ("t_registry", "t_registry")
    assert module.build(options, orders.instance()) == "t_registry"


ONE_MISTAKE = [
    ("port = 8080", "", "instance[0].port: missing"),
    ("port = 8080", "port = 0", "instance[0].port: must be >= 1, not 0"),
    ("port = 8080", 'port = "8080"', "instance[0].port: must be a whole number, not a string"),
    ("port = 8080", "port = true", "instance[0].port: must be a whole number, not true"),
    ("port = 8080", "port = 8080\nquiet = -1", "instance[0].quiet: must be >= 0, not -1"),
    (
        "port = 8080",
        "port = 8080\nquiet = nan",
        "instance[0].quiet: must be a finite number, not nan",
    ),
    ("port = 8080", "port = 8080\ndeadline = 0", "instance[0].deadline: must be > 0, not 0"),
    (
        "port = 8080",
        "port = 8080\ndedline = 5",
        "instance[0].dedline: no such key; did you mean 'deadline'?",
    ),
    ("port = 8080", "port = 8080\nzzz = 5", "instance[0].zzz: no such key"),
    (
        "port = 8080",
        "port = 8080\nregistri = []",
        "instance[0].registri: no such key; did you mean 'registry'?",
    ),
    (
        "port = 8080",
        "port = 8080\non_deadline = 'hodl'",
        (
            "instance[0].on_deadline: must be one of 'hold', 'restore' or 'kill', not 'hodl'; "
            "did you mean 'hold'?"
        ),
    ),
    (
        'kind = "t_probe"',
        'kind = "prometheus"\nin_flight = { requests = "n" }\nlag = 178.0',
        (
            "instance[0].deadline: 180 is not longer than settle, quiet and the probe's lag "
            "together (180), so every drain would expire"
        ),
    ),
    (
        "port = 8080",
        "port = 8080\nsettle = 170\nquiet = 10",
        (
            "instance[0].deadline: 180 is not longer than settle and quiet together (180), "
            "so every drain would expire"
        ),
    ),
    (
        "port = 8080",
        "port = 8080\nrestore = 'when-ready'",
        "instance[0].restore: 'when-ready' needs a check that tells so; add one [[instance.ready]]",
    ),
    (
        "port = 8080",
        "port = 8080\non_deadline = 'kill'",
        (
            "instance[0].on_deadline: 'kill' needs somebody who kills; "
            "add one [[instance.notifier]] that announces 'forced'"
        ),
    ),
    ("port = 8080", "port = 8080\nready = 3", "instance[0].ready: must be a list, not 3"),
    (
        "port = 8080",
        "port = 8080\n[[instance.ready]]\nurl = '127.0.0.1/ready'",
        (
            "instance[0].ready[0].url: must begin with one of http://, https://, http+unix://, "
            "grpc://, grpcs://, grpc+unix://"
        ),
    ),
    (
        "port = 8080",
        "port = 8080\nprocess = 'port'",
        "instance[0].process: must be a table, not a string",
    ),
    (
        "port = 8080",
        "port = 8080\nprocess = { by = 'prot' }",
        "instance[0].process.by: must be one of",
    ),
    (
        "port = 8080",
        "port = 8080\nprocess = { by = 'pid_file', file = '/x', fil = 1 }",
        "instance[0].process.fil: no such key; did you mean 'file'?",
    ),
    (
        "port = 8080",
        "port = 8080\nprocess = { by = 'port', port = 80, prot = 1 }",
        "instance[0].process.prot: no such key; did you mean 'port'?",
    ),
    (
        "port = 8080",
        "port = 8080\nprocess = { by = 'systemd_unit', unit = 'orders@*.service' }",
        "instance[0].process.unit: must be the name of one systemd unit, such as orders.service",
    ),
    (
        "port = 8080",
        "port = 8080\nprocess = { by = 'systemd_unit', unit = 'a.service b.service' }",
        "instance[0].process.unit: must be the name of one systemd unit, such as orders.service",
    ),
    (
        "port = 8080",
        "port = 8080\nprocess = { by = 'systemd_unit', unit = '4711' }",
        "instance[0].process.unit: must be the name of one systemd unit, such as orders.service",
    ),
    (
        "port = 8080",
        "port = 8080\nprocess = { by = 'systemd_unit', unit = 'orders.socket' }",
        (
            "instance[0].process.unit: a socket has no main process: name the service, such as "
            "orders.service"
        ),
    ),
    (
        "port = 8080",
        "port = 8080\nprocess = { by = 'systemd_unit', unit = 'orders@' }",
        "instance[0].process.unit: is a template: name an instance of it, such as orders@1.service",
    ),
    (
        '"orders-1"',
        '"orders 1"',
        "instance[0].name: must be 1 to 128 letters, digits, '.', '_' or '-': it stands in URLs",
    ),
    (
        '"orders-1"',
        '".."',
        "instance[0].name: must be 1 to 128 letters, digits, '.', '_' or '-': it stands in URLs",
    ),
    ('"orders"', '""', "instance[0].service: must not be empty"),
    (
        "[[instance.registry]]",
        "[agent]\njurnal = '/j'\n[[instance.registry]]",
        "agent.jurnal: no such key; did you mean 'journal'?",
    ),
    (
        "[[instance.registry]]",
        "[server]\nlistn = []\n[[instance.registry]]",
        "server.listn: no such key; did you mean 'listen'?",
    ),
    (
        '"t_registry"',
        '"t_registri"',
        "; did you mean 't_registry'?",
    ),
    ('kind = "t_registry"', "", "instance[0].registry[0].kind: missing"),
    ('"t_registry"', "4", "instance[0].registry[0].kind: must be a string, not 4"),
    (
        '"t_registry"',
        '"t_broken"',
        (
            "instance[0].registry[0].kind: 't_broken' cannot be loaded: it needs module "
            "'t_not_installed'"
        ),
    ),
    (
        '"t_registry"',
        '"t_empty"',
        "instance[0].registry[0].kind: 't_empty' is no backend: t_empty has no Options or build",
    ),
    (
        '"t_registry"',
        '"t_registry"\ntokn = "x"',
        "instance[0].registry[0].tokn: no such key; did you mean 'token'?",
    ),
    (
        '"t_registry"',
        '"t_registry"\ntoken = { fil = "x" }',
        "instance[0].registry[0].token.fil: no such key; did you mean 'file'?",
    ),
    (
        '"t_registry"',
        '"t_registry"\ntoken = { file = "x", env = "Y" }',
        "instance[0].registry[0].token: give either file or env",
    ),
    (
        '"t_registry"',
        '"t_registry"\nttl = 4.5',
        "instance[0].registry[0].ttl: must be a whole number, not 4.5",
    ),
    ('"t_registry"', '"t_registry"\nttl = 1', "instance[0].registry[0].ttl: must be >= 5, not 1"),
    (
        '"t_registry"',
        '"t_registry"\ntimeout = 0',
        "instance[0].registry[0].timeout: must be > 0, not 0",
    ),
    (GOOD.partition("[[instance.probe]]")[2], "", "instance[0].probe[0].kind: missing"),
    (
        "[[instance.probe]]" + GOOD.partition("[[instance.probe]]")[2],
        "",
        "instance[0].probe: missing",
    ),
]


@pytest.mark.parametrize(
    ("good", "bad", "mistake"), ONE_MISTAKE, ids=[m[2][:60] for m in ONE_MISTAKE]
)
def test_a_mistake_is_named_with_its_key(written: Path, good: str, bad: str, mistake: str) -> None:
    """One wrong line gives one sentence, and it says which key and what to do."""
    found = mistakes(written, GOOD.replace(good, bad, 1))
    assert len(found) == 1
    assert mistake in found[0]


def test_all_mistakes_are_listed_at_once(written: Path) -> None:
    """The whole file is checked in one go, cross checks included, and nothing is said twice."""
    text = """
        [agent]
        log_level = "loud"
        [[instance]]
        name = "orders-1"
        service = "orders"
        port = 8080
        quiet = -1
        restore = "when-ready"
        [[instance.registry]]
        kind = "t_registry"
        url = "http://127.0.0.1:8500"
        [[instance.registry]]
        kind = "t_registry"
        tokn = "s3cret"
        [[instance.probe]]
        kind = "t_probe"
        url = 7
        [[instance]]
        name = "orders-1"
        service = "orders"
        registry = []
        [[instance.probe]]
        kind = "t_probe"
        url = "u"
    """
    with pytest.raises(ConfigError) as caught:
        loaded(written, text)
    assert str(caught.value) == (
        f"the configuration {written} cannot be used:\n"
        "  agent.log_level: must be one of 'debug', 'info', 'warning' or 'error', not 'loud'\n"
        "  instance[0].quiet: must be >= 0, not -1\n"
        "  instance[0].registry[1].url: missing\n"
        "  instance[0].registry[1].tokn: no such key; did you mean 'token'?\n"
        "  instance[0].probe[0].url: must be a string, not 7\n"
        "  instance[1].port: missing\n"
        "  instance[1].registry: at least one is needed\n"
        "  instance[0].registry[1]: called 't_registry' like registry[0]; give one a `name`\n"
        "  instance[0].restore: 'when-ready' needs a check that tells so; "
        "add one [[instance.ready]]\n"
        "  instance[1].name: 'orders-1' is the name of instance[0] already"
    )


def test_a_secret_in_the_wrong_place_is_not_shown(written: Path) -> None:
    """A token written where a table must stand does not get into the error."""
    found = mistakes(
        written, GOOD.replace("[[instance.probe]]", 'token = "s3cret"\n[[instance.probe]]')
    )
    assert found == ["instance[0].registry[0].token: must be a table, not a string"]


def test_two_backends_of_a_kind_are_told_apart_by_name(written: Path) -> None:
    """A name of its own makes a second backend of one kind acceptable."""
    second = GOOD.partition("[[instance.registry]]")[2].partition("[[instance.probe]]")[0]
    assert mistakes(written, f"{GOOD}\n[[instance.registry]]{second}") == [
        "instance[0].registry[1]: called 't_registry' like registry[0]; give one a `name`"
    ]
    config = loaded(written, f"{GOOD}\n[[instance.registry]]{second}\nname = 'far'")
    assert [options.label for _, options in config.instances[0].registries] == ["t_registry", "far"]


@pytest.mark.parametrize(
    ("notifier", "accepted"),
    [
        ("kind = 't_notifier'", True),
        ("kind = 't_notifier'\nannounces = ['drained', 'forced']", True),
        ("kind = 't_notifier'\nannounces = ['drained']", False),
        ("kind = 't_shy'", False),
    ],
)
def test_kill_needs_a_notifier_that_is_told(written: Path, notifier: str, accepted: bool) -> None:
    """on_deadline = "kill" is accepted only if some notifier announces "forced"."""
    text = GOOD.replace("port = 8080", "port = 8080\non_deadline = 'kill'")
    text += f"\n[[instance.notifier]]\nurl = 'u'\n{notifier}\n"
    if accepted:
        assert loaded(written, text).instances[0].policy().on_deadline is OnDeadline.KILL
    else:
        assert [m.split(":")[0] for m in mistakes(written, text)] == ["instance[0].on_deadline"]


def test_no_instance_is_a_mistake(written: Path) -> None:
    """An agent that looks after nothing was not meant."""
    assert mistakes(written, "") == ["instance: missing"]
    assert mistakes(written, "instance = []") == ["instance: at least one is needed"]


@pytest.mark.parametrize("text", ["instance = 3", "instance = [3]", "[instance]\nname = 1"])
def test_any_shape_gives_sentences(written: Path, text: str) -> None:
    """A file of the wrong shape gives mistakes, not a traceback."""
    assert mistakes(written, text)


def test_not_toml_names_line_and_column(written: Path) -> None:
    """A slip in the TOML itself is shown where it is."""
    (found,) = mistakes(written, "[agent]\njournal = \n")
    assert found.startswith("it is not TOML: ")
    assert "line 2, column 11" in found


def test_an_unreadable_file_is_a_config_error(written: Path) -> None:
    """A file that is not there, or is not text, is said in one sentence."""
    with pytest.raises(ConfigError, match="No such file or directory"):
        load_config(written)
    written.write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(written)


def test_only_the_kinds_that_are_named_are_imported(written: Path) -> None:
    """A backend that nobody uses costs nothing and cannot fail."""
    loaded(written, GOOD)
    assert "t_registry" in sys.modules
    assert "t_notifier" not in sys.modules


def test_kinds_holds_ours_and_those_of_other_packages() -> None:
    """Both come under one list, sorted; asking imports none of them."""
    found = backends.kinds("registries")
    assert found == sorted({*backends.built_in("registries"), "t_registry", "t_broken", "t_empty"})
    assert "t_registry" not in sys.modules


def test_an_unknown_kind_names_the_known_ones() -> None:
    """find() tells which kinds there are, and the likely one."""
    with pytest.raises(
        AgentError, match=r"'t_prob' is none of .*t_probe.*; did you mean 't_probe'\?"
    ):
        backends.find("probes", "t_prob")


def test_what_a_backend_refuses_is_listed_by_instance(written: Path) -> None:
    """check-config asks each backend to be built and lists what they refuse."""
    config = loaded(written, GOOD.replace("http://127.0.0.1:8500", "refuse"))
    assert refusals(config) == ["orders-1: t_registry: url: is refused for orders-1"]


def test_what_the_agent_keeps_alive_needs_a_readiness_check(written: Path, tmp_path: Path) -> None:
    """Neither check-config nor serve takes a lease that nobody would let go."""
    etcd = 'kind = "etcd"\nlayout = "grpc"\nlease = "agent"'
    text = GOOD.replace('kind = "t_registry"\nurl = "http://127.0.0.1:8500"', etcd)
    text = f'[agent]\njournal = "{tmp_path / "journal.db"}"\n{text}'
    config = loaded(written, text)
    assert [line for line in refusals(config) if "add one [[instance.ready]]" in line]
    with pytest.raises(ConfigError, match="add one"):
        build_agent(config)
    ready = text + '\n[[instance.ready]]\nurl = "http://127.0.0.1:8080/ready"\n'
    assert refusals(loaded(written, ready)) == []


def test_the_schema_describes_every_built_in_backend() -> None:
    """Each kind is one branch, told apart by a constant kind."""
    described = config_schema()
    instance = described["$defs"]["InstanceConfig"]["properties"]
    for key, port in (("registry", "registries"), ("probe", "probes"), ("notifier", "notifiers")):
        branches = [_resolved(described, branch) for branch in instance[key]["items"]["oneOf"]]
        constants = [branch["properties"]["kind"]["const"] for branch in branches]
        assert constants == list(backends.built_in(port))
    assert json.loads(json.dumps(described)) == described


def test_every_key_is_documented() -> None:
    """docs/reference/config.md has a row or a heading for each key that the schema knows."""
    text = (DOCS / "config.md").read_text(encoding="utf-8")
    missing = [
        key for key in sorted(_keys(config_schema())) if not re.search(rf"`{re.escape(key)}`", text)
    ]
    assert missing == []


def _resolved(described: dict[str, Any], branch: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in branch:
        found: dict[str, Any] = described["$defs"][branch["$ref"].rpartition("/")[2]]
        return found
    return branch


def _keys(described: dict[str, Any]) -> set[str]:
    """Return every key but those of the backends, which have pages of their own."""
    keys: set[str] = set()
    seen: set[str] = set()
    tables = [described]
    while tables:
        properties = tables.pop().get("properties", {})
        if "kind" in properties:
            continue
        keys |= properties.keys()
        named = set(re.findall(r'"#/\$defs/([^"]+)"', json.dumps(properties))) - seen - {"Secret"}
        seen |= named
        tables += [described["$defs"][name] for name in named]
    return keys
