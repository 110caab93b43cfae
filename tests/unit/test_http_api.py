"""The HTTP API: every status code, every refusal, and that the document tells the truth."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import jsonschema_rs
import pytest
from flask import Flask
from werkzeug.test import TestResponse, create_environ

from deregister_agent.api import doctor, judgement
from deregister_agent.api.app import create_app
from deregister_agent.api.held_requests import HeldRequests
from deregister_agent.api.openapi import document
from deregister_agent.api.problem import Problem
from deregister_agent.api.trust import UNIX, Trust
from deregister_agent.api.wsgi_bridge import BODY_LIMIT, GONE, PEER
from deregister_agent.engine.agent import Agent
from deregister_agent.model import Outcome, Phase
from deregister_agent.status import DoctorReport, Status, read
from tests.agent_by_hand import FakeAgent, FakeLoop
from tests.loops import eventually

TOKEN = "a-token-nobody-knows"
ONE = "/v1/instances/orders-1"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class World:
    """An agent and its API; every answer is held against the document."""

    def __init__(self, *names: str, most_waits: int = 8) -> None:
        self.agent = FakeAgent(*names)
        self.waits = HeldRequests(most_waits)
        self.app: Flask = create_app(cast(Agent, self.agent), self.waits)

    def ask(self, method: str, path: str, **more: Any) -> TestResponse:
        response = self.app.test_client().open(path, method=method, **more)
        check_documented(method, path.partition("?")[0], response)
        return response

    def get(self, path: str, **more: Any) -> TestResponse:
        return self.ask("GET", path, **more)

    def post(self, path: str, **more: Any) -> TestResponse:
        return self.ask("POST", path, **more)


@pytest.fixture
def world() -> World:
    return World("orders-1")


def check_documented(method: str, path: str, response: TestResponse) -> None:
    """Fail unless the OpenAPI document has this path, this status and this shape."""
    openapi = document()
    found = [
        known
        for known in openapi["paths"]
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", known), path)
    ]
    if not found or method.lower() not in openapi["paths"][found[-1]]:
        assert response.status_code in {404, 405}
        return
    answer = openapi["paths"][found[-1]][method.lower()]["responses"][str(response.status_code)]
    if "$ref" in answer:
        answer = openapi["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    media_type = str(response.mimetype)
    content = answer["content"][media_type]
    if "json" in media_type:
        schema = {**content["schema"], "components": openapi["components"]}
        jsonschema_rs.validate(schema, json.loads(response.data))


def detail(response: TestResponse) -> str:
    """Return the sentence of a problem, having checked that it is one."""
    assert response.mimetype == "application/problem+json"
    problem = json.loads(response.data)
    assert problem["status"] == response.status_code
    return str(problem["detail"])


def test_stop_traffic_takes_every_wish(world: World) -> None:
    """202 with the status; the wish reaches the loop, and so does who asked."""
    wish = {"deadline": 60, "on_deadline": "kill", "reason": "release 7", "force": True}
    headers = {**BEARER, "X-Asked-By": "deploy-4711"}
    response = world.post(f"{ONE}/stop-traffic", json=wish, headers=headers)
    assert response.status_code == 202
    assert response.json is not None
    assert response.json["phase"] == "withdrawing"
    (request,) = world.agent.instances["orders-1"].requests
    asked = (request.deadline, request.on_deadline, request.reason, request.force)
    assert asked == (60.0, "kill", "release 7", True)
    assert request.asked_by == "deploy-4711 (127.0.0.1)"


def test_stop_traffic_without_a_body_repeats_the_same_drain(world: World) -> None:
    """No body means the policy's own values; twice is the same drain."""
    first = world.post("/stop-traffic")
    second = world.post("/stop-traffic", json={})
    assert first.json is not None
    assert second.json is not None
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json["drain"] == second.json["drain"]


def test_who_asks_on_a_unix_socket_is_named_by_uid(world: World) -> None:
    """What the kernel knows of the peer is recorded; no token is asked for."""
    environ = {UNIX: True, PEER: "uid 1000", "HTTP_HOST": "anything"}
    response = world.post("/stop-traffic", headers={}, environ_overrides=environ)
    assert response.status_code == 202
    assert world.agent.instances["orders-1"].requests[0].asked_by == "uid 1000"


@pytest.mark.parametrize(
    ("phase", "outcome", "status"),
    [
        (Phase.SERVING, None, 409),
        (Phase.WITHDRAWING, None, 503),
        (Phase.SETTLING, None, 503),
        (Phase.DRAINING, None, 503),
        (Phase.DRAINED, Outcome.DRAINED, 200),
        (Phase.DRAINED, Outcome.APP_EXITED, 200),
        (Phase.GONE, Outcome.DRAINED, 200),
        (Phase.GONE, Outcome.APP_EXITED, 200),
        (Phase.EXPIRED, Outcome.EXPIRED, 504),
        (Phase.GONE, Outcome.EXPIRED, 504),
        (Phase.RESTORING, Outcome.EXPIRED, 504),
        (Phase.SERVING, Outcome.EXPIRED, 504),
        (Phase.RESTORING, Outcome.DRAINED, 409),
        (Phase.SERVING, Outcome.DRAINED, 409),
        (Phase.RESTORING, Outcome.CANCELLED, 409),
        (Phase.RESTORING, Outcome.REFUSED, 409),
        (Phase.SERVING, Outcome.REFUSED, 409),
        (Phase.DRAINED, None, 409),
        (Phase.GONE, None, 409),
    ],
)
def test_traffic_drained(world: World, phase: Phase, outcome: Outcome | None, status: int) -> None:
    """Each row is one line of the contract; only safe to kill is 2xx."""
    world.agent.instances["orders-1"].to(phase, outcome)
    for path in ("/traffic-drained", f"{ONE}/traffic-drained"):
        response = world.get(path)
        assert response.status_code == status
        assert response.headers.get("Retry-After") == ("1" if status == 503 else None)
        content = json.loads(response.data)
        assert content["phase"] == phase
        if status == 409:
            assert content["outcome"] == outcome
            assert "POST stop-traffic" in detail(response)


def test_drained_is_not_said_from_memory(world: World) -> None:
    """After a restart the answer is 503 until the registries have been asked once more."""
    loop = world.agent.instances["orders-1"]
    loop.to(Phase.DRAINED, Outcome.DRAINED)
    loop.stands = False
    assert world.get("/traffic-drained").status_code == 503
    loop.stands = True
    assert world.get("/traffic-drained").status_code == 200


def test_every_phase_and_outcome_is_2xx_only_when_safe(world: World) -> None:
    """Over all combinations, 200 appears for a held drain that ended well, and nowhere else."""
    loop = world.agent.instances["orders-1"]
    good = set()
    for phase in Phase:
        for outcome in (None, *Outcome):
            loop.to(phase, outcome)
            if world.get("/traffic-drained").status_code < 300:
                good.add((phase, outcome))
    assert good == {
        (phase, outcome)
        for phase in (Phase.DRAINED, Phase.GONE)
        for outcome in (Outcome.DRAINED, Outcome.APP_EXITED, Outcome.ABSENT)
    }


@pytest.mark.parametrize(
    ("phase", "overdue", "status"),
    [
        (Phase.SERVING, False, 200),
        (Phase.RESTORING, False, 503),
        (Phase.RESTORING, True, 504),
        (Phase.WITHDRAWING, False, 409),
        (Phase.DRAINED, False, 409),
        (Phase.EXPIRED, False, 409),
        (Phase.GONE, False, 409),
    ],
)
def test_traffic_started(world: World, phase: Phase, overdue: bool, status: int) -> None:
    """A pipeline may go on to the next host when this is 200."""
    world.agent.instances["orders-1"].to(phase, overdue=overdue)
    assert world.get("/traffic-started").status_code == status


def test_whose_turn_it_is_in_service(world: World) -> None:
    """Where others have it out, nobody is told to ask for what would change nothing."""
    loop = world.agent.instances["orders-1"]
    loop.served = False
    assert detail(world.get("/traffic-started")).endswith("POST start-traffic first")
    loop.out_by = "nginx has it out, by another hand (down)"
    answer = world.get("/traffic-started")
    assert (answer.status_code, detail(answer)) == (409, f"orders-1 is serving: {loop.out_by}")


def meanwhile(loop: FakeLoop, phase: Phase) -> threading.Thread:
    """Let the drain go on to *phase* in another thread, as soon as that can."""
    thread = threading.Thread(target=loop.to, args=(phase,), daemon=True)
    thread.start()
    thread.join(0.2)
    return thread


def test_a_status_that_is_looked_for(world: World) -> None:
    """With ``look`` the registries are asked first; one that is late is named, and so is a typo."""
    assert world.get(f"{ONE}?look=3").status_code == 200
    world.agent.instances["orders-1"].late = ["nginx", "consul"]
    assert world.get(ONE).status_code == 200
    late = world.get(f"{ONE}?look=3")
    assert (late.status_code, late.headers["Retry-After"]) == (503, "1")
    assert detail(late) == "nginx, consul did not answer within 3 s"
    assert world.get(f"{ONE}?look=31").status_code == 400
    assert world.get("/v1/instances?look=3").status_code == 400


def test_a_status_that_is_waited_for(world: World) -> None:
    """It is held while it would have the cursor that is known, and no longer."""
    loop = world.agent.instances["orders-1"]
    known = json.loads(world.get(ONE).data)["cursor"]
    timer = threading.Timer(0.05, lambda: loop.to(Phase.DRAINING))
    timer.start()
    held = json.loads(world.get(f"{ONE}?wait=60&cursor={known}").data)
    timer.join()
    assert held["phase"] == "draining"
    assert json.loads(world.get(f"{ONE}?wait=60&cursor={known}").data) == held
    assert json.loads(world.get(f"{ONE}?wait=0.05&cursor={held['cursor']}").data) == held
    assert loop.waiting == 0


def test_who_waits_for_news_leaves_room(world: World) -> None:
    """Half of the places are left for those whose drain hangs on an answer."""
    loop = world.agent.instances["orders-1"]
    held = f"{ONE}?wait=60&cursor={loop.cursor}"
    with ThreadPoolExecutor(4) as pool:
        holding = [pool.submit(world.get, held) for _ in range(4)]
        eventually(lambda: loop.waiting == 4, "four are held")
        refused = world.get(held)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert "half of server.max_waits" in detail(refused)
        assert world.get(ONE).status_code == 200
        assert world.get(f"{ONE}?look=1").status_code == 200
        loop.to(Phase.DRAINING)
        assert [one.result().status_code for one in holding] == [200] * 4
    assert world.get(held).status_code == 200
    for _ in range(8):
        world.waits.enter()
    assert world.get(f"{ONE}?wait=60&cursor={loop.cursor}").status_code == 503


def test_a_nonce_comes_back(world: World) -> None:
    """So a client can tell that it is its own question that was answered."""
    assert json.loads(world.get(f"{ONE}?nonce=a-B_9").data)["nonce"] == "a-B_9"
    assert "nonce" not in json.loads(world.get(ONE).data)


def test_status_and_body_are_of_one_moment(world: World) -> None:
    """A drain taken back between the decision and the status changes both or none."""
    loop = world.agent.instances["orders-1"]
    loop.to(Phase.DRAINED, Outcome.DRAINED)
    real, moves = loop.status, []

    def status_late() -> Status:
        loop.status = real  # type: ignore[method-assign]
        moves.append(meanwhile(loop, Phase.WITHDRAWING))
        return real()

    loop.status = status_late  # type: ignore[method-assign]
    response = world.get("/traffic-drained")
    said = json.loads(response.data)["phase"]
    assert (response.status_code, said) in {(200, "drained"), (503, "withdrawing")}
    moves[0].join(60)
    assert world.get("/traffic-drained").status_code == 503


def test_a_drained_of_before_is_not_said_when_it_ends_in_between(world: World) -> None:
    """After a restart: listed again at the very moment of the answer is not drained either."""
    loop = world.agent.instances["orders-1"]
    loop.to(Phase.DRAINED, Outcome.DRAINED)

    def stands_by(announcement: str) -> bool:  # as the real loop: only what is drained is doubted
        meanwhile(loop, Phase.WITHDRAWING)
        return loop.drain.phase is not Phase.DRAINED

    loop.stands_by = stands_by  # type: ignore[method-assign]
    assert world.get("/traffic-drained").status_code == 503


def test_stop_traffic_does_not_answer_with_a_drain_of_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart it waits to see whether "drained" still holds; unknown is 503."""
    monkeypatch.setattr(judgement, "RECALL", 0.05)
    loop = world.agent.instances["orders-1"]
    loop.to(Phase.DRAINED, Outcome.DRAINED)
    loop.stands = False
    refused = world.post("/stop-traffic")
    assert refused.status_code == 503
    assert "it is not known yet whether the last drain still holds" in detail(refused)
    assert loop.requests == []
    loop.stands = True
    assert world.post("/stop-traffic").status_code == 202


def test_wait_holds_until_the_answer_is_final(world: World) -> None:
    """A held request is answered when the drain ends, with the end."""
    loop = world.agent.instances["orders-1"]
    loop.to(Phase.DRAINING)
    timer = threading.Timer(0.05, lambda: loop.to(Phase.DRAINED, Outcome.DRAINED))
    timer.start()
    response = world.get("/traffic-drained?wait=60")
    timer.join()
    assert response.status_code == 200
    assert loop.waiting == 0


def test_wait_ends_when_the_agent_stops(world: World) -> None:
    """A held request is answered "not yet" as soon as the agent lets go, without spinning."""
    loop = world.agent.instances["orders-1"]
    loop.to(Phase.DRAINING)
    loop.close()
    assert world.get("/traffic-drained?wait=60").status_code == 503


def test_wait_is_over_when_the_client_has_left(world: World) -> None:
    """Nobody is waited for in vain."""
    world.agent.instances["orders-1"].to(Phase.DRAINING)
    gone = threading.Event()
    gone.set()
    response = world.get("/traffic-drained?wait=60", environ_overrides={GONE: gone})
    assert response.status_code == 503


def test_too_many_waits(world: World) -> None:
    """Past the cap a wait is refused with 503; asking without wait is not."""
    world.agent.instances["orders-1"].to(Phase.DRAINING)
    for _ in range(8):
        world.waits.enter()
    response = world.get("/traffic-drained?wait=60")
    assert response.status_code == 503
    assert "server.max_waits" in detail(response)
    assert response.headers["Retry-After"] == "1"
    assert world.get("/traffic-drained").mimetype == "application/json"
    for _ in range(8):
        world.waits.leave()


def test_start_traffic(world: World) -> None:
    """202, and the instance is being restored."""
    world.agent.instances["orders-1"].to(Phase.DRAINED, Outcome.DRAINED)
    response = world.post("/start-traffic", json={"reason": "called off"})
    assert response.status_code == 202
    assert json.loads(response.data)["phase"] == "restoring"


def test_guard_refuses(world: World) -> None:
    """409 with the numbers, and what to do."""
    world.agent.instances["orders-1"].others = 0
    response = world.post("/stop-traffic")
    assert response.status_code == 409
    assert "use force" in detail(response)
    problem = json.loads(response.data)
    found = [problem[key] for key in ("registry", "others", "min_others", "blocking")]
    assert found == ["consul", 0, 1, ["consul lists 0 other instance(s)"]]


@pytest.mark.parametrize("path", ["/stop-traffic", "/start-traffic"])
def test_journal_cannot_be_written(world: World, path: str) -> None:
    """503 with the sentence: nothing is done that is not written down."""
    world.agent.journal.broken = True
    response = world.post(path)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert "disk full" in detail(response)


def test_short_forms_need_exactly_one_instance() -> None:
    """With several instances the short forms name them; with none they say so."""
    several = World("orders-1", "orders-2")
    for method, path in [
        ("POST", "/stop-traffic"),
        ("GET", "/traffic-drained"),
        ("POST", "/start-traffic"),
        ("GET", "/traffic-started"),
    ]:
        response = several.ask(method, path)
        assert response.status_code == 409
        assert "(orders-1, orders-2)" in detail(response)
        assert f"/v1/instances/{{name}}{path}" in detail(response)
        assert World().ask(method, path).status_code == 409
    assert not several.agent.instances["orders-1"].requests


def test_views(world: World) -> None:
    """The list, one instance and the history are 200 always."""
    world.post("/stop-traffic")
    status = json.loads(world.get(ONE).data)
    assert json.loads(world.get("/v1/instances").data) == {"instances": [status]}
    (drain,) = json.loads(world.get(f"{ONE}/drains?limit=1").data)["drains"]
    whole = json.loads(world.get(f"{ONE}/drains/{drain['id']}").data)
    assert {key: whole[key] for key in drain} == drain
    assert [event["kind"] for event in whole["events"]] == ["withdrawing"]


def test_unknown_things_are_404(world: World) -> None:
    """What does not exist is named, and so is what does."""
    assert "has: orders-1" in detail(world.post("/v1/instances/orders-9/stop-traffic"))
    assert "/drains" in detail(world.get(f"{ONE}/drains/none"))
    assert "/openapi.json" in detail(world.get("/v2"))
    for path in ("/v1//instances", "/stop-traffic/", "/v1/instances/", f"{ONE}/restart"):
        assert world.post(path).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/stop-traffic", "POST"),
        ("HEAD", "/stop-traffic", "POST"),
        ("PUT", f"{ONE}/stop-traffic", "POST"),
        ("DELETE", ONE, "GET, HEAD"),
        ("OPTIONS", "/traffic-drained", "GET, HEAD"),
        ("POST", "/traffic-drained", "GET, HEAD"),
        ("GET", f"{ONE}/start-traffic", "POST"),
    ],
)
def test_mutations_are_post_only(world: World, method: str, path: str, allowed: str) -> None:
    """405, with what the path takes; and nothing has happened."""
    response = world.ask(method, path)
    assert response.status_code == 405
    assert sorted(response.headers["Allow"].split(", ")) == allowed.split(", ")
    assert not world.agent.instances["orders-1"].requests


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{", "not JSON"),
        (b" ", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"\xff", "not JSON"),
        (b'{"deadlin": 1}', "deadlin: no such field; did you mean 'deadline'?"),
        (b'{"zzz": 1}', "known here: deadline, on_deadline, reason, force"),
        (b'{"deadline": "60"}', "deadline: input should be a valid number"),
        (b'{"deadline": true}', "deadline: input should be a valid number"),
        (b'{"deadline": 0}', "deadline: input should be greater than 0"),
        (b'{"deadline": 86401}', "deadline: input should be less than or equal to 86400"),
        (b'{"deadline": NaN}', "deadline: "),
        (b'{"deadline": Infinity}', "deadline: "),
        (b'{"on_deadline": "explode"}', "on_deadline: input should be 'hold', 'restore' or 'kill'"),
        (b'{"force": 1}', "force: input should be a valid boolean"),
        (b'{"reason": "a\\nERROR forged"}', "reason: "),
        (b'{"reason": "' + b"x" * 501 + b'"}', "reason: "),
        (b'{"a": 1, "force": "x"}', "force: "),
    ],
)
def test_wrong_bodies_are_refused_by_name(world: World, body: bytes, sentence: str) -> None:
    """400 with the name of what is wrong; and nothing has happened."""
    response = world.post("/stop-traffic", data=body, content_type="application/json")
    assert response.status_code == 400
    assert sentence in detail(response)
    assert not world.agent.instances["orders-1"].requests


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/traffic-drained?wiat=5", "wiat: no such parameter; did you mean 'wait'?"),
        ("/traffic-drained?wait=-1", "wait: "),
        ("/traffic-drained?wait=301", "wait: input should be less than or equal to 300"),
        ("/traffic-drained?wait=nan", "wait: "),
        ("/traffic-drained?wait=inf", "wait: "),
        ("/traffic-drained?wait=long", "wait: "),
        ("/traffic-drained?wait=", "wait: "),
        ("/traffic-drained?wait=1&wait=2", "wait: given 2 times"),
        (f"{ONE}/drains?limit=0", "limit: "),
        (f"{ONE}/drains?limit=1001", "limit: "),
        (f"{ONE}/drains?limit=1.5", "limit: "),
        (f"{ONE}?limit=5", "limit: no such parameter; known here: wait, look, cursor, nonce"),
        (f"{ONE}?wait=5", "wait: give cursor too, that of the status you have"),
        (f"{ONE}?wait=5&cursor=a&look=1", "look: give either look or wait, not both"),
        (f"{ONE}?nonce=a%20b", "nonce: "),
        (f"{ONE}?cursor={'a' * 65}", "cursor: "),
        ("/v1/instances?wait=5", "wait: no such parameter; known here: none at all"),
    ],
)
def test_wrong_queries_are_refused_by_name(world: World, path: str, sentence: str) -> None:
    """400 with the name of what is wrong, also for what exists elsewhere."""
    response = world.get(path)
    assert response.status_code == 400
    assert sentence in detail(response)


def test_body_must_be_declared_as_json_and_small(world: World) -> None:
    """415 for what a form on a web page can send, 413 beyond the limit."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert world.post("/stop-traffic", data=b"{}", content_type=kind).status_code == 415
    huge = b" " * (BODY_LIMIT + 1)
    response = world.post("/stop-traffic", data=huge, content_type="application/json")
    assert response.status_code == 413
    assert not world.agent.instances["orders-1"].requests


@pytest.mark.parametrize("name", ["a\nb", "x" * 101, "\u00e9"])
def test_asked_by_must_be_plain(world: World, name: str) -> None:
    """A name that could forge a log line is refused."""
    environ = {"HTTP_X_ASKED_BY": name.encode().decode("latin-1")}
    assert world.post("/stop-traffic", environ_overrides=environ).status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example", **BEARER}, 403),
        ({"Host": "localhost.evil.example", **BEARER}, 403),
        ({"Host": "127.0.0.1.evil.example:80", **BEARER}, 403),
        ({"Host": "", **BEARER}, 403),
        ({"Host": "10.0.0.1", **BEARER}, 403),
        ({"Origin": "http://evil.example", **BEARER}, 403),
        ({"Origin": "null", **BEARER}, 403),
        ({"Origin": "", **BEARER}, 403),
        ({"Origin": "http://localhost:3000", **BEARER}, 403),
        ({"Origin": "https://localhost", **BEARER}, 403),
        ({}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Bearer {TOKEN}x"}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": TOKEN}, 401),
        (BEARER, 202),
        ({"Authorization": f"bearer {TOKEN}"}, 202),
        ({"Host": "localhost:8650", **BEARER}, 202),
        ({"Host": "LOCALHOST", **BEARER}, 202),
        ({"Host": "127.0.0.1:8650", **BEARER}, 202),
        ({"Host": "127.9.9.9", **BEARER}, 202),
        ({"Host": "[::1]:8650", **BEARER}, 202),
        ({"Host": "agent.example:8650", **BEARER}, 202),
        ({"Host": "localhost", "Origin": "http://localhost", **BEARER}, 202),
    ],
)
def test_trust(headers: dict[str, str], status: int) -> None:
    """Each row is one way to ask."""
    assert judged("/stop-traffic", headers=headers) == status


def judged(path: str, **more: Any) -> int:
    """Return how somebody is answered who asks so: 202 if the request may go on."""
    environ = create_environ(path, method="POST", **more)
    try:
        Trust(TOKEN, ["agent.example"]).check(environ)
    except Problem as e:
        problem = e
    else:
        return 202
    assert TOKEN not in problem.detail
    assert ("WWW-Authenticate" in problem.headers) is (problem.status == 401)
    return problem.status


def test_own_address_is_a_good_host() -> None:
    """A listener may be called by the address that the connection came to."""
    environ = {"SERVER_NAME": "10.0.0.7", "HTTP_HOST": "10.0.0.7:8650"}
    assert judged("/v1/instances", headers=BEARER, environ_overrides=environ) == 202


def test_a_web_page_cannot_use_the_unix_socket_either() -> None:
    """Some program may pass a browser's requests on to it."""
    environ = {UNIX: True, "HTTP_ORIGIN": "http://evil.example"}
    assert judged("/stop-traffic", environ_overrides=environ) == 403
    assert judged("/stop-traffic", environ_overrides={UNIX: True}) == 202


def test_without_a_token_only_what_is_harmless() -> None:
    """Health, metrics and the document are open; Host and Origin are checked all the same."""
    opened = {path for path in document()["paths"] if judged(path) == 202}
    assert opened == {"/healthz", "/readyz", "/metrics", "/openapi.json"}
    for path in opened:
        assert judged(path, headers={"Host": "evil.example"}) == 403
        assert judged(path, headers={"Origin": "null"}) == 403


def test_health(world: World) -> None:
    """/healthz while it can answer; /readyz only while it can do its work, or why not."""
    assert world.get("/readyz").status_code == 200
    world.agent.trouble = "cannot write the journal: disk full"
    assert world.get("/healthz").status_code == 200
    response = world.get("/readyz")
    assert response.status_code == 503
    assert detail(response) == "cannot write the journal: disk full"
    assert world.get("/metrics").data.startswith(b"waiting")


def test_a_bug_is_a_problem_too(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """500 as problem+json, without a word about the inside; the traceback is logged."""
    world.agent.trouble = cast(str, object())
    world.agent.healthy = lambda: 1 // 0  # type: ignore[assignment,return-value,method-assign]
    response = world.app.test_client().get("/readyz")
    assert response.status_code == 500
    assert "division" not in detail(response)
    assert "ZeroDivisionError" in caplog.text


def test_events_resume(world: World) -> None:
    """Last-Event-ID continues after that event; the stream ends when the agent stops."""
    for phase in (Phase.WITHDRAWING, Phase.SETTLING, Phase.DRAINING):
        world.agent.instances["orders-1"].to(phase)
    world.agent.stop()
    response = world.get("/v1/events", headers={**BEARER, "Last-Event-ID": "1"})
    assert response.mimetype == "text/event-stream"
    blocks = response.get_data(as_text=True).split("\n\n")
    assert blocks[0] == "retry: 1000"
    assert [block.splitlines()[:2] for block in blocks[1:3]] == [
        ["id: 2", "event: settling"],
        ["id: 3", "event: draining"],
    ]
    event = json.loads(blocks[1].splitlines()[2].removeprefix("data: "))
    jsonschema_rs.validate(
        {"$ref": "#/components/schemas/EventRecord", "components": document()["components"]}, event
    )
    assert blocks[3:] == [""]
    response.close()


def test_events_begin_with_the_next_one(world: World) -> None:
    """Without Last-Event-ID the past is not repeated."""
    world.agent.instances["orders-1"].to(Phase.DRAINING)
    world.agent.stop()
    response = world.get("/v1/events")
    assert response.get_data(as_text=True) == "retry: 1000\n\n"
    response.close()


def test_a_stream_gives_its_place_back() -> None:
    """The cap counts streams, also those that end."""
    world = World("orders-1", most_waits=1)
    world.agent.stop()
    for _ in range(3):
        response = world.get("/v1/events")
        assert response.status_code == 200
        response.close()
    world.waits.enter()
    assert world.get("/v1/events").status_code == 503
    world.waits.leave()


@pytest.mark.parametrize("value", ["x", "-1", "1" * 19, "", "\u0661"])
def test_events_with_a_wrong_id(world: World, value: str) -> None:
    """An id that cannot be one is refused, not taken for 0."""
    environ = {"HTTP_LAST_EVENT_ID": value.encode().decode("latin-1")}
    assert world.get("/v1/events", environ_overrides=environ).status_code == 400


def test_doctor_is_answered_whatever_it_finds(world: World) -> None:
    """200 with the report, also of an instance that is not fit; no other key or name is taken."""
    for world.agent.fit in (True, False):
        response = world.get(f"{ONE}/doctor")
        assert response.status_code == 200
        report = read(DoctorReport, json.loads(response.data))
        assert report.would_prove is world.agent.fit
    assert world.get(f"{ONE}/doctor?look=1").status_code == 400
    assert world.get("/v1/instances/nope/doctor").status_code == 404
    assert world.post(f"{ONE}/doctor").status_code == 405


def test_one_examination_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second waits for the first, and is told to try later where that takes too long."""
    monkeypatch.setattr(doctor, "TURN", 0.05)
    world.agent.may_examine.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(world.get, f"{ONE}/doctor")
        eventually(lambda: world.agent.examining, "the first is under way")
        second = world.get(f"{ONE}/doctor")
        assert (second.status_code, second.headers["Retry-After"]) == (503, "1")
        assert "other examinations" in detail(second)
        world.agent.may_examine.set()
        assert first.result().status_code == 200
    assert world.agent.examining == ["orders-1"]
    assert world.get(f"{ONE}/doctor").status_code == 200


def test_an_examination_takes_a_place_of_those_that_wait() -> None:
    """Where all places are taken, it is told to try later, and nothing is asked."""
    world = World("orders-1", most_waits=1)
    world.waits.enter()
    assert world.get(f"{ONE}/doctor").status_code == 503
    assert not world.agent.examining
    world.waits.leave()
    assert world.get(f"{ONE}/doctor").status_code == 200


def test_document_and_routes_agree(world: World) -> None:
    """Every route is documented, and everything documented is a route."""
    routes = {
        (method.lower(), re.sub(r"<(\w+)>", r"{\1}", rule.rule))
        for rule in world.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD"}
    }
    documented = {
        (method, path) for path, methods in document()["paths"].items() for method in methods
    }
    assert routes == documented
    assert json.loads(world.get("/openapi.json").data) == document()


def test_every_answer_is_private(world: World) -> None:
    """No cache between keeps a status, no browser guesses at a type."""
    for path in ("/v1/instances", "/nothing", "/healthz"):
        response = world.get(path)
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
