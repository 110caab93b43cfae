"""What can go wrong, as sentences: who, doing what, why; and foreign text, shown harmlessly."""

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

SHORTEST = 4
"""Characters of the shortest secret that is masked: less stands in too many words."""
_LONGEST = 8192  # characters of a secret, however often it was quoted
_MOST_SECRETS = 250
_secrets: dict[str, re.Pattern[str]] = {}  # and how each may be written, the oldest first


def hide_secret(value: str) -> None:
    """Let masked() hide *value* from now on, as it is and as others write it."""
    if len(value) < SHORTEST or value in _secrets:
        return
    raw = value.encode("utf-8", "surrogateescape")
    quoted = (quote(raw), quote(raw, safe=""), _base64(raw))
    spellings = ("".join(map(_escaped_often, value)), *map(re.escape, quoted))
    _secrets[value] = re.compile("|".join(spellings), re.IGNORECASE)
    while len(_secrets) > _MOST_SECRETS:  # long since renewed
        _secrets.pop(next(iter(tuple(_secrets))), None)


def masked(text: str) -> str:
    """Return *text* without any secret: a server may send back what it was sent."""
    known = tuple(_secrets.items())  # others may read one meanwhile
    for _, spelled in sorted(known, key=lambda one: -len(one[0])):
        text = spelled.sub("(secret)", text)
    return text


def _escaped_often(character: str) -> str:
    """Return a pattern for a character in text that was quoted any number of times."""
    if character == "\\":
        return r"\\+"
    if character.isascii():
        return rf"\\*{re.escape(character)}" if not character.isalnum() else character
    raw = character.encode("utf-8", "surrogateescape")
    as_bytes = "".join(rf"\\+x{byte:02x}" for byte in raw)
    as_units = "".join(rf"\\+u{unit}" for unit in _units(character))
    return f"(?:{re.escape(character)}|{as_bytes}|{as_units}|{re.escape(raw.decode('latin-1'))})"


def _units(character: str) -> Iterator[str]:
    """Yield the units of UTF-16, in hexadecimal, as JSON has them."""
    raw = character.encode("utf-16-be", "surrogatepass")
    for at in range(0, len(raw), 2):
        yield raw[at : at + 2].hex()


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


def harmless(text: str) -> str:
    """
    Return *text* on one line that steers no terminal and forges no other line.

    Names, reasons and errors come from elsewhere. Escape sequences, C1 controls, marks of
    direction and separators of lines are what ``str.isprintable`` calls not printable; each
    becomes a space.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def harmless_json(document: str) -> str:
    """Return a JSON *document* with all but printable text and line breaks escaped: the same."""
    return re.sub(r"[^\x20-\x7e\n]", _escaped, document)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable():
        return character
    return "".join(f"\\u{unit}" for unit in _units(character))


def excerpt(text: str, limit: int = 60) -> str:
    """Return the first *limit* characters of *text* on one line, to recognise the text by."""
    shown = masked(text[: 4 * limit + _LONGEST])  # a whole answer may have many megabytes
    if len(text) > 4 * limit + _LONGEST:
        shown = shown[:-_LONGEST]  # it may end in the middle of a secret
    line = " ".join(shown[: 4 * limit].split())
    return line if len(line) <= limit and len(shown) <= 4 * limit else f"{line[:limit]}..."


def few(names: Iterable[str], most: int = 5) -> str:
    """Return the first few of some names, sorted, and how many there are more."""
    known = sorted(set(names))
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more


class AgentError(Exception):
    """Whatever is wrong with this program or its surroundings, in a sentence."""


class ConfigError(AgentError):
    """The configuration cannot be used. ``mistakes`` holds each one, key first."""

    def __init__(self, where: str, mistakes: list[str]) -> None:
        mistakes = [harmless(mistake) for mistake in mistakes]
        super().__init__("\n".join([f"{where}:", *(f"  {mistake}" for mistake in mistakes)]))
        self.mistakes = mistakes


class JournalError(AgentError):
    """The journal cannot be read or written; nothing may be done that is not written down."""


class BackendError(AgentError):
    """A registry, probe or notifier refused, or did not answer in time."""

    def __init__(self, backend: str, doing: str, cause: object) -> None:
        super().__init__(f"{backend}: cannot {doing}: {masked(str(cause))}")
        self.backend = backend


class RegistryError(BackendError):
    """A registry refused, or did not answer in time."""


class UnrecognisedError(RegistryError):
    """
    What the registry shows is not recognised as the instance, and would send it work.

    The sentence names it, and the line of the configuration to change.
    """


class ProbeError(BackendError):
    """A probe does not know what is in flight. Unknown is never zero."""


class NotifyError(BackendError):
    """An announcement was not taken; it will be made again."""


class ProcessError(AgentError):
    """Which process the app is cannot be told."""


class Refused(AgentError):  # noqa: N818 - an answer, not a fault
    """The instance is not taken out. ``registry`` is whose word the refusal rests on."""

    registry: str


class TooFewOthers(Refused):
    """The guard will not take this instance out: too few others would remain."""

    def __init__(self, instance: str, registry: str, others: int, min_others: int) -> None:
        super().__init__(
            f"{instance}: {registry} lists {others} other instance(s) and min_others is "
            f"{min_others}; use force to withdraw it all the same"
        )
        self.registry, self.others, self.min_others = registry, others, min_others


class NeverSeen(Refused):
    """A registry does not show the instance and never has: nobody can tell that it is out."""

    def __init__(self, instance: str, registry: str, look_alikes: Sequence[str]) -> None:
        alike = "; ".join(look_alikes)
        found = f"what looks like it there: {alike}" if alike else "nothing there looks like it"
        super().__init__(
            f"{instance}: {registry} does not show it, and has not since it was last put into "
            f"service, so it may be listed where nobody looks; {found}. Correct the options of "
            f'{registry}, or register the app; or set absent = "withdrawn" there, if by choice '
            f"it is not listed; for this drain alone: vouch for {registry}, with a reason. "
            "To force it is no answer to this"
        )
        self.registry, self.look_alikes = registry, tuple(look_alikes)


class NotRecognised(NeverSeen):
    """What a registry shows is not known to be the instance, or to stay out once it is out."""

    def __init__(self, instance: str, registry: str, why: UnrecognisedError) -> None:
        Refused.__init__(
            self,
            f"{instance}: nobody could tell that it is out: {why}. For this drain alone: vouch "
            f"for {registry}, with a reason. To force it is no answer to this",
        )
        self.registry, self.look_alikes = registry, (str(why),)


class OtherRegistrations(Refused):
    """A registry sends work to the instance under other names too: they would go on doing so."""

    def __init__(self, instance: str, registry: str, found: Sequence[str]) -> None:
        super().__init__(
            f"{instance}: {registry} would go on sending it work by what is not withdrawn: "
            f"{'; '.join(found)}. Take that out, or correct the options of {registry}; for "
            f"this drain alone: vouch for {registry}, with a reason. To force it is no answer "
            "to this"
        )
        self.registry, self.found = registry, tuple(found)


class RefusedThere(Refused):
    """The agent of another host will not take the instance out of what it sees to."""

    def __init__(self, registry: str, doing: str, why: object) -> None:
        super().__init__(f"{registry}: cannot {doing}: {why}")
        self.registry = registry


class UnknownRegistry(AgentError):  # noqa: N818 - an answer, not a fault
    """Somebody vouches for a registry that the instance has not."""

    def __init__(self, instance: str, registry: str, registries: Sequence[str]) -> None:
        known = ", ".join(registries)
        super().__init__(f"{instance} has no registry {registry!r} to vouch for; it has: {known}")


class CannotRestore(AgentError):  # noqa: N818 - an answer, not a fault
    """What a registry has lost of an instance in service is not put back."""

    def __init__(self, instance: str, registry: str, why: str) -> None:
        super().__init__(f"{instance}: {registry} does not list it, and {why}")


class StillListed(Refused):
    """Somebody vouches for a registry that lists the instance."""

    def __init__(self, instance: str, registry: str) -> None:
        super().__init__(
            f"{instance}: {registry} lists it, so nobody can vouch that it does not: "
            "drain without vouching for it"
        )
        self.registry = registry
