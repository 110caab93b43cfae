"""From a configuration to an agent: the only module where names meet classes."""

from collections.abc import Mapping

from deregister_agent.config.load import Config, InstanceConfig, needs_ready
from deregister_agent.engine.agent import Agent
from deregister_agent.engine.instance_loop import Parts
from deregister_agent.host import process_finder
from deregister_agent.host.clock import Clock, SystemClock
from deregister_agent.journal.journal import Journal
from deregister_agent.ports import Notifier
from deregister_agent.probes.ready_check import ReadyCheck


def build_agent(config: Config, clock: Clock | None = None) -> Agent:
    """
    Make an agent that has not begun yet, and take its journal for this process_finder.

    Raises ConfigError for what a backend refuses, and JournalError when the journal
    cannot be used or another agent has it. Touches no network.
    """
    clock = clock or SystemClock()
    parts = [_parts(one, clock) for one in config.instances]
    return Agent(Journal(config.agent.journal, clock), clock, parts)


def _parts(config: InstanceConfig, clock: Clock) -> tuple[Parts, Mapping[str, Notifier]]:
    instance = config.instance()
    built: list[Notifier] = [
        module.build(options, instance) for module, options in config.notifiers
    ]
    notifiers = {notifier.name: notifier for notifier in built}
    registries = [module.build(options, instance) for module, options in config.registries]
    for registry in registries:
        needs_ready(registry, config)
    parts = Parts(
        instance=instance,
        policy=config.policy(),
        registries=registries,
        probes=[module.build(options, instance) for module, options in config.probes],
        finder=process_finder.build(config.process, instance, clock),
        ready=[ReadyCheck(options) for options in config.ready],
        notifiers={name: notifier.announces for name, notifier in notifiers.items()},
    )
    return parts, notifiers
