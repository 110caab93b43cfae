"""JSON pointers (RFC 6901): what to take from a document that others have written."""

from typing import Annotated, Any

from jsonpointer import EndOfList, JsonPointer, JsonPointerException, resolve_pointer
from pydantic import AfterValidator

from deregister_agent.errors import AgentError


def _valid(value: str) -> str:
    if value and not value.startswith("/"):
        raise ValueError("must be a JSON pointer (RFC 6901), such as /list/0")
    try:
        JsonPointer(value)
    except JsonPointerException:
        raise ValueError(
            "'~' must be written ~0 in a JSON pointer (RFC 6901), and '/' ~1"
        ) from None
    return value


Pointer = Annotated[str, AfterValidator(_valid)]


def pointed(document: Any, pointer: str) -> Any:
    """Return what *pointer* leads to in *document*. Raises AgentError if nothing is there."""
    try:
        found = resolve_pointer(document, pointer)
    except JsonPointerException as e:
        raise AgentError(f"the answer has nothing at {pointer}") from e
    if isinstance(found, EndOfList):  # "-": the entry after the last, which is none
        raise AgentError(f"the answer has nothing at {pointer}")
    return found
