"""
Ask over HTTP which configuration Nginx runs, where its processes cannot be seen.

The agent keeps a file with a name for the present generation, which a location of the
operator's returns. The file must be included before the servers that are edited: a
reload that reads the new name has then, after it, read the new servers too.
"""

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from deregister_agent.host.files import replace_durably
from deregister_agent.net.fetcher import Fetcher, FetchError
from deregister_agent.registries.nginx.conf import Conf
from deregister_agent.registries.nginx.processes import POLL, ControlError
from deregister_agent.registries.nginx.reload import run
from deregister_agent.registries.nginx.running_by_processes import Seen

_TEXT = 'map $host $deregister_agent_generation {{ default "{name}"; }}\n'
_ANSWERS = 4  # in a row: each may come from another worker


@dataclass(frozen=True, slots=True)
class ByGeneration:
    """An Nginx that says which generation it runs."""

    url: str
    file: Path
    command: tuple[str, ...]
    timeout: float

    def check(self, conf: Conf, edited: Iterable[Path]) -> None:
        """Refuse a layout in which the answer would prove nothing."""
        order = list(conf.files)
        name = self.file.resolve()
        if name not in order:
            raise ControlError(f"nothing in {conf.layout.main} includes {self.file} (generation)")
        early = sorted(path for path in edited if order.index(path) < order.index(name))
        if early:
            raise ControlError(
                f"{self.file} (generation) must be included before {early[0]}, "
                "or its answer proves nothing about that file"
            )

    def seen(self, until: float) -> Seen:
        """Name the generation that answers."""
        return Seen(frozenset({self._answer(until)}))

    def alive(self) -> None:
        """Of older generations nothing can be seen."""

    def loaded_after(self, ids: frozenset[str], changed: float, *, strictly: bool) -> bool:
        """Tell nothing by time."""
        del ids, changed, strictly
        return False

    def reload(self, until: float) -> frozenset[str]:
        """Write a new name, reload, and wait until it is the answer."""
        old, name = self.file.read_bytes(), secrets.token_hex(8)
        replace_durably(self.file, _TEXT.format(name=name).encode())
        try:
            run(self.command, until - time.monotonic())
            self._wait(name, until)
        except ControlError:
            replace_durably(self.file, old)
            raise
        return frozenset({name})

    def _wait(self, name: str, until: float) -> None:
        """Block until only *name* is answered."""
        in_a_row = 0
        while in_a_row < _ANSWERS:
            answer = self._answer(until)
            in_a_row = in_a_row + 1 if answer == name else 0
            if time.monotonic() >= until:
                raise ControlError(f"{self.url} still answers {answer!r}, and not {name!r}")
            time.sleep(POLL)

    def _answer(self, until: float) -> str:
        limit = max(min(self.timeout, until - time.monotonic()), 0.1)
        base, slash, target = self.url.partition("://")[2].partition("/")
        scheme = self.url.partition("://")[0]
        headers = {"Connection": "close"}  # so that every answer comes from whoever accepts now
        try:
            fetcher = Fetcher(f"{scheme}://{base}", timeout=limit)
            answer = fetcher.call("GET", slash + target, headers=headers)
        except FetchError as e:
            raise ControlError(f"{self.url}: {e}") from e
        if answer.status != 200:  # noqa: PLR2004 - OK
            raise ControlError(f"{self.url} answers {answer.status}")
        return answer.text.strip()[:80]
