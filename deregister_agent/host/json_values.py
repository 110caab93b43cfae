"""The numbers in JSON documents that others have written."""

from typing import TypeGuard


def is_whole_number(value: object) -> TypeGuard[int]:
    """Tell whether *value* is a whole number; true and false are none, other than in Python."""
    return type(value) is int


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether *value* is a number; true and false are none."""
    return type(value) in {int, float}
