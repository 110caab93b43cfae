"""What the app has in hand, by its own count: numbers in a JSON document that it serves."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from deregister_agent.config.json_pointer import Pointer, pointed
from deregister_agent.config.options import Secret
from deregister_agent.errors import AgentError, ProbeError
from deregister_agent.host.json_values import is_whole_number
from deregister_agent.model import Instance, Reading
from deregister_agent.net.fetcher import Answer
from deregister_agent.ports import IdleProbe
from deregister_agent.probes.counting import Doubt, Starts, Turn, above
from deregister_agent.probes.http_endpoint import Page, Served, Url, bearer, start_of

BODY_LIMIT = 262_144

Kind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Pointers = Annotated[tuple[Pointer, ...], Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]


class Options(Served):
    """An app that tells in JSON what it has in hand."""

    url: Url
    """Where the app tells it: ``http://``, ``https://`` or ``http+unix://%2Frun%2Fapp.sock/path``."""
    in_flight: Annotated[Mapping[Kind, Pointer | Pointers], Field(min_length=1)]
    """For each kind of work (requests, tasks, messages) the JSON pointer of its count, or several
    pointers, whose numbers are added."""
    baseline: Mapping[Kind, Count] = {}
    """What each kind's count shows when the app is idle, because it counts the probe's own request;
    it is subtracted. A count below it is an error: then the baseline is wrong."""
    started: Pointer | None = None
    """JSON pointer of a counter of all work ever started: work too short to be seen in flight still
    ends the quiet window."""
    own_starts: Count = 0
    """How much each read of this probe adds to ``started`` by itself; it is subtracted."""
    mark: Pointer | None = None
    """JSON pointer of what names the process: an instance id or a start time."""
    wait_parameter: Annotated[str, Field(min_length=1)] | None = None
    """Query parameter for a long poll, where the app can hold the answer until it is idle: the
    probe gives it the seconds that it is willing to wait, and waits that much longer."""
    token: Secret | None = None
    """A bearer token, sent as ``Authorization``."""


class HttpJsonProbe(IdleProbe):
    """Reads one URL; whatever is not exactly as expected is not known, and never zero."""

    def __init__(self, options: Options, page: Page) -> None:
        self.name = options.label
        self._options, self._page = options, page
        self._starts = Starts(options.own_starts)
        self._turn = Turn()

    def read(self, wait: float) -> Reading:
        """Tell what the app says. Raises ProbeError unless it says it plainly."""
        options = self._options
        params, limit = list[tuple[str, str]](), options.timeout
        if options.wait_parameter is not None and wait > 0:
            params, limit = [(options.wait_parameter, f"{wait:g}")], limit + wait
        try:
            return self._asked(params, limit)
        except (AgentError, Doubt) as e:
            raise ProbeError(self.name, f"tell what is in flight from {options.url}", e) from e

    def _asked(self, params: Sequence[tuple[str, str]], limit: float) -> Reading:
        """Ask the app, one read at a time: two at once would count each other as its work."""
        with self._turn.taken(limit) as left:
            return self._reading(_document(self._page.get(left, params=params)))

    def _reading(self, document: Any) -> Reading:
        options = self._options
        in_flight = {
            kind: above(kind, _sum(document, pointers), options.baseline.get(kind, 0))
            for kind, pointers in options.in_flight.items()
        }
        mark = "" if options.mark is None else _name(document, options.mark)
        started = None
        if options.started is not None:
            started = self._starts.count(_number(document, options.started))
        return Reading(in_flight, started, mark)


def _document(answer: Answer) -> Any:
    """Return the JSON document of *answer*. Raises Doubt unless it is one, whole and plain."""
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise Doubt(f"the answer is not JSON but {kind or 'of no type'}: {start_of(answer)}")
    try:
        return json.loads(answer.body, parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as e:
        raise Doubt(f"the answer is no valid JSON ({e}): {start_of(answer)}") from e


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return *pairs* as an object. Of a key that stands twice, neither value can be believed."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _sum(document: Any, pointers: str | tuple[str, ...]) -> int:
    each = (pointers,) if isinstance(pointers, str) else pointers
    return sum(_number(document, pointer) for pointer in each)


def _number(document: Any, pointer: str) -> int:
    value = pointed(document, pointer)
    if not is_whole_number(value):
        raise Doubt(f"at {pointer or 'the top'} there is {_shown(value)}, not a whole number")
    if value < 0:
        raise Doubt(f"at {pointer or 'the top'} there is {_shown(value)}, which is less than zero")
    return value


def _name(document: Any, pointer: str) -> str:
    value = pointed(document, pointer)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        raise Doubt(f"at {pointer or 'the top'} there is {_shown(value)}, which is no mark")
    return str(value)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."  # noqa: PLR2004 - enough to recognise it


def build(options: Options, instance: Instance) -> HttpJsonProbe:
    """Return the probe. Raises ConfigError if the options contradict each other."""
    del instance
    stray = sorted(options.baseline.keys() - options.in_flight.keys())
    mistakes = [f"baseline.{kind}: there is no such kind in in_flight" for kind in stray]
    if options.own_starts and options.started is None:
        mistakes.append("own_starts: says nothing without started")
    page = Page(options, bearer(options.token), mistakes, body_limit=BODY_LIMIT)
    return HttpJsonProbe(options, page)
