"""JSON pointers (RFC 6901): what to take from a document that others have written."""

from typing import Annotated, Any

from pydantic import AfterValidator

from deregister_agent.errors import AgentError

_DIGITS = 9  # more than any list has entries


def _valid(value: str) -> str:
    if value and not value.startswith("/"):
        raise ValueError("must be a JSON pointer (RFC 6901), such as /list/0")
    if "~" in value.replace("~0", "").replace("~1", ""):
        raise ValueError("'~' must be written ~0 in a JSON pointer (RFC 6901), and '/' ~1")
    return value


Pointer = Annotated[str, AfterValidator(_valid)]


def pointed(document: Any, pointer: str) -> Any:
    """Return what *pointer* leads to in *document*. Raises AgentError if nothing is there."""
    at = document
    for escaped in pointer.split("/")[1:]:
        token = escaped.replace("~1", "/").replace("~0", "~")
        if isinstance(at, dict) and token in at:
            at = at[token]
        elif isinstance(at, list) and _is_index(token) and int(token) < len(at):
            at = at[int(token)]
        else:
            raise AgentError(f"the answer has nothing at {pointer}")
    return at


def _is_index(token: str) -> bool:
    digits = token.isascii() and token.isdigit() and len(token) <= _DIGITS
    return digits and str(int(token)) == token
