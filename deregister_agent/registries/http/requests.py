"""Requests that a configuration describes, and how their answers are read."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import Field, JsonValue

from deregister_agent.config.options import Table
from deregister_agent.errors import AgentError, excerpt
from deregister_agent.host.json_pointer import Pointer, pointed
from deregister_agent.net.fetcher import Answer, Fetcher

Value = bool | int | str
Statuses = Annotated[tuple[Annotated[int, Field(ge=100, le=599)], ...], Field(min_length=1)]
Values = Annotated[tuple[Value, ...], Field(min_length=1)]

VARIABLE = re.compile(r"\{([a-z_]+)\}")
"""How a variable is written."""
_UNCACHED = {"Cache-Control": "no-cache"}


class Request(Table):
    """One request. ``{name}`` in its texts stands for a variable."""

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    """The method."""
    path: str = ""
    """What follows the registry's url, query included; values of variables are percent-encoded."""
    payload: dict[str, JsonValue] | None = None
    """What is sent as JSON."""
    body: str | None = None
    """What is sent as it is, instead of payload."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Headers of this request."""
    expect: Statuses = (200,)
    """The statuses that mean that it was done; any other is an error."""
    answer: str = ""
    """A regular expression that the answer has to match somewhere."""

    def texts(self) -> Sequence[str]:
        """Return everything in which a variable may stand."""
        return [self.path, self.body or "", json.dumps(self.payload), *self.headers.values()]


class ReadBack(Request):
    """The request that reads back whether the instance is listed."""

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    """The method."""
    by: Literal["json", "text", "status"] = "json"
    """What tells: a value in a JSON answer, its text, or the status."""
    pointer: Pointer = ""
    """With json: where the value is, in the answer or in the entry of the instance."""
    listed: Values
    """What means listed: values, statuses, or regular expressions for a text; it is tried first."""
    withdrawn: Values
    """What means not listed. Anything else is not known, and an error."""
    entries: Pointer | None = None
    """With json: where the list is that has one entry for each instance."""
    where: dict[Pointer, str] = Field(default_factory=dict)
    """Which entry of it is the instance's: pointers into the entry, and their values."""
    keep: dict[str, Pointer] = Field(default_factory=dict)
    """Values to take from there into variables, for withdraw and restore to send them back."""
    absent: tuple[int, ...] = ()
    """The statuses that mean that there is no such instance."""

    def texts(self) -> Sequence[str]:
        """Return everything in which a variable may stand."""
        return [*super().texts(), *self.where.values()]


@dataclass(frozen=True, slots=True)
class Found:
    """What an answer says; *listed* is None where there is no such instance."""

    listed: bool | None
    kept: Mapping[str, str] = field(default_factory=dict)
    others: int | None = None
    rest: Sequence[Any] = ()  # the entries of others


def variables_of(request: Request) -> set[str]:
    """Return the names of the variables that *request* needs."""
    return {name for text in request.texts() for name in VARIABLE.findall(text)}


def send(fetcher: Fetcher, request: Request, values: Mapping[str, str], limit: float) -> Answer:
    """Send *request* with its variables filled in. Raises AgentError; any status is an answer."""
    body = None if request.body is None else filled(request.body, values).encode()
    encoded = {name: quote(value, safe="") for name, value in values.items()}
    return fetcher.call(
        request.method,
        filled(request.path, encoded),
        payload=None if request.payload is None else _filled_in(request.payload, values),
        body=body,
        headers=_UNCACHED | {n: filled(text, values) for n, text in request.headers.items()},
        timeout=limit,
    )


def check(request: Request, answer: Answer) -> None:
    """Raise AgentError unless *answer* is what *request* expects."""
    if answer.status not in request.expect:
        wanted = " or ".join(map(str, request.expect))
        raise AgentError(f"it answered {answer.status}, not {wanted}: {_start(answer)}")
    if request.answer and not re.search(request.answer, answer.text):
        raise AgentError(f"it did not answer {request.answer!r} but {_start(answer)}")


def read(look: ReadBack, answer: Answer, values: Mapping[str, str]) -> Found:
    """Return what *answer* plainly says of the instance. Raises AgentError if it does not."""
    _refuse_old(answer)
    if answer.status in look.absent:
        return Found(None)
    if look.by == "status":
        return Found(_meaning(look, answer.status, _start(answer)))
    check(look, answer)
    if look.by == "text":
        return Found(_told(look, answer))
    document = answer.json()
    if look.entries is None:
        return entry_of(look, document)
    return _among(look, pointed(document, look.entries), values)


def _refuse_old(answer: Answer) -> None:
    """Raise AgentError if a cache on the way has answered (RFC 9111, section 5.1)."""
    age = answer.headers.get("Age", "0").strip()
    if age.strip("0"):
        raise AgentError(
            f"its answer is {age} s old, from a cache on the way: let url lead past the cache"
        )


def _among(look: ReadBack, entries: Any, values: Mapping[str, str]) -> Found:
    """Find the instance's own entry, and count the others that are listed."""
    if not isinstance(entries, list):
        raise AgentError(f"the answer has no list at {look.entries or 'its top'}")
    wanted = {pointer: filled(text, values) for pointer, text in look.where.items()}
    ours: list[Any] = []
    others: list[Any] = []
    for entry in entries:
        same = all(as_text(pointed(entry, at)) == text for at, text in wanted.items())
        (ours if same else others).append(entry)
    count = sum(entry_of(look, entry).listed is True for entry in others)
    if len(ours) > 1:
        raise AgentError(f"{len(ours)} entries are the instance's: make where more precise")
    if not ours:
        return Found(None, others=count, rest=others)
    found = entry_of(look, ours[0])
    return Found(found.listed, found.kept, count, others)


def entry_of(look: ReadBack, entry: Any) -> Found:
    """Return what one entry says. Raises AgentError if it does not say it plainly."""
    value = pointed(entry, look.pointer)
    kept = {name: as_text(pointed(entry, at)) for name, at in look.keep.items()}
    return Found(_meaning(look, value, f"{look.pointer} is {excerpt(json.dumps(value))}"), kept)


def _told(look: ReadBack, answer: Answer) -> bool:
    text = answer.text
    for patterns, meaning in ((look.listed, True), (look.withdrawn, False)):
        if any(re.search(str(pattern), text) for pattern in patterns):
            return meaning
    raise AgentError(f"its answer says neither listed nor withdrawn: {_start(answer)}")


def _meaning(look: ReadBack, value: Any, shown: str) -> bool:
    """Return what *value* means; true is not 1, and "1" is neither."""
    for meanings, meaning in ((look.listed, True), (look.withdrawn, False)):
        if any(type(value) is type(one) and value == one for one in meanings):
            return meaning
    raise AgentError(f"its answer says neither listed nor withdrawn: {shown}")


def as_text(value: Any) -> str:
    """Return a JSON value as a query writes it: a text without its quotes."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return *text* with its variables filled in."""
    return VARIABLE.sub(lambda found: values[found[1]], text)


def _filled_in(value: JsonValue, values: Mapping[str, str]) -> Any:
    match value:
        case str():
            return filled(value, values)
        case dict():
            return {key: _filled_in(one, values) for key, one in value.items()}
        case list():
            return [_filled_in(one, values) for one in value]
        case _:
            return value


def _start(answer: Answer) -> str:
    return f"{answer.status} {excerpt(answer.text)!r}"
