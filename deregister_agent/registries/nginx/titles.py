"""
What processes of Nginx call themselves, and what a master's title tells of its start.

``nginx: master process`` is followed by the command line (ngx_master_process_cycle()).
OpenResty, Tengine and freenginx say the same; Angie says its own name, its version, the
number of the configuration that it runs, which changes with each reload, and the command
line in brackets: ``angie: master process v1.7.0 #6 [/usr/sbin/angie -c ...]``.
"""

import re

_NAMES = r"(?:nginx|angie|openresty|tengine|freenginx)"
_MASTER = re.compile(_NAMES + r": master process(?P<rest>(?: .*)?)", re.DOTALL)
_ANGIES = re.compile(r" v\d\S*(?: PRO)?(?: #\d+)?(?: \[(?P<command>.*)\])?", re.DOTALL)
_WORKER = re.compile(_NAMES + r": worker process\b")
_FLAGS = "?hvVtTq"
_TAKES_A_VALUE = "pcgse"


def command_of(title: str) -> str | None:
    """Return the command line of the master that has this *title*; None if it is no master's."""
    master = _MASTER.fullmatch(title)
    if master is None:
        return None
    angies = _ANGIES.fullmatch(master["rest"])
    return (angies["command"] or "") if angies else master["rest"].strip()


def is_worker(title: str) -> bool:
    """Tell whether a process is a worker, retiring or not."""
    return _WORKER.match(title) is not None


def options_of(command: str) -> dict[str, str]:
    """
    Return the options of a command line that take a value, as ngx_get_options() does.

    The words of a title are joined by spaces. As Nginx takes nothing but options, all words
    up to the next option belong to a value: so paths with spaces are found whole.
    """
    found: dict[str, str] = {}
    key = ""
    for number, word in enumerate(command.split(" ")):
        if key and not found[key]:
            found[key] = word
        elif word.startswith("-") and number:
            key = _read(word[1:], found)
        elif key:
            found[key] += f" {word}"
    return found


def _read(letters: str, found: dict[str, str]) -> str:
    """Read one word of options into *found*; return the one whose value goes on in the next."""
    for number, letter in enumerate(letters, 1):
        if letter in _TAKES_A_VALUE:
            found[letter] = letters[number:]
            return letter
        if letter not in _FLAGS:
            break
    return ""
