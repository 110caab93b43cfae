"""Clients of an app for a day: they are sent to it while it is listed, and behave as they like."""

import http.client
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from deregister_agent.model import Straggler
from tests.fakes import Directory, FakeRegistry
from tests.servers.child import wait_until

KINDS = ("plain", "thread", "impatient", "framework", "background", "pool", "stream")
LONG = 1.2  # seconds that some pieces take: much longer than the app must be quiet
LONGEST = 3.0  # seconds of a piece that is to outlast all others


class Diary:
    """What the app's pieces have noted so far."""

    def __init__(self, file: Path) -> None:
        self._file, self._lock, self._read = file, threading.Lock(), 0
        self._began: set[str] = set()
        self._in_hand: set[str] = set()
        file.touch()

    def has_begun(self, piece: str) -> bool:
        """Tell whether that piece has begun."""
        with self._lock:
            self._renew()
            return piece in self._began

    def begun(self) -> int:
        """Return how many pieces have begun."""
        with self._lock:
            self._renew()
            return len(self._began)

    def in_hand(self) -> set[str]:
        """Return the pieces that have begun and not ended."""
        with self._lock:
            self._renew()
            return set(self._in_hand)

    def _renew(self) -> None:
        with self._file.open() as file:
            file.seek(self._read)
            lines = file.readlines()
            self._read = file.tell()
        for what, piece in (line.split() for line in lines):
            if what == "begin":
                self._began.add(piece)
                self._in_hand.add(piece)
            else:
                self._in_hand.remove(piece)


class Balancer(FakeRegistry):
    """
    Who sends the clients to the app: nobody is on the way once it says that nobody is.

    A client is on the way until its piece has begun, so what a busy machine delays there is
    no work that the app could have told of.
    """

    def __init__(self, port: int) -> None:
        super().__init__(Directory(), "web")
        self._lock, self._on_the_way = threading.Lock(), 0
        self.directory.put("web", {"port": port})

    @contextmanager
    def route(self) -> Iterator[int]:
        """
        Give the number of the listing by which the app may be asked, or 0 where it may not be.

        Whoever was given a number is on the way in the block. A connection of an earlier
        listing leads to a process that has been killed.
        """
        with self._lock:
            listed = "web" in self.directory.listed
            self._on_the_way += listed
            number = self.directory.version if listed else 0
        try:
            yield number
        finally:
            with self._lock:
                self._on_the_way -= listed

    def stragglers(self) -> Sequence[Straggler]:
        with self._lock:
            if not self._on_the_way:
                return ()
            return (Straggler(f"{self._on_the_way} requests on the way"),)


class Load:
    """Clients that ask again and again, in all the ways there are, until they are told to stop."""

    def __init__(self, port: int, balancer: Balancer, diary: Diary, *, clients: int) -> None:
        self._port, self._balancer, self._diary = port, balancer, diary
        self._over, self._numbers = threading.Event(), itertools.count()
        self.troubles: list[str] = []
        self.ways = dict.fromkeys(("reads", "leaves", "times out", "reads slowly"), 0)
        self._threads = [
            threading.Thread(target=self._client, args=(random.Random(seed),))
            for seed in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    @contextmanager
    def outlasted_by(self, kind: str) -> Iterator[None]:
        """Have a piece of that kind in hand that ends after all others, and leave it alone."""
        piece = f"{next(self._numbers)}"
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)) as held:
            with self._balancer.route() as listing:
                assert listing, "this is for a time when the app is listed"
                held.request("GET", f"/{kind}/{piece}/{LONGEST}")
                wait_until(self._begun(piece), f"{kind} {piece} begins", limit=60.0)
            if kind != "stream":  # which ends without its reader
                held.close()
            yield

    def stop(self) -> None:
        """Have every client end."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _client(self, chance: random.Random) -> None:
        while not self._over.wait(chance.uniform(0.0, 0.1)):
            with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)) as held:
                try:
                    self._ask(held, chance)
                except (OSError, http.client.HTTPException) as e:
                    self.troubles.append(repr(e))

    def _ask(self, connection: http.client.HTTPConnection, chance: random.Random) -> None:
        """Ask over that connection, a few times where the client stays to read the answers."""
        opened_by = 0
        for _ in range(chance.randint(1, 4)):
            kind, piece = chance.choice(KINDS), f"{next(self._numbers)}"
            seconds = LONG if chance.random() < 0.1 else chance.uniform(0.0, 0.2)
            with self._balancer.route() as listing:
                if not listing or opened_by not in (0, listing):
                    return
                opened_by = listing
                connection.request("GET", f"/{kind}/{piece}/{seconds:.3f}")
                wait_until(self._begun(piece), f"{kind} {piece} begins", limit=60.0)
            way = chance.choice(tuple(self.ways))
            self.ways[way] += 1
            if way == "leaves":
                return
            if way == "times out":
                self._over.wait(0.05)
                return  # and the client comes back with another connection
            self._read(connection, slowly=way == "reads slowly")

    def _begun(self, piece: str) -> Callable[[], bool]:
        return lambda: self._diary.has_begun(piece)

    def _read(self, connection: http.client.HTTPConnection, *, slowly: bool) -> None:
        answer = connection.getresponse()
        while answer.read(20_000):
            if slowly:
                time.sleep(0.02)
        if answer.status != 200:
            self.troubles.append(f"status {answer.status}")
