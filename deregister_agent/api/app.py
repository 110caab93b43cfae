"""
The HTTP API, which translates and decides nothing (docs/reference/http-api.md).

Deploy scripts judge by the HTTP status, so nothing but "drained" is 2xx on traffic-drained.
"""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, request
from prometheus_client import CONTENT_TYPE_LATEST

from deregister_agent.api import requests
from deregister_agent.api.doctor import Examinations
from deregister_agent.api.held_requests import HeldRequests
from deregister_agent.api.history import drain_record, event_record
from deregister_agent.api.judgement import (
    SERVED,
    drained_status,
    not_asked,
    not_started,
    recall,
    started_status,
)
from deregister_agent.api.openapi import document
from deregister_agent.api.problem import ALWAYS, Problem, explain_errors, try_later
from deregister_agent.api.wsgi_bridge import BODY_LIMIT, GONE
from deregister_agent.engine.agent import Agent
from deregister_agent.engine.instance_loop import InstanceLoop
from deregister_agent.model import Announcement, Drain, Phase, StopRequest
from deregister_agent.status import DrainList, DrainWithEvents, JsonModel, Status, StatusList, plain

HEARD = 5.0
"""Seconds that traffic-started waits for the words on an instance in service."""
ASKED = 1.0
"""Seconds that traffic-drained waits for the words that a "drained" of earlier rests on."""

Respond = Callable[..., Response]
"""Answer one request of one path."""


def create_app(agent: Agent, held: HeldRequests) -> Flask:
    """Return the WSGI app that answers for *agent*; who may ask is for WsgiBridge to see to."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT
    app.url_map.merge_slashes = False  # a redirect would be one more answer to understand
    for method, path, respond in HttpApi(agent, held).routes():
        app.add_url_rule(
            path,
            endpoint=f"{method} {path}",
            view_func=respond,
            methods=[method],
            provide_automatic_options=False,  # would answer 200 on traffic-drained
        )

    @app.after_request
    def mark(response: Response) -> Response:
        response.headers.update(ALWAYS)
        return response

    explain_errors(app)
    return app


class HttpApi:
    """The answers, one method for each path."""

    def __init__(self, agent: Agent, held: HeldRequests) -> None:
        self._agent = agent
        self._held = held

    def routes(self) -> list[tuple[str, str, Respond]]:
        """Return the method, path and answer of every route."""
        actions: list[tuple[str, str, Respond]] = [
            ("POST", "/stop-traffic", self.stop_traffic),
            ("GET", "/traffic-drained", self.traffic_drained),
            ("POST", "/start-traffic", self.start_traffic),
            ("GET", "/traffic-started", self.traffic_started),
        ]
        one, examined = "/v1/instances/<name>", Examinations(self._agent, self._held)
        return [
            *actions,
            *((method, one + path, respond) for method, path, respond in actions),
            ("GET", "/v1/instances", self.instances),
            ("GET", one, self.instance),
            ("GET", f"{one}/doctor", lambda name: examined.answer(self._loop(name))),
            ("GET", f"{one}/drains", self.drains),
            ("GET", f"{one}/drains/<drain>", self.one_drain),
            ("GET", "/v1/events", self.events),
            ("GET", "/healthz", self.healthz),
            ("GET", "/readyz", self.readyz),
            ("GET", "/metrics", self.metrics),
            ("GET", "/openapi.json", self.openapi),
        ]

    def stop_traffic(self, name: str | None = None) -> Response:
        """Ask for a drain; the same one when repeated."""
        loop = self._loop(name)
        requests.query(requests.NoQuery)
        wish = requests.body(requests.StopTraffic)
        recall(loop)
        loop.stop_traffic(
            StopRequest(
                deadline=wish.deadline,
                on_deadline=wish.on_deadline,
                reason=wish.reason,
                force=wish.force,
                asked_by=requests.asked_by(),
                vouch=wish.vouch,
                if_present=wish.if_present,
            )
        )
        return as_json(202, loop.status())

    def start_traffic(self, name: str | None = None) -> Response:
        """Ask for the instance to be put back into traffic."""
        loop = self._loop(name)
        requests.query(requests.NoQuery)
        wish = requests.body(requests.StartTraffic)
        loop.start_traffic(wish.reason, requests.asked_by(), anyway=wish.anyway)
        return as_json(202, loop.status())

    def traffic_drained(self, name: str | None = None) -> Response:
        """Answer whether the instance is safe to kill, by what was seen a moment ago."""
        loop = self._loop(name)

        def status_of(drain: Drain) -> int:
            code = drained_status(drain)
            if code != HTTPStatus.OK or loop.stands_by(Announcement.DRAINED):
                return code
            replaced = drain.phase is Phase.GONE and loop.has_looked
            return HTTPStatus.CONFLICT if replaced else HTTPStatus.SERVICE_UNAVAILABLE

        return self._judged(
            loop,
            status_of,
            lambda _: "no drain is under way or finished: POST stop-traffic first",
        )

    def traffic_started(self, name: str | None = None) -> Response:
        """Answer whether the instance takes traffic, by what registries say after the question."""
        loop = self._loop(name)
        asked = self._held.asked(loop, HEARD)

        def status_of(drain: Drain) -> int:
            code = started_status(drain)
            if code != HTTPStatus.OK:
                return code
            return SERVED[loop.is_served(asked)]

        return self._judged(loop, status_of, not_started)

    def instances(self) -> Response:
        """List every instance."""
        requests.query(requests.NoQuery)
        found = tuple(loop.status() for loop in self._agent.instances.values())
        return as_json(200, StatusList(instances=found))

    def instance(self, name: str) -> Response:
        """Show one instance: as last seen, or as its registries say now, or once that changes."""
        loop, query = self._loop(name), requests.query(requests.StatusQuery)
        if late := self._held.looked(loop, query.look) if query.look else []:
            raise try_later(f"{', '.join(late)} did not answer within {query.look:g} s")
        self._held.news(loop, query.cursor, query.wait, _gone())
        return as_json(200, replace(loop.status(), nonce=query.nonce))

    def drains(self, name: str) -> Response:
        """List what was done to one instance, newest first."""
        self._loop(name)
        limit = requests.query(requests.HistoryQuery).limit
        found = self._agent.journal.drains(name, limit)
        return as_json(200, DrainList(drains=tuple(drain_record(past) for past in found)))

    def one_drain(self, name: str, drain: str) -> Response:
        """Show one drain with its timeline."""
        self._loop(name)
        requests.query(requests.NoQuery)
        found = self._agent.journal.drain(name, drain)
        if found is None:
            raise Problem(404, f"{name} has no such drain: see /v1/instances/{name}/drains")
        past, events = found
        timeline = tuple(event_record(event) for event in events)
        return as_json(200, DrainWithEvents(**plain(drain_record(past)), events=timeline))

    def events(self) -> Response:
        """Stream what happens, as server-sent events."""
        requests.query(requests.NoQuery)
        after = requests.last_event()
        if after is None:
            after = self._agent.journal.last_event()
        self._held.enter()
        stream = self._held.stream(self._agent, after, _gone())
        response = Response(stream, content_type="text/event-stream")
        response.headers["X-Accel-Buffering"] = "no"  # a proxy that collects would hold events back
        response.call_on_close(self._held.leave)
        return response

    def healthz(self) -> Response:
        """Answer while the process can."""
        return as_json(200, {"status": "ok"})

    def readyz(self) -> Response:
        """Answer whether the agent can do its work."""
        trouble = self._agent.healthy()
        if trouble is not None:
            raise try_later(trouble)
        return as_json(200, {"status": "ok"})

    def metrics(self) -> Response:
        """Return the metrics, as Prometheus reads them."""
        return Response(self._agent.metrics(), content_type=CONTENT_TYPE_LATEST)

    def openapi(self) -> Response:
        """Return the description of this API."""
        return as_json(200, document())

    def _loop(self, name: str | None) -> InstanceLoop:
        instances = self._agent.instances
        names = ", ".join(instances)
        if name is not None:
            if name not in instances:
                raise Problem(404, f"no instance is called {name[:100]!r}; this agent has: {names}")
            return instances[name]
        if len(instances) != 1:
            path = f"/v1/instances/{{name}}{request.path}"
            raise Problem(409, f"this agent has {len(instances)} instances ({names}): use {path}")
        return next(iter(instances.values()))

    def _judged(
        self,
        loop: InstanceLoop,
        status_of: Callable[[Drain], int],
        advice: Callable[[Status], str],
    ) -> Response:
        wait = requests.query(requests.WaitQuery).wait
        not_yet = HTTPStatus.SERVICE_UNAVAILABLE

        def final(drain: Drain) -> bool:
            return status_of(drain) != not_yet

        if loop.drain.phase in {Phase.DRAINED, Phase.GONE}:
            loop.wait(final, ASKED)  # what was seen longer ago is asked first
        if loop.drain.phase is not Phase.SERVING:  # where nothing is under way to wait for
            self._held.until(lambda limit: final(loop.wait(final, limit)), wait, _gone())
        with loop.changed:  # of one moment: status code and body must never disagree
            drain, code, status = loop.drain, status_of(loop.drain), loop.status()
        if code == HTTPStatus.CONFLICT:
            raise not_asked(drain, status, advice(status))
        return as_json(code, status)


def as_json(code: int, content: JsonModel | Mapping[str, Any]) -> Response:
    """Answer with *content*; a 503 asks for another try in a second."""
    body = json.dumps(content, default=plain)
    response = Response(body, code, content_type="application/json")
    if code == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = "1"
    return response


def _gone() -> threading.Event:
    found = request.environ.get(GONE)
    return found if isinstance(found, threading.Event) else threading.Event()
