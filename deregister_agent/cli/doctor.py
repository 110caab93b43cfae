"""``doctor``: whether a drain could prove itself, asked of the agent, or here if none runs."""

import sys
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path

from deregister_agent.cli.client import AgentClient, NobodyThere, is_absent, path_of
from deregister_agent.cli.commands import print_json, say
from deregister_agent.cli.follow import ExitCode, Failed, accepted
from deregister_agent.cli.progress import Paint, painted, unpainted, wants_colour
from deregister_agent.errors import AgentError, harmless
from deregister_agent.model import Phase
from deregister_agent.status import DoctorReport, Finding, Status, StatusList

PATIENCE = 40.0
"""Seconds for which one answer is waited for: the agent waits for slow backends, and in turn."""

_MARKS: Mapping[bool | None, tuple[str, str]] = {
    True: ("ok  ", "32"),
    False: ("BAD ", "1;31"),
    None: ("note", "33"),
}


class EarlierVersion(AgentError):  # noqa: N818 - what was found, and no fault
    """An agent of an earlier version runs, which knows nothing of doctor."""


def doctor(agent: AgentClient, config: Path, name: str | None, *, as_json: bool) -> ExitCode:
    """Examine one instance, or all, and print what was found; DONE if each could prove itself."""
    try:
        reports = _asked(agent, name)
    except EarlierVersion as e:
        reports = _here(config, name, str(e), _phases(agent))
    except NobodyThere as e:
        if is_absent(config):
            raise
        reports = _here(config, name, f"{e}: asked in this process, with the journal as it is", {})
    if as_json:
        print_json(_one_report(reports) if name else {"reports": tuple(reports)})
    else:
        paint = painted if wants_colour(sys.stdout) else unpainted
        say("\n".join(line for report in reports for line in described(report, paint)))
    return ExitCode.DONE if all(one.would_prove for one in reports) else ExitCode.UNFIT


def _one_report(reports: Sequence[DoctorReport]) -> DoctorReport:
    (report,) = reports
    return report


def _asked(agent: AgentClient, name: str | None) -> list[DoctorReport]:
    if name is not None:
        return [_report(agent, name)]
    found = accepted(agent.get("/v1/instances"), StatusList).instances
    return [_report(agent, one.instance.name) for one in found]


def _report(agent: AgentClient, name: str) -> DoctorReport:
    answer = agent.get(path_of(name, "doctor"))
    if answer.status == HTTPStatus.NOT_FOUND:
        accepted(agent.get(path_of(name)), Status)  # or there is no such instance
        raise EarlierVersion(
            "the agent that runs is of an earlier version: asked in this process, with its phases"
        )
    return accepted(answer, DoctorReport)


def _phases(agent: AgentClient) -> Mapping[str, Phase]:
    found = accepted(agent.get("/v1/instances"), StatusList).instances
    return {one.instance.name: one.phase for one in found}


def _here(
    path: Path, name: str | None, why: str, phases: Mapping[str, Phase]
) -> list[DoctorReport]:
    """Examine in this process, without the journal, the loops and the announcements."""
    # Only here: scripts that ask an agent should not load a whole one.
    from deregister_agent.cli import logs  # noqa: PLC0415
    from deregister_agent.config.load import load_config  # noqa: PLC0415
    from deregister_agent.engine.doctor_alone import examine_alone  # noqa: PLC0415
    from deregister_agent.wiring import build_setups  # noqa: PLC0415

    config = load_config(path)
    logs.setup("text", "error")  # what a warning would say, the findings say
    chosen = tuple(one for one in config.instances if name in {None, one.name})
    if not chosen:
        known = ", ".join(one.name for one in config.instances)
        raise Failed(ExitCode.USAGE, f"no instance is called {name!r}; {path} has: {known}")
    setups = build_setups(config.model_copy(update={"instances": chosen}))
    return list(examine_alone(setups, config.agent.journal, why, phases))


def described(report: DoctorReport, paint: Paint = unpainted) -> list[str]:
    """Return a report in lines, each finding with its mark and what to do."""
    one = report.instance
    verdict = "fit for a drain" if report.would_prove else "NOT fit for a drain"
    where = harmless(f"{one.name} ({one.service}, {one.address}:{one.port}, {report.phase})")
    head = f"{where}: {paint(verdict, _MARKS[report.would_prove][1])}"
    return [head, *(line for finding in report.findings for line in _lines(finding, paint))]


def _lines(finding: Finding, paint: Paint) -> list[str]:
    mark, colour = _MARKS[finding.ok]
    text = harmless(f"{finding.kind:<10} {finding.name}: {finding.said}")
    lines = [f"  {paint(mark, colour)} {text}"]
    return [*lines, f"       -> {harmless(finding.remedy)}"] if finding.remedy else lines
