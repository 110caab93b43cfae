"""``python -m tests.servers fetch [name ...]``: obtain the servers and packages not here."""

import argparse
import sys

from tests.servers import locate, python_packages
from tests.servers.apt import FetchFailed, fetch
from tests.servers.table import SERVERS


def main() -> int:
    """Fetch the servers named, or all; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers")
    parser.add_argument("command", choices=["fetch"])
    known = [*SERVERS, *python_packages.SETS]
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(known))
    names = parser.parse_args().names or known
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"no such server: {', '.join(unknown)}; there are {', '.join(known)}")
    obtained = [_obtain(name) if name in SERVERS else _install(name) for name in names]
    return 0 if all(obtained) else 1


def _install(name: str) -> bool:
    try:
        print(f"{name}: {python_packages.fetch(name)}")
    except FetchFailed as e:
        print(f"{name}: {e}", file=sys.stderr)
        return False
    return True


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
