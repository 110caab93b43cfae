"""Whether a drain could prove itself: everything is asked once, really, and nothing is changed."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from deregister_agent.engine import examination
from deregister_agent.engine.calls import CallResult, Calls, Submit
from deregister_agent.engine.knowledge import InstanceSetup
from deregister_agent.engine.probe_examination import of_probe
from deregister_agent.errors import AgentError
from deregister_agent.host.clock import Clock
from deregister_agent.model import Phase
from deregister_agent.ports import IdleProbe, Notifier, Registry
from deregister_agent.status import DoctorReport, Finding, FindingKind

LIMIT = 20.0
"""Seconds after which what has not answered is said to be late; most give up sooner themselves."""

Findings = Sequence[Finding]


@dataclass(frozen=True, slots=True)
class Question:
    """What one backend is asked, and what it is called."""

    kind: FindingKind
    name: str
    ask: Callable[[], Findings]
    ok: bool | None = False  # what it means that it does not answer

    def unanswered(self, why: object) -> Finding:
        """Return the finding that it gave no answer, and why."""
        said = str(why).removeprefix(f"{self.name}: ")
        return Finding(kind=self.kind, name=self.name, ok=self.ok, said=said)


class Doctor:
    """
    Asks all the backends of one instance, beside its loop, with which it shares nothing but them.

    *alone*: no agent runs, and this process ends at once; so a registry that would begin to
    answer others is not asked.
    """

    def __init__(
        self,
        setup: InstanceSetup,
        notifiers: Mapping[str, Notifier],
        submit: Submit,
        clock: Clock,
        *,
        alone: bool = False,
    ) -> None:
        self.instance = setup.instance
        self._setup, self._notifiers = setup, notifiers
        self._submit, self._clock, self._alone = submit, clock, alone

    def examine(
        self, phase: Phase, trouble: AgentError | None = None, more: Findings = ()
    ) -> DoctorReport:
        """Ask everything, and judge it by *phase*; *trouble* is what keeps the agent from work."""
        found = [examination.of_agent(self.instance.name, phase, trouble), *more]
        found += self._answers(self._questions(phase))
        known = any(one.kind is FindingKind.PROBE and one.ok is not False for one in found)
        # Afterwards: a process may be known by what it has told a probe, and the connections
        # that were opened to ask are closed or known to be ours.
        found += self._answers(self._later_questions(phase, probes_know=known))
        return DoctorReport(
            instance=self.instance,
            phase=phase,
            would_prove=all(one.ok is not False for one in found),
            findings=tuple(found),
        )

    def _questions(self, phase: Phase) -> list[Question]:
        setup = self._setup
        not_ready = False if phase in examination.UP else None
        asked = [self._of_registry(one, phase) for one in setup.registries]
        asked += [self._of_probe(one, phase) for one in setup.probes]
        asked += [
            Question(FindingKind.READY, one.name, partial(examination.of_ready, one), not_ready)
            for one in setup.ready
        ]
        if not setup.ready:
            name = self.instance.name
            asked.append(Question(FindingKind.READY, name, partial(examination.no_ready, name)))
        for name, notifier in self._notifiers.items():
            told = partial(examination.of_notifier, notifier, setup.finder, phase)
            asked.append(Question(FindingKind.NOTIFIER, name, told))
        return asked

    def _later_questions(self, phase: Phase, *, probes_know: bool) -> list[Question]:
        setup = self._setup
        look = partial(examination.of_process, setup.finder, phase, probes_know=probes_know)
        asked = [Question(FindingKind.PROCESS, "process", look, None)]
        if setup.peers is not None:
            name = f"port {self.instance.port}"
            connected = partial(examination.of_connections, name, setup.peers)
            asked.append(Question(FindingKind.CONNECTION, name, connected, None))
        return asked

    def _of_registry(self, registry: Registry, phase: Phase) -> Question:
        setup, name = self._setup, registry.name
        rules = examination.RegistryRules(
            setup.instance, phase, setup.policy.min_others, name in setup.may_be_absent
        )
        if self._alone and registry.listens:
            ask = partial(examination.not_asked, name)
        else:
            ask = partial(examination.of_registry, registry, rules)
        return Question(FindingKind.REGISTRY, name, ask)

    def _of_probe(self, probe: IdleProbe, phase: Phase) -> Question:
        ask = partial(of_probe, probe, self._setup.finder.heard, self._clock)
        return Question(FindingKind.PROBE, probe.name, ask, None if phase is Phase.GONE else False)

    def _answers(self, questions: Sequence[Question]) -> list[Finding]:
        """Ask all at once, wait for LIMIT seconds at most, and return what each has said."""
        heard = threading.Event()
        calls = Calls(self._submit, self._clock, heard.set)
        answers: dict[int, Findings] = {}

        def ended(number: int, result: CallResult) -> None:
            failed = result.error is not None
            answers[number] = (
                [questions[number].unanswered(result.error)] if failed else result.value
            )

        for number, question in enumerate(questions):
            calls.start(f"doctor {number} {question.name}", question.ask, partial(ended, number))
        end = self._clock.now() + LIMIT
        while len(answers) < len(questions) and (left := end - self._clock.now()) > 0:
            heard.wait(left)
            heard.clear()
            calls.collect()
        late = f"did not answer within {LIMIT:g} s"
        return [
            finding
            for number, question in enumerate(questions)
            for finding in answers.get(number, [question.unanswered(late)])
        ]
