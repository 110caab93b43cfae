"""What a service is registered from: a file in Consul's own format, or a snapshot."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deregister_agent.errors import AgentError
from deregister_agent.host.files import read_plain

WRITABLE = (
    *("ID", "Tags", "Meta", "Address", "Port", "Ports", "SocketPath", "TaggedAddresses"),
    *("Weights", "EnableTagOverride", "Kind", "Proxy", "Connect", "Locality"),
)
"""What of a service as read can be written back."""


def writable(service: Mapping[str, Any]) -> dict[str, Any]:
    """Return a service as it was read in the form in which it can be registered."""
    return {"Name": service["Service"]} | {k: service[k] for k in WRITABLE if service.get(k)}


def lost(snapshot: Mapping[str, object]) -> str:
    """Say what does not come back when a service is registered as its snapshot has it."""
    parts = []
    for what, why in (
        ("checks", "as Consul does not give them out"),
        ("sidecars", "which Consul deregisters with it"),
    ):
        names = snapshot.get(what)
        if isinstance(names, list) and names:
            parts.append(f"its {what} ({', '.join(map(str, names))}), {why}")
    return ", nor ".join(parts)


def read_definition(file: Path, service_id: str) -> dict[str, Any]:
    """
    Return the definition of *service_id* in *file*, as the API takes it.

    The file is one that Consul itself would load: ``{"service": {...}}`` or
    ``{"services": [...]}``; or the service alone, as for the API. Raises AgentError.
    """
    try:
        content = json.loads(read_plain(file))
        services = content.get("services") or [content.get("service", content)]
        found = [_for_api(service) for service in services]
        named = {s.setdefault("ID", s["Name"]): s for s in found}
        return named[service_id]
    except OSError as e:
        raise AgentError(f"cannot read {file}: {e.strerror}") from e
    except KeyError as e:
        raise AgentError(f"{file} defines no service with the id {service_id!r}") from e
    except (ValueError, TypeError, AttributeError) as e:
        raise AgentError(f"{file} is not a service definition in JSON") from e


def _for_api(service: Mapping[str, Any]) -> dict[str, Any]:
    """Spell the keys as the API does: a file may say check_id or id, the API only CheckID."""
    made = {_camel(key): value for key, value in service.items()}
    if "Checks" in made:
        made["Checks"] = [_check_for_api(check) for check in made["Checks"]]
    if "Check" in made:
        made["Check"] = _check_for_api(made["Check"])
    return made


def _check_for_api(check: Mapping[str, Any]) -> dict[str, Any]:
    made = {_camel(key): value for key, value in check.items()}
    return {("CheckID" if key == "ID" else key): value for key, value in made.items()}


def _camel(key: str) -> str:
    words = key.split("_") if key.islower() else [key]
    return "".join("ID" if word == "id" else word[:1].upper() + word[1:] for word in words)
