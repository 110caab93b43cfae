"""
The files of prometheus_client's multiprocess mode: how its gauges add up the workers.

A page does not show that. https://prometheus.github.io/client_python/multiprocess/
"""

import json
import struct
from collections.abc import Container, Iterator
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

from deregister_agent.probes.counting import Unclear

ADD_UP = frozenset({"all", "liveall", "sum", "livesum"})
"""The modes in which each worker's work counts: the probe adds up those that have a pid each."""
PROC = Path("/proc")


def must_add_up(folder: Path, metrics: Container[str]) -> None:
    """
    Raise Unclear unless every worker counts in each gauge of *metrics* in *folder*.

    So where a mode takes one worker's word for all of them, or where a worker has gone and
    has left work in hand behind that nobody will ever end.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".db")
    except OSError as e:
        raise Unclear(f"multiprocess_dir {folder} cannot be read: {e.strerror}") from e
    if not files:
        raise Unclear(
            f"there is no worker's file in {folder}: make multiprocess_dir what "
            "PROMETHEUS_MULTIPROC_DIR of the app is"
        )
    for path in files:
        kind, _, rest = path.stem.partition("_")
        mode, _, pid = rest.partition("_")
        if kind == "gauge":
            _look_at(path, mode, pid, metrics)


def _look_at(path: Path, mode: str, pid: str, metrics: Container[str]) -> None:
    for name, value in _values(path):
        if name not in metrics:
            continue
        if mode not in ADD_UP:
            raise Unclear(
                f'{name} is a gauge with multiprocess_mode="{mode}" ({path.name}), which shows '
                'one worker and hides the others: make it "livesum" in the app'
            )
        if value and not (PROC / pid).exists():
            raise Unclear(
                f"{name} holds {value:g} of worker {pid}, which has gone ({path.name}): have the "
                "app's server call prometheus_client.multiprocess.mark_process_dead (in gunicorn, "
                f"child_exit), and remove that file by hand{_if_it_is_not_live(mode)}"
            )


def _if_it_is_not_live(mode: str) -> str:
    live = mode.startswith("live")
    return "" if live else f', and make it "live{mode}": the call removes no file of "{mode}"'


def _values(path: Path) -> Iterator[tuple[str, float]]:
    """Give the name and value of each series in *path*; none where the file has just gone."""
    try:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):
            yield json.loads(key)[1], value
    except FileNotFoundError:
        return
    except (OSError, ValueError, RuntimeError, struct.error, IndexError, TypeError) as e:
        raise Unclear(f"{path} cannot be read as a file of prometheus_client: {e}") from e
