"""What several unit tests begin with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.loop_bench import Bench, Make


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make benches, whose journals are closed in the end."""
    made: list[Bench] = []

    def one(*args: object, **kwargs: object) -> Bench:
        made.append(Bench(tmp_path, *args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield one
    for bench in made:
        bench.journal.close()
