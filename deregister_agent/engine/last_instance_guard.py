"""The last-instance guard: no drain that would leave too few other instances."""

from deregister_agent.errors import TooFewOthers
from deregister_agent.model import Instance
from deregister_agent.ports import Registry


class Guard:
    """Asks an instance's registries whether enough others would remain without it."""

    def __init__(self, instance: Instance, min_others: int) -> None:
        self._instance, self._min_others = instance, min_others

    def check(self, registry: Registry, *, listed: bool = False) -> None:
        """
        Ask one registry, now. Raises TooFewOthers, or RegistryError if it does not answer.

        Only where the registry lists the instance, which the caller may know already: taking
        out what is out costs nobody anything. A registry that cannot count has no say.
        """
        others = registry.others() if self._min_others else None
        if others is not None and others < self._min_others and (listed or registry.lists()):
            raise TooFewOthers(self._instance.name, registry.name, others, self._min_others)
