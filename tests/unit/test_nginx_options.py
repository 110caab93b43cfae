"""The keys of an Nginx registry: what is refused, and what is said about it."""

from pathlib import Path

import pytest

from deregister_agent.config.load import load_config
from deregister_agent.errors import ConfigError

CONFIG = """
[[instance]]
name = "orders-1"
service = "orders"
port = 8080

[[instance.registry]]
kind = "nginx"
upstream = "orders"
{keys}

[[instance.probe]]
kind = "tcp"
"""


FORMER = {
    "generation": ('{ url = "http://gateway/g", file = "/g.conf" }', 'registry of kind "agent"'),
    "old_workers": ("90", "worker_shutdown_timeout"),
    "old_workers_then": ('"wait"', "worker_shutdown_timeout"),
}


def test_keys_of_former_versions_are_refused_with_what_to_do_instead(tmp_path: Path) -> None:
    """Each has a sentence of its own; the same file without them is taken."""
    file = tmp_path / "agent.toml"
    file.write_text(CONFIG.format(keys="".join(f"{k} = {v}\n" for k, (v, _) in FORMER.items())))
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    for mistake, (key, (_, instead)) in zip(caught.value.mistakes, FORMER.items(), strict=True):
        assert mistake.startswith(f"instance[0].registry[0].{key}: no longer taken; "), mistake
        assert instead in mistake
    file.write_text(CONFIG.format(keys='test = ["true"]'))
    assert len(load_config(file).instances) == 1
