"""
The app of the demonstration: answers requests at its own pace, and counts them.

``python -m deregister_agent.demo.app PORT``. ``/work?seconds=3`` takes three seconds.
The app does nothing for the work in its hand when it is killed: that work is lost,
which makes a false "drained" visible.
"""

import sys
import time
from collections.abc import Iterable
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from deregister_agent.app import Work

LONGEST_WORK = 60.0  # seconds that a request may ask for


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Keep the terminal for the demonstration's own view."""


class _Threaded(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer a request after as many seconds as the request asks for."""
    if environ["PATH_INFO"] == "/work":
        asked = parse_qs(environ["QUERY_STRING"]).get("seconds", ["0"])[0]
        time.sleep(min(float(asked), LONGEST_WORK))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]


def main() -> None:
    """Serve until killed."""
    port = int(sys.argv[1])
    counted = Work(ignored=["/healthz"]).wsgi(application)

    def threaded(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["wsgi.multithread"] = True  # wsgiref does not know of the mix-in
        return counted(environ, start_response)

    with make_server("127.0.0.1", port, threaded, _Threaded, _Quiet) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
