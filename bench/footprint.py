"""What the agent costs when it has nothing to do, and what one look at it costs."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.table import Row, report
from deregister_agent.demo.stage import Apps, config_text, list_in_file, running_agent

INSTANCES = 10
IDLE = 60.0  # seconds
COLD_RUNS = 15


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def _agent_pid(folder: Path) -> int:
    return int((folder / "journal.db.lock").read_text())


def _cold(folder: Path) -> float:
    command = [str(Path(sys.executable).parent / "deregister-agent")]
    began = time.perf_counter()
    subprocess.run(
        [*command, "--url", f"unix:{folder}/agent.sock", "status"], check=True, capture_output=True
    )
    return (time.perf_counter() - began) * 1000


def measure() -> list[Row]:
    """Run an agent with ten instances, leave it alone, and read what the kernel counted."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder, apps = Path(name), Apps([f"web-{n}" for n in range(INSTANCES)])
        try:
            for each in apps.ports:
                apps.start(each)
            tables = list_in_file(folder / "targets.json", apps)
            with running_agent(folder, config_text(folder, apps, tables, quiet=1.0)):
                pid = _agent_pid(folder)
                time.sleep(5)  # what belongs to the start is over
                before = _ticks(pid)
                time.sleep(IDLE)
                used = (_ticks(pid) - before) / os.sysconf("SC_CLK_TCK")
                cold = [_cold(folder) for _ in range(COLD_RUNS)]
                return [
                    Row(f"idle agent, {INSTANCES} instances: CPU", 100 * used / IDLE, "%", 0.5),
                    Row(f"idle agent, {INSTANCES} instances: resident", _resident(pid), "MiB", 60),
                    Row(
                        "deregister-agent status, cold: median", statistics.median(cold), "ms", 200
                    ),
                ]
        finally:
            apps.close()


if __name__ == "__main__":
    report(measure)
