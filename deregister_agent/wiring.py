"""From a configuration to an agent: the only module where names meet classes."""

from collections.abc import Mapping

from deregister_agent.config.backends import identity
from deregister_agent.config.load import Config, InstanceConfig, needs_ready
from deregister_agent.engine.agent import Agent
from deregister_agent.engine.knowledge import InstanceSetup
from deregister_agent.host import process_finder
from deregister_agent.host.clock import Clock, SystemClock
from deregister_agent.journal.journal import Journal
from deregister_agent.ports import Notifier
from deregister_agent.probes.ready_check import UrlReadyCheck


def build_agent(config: Config, clock: Clock | None = None) -> Agent:
    """
    Make an agent that has not begun yet, and take its journal for this process.

    Raises ConfigError for what a backend refuses, and JournalError when the journal
    cannot be used or another agent has it. Touches no network.
    """
    clock = clock or SystemClock()
    setups = [_setup(one, clock) for one in config.instances]
    return Agent(Journal(config.agent.journal, clock), clock, setups)


def _setup(config: InstanceConfig, clock: Clock) -> tuple[InstanceSetup, Mapping[str, Notifier]]:
    instance = config.instance()
    built: list[Notifier] = [
        module.build(options, instance) for module, options in config.notifiers
    ]
    notifiers = {notifier.name: notifier for notifier in built}
    registries = [module.build(options, instance) for module, options in config.registries]
    for registry in registries:
        needs_ready(registry, config)
    looked_for = [(options.label, options) for _, options in config.registries]
    setup = InstanceSetup(
        instance=instance,
        policy=config.policy(),
        registries=registries,
        probes=[module.build(options, instance) for module, options in config.probes],
        finder=process_finder.build(config.process, instance, clock),
        ready=[UrlReadyCheck(options) for options in config.ready],
        notifiers={name: notifier.announces for name, notifier in notifiers.items()},
        may_be_absent=frozenset(
            name for name, options in looked_for if getattr(options, "absent", "") == "withdrawn"
        ),
        identities={name: identity(options, instance) for name, options in looked_for},
    )
    return setup, notifiers
