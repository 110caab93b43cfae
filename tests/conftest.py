"""The order of the tests."""

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Let each process begin with its share of the tests that may take longest.

    Those are the ones that set a limit of their own. Each process gets one stretch of the whole
    order, and takes tests of others from its end: a long one is best begun before that.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    longest = sorted(filter(_limit, items), key=_limit, reverse=True)
    rest = [item for item in items if not _limit(item)]
    share = -(-len(rest) // processes)
    shares = [rest[n * share : (n + 1) * share] for n in range(processes)]
    items[:] = [item for n in range(processes) for item in (*longest[n::processes], *shares[n])]


def _limit(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else 0.0
