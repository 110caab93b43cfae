"""The walk through a drain in README.md, typed as it stands there."""

import re
from pathlib import Path

from compose.containers import Compose

README = Path(__file__).parent / "README.md"
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROMPT = "$ "


def steps() -> list[tuple[str, str]]:
    """Return the commands of the section, each with the answer shown; ``...`` is any text."""
    section = README.read_text().partition("\n## A drain by hand\n")[2].partition("\n## ")[0]
    text = "".join(BLOCK.findall(section))
    commands = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    return [(command, answer) for command, _, answer in (each.partition("\n") for each in commands)]


def walk(compose: Compose) -> list[str]:
    """Run them all in one shell; return what was answered in another way than shown."""
    found = steps()
    mark = "== step {} =="
    script = "\n".join(f"echo '{mark.format(n)}'\n{c}" for n, (c, _) in enumerate(found))
    said = re.split(r"^== step \d+ ==\n", compose.shell(script), flags=re.MULTILINE)[1:]
    return [
        f"{command}\nsays in README.md:\n{shown}and said:\n{answer}"
        for (command, shown), answer in zip(found, said, strict=True)
        if not re.fullmatch(re.escape(shown).replace(r"\.\.\.", ".*?"), answer, re.DOTALL)
    ]
