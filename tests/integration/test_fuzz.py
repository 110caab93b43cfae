"""Requests made up from the API's own document, good and bad: no answer may be outside of it."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok

from deregister_agent.api import held_requests
from deregister_agent.model import Instance, Outcome, Phase, Policy
from tests.apps.running_server import Running, running
from tests.fakes import Directory, FakeRegistry
from tests.loops import made_of

EXAMPLES = 25

load_all_checks()
CHECKED = CHECKS.get_by_names(
    [
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
        "unsupported_method",
    ]
)


def attempt_all(server: Running, mode: GenerationMode) -> set[int]:
    """Try every operation of the served document; return the status codes seen."""
    schema = schemathesis.openapi.from_url(
        f"http://127.0.0.1:{server.port}/openapi.json", wait_for_schema=None
    )
    schema.config.generation.update(with_security_parameters=False)  # the token is the test's own
    made, codes = 0, set[int]()
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), "the document itself is wrong"
        operation = found.ok()
        places = {one.location.value for one in operation.iter_parameters()}
        if mode is GenerationMode.NEGATIVE and places <= {"path"} and not operation.body:
            continue  # any text may be a name: nothing about it can be wrong

        @seed(8650)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def attempt(case: Any) -> None:
            nonlocal made
            made += 1
            if case.path_parameters and made % 2:
                case.path_parameters["name"] = "orders-1"
            codes.add(
                case.call_and_validate(
                    headers=server.bearer, checks=CHECKED, timeout=20
                ).status_code
            )

        attempt()
    return codes


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(
    ("phase", "outcome"),
    [
        (Phase.SERVING, None),
        pytest.param(Phase.DRAINING, None, marks=pytest.mark.nightly),
        (Phase.DRAINED, Outcome.DRAINED),
    ],
)
def test_nothing_outside_the_document(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: GenerationMode,
    phase: Phase,
    outcome: Outcome | None,
) -> None:
    """Whatever is asked, in whatever phase, the answer is one that the document names."""
    monkeypatch.setattr(held_requests, "STREAM_FOR", 0.0)
    with running(tmp_path) as server:
        server.loop.to(phase, outcome)
        server.loop.close()  # a made-up wait is over at once
        codes = attempt_all(server, mode)
        assert {400, 404} < codes if mode is GenerationMode.NEGATIVE else {200, 202} < codes


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_real_agent_keeps_to_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: GenerationMode
) -> None:
    """The same with the real loop and journal behind it, while drains begin and end."""
    monkeypatch.setattr(held_requests, "STREAM_FOR", 0.0)
    instance = Instance("orders-1", "orders", "127.0.0.1", 8080)
    directory = Directory({"orders-1": {}, "orders-2": {}})
    registry = FakeRegistry(directory, "orders-1")
    made = made_of(tmp_path, instance, [registry], Policy(quiet=0.01))
    with running(tmp_path, agent=made.agent) as server:
        made.agent.start()
        made.loop.close()  # a made-up wait is over at once
        codes = attempt_all(server, mode)
        assert {400, 404} < codes if mode is GenerationMode.NEGATIVE else {200, 202} < codes
