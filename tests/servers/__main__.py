"""``python -m tests.servers fetch [name ...]``: obtain the servers that are missing."""

import argparse
import sys

from tests.servers import locate
from tests.servers.apt import FetchFailed, fetch
from tests.servers.table import SERVERS


def main() -> int:
    """Fetch the servers named, or all; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers")
    parser.add_argument("command", choices=["fetch"])
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(SERVERS))
    names = parser.parse_args().names or list(SERVERS)
    if unknown := sorted(set(names) - set(SERVERS)):
        parser.error(f"no such server: {', '.join(unknown)}; there are {', '.join(SERVERS)}")
    obtained = [_obtain(name) for name in names]
    return 0 if all(obtained) else 1


def _obtain(name: str) -> bool:
    server = SERVERS[name]
    if locate(server) is None:
        try:
            fetch(server)
        except FetchFailed as e:
            print(f"{name}: {e}", file=sys.stderr)
            return False
        locate.cache_clear()
    command = locate(server)
    print(f"{name}: {' '.join(command) if command else 'fetched, but it does not run'}")
    return command is not None


if __name__ == "__main__":
    sys.exit(main())
