"""What the app has in hand, by its own count: numbers in a JSON document that the app serves."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from deregister_agent.errors import AgentError, ProbeError, excerpt
from deregister_agent.host.json_pointer import Pointer, pointed
from deregister_agent.host.json_values import is_number, is_whole_number
from deregister_agent.model import Instance, Reading
from deregister_agent.net.fetcher import Answer
from deregister_agent.ports import IdleProbe
from deregister_agent.probes.counting import (
    MOST_IN_HAND,
    MOST_STARTED,
    ReadLock,
    StartedCounter,
    Unclear,
    WorkKind,
    a_count,
    above_baseline,
    must_cover,
)
from deregister_agent.probes.http_endpoint import (
    CountsPageOptions,
    PolledPage,
    Url,
    bearer_headers,
    media_type,
    tells_its_length,
)

BODY_LIMIT = 262_144  # bytes

Pointers = Annotated[tuple[Pointer, ...], Field(min_length=1)]


class Options(CountsPageOptions):
    """An app that tells in JSON what it has in hand."""

    url: Url
    """Where the document is: ``http://``, ``https://`` or ``http+unix://%2Frun%2Fapp.sock/path``."""
    in_flight: Annotated[Mapping[WorkKind, Pointer | Pointers], Field(min_length=1)]
    """For each kind of work (requests, tasks, messages) the JSON pointer of its count, or several
    pointers, whose numbers are added."""
    started: Pointer | None = None
    """JSON pointer of a counter of all work ever started: work too short to be seen in flight still
    ends the quiet window."""
    mark: Pointer | None = None
    """JSON pointer of what names the process: an instance id or a start time."""
    wait_parameter: Annotated[str, Field(min_length=1)] | None = None
    """Query parameter for a long poll, where the app can hold the answer until it is idle: the
    probe gives it the seconds that it is willing to wait, and waits that much longer."""


class HttpJsonProbe(IdleProbe):
    """Reads one URL; what is not exactly as expected is not known, and never zero."""

    def __init__(self, options: Options, page: PolledPage) -> None:
        self.name = options.label
        self._options, self._page = options, page
        self._starts = StartedCounter(options.own_starts)
        self._reads = ReadLock()

    def read(self, wait: float) -> Reading:
        """Return the counts in the document. Raises ProbeError unless each is plain."""
        options = self._options
        params, limit = list[tuple[str, str]](), options.timeout
        if options.wait_parameter is not None and wait > 0:
            params, limit = [(options.wait_parameter, f"{wait:g}")], limit + wait
        try:
            return self._asked(params, limit)
        except AgentError as e:
            raise ProbeError(self.name, f"tell what is in flight from {options.url}", e) from e

    def _asked(self, params: Sequence[tuple[str, str]], limit: float) -> Reading:
        """Ask the app, one read at a time: two at once would count each other as its work."""
        with self._reads.held(limit) as left:
            return self._reading(_document(self._page.get(left, params=params)))

    def _reading(self, document: Any) -> Reading:
        options = self._options
        in_flight = {
            kind: above_baseline(kind, _sum(document, pointers), options.baseline.get(kind, 0))
            for kind, pointers in options.in_flight.items()
        }
        mark = "" if options.mark is None else _name(document, options.mark)
        started = None
        if options.started is not None:
            counter = _number(document, options.started, MOST_STARTED)
            must_cover(counter, in_flight)
            started = self._starts.count(counter, mark)
        return Reading(in_flight, started, mark)


def _document(answer: Answer) -> Any:
    """Return the JSON document in *answer*. Raises Unclear unless all of it is plain JSON."""
    kind = media_type(answer)
    if kind != "application/json" and not kind.endswith("+json"):
        raise Unclear(
            f"the answer is not JSON but {kind or 'of no type'}: {excerpt(answer.text)!r}"
        )
    try:
        found = json.loads(answer.body, parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as e:
        raise Unclear(f"the answer is no valid JSON ({e}): {excerpt(answer.text)!r}") from e
    if is_number(found) and not tells_its_length(answer):  # 1 may be the beginning of 10
        raise Unclear("the answer may break off: the app does not tell how long it is")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return *pairs* as an object. Of a key that stands there twice, no value can be believed."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _sum(document: Any, pointers: str | tuple[str, ...]) -> int:
    each = (pointers,) if isinstance(pointers, str) else pointers
    return sum(_number(document, pointer, MOST_IN_HAND) for pointer in each)


def _number(document: Any, pointer: str, most: int) -> int:
    value, where = pointed(document, pointer), pointer or "the top"
    if not is_whole_number(value):  # shown as JSON has it
        raise Unclear(f"at {where} there is {_shown(value)}, not a whole number")
    return a_count(value, f"the number at {where}", most=most)


def _name(document: Any, pointer: str) -> str:
    value = pointed(document, pointer)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        raise Unclear(f"at {pointer or 'the top'} there is {_shown(value)}, which is no mark")
    return str(value)


def _shown(value: Any) -> str:
    return excerpt(json.dumps(value))


def build(options: Options, instance: Instance) -> HttpJsonProbe:
    """Return the probe. Raises ConfigError if the options contradict each other."""
    del instance
    started = options.started is not None
    mistakes = options.contradictions(options.in_flight, started=started)
    page = PolledPage(options, bearer_headers(options.token), mistakes, body_limit=BODY_LIMIT)
    return HttpJsonProbe(options, page)
