"""The status as JSON: what is written is read again, and what is none is refused."""

import json
from typing import Any

import pytest

from deregister_agent.errors import AgentError
from deregister_agent.model import Instance, OnDeadline, Outcome, Phase
from deregister_agent.status import (
    DrainStatus,
    ProbeStatus,
    ProcessStatus,
    RegistryStatus,
    Status,
    StatusList,
    plain,
    read,
)

STATUS = Status(
    instance=Instance("orders-1", "orders", "10.0.0.7", 8080),
    phase=Phase.DRAINED,
    since="2026-11-21T03:45:00.000Z",
    remaining=1.5,
    drain=DrainStatus(
        id="d-1",
        outcome=Outcome.DRAINED,
        reason="",
        asked_by="uid 0",
        forced=False,
        on_deadline=OnDeadline.HOLD,
    ),
    in_flight={"requests": 0},
    blocking=("a", "b"),
    registries=(
        RegistryStatus(name="consul", listed=None, stragglers=("x",), others=2, error="no answer"),
    ),
    probes=(ProbeStatus(name="tcp", in_flight=None),),
    process=ProcessStatus(pids=(7, 8)),
    cursor="c",
)


def as_json(status: Any = STATUS) -> Any:
    return json.loads(json.dumps(status, default=plain))


def test_what_is_written_is_read_again() -> None:
    """Every part comes back as the model that it was."""
    assert read(Status, as_json()) == STATUS
    assert read(StatusList, as_json(StatusList(instances=(STATUS, STATUS)))).instances[1] == STATUS


def test_the_keys_stand_in_one_order() -> None:
    """Scripts and tests have seen this order; a nonce is there only if the request had one."""
    keys = (
        "instance phase since deadline remaining drain in_flight blocking notes registries probes "
        "process ready error cursor"
    )
    assert list(as_json()) == keys.split()
    registry = "name listed listing out_by acknowledged stragglers others asked error"
    assert list(as_json()["registries"][0]) == registry.split()


def test_what_a_newer_agent_adds_is_passed_over() -> None:
    """Unknown keys say nothing to this reader, at every depth."""
    found = as_json() | {"colour": "red"}
    found["registries"][0]["colour"] = "red"
    assert read(Status, found) == STATUS


def test_what_may_be_missing_has_its_meaning() -> None:
    """A status without them has no notes, no trouble, and no deadline."""
    found = as_json()
    for key in ("notes", "error", "deadline", "ready"):
        del found[key]
    assert read(Status, found) == STATUS


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("phase", "sleeping", "phase: "),
        ("phase", [], "phase: "),
        ("cursor", ..., "cursor: missing"),
        ("registries", ..., "registries: missing"),
        ("registries", {}, "registries: "),
        ("registries", [{"name": "consul"}], "registries.0.listed: missing"),
        ("instance", "orders-1", "instance: not an object"),
        ("in_flight", {"requests": True}, "in_flight.requests: "),
        ("in_flight", {"requests": 1.5}, "in_flight.requests: "),
        ("remaining", "12", "remaining: "),
        ("drain", [], "drain: not an object"),
    ],
)
def test_a_status_that_is_none_is_refused(key: str, value: Any, why: str) -> None:
    """The error names the key; a wrong type is never made to fit."""
    found = {name: each for name, each in (as_json() | {key: value}).items() if each is not ...}
    with pytest.raises(AgentError, match=f"^{why}"):
        read(Status, found)


def test_a_listing_that_is_no_answer_is_refused() -> None:
    """Not listed is false and nothing else: a registry's word decides about a kill."""
    odd: tuple[Any, ...] = (0, "", "false", [])
    for value in odd:
        found = as_json()
        found["registries"][0]["listed"] = value
        with pytest.raises(AgentError, match=r"^registries\.0\.listed: "):
            read(Status, found)


def test_what_is_no_object_is_refused() -> None:
    """A page of another program may well be JSON."""
    odd: tuple[Any, ...] = ([], "ok", None, 3)
    for found in odd:
        with pytest.raises(AgentError, match=r"^the whole: not an object"):
            read(Status, found)
