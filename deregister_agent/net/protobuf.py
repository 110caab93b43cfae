"""
The few messages that are read without generated classes, which want one certain grpcio.

https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator

from deregister_agent.probes.counting import Doubt

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # how a field is written


def fields(message: int | bytes) -> Iterator[tuple[int, int | bytes]]:
    """Give number and value of each field of a message. Raises Doubt if it is none."""
    if isinstance(message, int):
        raise Doubt("the answer is not of the kind that was asked for")
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, how = tag >> 3, tag & 7
        if how == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if how == BYTES:
            size, at = _varint(message, at)
        elif how in (FIXED32, FIXED64):
            size = 4 if how == FIXED32 else 8
        else:
            raise Doubt("the answer is not of the kind that was asked for")
        if at + size > len(message):
            raise Doubt("the answer breaks off")
        yield number, message[at : at + size]
        at += size


def text_field(number: int, text: str) -> bytes:
    """Return a field that holds *text*."""
    value = text.encode()
    size, rest = bytearray(), len(value)
    while rest > 0x7F:  # noqa: PLR2004 - seven bits in each byte
        size.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([number << 3 | BYTES, *size, rest]) + value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at *at*, and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(message):
            raise Doubt("the answer breaks off")
        value |= (message[at] & 0x7F) << shift
        at += 1
        if message[at - 1] < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, at
    raise Doubt("the answer is not of the kind that was asked for")
