"""Which Redis a URL means, in the spellings that its own clients read."""

from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

DEFAULT_PORT = 6379
FORMS = (
    "must be redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE or "
    "unix:///path/to/socket?db=DATABASE"
)


@dataclass(frozen=True, slots=True)
class RedisPlace:
    """A server, and one of its databases."""

    address: tuple[str, int] | str  # host and port, or a socket file
    tls: bool
    database: int


def place(url: str) -> RedisPlace:
    """
    Return what *url* means. Raises ValueError for anything that would be guessed at.

    The database is the path of redis:// and rediss:// and the parameter ``db`` of unix://;
    redis-py reads ``db`` everywhere (redis/connection.py: parse_url), and so is it here.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or a password: give user and password")
    path = unquote(parts.path)
    options = _options(parts)
    if parts.scheme == "unix" and path.startswith("/") and not parts.netloc:
        return RedisPlace(path, tls=False, database=_database("", options))
    if parts.scheme in ("redis", "rediss") and parts.hostname:
        address = parts.hostname, parts.port or DEFAULT_PORT
        database = _database(path.removeprefix("/"), options)
        return RedisPlace(address, tls=parts.scheme == "rediss", database=database)
    raise ValueError(FORMS)


def _options(parts: SplitResult) -> dict[str, str]:
    given = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(given)
    if parts.fragment or len(given) != len(options) or options.keys() - {"db"}:
        raise ValueError(f"{FORMS}; nothing else may follow")
    return options


def _database(path: str, options: dict[str, str]) -> int:
    """Return the number of the database, which may stand in one of two places."""
    if path and options:
        raise ValueError("must name the database once: as /DATABASE or as ?db=DATABASE")
    number = options.get("db", path or "0")
    if not (number.isascii() and number.isdigit()):
        raise ValueError(f"{FORMS}; a database is a number")
    return int(number)
