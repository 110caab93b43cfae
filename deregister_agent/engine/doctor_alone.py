"""Doctor where no agent of this version runs: with the phases that a journal has."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deregister_agent.engine.calls import Threads
from deregister_agent.engine.doctor import Doctor
from deregister_agent.engine.knowledge import InstanceSetup
from deregister_agent.errors import JournalError
from deregister_agent.host.clock import SystemClock
from deregister_agent.journal.glance import last_phases
from deregister_agent.model import Phase
from deregister_agent.ports import Notifier
from deregister_agent.status import DoctorReport, Finding, FindingKind


def examine_alone(
    setups: Sequence[tuple[InstanceSetup, Mapping[str, Notifier]]],
    journal: Path,
    why: str,
    phases: Mapping[str, Phase],
) -> Iterator[DoctorReport]:
    """
    Examine each instance in this process; *why* says why no agent does.

    *phases* are those that an agent of another version has told; those of the journal count
    for the others. The journal is not changed, no loop is started, and nobody is told anything.
    """
    said = [Finding(kind=FindingKind.AGENT, name="agent", ok=None, said=why)]
    known: Mapping[str, Phase] = {}
    try:
        known = last_phases(journal)
    except JournalError as e:
        remedy = "run doctor as the user of the agent, or start the agent and see what it says"
        said.append(
            Finding(kind=FindingKind.AGENT, name="journal", ok=False, said=str(e), remedy=remedy)
        )
    submit, clock = Threads().submit, SystemClock()
    for setup, notifiers in setups:
        name = setup.instance.name
        phase = phases.get(name) or known.get(name) or Phase.SERVING
        yield Doctor(setup, notifiers, submit, clock, alone=True).examine(phase, more=said)
