"""
Write compose.yaml and the files beside it, of the description: ``python -m compose.render``.

With ``--check`` it writes nothing, and exits with 1 if one of them is not current.
"""

import sys
from pathlib import Path
from typing import Any

import click
import yaml

from compose.configs import WRITTEN, files
from compose.described import USER, services
from compose.places import CONTAINERS, NUMBERS, Service

HERE = Path(__file__).parent
HEAD = f"""\
# The whole stack, as it would be used: README.md. Image names and versions are in .env.
#
# host-N stands for a machine: the app, its agent and its Consul agent share the network and
# the processes of host-N, so the agent sees the app's process, and an app that is replaced
# leaves the others alone.
#
# {WRITTEN}
"""
NETWORK = {"subnet": f"{CONTAINERS.net}.0/24", "ip_range": f"{CONTAINERS.net}.128/25"}
BUILT = {"SHOP_IMAGE": "shop", "AGENT_IMAGE": "agent", "GATEWAY_AGENT_IMAGE": "gateway-agent"}
"""Images that are built here, and their targets in the Dockerfile."""


def compose() -> dict[str, Any]:
    """Return the content of compose.yaml."""
    every = services(CONTAINERS)
    names = {each.name: each for each in every}
    tables = {each.name: _table(each, names) for each in every}
    for image, target in BUILT.items():
        first = next(each.name for each in every if each.image == image)
        arguments = {name: f"${{{name}}}" for name in ("PYTHON_IMAGE", "NGINX_IMAGE")}
        tables[first]["build"] = {"context": "..", "target": target, "args": arguments}
    mounted = {v.partition(":")[0] for table in tables.values() for v in table.get("volumes", ())}
    return {
        "name": "deregister",
        "networks": {"stack": {"ipam": {"config": [NETWORK]}}},
        "volumes": {name: None for name in sorted(mounted) if not name.startswith(".")},
        "services": tables,
    }


def _table(service: Service, names: dict[str, Service]) -> dict[str, Any]:
    table: dict[str, Any] = {"image": f"${{{service.image}}}"}
    if service.image in BUILT:
        table["pull_policy"] = "never"
    if service.command:
        table["entrypoint"] = list(service.command)
    table["user"] = USER
    if "network_mode" not in service.compose:
        number = NUMBERS.get(service.name)
        own = {"ipv4_address": CONTAINERS.at(service.name)} if number else {}
        table["networks"] = {"stack": own}
    if service.healthy:
        test = ["CMD", *service.healthy]
        times = {"interval": f"{service.every}s", "timeout": "20s", "start_period": "60s"}
        table["healthcheck"] = {"test": test, **times}
    if service.needs:
        table["depends_on"] = {n: {"condition": _condition(names[n])} for n in service.needs}
    mounts = [".:/stack:ro", *service.compose.get("volumes", ())] if service.command else ()
    return {**table, **service.compose, **({"volumes": list(mounts)} if mounts else {})}


def _condition(service: Service) -> str:
    if service.once:
        return "service_completed_successfully"
    return "service_healthy" if service.healthy else "service_started"


def rendered() -> dict[Path, str]:
    """Return the text of each file."""
    text = yaml.safe_dump(compose(), sort_keys=False, default_flow_style=None, width=100)
    texts = {"compose.yaml": HEAD + text, **files(CONTAINERS)}
    return {HERE / name: text for name, text in texts.items()}


@click.command(help="Write compose.yaml and the files beside it.")
@click.option("--check", is_flag=True, help="Only tell whether they are current.")
def main(*, check: bool) -> None:
    """Write what is not current, or name it."""
    stale = {
        path: text
        for path, text in rendered().items()
        if not path.exists() or path.read_text() != text
    }
    for path, text in stale.items():
        click.echo(f"{path.relative_to(HERE)} {'is not current' if check else 'written'}")
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
