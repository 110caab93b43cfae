"""The query and body that a request of the HTTP API may have, and who asks; nothing else."""

import re
from typing import Annotated, Any, Self, TypeVar

from flask import request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deregister_agent.api.problem import Problem
from deregister_agent.api.wsgi_bridge import PEER
from deregister_agent.config.suggestion import did_you_mean
from deregister_agent.model import OnDeadline

ASKED_BY = "X-Asked-By"
"""The header in which a client may name itself: a deploy's number, a person."""
LONGEST_WAIT = 300.0
"""The most seconds that ``wait`` may ask for."""
LONGEST_LOOK = 30.0
"""The most seconds that ``look`` may ask for."""
MARK = r"^[A-Za-z0-9_-]{0,64}$"
"""A cursor or a nonce."""
PLAIN = r"^[^\x00-\x1f\x7f]*$"
"""One line: what is written to logs and the journal holds no control characters."""

_LAST_EVENT = re.compile(r"\d{1,18}", re.ASCII)  # fits the journal's 64 bits
_NAME = re.compile(r"[\x20-\x7e]{1,100}")

Mark = Annotated[str, Field(pattern=MARK)]
ShortText = Annotated[str, Field(max_length=500, pattern=PLAIN)]


class RequestBody(BaseModel):
    """The JSON body of a request; none at all means every default."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StopTraffic(RequestBody):
    """The body of stop-traffic; the instance's policy fills in what is left out."""

    deadline: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)] | None = None
    on_deadline: OnDeadline | None = None
    reason: ShortText = ""
    force: bool = False
    vouch: tuple[ShortText, ...] = ()
    if_present: bool = False

    @model_validator(mode="after")
    def _a_reason_to_vouch(self) -> Self:
        if self.vouch and not self.reason:
            raise ValueError("reason: say why you vouch: it stands in the history")
        return self


class StartTraffic(RequestBody):
    """The body of start-traffic."""

    reason: ShortText = ""
    anyway: bool = False


class NoQuery(BaseModel):
    """A query string that must be empty."""

    model_config = ConfigDict(extra="forbid")


class WaitQuery(NoQuery):
    """For how many seconds an answer may be held until it is final."""

    wait: Annotated[float, Field(ge=0, le=LONGEST_WAIT, allow_inf_nan=False)] = 0.0


class StatusQuery(WaitQuery):
    """
    The moment of which a status is wanted.

    With *look* the registries are asked first, and may take so many seconds. With *wait*
    the answer is held while its cursor would be *cursor*. A *nonce* comes back in the answer.
    """

    look: Annotated[float, Field(ge=0, le=LONGEST_LOOK, allow_inf_nan=False)] = 0.0
    cursor: Mark = ""
    nonce: Mark = ""

    @model_validator(mode="after")
    def _one_way_to_wait(self) -> Self:
        if self.wait and not self.cursor:
            raise ValueError("wait: give cursor too, that of the status you have")
        if self.wait and self.look:
            raise ValueError("look: give either look or wait, not both")
        return self


class HistoryQuery(NoQuery):
    """How many drains to list."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 50


AnyBody = TypeVar("AnyBody", bound=RequestBody)
AnyQuery = TypeVar("AnyQuery", bound=NoQuery)


def body(model: type[AnyBody]) -> AnyBody:
    """Return the request's body as a *model*. Raises Problem 400, 413 or 415."""
    data = request.get_data(cache=False)
    if not data:
        return model()
    if request.mimetype != "application/json":
        raise Problem(415, "send the body as JSON, with Content-Type: application/json")
    try:
        return model.model_validate_json(data)
    except ValidationError as e:
        raise Problem(400, _sentences(e, model, "field")) from e


def query(model: type[AnyQuery]) -> AnyQuery:
    """Return the request's query as a *model*. Raises Problem 400."""
    for key, values in request.args.lists():
        if len(values) > 1:
            raise Problem(400, f"{key[:100]}: given {len(values)} times; give it once")
    try:
        return model.model_validate(request.args.to_dict())
    except ValidationError as e:
        raise Problem(400, _sentences(e, model, "parameter")) from e


def asked_by() -> str:
    """Return who asks: the name that they give, if any, and what the kernel knows of them."""
    peer = str(request.environ.get(PEER) or request.remote_addr or "unknown")
    name = request.headers.get(ASKED_BY, "")
    if not name:
        return peer
    if not _NAME.fullmatch(name):
        raise Problem(400, f"{ASKED_BY}: give 1 to 100 printable ASCII characters")
    return f"{name} ({peer})"


def last_event() -> int | None:
    """Return the id after which events are wanted; None: only those still to come."""
    value = request.headers.get("Last-Event-ID")
    if value is None:
        return None
    if not _LAST_EVENT.fullmatch(value):
        raise Problem(400, "Last-Event-ID: give the id of an event, a whole number")
    return int(value)


def _sentences(error: ValidationError, model: type[BaseModel], kind: str) -> str:
    return "; ".join(_sentence(dict(one), model, kind) for one in error.errors(include_url=False))


def _sentence(one: dict[str, Any], model: type[BaseModel], kind: str) -> str:
    key = ".".join(str(part) for part in one["loc"])[:100]
    match one["type"]:
        case "json_invalid":
            return f"the body is not JSON: {one['ctx']['error']}"
        case "model_type":
            return "the body must be a JSON object"
        case "extra_forbidden":
            known = ", ".join(model.model_fields) or "none at all"
            hint = did_you_mean(key, model.model_fields) or f"; known here: {known}"
            return f"{key}: no such {kind}{hint}"
        case "value_error":
            return str(one["ctx"]["error"])
        case _:
            return f"{key}: {one['msg'][0].lower()}{one['msg'][1:]}"
