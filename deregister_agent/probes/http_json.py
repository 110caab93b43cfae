"""What the app has in hand, by its own count: numbers in a JSON document that it serves."""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from pydantic import AfterValidator, Field

from deregister_agent.errors import ConfigError, ProbeError
from deregister_agent.fetch import Answer, Fetcher, FetchError
from deregister_agent.model import Instance, Reading
from deregister_agent.options import BackendOptions, Secret, Timeout
from deregister_agent.ports import IdleProbe

BODY_LIMIT = 262_144
OK = 200


def _pointer(value: str) -> str:
    if value and not value.startswith("/"):
        raise ValueError("must be a JSON pointer (RFC 6901), such as /requests/in_flight")
    if "~" in value.replace("~0", "").replace("~1", ""):
        raise ValueError("'~' must be written ~0 in a JSON pointer (RFC 6901), and '/' ~1")
    return value


def _url(value: str) -> str:
    if "@" in urlsplit(value).netloc:
        raise ValueError("must not hold a user name or a password: give the secret as token")
    return value


Pointer = Annotated[str, AfterValidator(_pointer)]
Kind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Pointers = Annotated[tuple[Pointer, ...], Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]


class Options(BackendOptions):
    """An app that tells in JSON what it has in hand."""

    url: Annotated[str, AfterValidator(_url)]
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
    timeout: Timeout = 2.0
    """The limit of one read, in seconds."""
    ca: Path | None = None
    """The certificates to trust instead of the system's, for ``https``."""
    certificate: Path | None = None
    """The agent's own certificate, for an app that asks for one."""
    key: Path | None = None
    """The key of that certificate, if it is not in the same file."""


class _Doubt(Exception):  # noqa: N818 - never leaves this module
    """Why an answer does not tell what is in flight."""


class HttpJsonProbe(IdleProbe):
    """Reads one URL; whatever is not exactly as expected is not known, and never zero."""

    def __init__(self, options: Options, fetcher: Fetcher) -> None:
        self.name = options.label
        self._options, self._fetcher = options, fetcher
        parts = urlsplit(options.url)
        self._target = parts.path or "/"
        self._params = parse_qsl(parts.query, keep_blank_values=True)
        self._counter = Counter(options.own_starts)
        self._turn = threading.Lock()

    def read(self, wait: float) -> Reading:
        """Tell what the app says. Raises ProbeError unless it says it plainly."""
        options = self._options
        params, limit = self._params, options.timeout
        if options.wait_parameter is not None and wait > 0:
            params, limit = [*params, (options.wait_parameter, f"{wait:g}")], limit + wait
        try:
            return self._asked(params, limit)
        except (FetchError, _Doubt) as e:
            raise ProbeError(self.name, f"tell what is in flight from {options.url}", e) from e

    def _asked(self, params: Sequence[tuple[str, str]], limit: float) -> Reading:
        """Ask the app, one read at a time: two at once would count each other as its work."""
        deadline = time.monotonic() + limit
        if not self._turn.acquire(timeout=limit):
            raise _Doubt(f"an earlier read did not end within {limit:g} s")
        try:
            left = max(0.001, round(deadline - time.monotonic(), 3))
            answer = self._fetcher.call("GET", self._target, params=params, timeout=left)
            return self._reading(_document(answer))
        finally:
            self._turn.release()

    def _reading(self, document: Any) -> Reading:
        options = self._options
        in_flight = {
            kind: _above(kind, _sum(document, pointers), options.baseline.get(kind, 0))
            for kind, pointers in options.in_flight.items()
        }
        mark = "" if options.mark is None else _name(document, options.mark)
        started = None
        if options.started is not None:
            started = self._counter.count(_number(document, options.started), options.started)
        return Reading(in_flight, started, mark)


class Counter:
    """
    Turns the app's counter into one that this probe's own reads do not move.

    It never goes back and never repeats after a restart of the app, so every
    change of it means that work has started. Of a read that failed it is not known
    whether the app has counted it: it is taken for work, which only costs time.
    """

    def __init__(self, own_starts: int) -> None:
        self._own_starts = own_starts
        self._last: int | None = None
        self._started = 0

    def count(self, value: int, pointer: str) -> int:
        """Return the work started so far, without the probe's own, when the app says *value*."""
        last, self._last = self._last, value
        if last is None:
            self._started = value
        elif value < last:  # another process, whose work is new whatever its count
            self._started += value + 1
        else:
            self._started += self._without_own(value - last, pointer)
        return self._started

    def _without_own(self, risen: int, pointer: str) -> int:
        if risen < self._own_starts:
            raise _Doubt(
                f"the counter at {pointer} rose by {risen} since the last read, though own_starts "
                f"says that each read adds {self._own_starts}: correct own_starts"
            )
        return risen - self._own_starts


def _document(answer: Answer) -> Any:
    """Return the JSON document of *answer*. Raises _Doubt unless it is one, whole and plain."""
    if answer.status != OK:
        raise _Doubt(f"the app answered with status {answer.status}, not 200: {_start(answer)}")
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise _Doubt(f"the answer is not JSON but {kind or 'of no type'}: {_start(answer)}")
    try:
        return json.loads(answer.body, parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as e:
        raise _Doubt(f"the answer is no valid JSON ({e}): {_start(answer)}") from e


def _start(answer: Answer) -> str:
    return repr(" ".join(answer.text[:80].split()))


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return *pairs* as an object. Of a key that stands twice, neither value can be believed."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def resolve(document: Any, pointer: str) -> Any:
    """Return what *pointer* (RFC 6901) leads to in *document*. Raises _Doubt if nothing is."""
    at = document
    for escaped in pointer.split("/")[1:]:
        token = escaped.replace("~1", "/").replace("~0", "~")
        if isinstance(at, dict) and token in at:
            at = at[token]
        elif isinstance(at, list) and _is_index(token) and int(token) < len(at):
            at = at[int(token)]
        else:
            raise _Doubt(f"there is nothing at {pointer}")
    return at


def _is_index(token: str) -> bool:
    return token.isascii() and token.isdigit() and len(token) <= 9 and str(int(token)) == token  # noqa: PLR2004 - more digits than any list has


def _sum(document: Any, pointers: str | tuple[str, ...]) -> int:
    each = (pointers,) if isinstance(pointers, str) else pointers
    return sum(_number(document, pointer) for pointer in each)


def _number(document: Any, pointer: str) -> int:
    value = resolve(document, pointer)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Doubt(f"at {pointer or 'the top'} there is {_shown(value)}, not a whole number")
    if value < 0:
        raise _Doubt(f"at {pointer or 'the top'} there is {_shown(value)}, which is less than zero")
    return value


def _name(document: Any, pointer: str) -> str:
    value = resolve(document, pointer)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        raise _Doubt(f"at {pointer or 'the top'} there is {_shown(value)}, which is no mark")
    return str(value)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."  # noqa: PLR2004 - enough to recognise it


def _above(kind: str, count: int, baseline: int) -> int:
    if count < baseline:
        raise _Doubt(
            f"{kind} are {count}, which is less than the baseline of {baseline}: "
            "the app does not count what the baseline says it does; correct the baseline"
        )
    return count - baseline


def build(options: Options, instance: Instance) -> HttpJsonProbe:
    """Return the probe. Raises ConfigError if the options contradict each other."""
    del instance
    stray = sorted(options.baseline.keys() - options.in_flight.keys())
    mistakes = [f"baseline.{kind}: there is no such kind in in_flight" for kind in stray]
    if options.own_starts and options.started is None:
        mistakes.append("own_starts: says nothing without started")
    token = options.token
    headers = None if token is None else lambda: {"Authorization": f"Bearer {token.read()}"}
    parts = urlsplit(options.url)
    try:
        fetcher = Fetcher(
            urlunsplit((parts.scheme, parts.netloc, "", "", "")),
            timeout=options.timeout,
            headers=headers,
            ca=options.ca,
            certificate=options.certificate,
            key=options.key,
            body_limit=BODY_LIMIT,
        )
    except FetchError as e:
        mistakes.append(f"url: {e}")
    if mistakes:
        raise ConfigError(f"probe {options.label}", mistakes)
    return HttpJsonProbe(options, fetcher)
