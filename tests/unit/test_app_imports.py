"""The part for applications stands alone: it costs an app nothing but the standard library."""

import subprocess
import sys

from tests import architecture

BORROWED = {"host.pids", "host.sock_diag"}
"""What the apps' part has in common with the agent: two readers of the kernel's tables."""

LOADED = """
import sys
sys.path.insert(0, sys.argv[1])
import deregister_agent.app
print(*(name for name in sys.modules if name.startswith("deregister_agent")))
"""


def test_it_borrows_two_modules_of_the_standard_library_alone() -> None:
    """``app`` imports these from the agent and nothing else, and they import nothing of it."""
    known = architecture.modules()
    for name, module in known.items():
        if module.room == "app":
            borrowed = {
                one for one in architecture.imported(module, known) if known[one].room != "app"
            }
            assert borrowed <= BORROWED, f"{name} imports {borrowed}"
    for name in BORROWED:
        assert not architecture.imported(known[name], known), f"{name} is for apps as well"


def test_it_loads_without_any_package() -> None:
    """An app that has installed nothing else can import it, and gets no other part of the agent."""
    command = [sys.executable, "-I", "-S", "-c", LOADED, str(architecture.PACKAGE.parent)]
    run = subprocess.run(command, capture_output=True, check=True, text=True, timeout=60)
    loaded = {
        name.removeprefix("deregister_agent").removeprefix(".") for name in run.stdout.split()
    }
    others = {name for name in loaded if name.partition(".")[0] != "app"}
    assert others == {"", "host", *BORROWED}
