"""What is sent: requests of every kind, calls by gRPC, and messages."""

from compose.traffic import calls
from compose.traffic.loads import HTTP_MIX, MESSAGE, REPORT, REPORT_EVERY, Kind
from compose.traffic.targets import RPC

CALL = Kind("gRPC unary", calls.unary, 0.0, 3.0, RPC)
STREAM = Kind("gRPC stream", calls.stream, 2.0, 2.0, RPC)
TALK = Kind("gRPC both ways", calls.talk, 2.0, 2.0, RPC)
EVERY_DOOR = [
    kind
    for part, more in zip(HTTP_MIX, (CALL, MESSAGE, STREAM, TALK), strict=True)
    for kind in (*part, more)
]
"""What is sent over and over, but for one request in REPORT_EVERY."""


def at_every_door(number: int) -> Kind:
    """Return the kind of request *number*."""
    return REPORT if number % REPORT_EVERY == 50 else EVERY_DOOR[number % len(EVERY_DOOR)]
