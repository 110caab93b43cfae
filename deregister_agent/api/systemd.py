"""Messages to systemd about the daemon (man 3 sd_notify); none where nobody listens."""

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify(message: str) -> None:
    """Send *message*, such as ``READY=1``, to the socket that NOTIFY_SOCKET names, if any."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # abstract: a name without a file
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)  # a service manager that is stuck must not stop the agent
        try:
            sock.sendto(message.encode(), address)
        except OSError as e:
            log.warning("systemd was not told %s: %s", message, e)


def watchdog_every() -> float | None:
    """Return every how many seconds to send WATCHDOG=1: half the limit; None if nobody watches."""
    try:
        limit = int(os.environ.get("WATCHDOG_USEC", "0")) / 1_000_000
        about = int(os.environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return limit / 2 if limit > 0 and about == os.getpid() else None
