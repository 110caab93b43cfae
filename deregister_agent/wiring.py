"""From a configuration to an agent: the only module where names meet classes."""

from collections.abc import Iterator, Mapping
from functools import partial

from deregister_agent.config.backends import identity, knowing_others
from deregister_agent.config.load import Config, InstanceConfig, needs_ready
from deregister_agent.engine.agent import Agent
from deregister_agent.engine.knowledge import InstanceSetup
from deregister_agent.host import process_finder
from deregister_agent.host.clock import Clock, SystemClock
from deregister_agent.host.peers import kept_peers
from deregister_agent.journal.journal import Journal
from deregister_agent.ports import Notifier
from deregister_agent.probes.ready_check import UrlReadyCheck

SetupAndNotifiers = tuple[InstanceSetup, Mapping[str, Notifier]]


def build_agent(config: Config, clock: Clock | None = None) -> Agent:
    """
    Make an agent that has not begun yet, and take its journal for this process.

    Raises ConfigError for what a backend refuses, and JournalError when the journal
    cannot be used or another agent has it. Touches no network.
    """
    clock = clock or SystemClock()
    setups = build_setups(config, clock)
    return Agent(Journal(config.agent.journal, clock), clock, setups)


def build_setups(config: Config, clock: Clock | None = None) -> list[SetupAndNotifiers]:
    """Make every instance with its backends. Raises ConfigError; touches no network or journal."""
    clock = clock or SystemClock()
    return [_setup(one, clock) for one in config.instances]


def _setup(config: InstanceConfig, clock: Clock) -> SetupAndNotifiers:
    instance = config.instance()
    built: list[Notifier] = [
        module.build(options, instance) for module, options in config.notifiers
    ]
    notifiers = {notifier.name: notifier for notifier in built}
    all_options = [options for _, options in config.registries]
    registries = [
        module.build(knowing_others(options, all_options, instance), instance)
        for module, options in config.registries
    ]
    for registry in registries:
        needs_ready(registry, config)
    setup = InstanceSetup(
        instance=instance,
        policy=config.policy(),
        registries=registries,
        probes=[module.build(options, instance) for module, options in config.probes],
        finder=process_finder.build(config.process, instance, clock),
        ready=[UrlReadyCheck(options) for options in config.ready],
        notifiers={name: notifier.announces for name, notifier in notifiers.items()},
        may_be_absent=frozenset(_absent_by_choice(config)),
        identities={options.label: identity(options, instance) for _, options in config.registries},
        peers=partial(kept_peers, getattr(config.process, "port", None) or instance.port),
    )
    return setup, notifiers


def _absent_by_choice(config: InstanceConfig) -> Iterator[str]:
    """Yield the registries that need not show the instance."""
    for _, options in config.registries:
        if getattr(options, "absent", "refuse") == "withdrawn":  # a third party's may lack the key
            yield options.label
