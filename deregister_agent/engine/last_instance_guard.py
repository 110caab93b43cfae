"""The last-instance guard: no drain that would leave too few other instances."""

import logging
import threading
from collections.abc import Sequence
from functools import partial

from deregister_agent.engine.calls import Submit
from deregister_agent.errors import AgentError, Refused, TooFewOthers
from deregister_agent.host.clock import Clock
from deregister_agent.model import Instance
from deregister_agent.ports import Registry

log = logging.getLogger(__name__)

GUARD_WAIT = 0.25  # seconds stop-traffic waits for the registries' count of others


class Guard:
    """Asks an instance's registries whether enough others would remain without it."""

    def __init__(self, instance: Instance, registries: Sequence[Registry], min_others: int) -> None:
        self._instance, self._registries, self._min_others = instance, registries, min_others

    def check(self, registry: Registry) -> None:
        """
        Ask one registry, now. Raises Refused, or RegistryError if it does not answer.

        Only where the registry lists the instance: taking out what is out already
        costs nobody anything. A registry that cannot count has no say.
        """
        others = registry.others() if self._min_others else None
        if others is not None and others < self._min_others and registry.lists():
            raise TooFewOthers(self._instance.name, registry.name, others, self._min_others)

    def ask(self, submit: Submit, clock: Clock) -> None:
        """
        Ask each registry at once. Raises Refused.

        A registry that does not answer within GUARD_WAIT does not hold up stop-traffic:
        it is asked again before the instance is withdrawn from it.
        """
        answered = threading.Semaphore(0)
        refused: list[Refused] = []

        def ask(registry: Registry) -> None:
            try:
                self.check(registry)
            except Refused as e:
                refused.append(e)
            except AgentError as e:
                log.warning("%s: the guard will ask again: %s", self._instance, e)
            finally:
                answered.release()

        for registry in self._registries:
            submit(partial(ask, registry))
        end = clock.now() + GUARD_WAIT
        for _ in self._registries:
            if not answered.acquire(timeout=max(0.0, end - clock.now())):
                break
        if refused:
            raise refused[0]
