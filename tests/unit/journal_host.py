"""A host whose journal can be copied and set back."""

import shutil
from pathlib import Path

from deregister_agent.journal.generation import Generation
from deregister_agent.journal.journal import Journal
from deregister_agent.model import Drain
from tests.unit.loop_bench import HandClock
from tests.unit.test_journal import a_decision


class Host:
    """A journal on its host, copied and set back while no agent runs."""

    def __init__(self, folder: Path) -> None:
        self.path, self.clock = folder / "journal.db", HandClock()
        self.file = folder / "journal.db.generation"
        self._opened: list[Journal] = []
        self.again()

    @property
    def journal(self) -> Journal:
        """The journal of the agent that runs."""
        return self._opened[0]

    def write(self, *drains: Drain) -> None:
        """Decide."""
        for drain in drains:
            self.journal.write(a_decision(drain))

    def stop(self) -> None:
        """Stop the agent."""
        while self._opened:
            self._opened.pop().close()

    def again(self) -> Journal:
        """Start the agent, again if it runs."""
        self.stop()
        self._opened.append(Journal(self.path, self.clock))
        return self.journal

    def copy(self) -> Path:
        """Copy what the agent leaves when it is stopped."""
        self.stop()
        copied = self.path.with_name("copy.db")
        shutil.copyfile(self.path, copied)
        self.again()
        return copied

    def set_back(self, copied: Path | None) -> Journal:
        """Put the copy in the place of the journal, or none, while the agent is stopped."""
        self.stop()
        self.path.unlink()
        if copied is not None:
            shutil.copyfile(copied, self.path)
        return self.again()

    def number(self) -> int | None:
        """Return what stands in the file."""
        generation = Generation(self.path)
        try:
            return generation.read()
        finally:
            generation.close()
