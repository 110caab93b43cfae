"""Nginx on this host: mark one server of an upstream down, reload, and see the old workers off."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from deregister_agent.errors import AgentError, ConfigError, RegistryError, UnrecognisedError
from deregister_agent.host import addresses
from deregister_agent.model import Instance, Listing, Look, Snapshot, Straggler
from deregister_agent.ports import Registry
from deregister_agent.registries.nginx.advice import advice
from deregister_agent.registries.nginx.change import carry_out
from deregister_agent.registries.nginx.conf import NginxConf, ServerDirective
from deregister_agent.registries.nginx.look_alikes import (
    OtherSpellingError,
    look_alikes,
    refuse_other_spellings,
)
from deregister_agent.registries.nginx.obedience import UnprovedError, refuse_unproved
from deregister_agent.registries.nginx.old_workers import old_workers
from deregister_agent.registries.nginx.options import Options, site_of
from deregister_agent.registries.nginx.other_servers import count_others
from deregister_agent.registries.nginx.other_ways import Coverage, UpstreamName, other_ways
from deregister_agent.registries.nginx.processes import NginxError
from deregister_agent.registries.nginx.proof import ServerLook, look
from deregister_agent.registries.nginx.remedies import with_remedy
from deregister_agent.registries.nginx.server_address import ServerAddress
from deregister_agent.registries.nginx.site import Site, Wish
from deregister_agent.registries.nginx.watch import next_change
from deregister_agent.registries.nginx.whose_down import out_by, up_again

_HEADER = "# Kept by deregister-agent.\n"


class NginxUpstream(Registry):
    """One server of one upstream."""

    def __init__(self, options: Options, instance: Instance) -> None:
        self.name = options.label
        self._options = options
        self._server = ServerAddress(
            options.server or addresses.joined(instance.address, instance.port)
        )
        self._instance = instance
        name = UpstreamName(options.context, options.upstream)
        self._coverage = Coverage(str(instance), options.config.resolve(), name)

    def lists(self) -> bool:
        """Look at the files and at what the running workers have loaded of them."""
        with self._doing("tell whether it is listed"):
            return _found(self._site(), self._until()).listed

    def stragglers(self) -> Sequence[Straggler]:
        """Name the workers from before the change that have not exited."""
        return self.look().stragglers

    def look(self) -> Look:
        """Answer both from one look at the files and the workers, which costs half as much."""
        with self._doing("look it up"):
            site, until = self._site(), self._until()
            found = _found(site, until)
            servers = site.servers(found.conf)
            if found.listed and not servers:
                raise NginxError(
                    f"upstream {site.upstream} has no server {site.server.text}, and it is not "
                    "proved that the running workers have loaded that: reload Nginx"
                )
            workers = found.workers or site.running.workers(until)
            listing = Listing.LISTED if found.listed else Listing.OUT
            stragglers = old_workers(site, found, workers, self._instance)
            return Look(listing if servers else Listing.ABSENT, stragglers, out_by(site, found))

    def look_alikes(self) -> Sequence[str]:
        """Name other servers of the upstream, and other upstreams that have this one."""
        with self._doing("look for what is meant"):
            site = self._site()
            conf = site.read()
            return [] if site.servers(conf) else look_alikes(site, conf)

    def other_registrations(self) -> Sequence[str]:
        """Name other upstreams that have the server, and addresses that lead straight to it."""
        with self._doing("look for other ways to it"):
            site = self._site()
            return other_ways(site, site.read(), self._coverage.of_all(), self._options.not_ours)

    def snapshot(self) -> Snapshot | None:
        """Tell which of the server's directives were down before."""
        with self._doing("take a snapshot"):
            site = self._site()
            servers = site.servers(_obedient(site))
            return {"down": [server.down for server in servers]} if servers else None

    def withdraw(self) -> None:
        """Mark it down, and return when only workers that know so accept clients."""
        with self._doing("withdraw it"):
            site = self._site()
            _obedient(site)
            carry_out(site, Wish(down=True))

    def restore(self, snapshot: Snapshot | None) -> None:
        """Take away what withdraw() wrote, and no other's ``down``."""
        with self._doing("restore it"):
            site = self._site()
            servers = site.servers(site.read())
            if servers or site.owned is not None:
                carry_out(site, self._wish(site, servers, snapshot))
            elif snapshot is not None or self._options.absent == "refuse":
                raise NginxError(
                    f"upstream {site.upstream} has no server {site.server.text} now: "
                    "whoever has removed it may add it again"
                )

    def others(self) -> int:
        """Count the other servers of the upstream that get work, and could do it."""
        with self._doing("count the others"):
            site = self._site()
            return count_others(site, _obedient(site))

    def watch(self, cursor: str | None, timeout: float) -> str | None:
        """Block until files or workers are others, an old worker's exit being told at once."""
        with self._doing("watch it"):
            return next_change(self._site(), cursor, timeout)

    def advice(self) -> Sequence[str]:
        """Say what in the real configuration will hurt."""
        with self._doing("read the configuration"):
            return [*advice(self._site()), *self.other_registrations()]

    def _wish(
        self, site: Site, servers: Sequence[ServerDirective], snapshot: Snapshot | None
    ) -> Wish:
        """Work out which directives to bring up again."""
        if not servers:
            parameters = f" {self._options.parameters}" if self._options.parameters else ""
            line = f"server {self._server.text}{parameters};\n"
            return Wish(down=False, create=(_HEADER + line).encode())
        return up_again(site, servers, snapshot)

    def _site(self) -> Site:
        """Gather what a change needs, from the options and the configuration."""
        return site_of(self._options, self._server)

    def _until(self) -> float:
        return time.monotonic() + self._options.timeout

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        """Turn every trouble into one error that says who was doing what."""
        try:
            yield
        except (OtherSpellingError, UnprovedError) as e:
            raise UnrecognisedError(self.name, f"{what} ({self._instance})", e) from e
        except (AgentError, OSError) as e:
            raise RegistryError(self.name, f"{what} ({self._instance})", with_remedy(e)) from e


def _found(site: Site, until: float) -> ServerLook:
    """Look for the server, under other names as well where it is not listed."""
    found = look(site, until)
    refuse_unproved(site, found.conf)
    if not found.listed:
        refuse_other_spellings(site, found.conf, until)
    return found


def _obedient(site: Site) -> NginxConf:
    """Read the configuration. Raises UnprovedError where "down" may not count in it."""
    conf = site.read()
    refuse_unproved(site, conf)
    return conf


def build(options: Options, instance: Instance) -> NginxUpstream:
    """Make the registry. Raises ConfigError."""
    if options.file is not None and options.file.resolve() == options.config.resolve():
        raise ConfigError(options.label, ["file: the main configuration cannot be the agent's own"])
    return NginxUpstream(options, instance)


def warnings(options: Options, instance: Instance) -> Sequence[str]:
    """Say what in the real configuration will hurt. Raises RegistryError if it cannot be read."""
    return build(options, instance).advice()
