"""What can go wrong, as sentences: who, doing what, why."""


def excerpt(text: str, limit: int = 60) -> str:
    """Return the first *limit* characters of *text* on one line, to recognise the text by."""
    line = " ".join(text[: 4 * limit].split())
    return line if len(line) <= limit and len(text) <= 4 * limit else f"{line[:limit]}..."


class AgentError(Exception):
    """Whatever is wrong with this program or its surroundings, in a sentence."""


class ConfigError(AgentError):
    """The configuration cannot be used. ``mistakes`` holds each one, key first."""

    def __init__(self, where: str, mistakes: list[str]) -> None:
        super().__init__("\n".join([f"{where}:", *(f"  {mistake}" for mistake in mistakes)]))
        self.mistakes = mistakes


class JournalError(AgentError):
    """The journal cannot be read or written; nothing may be done that is not written down."""


class BackendError(AgentError):
    """A registry, probe or notifier refused, or did not answer in time."""

    def __init__(self, backend: str, doing: str, cause: object) -> None:
        super().__init__(f"{backend}: cannot {doing}: {cause}")
        self.backend = backend


class RegistryError(BackendError):
    """A registry refused, or did not answer in time."""


class ProbeError(BackendError):
    """A probe does not know what is in flight. Unknown is never zero."""


class NotifyError(BackendError):
    """An announcement was not taken; it will be made again."""


class ProcessError(AgentError):
    """Which process the app is cannot be told."""


class Refused(AgentError):  # noqa: N818 - an answer, not a fault
    """The guard will not take this instance out: too few others would remain."""

    def __init__(self, instance: str, registry: str, others: int, min_others: int) -> None:
        super().__init__(
            f"{instance}: {registry} lists {others} other instance(s) and min_others is "
            f"{min_others}; use force to withdraw it all the same"
        )
        self.registry, self.others, self.min_others = registry, others, min_others
