"""
py-consul with our own HTTP underneath: its calls end, and take nothing from the environment.

Importing py-consul takes 50 ms, so this module is imported at the first call.
"""

from collections.abc import Callable, Sequence
from typing import Any

from consul import base

from deregister_agent.net.fetcher import Answer

SendRequest = Callable[[str, str, Sequence[tuple[str, str]]], Answer]
"""Sends method, path and parameters; raises AgentError unless the answer is a 200."""
_Callback = Callable[[base.Response], Any]
_Params = Sequence[tuple[str, object]] | None


class Client(base.Consul):
    """
    The client of py-consul, on an HTTP client of ours, which is what ``http_connect`` is for.

    The host and the port only keep py-consul from reading ``CONSUL_HTTP_ADDR``.
    """

    def __init__(self, call: SendRequest) -> None:
        self._call = call
        super().__init__("localhost", 0)

    def http_connect(self, *_: object) -> "BoundedHttp":
        """Return the HTTP client that every call of py-consul goes through."""
        return BoundedHttp(self._call)


class BoundedHttp:
    """
    The two methods of an HTTP client that the calls in use need; they send no body.

    A path is sent as it stands: IDs in it must be quoted already. The headers of py-consul are
    left out, as ``CONSUL_HTTP_TOKEN`` would win over the token that is configured.
    """

    def __init__(self, call: SendRequest) -> None:
        self._call = call

    def get(
        self, callback: _Callback, path: str, params: _Params = None, headers: object = None
    ) -> Any:
        """Return what *callback* makes of the answer, once the answer is known to be JSON."""
        del headers
        answer = self._call("GET", path, _as_text(params))
        answer.json()  # raises our own error; that of py-consul has the whole page in it
        return callback(base.Response(answer.status, answer.headers, answer.text))

    def put(
        self, callback: _Callback, path: str, params: _Params = None, headers: object = None
    ) -> Any:
        """Return what *callback* makes of the answer."""
        del headers
        answer = self._call("PUT", path, _as_text(params))
        return callback(base.Response(answer.status, answer.headers, answer.text))


def _as_text(params: _Params) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in params or ()]
