"""
Any admin API over HTTP: withdraw, restore and read-back are requests of the configuration.

The answer to a request that changes something proves nothing; the read-back does, and
it has to say plainly which of the two it is.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

from pydantic import Field

from deregister_agent.config.options import ClientTlsOptions, RegistryOptions, Secret, Timeout
from deregister_agent.errors import AgentError, ConfigError, RegistryError, UnrecognisedError
from deregister_agent.host.addresses import in_brackets
from deregister_agent.model import Instance, Listing, Look, Snapshot
from deregister_agent.net.fetcher import Fetcher, FetchError
from deregister_agent.ports import Registry
from deregister_agent.registries.http.look_alikes import (
    OtherSpellingError,
    look_alikes,
    refuse_other_spellings,
)
from deregister_agent.registries.http.presets import PRESETS, HttpPreset, PresetName
from deregister_agent.registries.http.requests import (
    Found,
    ReadBack,
    Request,
    check,
    read,
    send,
    variables_of,
)

_LISTINGS = {True: Listing.LISTED, False: Listing.OUT, None: Listing.ABSENT}

BEFORE = "it was out before the drain"
WAS_OUT = f"{BEFORE}, so it is not for us to list it: do that by hand"


class Options(RegistryOptions, ClientTlsOptions):
    """The API, and the three requests."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        **ClientTlsOptions.renamed_keys,
        "missing": "absent",
    }
    identity_keys: ClassVar[frozenset[str]] = frozenset({"url", "preset", "variables", "look"})
    url: str
    """Where the API begins: ``http://``, ``https://`` or ``http+unix://``, with a path or not."""
    preset: PresetName | None = None
    """A system whose requests are known."""
    variables: dict[str, str] = Field(default_factory=dict)
    """What the requests call ``{name}``, besides name, service, address, host and port; host is
    the address, in brackets if it is of IPv6."""
    withdraw: Request | None = None
    """The request that stops work; instead of the preset's, if there is one."""
    restore: Request | None = None
    """The request that lets work go on."""
    look: ReadBack | None = None
    """The request that reads back, and what its answer means."""
    token: Secret | None = None
    """A bearer token, sent as ``Authorization``."""
    headers: dict[str, Secret] = Field(default_factory=dict)
    """More headers that hold a secret, such as an API key."""
    timeout: Timeout = 3.0
    """The limit of one operation in seconds, with all its requests."""


class Http(Registry):
    """One instance behind one API."""

    def __init__(self, options: Options, instance: Instance, fetcher: Fetcher) -> None:
        self.name = options.label
        self._options, self._instance, self._fetcher = options, instance, fetcher
        self._wanted = _requests(options)
        self._values = _values(options, instance, self._wanted)

    def lists(self) -> bool:
        """Send the read-back, as look() does."""
        return self.look().listed

    def look(self) -> Look:
        """Send the read-back; an answer that says neither is not known: RegistryError."""
        with self._doing("look up") as end:
            found = self._look(end)
            if found.listed is not True:
                refuse_other_spellings(self._wanted.look, found.rest, self._values)
            return Look(_LISTINGS[found.listed])

    def look_alikes(self) -> Sequence[str]:
        """Name the entries of the read-back, where it has entries."""
        with self._doing("look for what is meant by") as end:
            return look_alikes(self._wanted.look, self._look(end).rest, self._values)

    def others(self) -> int | None:
        """Count the other listed entries, where the read-back has one for each instance."""
        with self._doing("count the others of") as end:
            return self._look(end).others

    def snapshot(self) -> Snapshot | None:
        """Return whether the instance was listed."""
        with self._doing("take a snapshot of") as end:
            listed = self._look(end).listed
            return None if listed is None else {"listed": listed}

    def was_out_by(self, snapshot: Snapshot) -> str:
        """Say that it was out before the drain: the read-back does not tell by whom."""
        return BEFORE if snapshot.get("listed") is False else ""

    def withdraw(self) -> None:
        """Send the request, unless the read-back says that the instance is out or never was in."""
        with self._doing("withdraw") as end:
            found = self._before(end)
            if found.listed is True:
                self._send(self._wanted.withdraw, found.kept, end)

    def restore(self, snapshot: Snapshot | None) -> None:
        """Send the request, unless the instance is listed, or was out before the drain."""
        with self._doing("restore") as end:
            found = self._look(end)
            if found.listed is True:
                return
            if found.listed is None:
                if snapshot is None and self._options.absent == "withdrawn":
                    return
                raise AgentError("there is no such instance yet")
            if (snapshot or {}).get("listed") is False:
                raise AgentError(WAS_OUT)
            self._send(self._wanted.restore, found.kept, end)

    def _before(self, end: float) -> Found:
        """Look before a withdrawal; where nothing is kept from it, a failed look forbids none."""
        try:
            found = self._look(end)
        except AgentError:
            if self._wanted.look.keep or end <= time.monotonic():
                raise
            return Found(listed=True)
        return found

    def _look(self, end: float) -> Found:
        look = self._wanted.look
        answer = send(self._fetcher, look, self._values, _left(end))
        return read(look, answer, self._values)

    def _send(self, request: Request, kept: Mapping[str, str], end: float) -> None:
        answer = send(self._fetcher, request, {**self._values, **kept}, _left(end))
        check(request, answer)

    @contextmanager
    def _doing(self, doing: str) -> Iterator[float]:
        """Yield the end of the time that one operation has."""
        try:
            yield time.monotonic() + self._options.timeout
        except AgentError as e:
            where = f"{self._instance.name} at {self._options.url}"
            error = UnrecognisedError if isinstance(e, OtherSpellingError) else RegistryError
            raise error(self.name, f"{doing} {where}", e) from e


def _left(end: float) -> float:
    return max(0.01, end - time.monotonic())


def _requests(options: Options) -> HttpPreset:
    """Return the requests to send: those of the options, and else those of the preset."""
    preset = PRESETS[options.preset] if options.preset else None
    withdraw = options.withdraw or (preset.withdraw if preset else None)
    restore = options.restore or (preset.restore if preset else None)
    look = options.look or (preset.look if preset else None)
    if withdraw is None or restore is None or look is None:
        given = {"withdraw": withdraw, "restore": restore, "look": look}
        missing = [f"{key}: missing; there is no preset" for key, one in given.items() if not one]
        raise ConfigError(f"registry {options.label}", missing)
    return HttpPreset(withdraw, restore, look, preset.variables if preset else {})


def _values(options: Options, instance: Instance, wanted: HttpPreset) -> Mapping[str, str]:
    own = {
        "name": instance.name,
        "service": instance.service,
        "address": instance.address,
        "host": in_brackets(instance.address),
        "port": str(instance.port),
    }
    return {**wanted.variables, **own, **options.variables}


def _mistakes(options: Options, instance: Instance) -> Iterator[str]:
    wanted = _requests(options)
    known = set(_values(options, instance, wanted))
    look = wanted.look
    for key, request in (("withdraw", wanted.withdraw), ("restore", wanted.restore)):
        for name in sorted(variables_of(request) - known - set(look.keep)):
            yield f"variables.{name}: missing; {key} needs it"
    for name in sorted(variables_of(look) - known):
        yield f"variables.{name}: missing; look needs it"
    if look.entries is not None and not look.where:
        yield "look.where: missing; it says which of the entries is the instance's"
    patterns = [wanted.withdraw.answer, wanted.restore.answer, look.answer]
    patterns += map(str, (*look.listed, *look.withdrawn)) if look.by == "text" else ()
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as e:
            yield f"{pattern!r} is no regular expression: {e}"


def build(options: Options, instance: Instance) -> Http:
    """Make the registry. Raises ConfigError; touches no network."""
    mistakes = list(_mistakes(options, instance))
    try:
        fetcher = _fetcher(options)
    except FetchError as e:
        mistakes.append(f"url: {e}")
    if mistakes:
        raise ConfigError(f"registry {options.label}", mistakes)
    return Http(options, instance, fetcher)


def warnings(options: Options, instance: Instance) -> Sequence[str]:
    """Say that the preset has never met the real product, where that is so."""
    del instance
    if options.preset is None or PRESETS[options.preset].proven:
        return []
    unproven = (
        f"preset {options.preset!r} is unproven: nobody has run it on the real product; "
        "try a drain, status and a restore by hand before you trust it"
    )
    return [unproven]


def _fetcher(options: Options) -> Fetcher:
    def secrets() -> Mapping[str, str]:
        headers = {name: secret.read() for name, secret in options.headers.items()}
        if options.token is not None:
            headers["Authorization"] = f"Bearer {options.token.read()}"
        return headers

    return Fetcher(
        options.url,
        timeout=options.timeout,
        headers=secrets,
        tls_files=options.tls_files,
    )
