"""
What stands in a text below what others have wrapped it in. Pure.

Percent signs of URLs, once or twice (Dubbo's keys); escapes of JSON inside of JSON; and base64,
which reaches etcd where somebody encodes for the JSON gateway what the client encodes as well.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from functools import lru_cache
from string import ascii_letters
from string import digits as all_digits
from urllib.parse import unquote

_ESCAPE = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|[nrtbf])")
_RUN = re.compile(r"[A-Za-z0-9+/_-]{,4096}")
_LETTERS = ascii_letters + all_digits
_URL_SAFE = str.maketrans("-_", "+/")
_LEAST = 8
"""Characters of base64 by which a word is looked for; fewer would be found by chance."""
_AROUND = 256
"""Characters of base64 in front of a word that are read as well."""


@lru_cache(maxsize=4)  # a text is asked about several times, one right after the other
def unwrapped(text: str, words: Sequence[str] = ()) -> str:
    """
    Return a text in small letters, without what URLs and JSON put in the place of characters.

    Where one of *words* stands in base64, what is around it there follows on lines of its own. A
    word of less than seven bytes is not looked for in base64, and its letter case counts there.
    """
    plain = _unescaped(text)
    inner = [_unescaped(each) for word in words for each in _in_base64(plain, word)]
    return "\n".join([plain, *inner]).casefold()


def _unescaped(text: str) -> str:
    plain = unquote(unquote(text)) if "%" in text else text
    if "\\" not in plain:
        return plain
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else " ", plain)


def _in_base64(text: str, word: str) -> Iterator[str]:
    for needle, lead in _needles(word):
        at = text.find(needle)
        while at >= 0:
            yield _decoded(text, max(0, at - lead))
            at = text.find(needle, at + 1)


@lru_cache(maxsize=256)
def _needles(word: str) -> Sequence[tuple[str, int]]:
    """Return the characters that a word alone decides, and how many stand before them."""
    found = []
    for shift in range(3):  # three bytes are four characters: a word begins at any of the three
        first, end = -(-shift * 8 // 6), (shift + len(word.encode())) * 8 // 6
        needle = b64encode(b"\0" * shift + word.encode()).decode()[first:end]
        if len(needle) >= _LEAST:
            found.append((needle, first))
    return found


def _decoded(text: str, begin: int) -> str:
    """Decode the base64 around *begin*, which is where four of its characters begin."""
    before = text[max(0, begin - _AROUND) : begin]
    alone = before[len(before.rstrip(_LETTERS)) :]  # without what else may stand in a path
    found = _RUN.match(text, begin - len(alone) // 4 * 4)
    digits = (found[0] if found else "").translate(_URL_SAFE)
    digits = digits[: len(digits) - (len(digits) % 4 == 1)]
    return b64decode(digits + "=" * (-len(digits) % 4)).decode(errors="replace")
