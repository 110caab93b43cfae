"""What the configuration says of an instance in Consul, and what is wrong with it."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from deregister_agent.config.options import ClientTlsOptions, RegistryOptions, Secret, Timeout
from deregister_agent.errors import AgentError
from deregister_agent.host.addresses import host_and_port
from deregister_agent.model import Instance
from deregister_agent.registries.consul.definition import read_definition


class Options(RegistryOptions, ClientTlsOptions):
    """How to reach Consul, and what to do there."""

    identity_keys: ClassVar[frozenset[str]] = frozenset(
        {"url", "service", "service_id", "address", "datacenter", "namespace", "node"}
    )
    url: str = "http://127.0.0.1:8500"
    """The agent that the app is registered with: http://, https:// or http+unix://."""
    service: str = ""
    """The name of the service in Consul; the instance's service unless given."""
    service_id: str = ""
    """The ID the app is registered under; the instance's name unless given."""
    address: str = ""
    """The instance as Consul has it, host:port; its own address and port unless given."""
    not_ours: tuple[str, ...] = ()
    """The IDs of registrations that lead to the instance's address and are not withdrawn with it:
    those of another app, or of another agent."""
    mode: Literal["deregister", "maintenance"] = "deregister"
    """How to withdraw: maintenance keeps the checks, but only consumers that ask for healthy
    instances obey it; all obey deregister."""
    definition: Path | None = None
    """A JSON file with the service's definition, in Consul's own format, to restore it from."""
    restore_by: Literal["agent", "app"] = "agent"
    """Who registers the service again after deregister: this agent, or the app itself."""
    token: Secret | None = None
    """The ACL token; it needs agent:read, node:read, service:read and service:write."""
    datacenter: str = ""
    """The datacenter of the catalog; the agent's own unless given."""
    namespace: str = ""
    """The namespace of the service (Consul Enterprise)."""
    node: str = ""
    """The name of the agent's node; asked of the agent, with agent:read, unless given."""
    timeout: Timeout = 3.0
    """The limit of one operation, in seconds."""

    def withdraws(self, instance: Instance) -> tuple[str, str]:
        """Return the agent and the namespace, and the ID."""
        return f"{self.url} {self.namespace}", self.service_id or instance.name


def mistakes(options: Options, service_id: str) -> Iterator[str]:
    """Yield what is wrong with options, the key first."""
    if options.address and host_and_port(options.address) is None:
        yield f"address: {options.address!r} is not host:port"
    if service_id in options.not_ours:
        yield f"not_ours: {service_id!r} is the ID of the instance itself"
    if {"", ".", ".."} & set(service_id.removesuffix("/").split("/")):
        yield (
            f"service_id: Consul cannot deregister {service_id!r}: it takes '//', '/./' and "
            "'/../' out of a path before it reads the id; register it under another one"
        )
    if options.definition is not None:
        try:
            read_definition(options.definition, service_id)
        except AgentError as e:
            yield f"definition: {e}"
