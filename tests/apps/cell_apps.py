"""
The same pieces of work under every framework: what the cells of "what is counted where" run.

Each server runs one piece. It writes down that it has begun and that it has ended, whatever
becomes of the client that asked for it, and ends when it is released.
"""

import re
from pathlib import Path

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "count-work-in-your-app.md"

PIECES = """
import asyncio, os, subprocess, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from deregister_agent.app import Work

HERE = Path(__file__).parent
BIG = b"x" * 30_000_000

def released():
    return (HERE / "release").exists()

def held(*_):
    (HERE / "began").touch()
    while not released():
        time.sleep(0.01)
    (HERE / "ended").touch()
    return "held"

async def hold():
    (HERE / "began").touch()
    try:
        while not released():
            await asyncio.sleep(0.01)
    finally:
        (HERE / "ended").touch()

def child():
    script = "touch began; until [ -e release ]; do sleep 0.05; done; touch ended"
    work.start_process(subprocess.Popen, ["sh", "-c", script], cwd=HERE)

async def gives_up():
    try:
        await asyncio.wait_for(asyncio.to_thread(held), 0.05)
    except TimeoutError:
        pass
"""

WSGI = (
    PIECES
    + """
work = Work()
pool = work.executor(ThreadPoolExecutor(2))

def stream():
    yield b"first"
    held()
    yield b"last"

PLAIN = {
    "/slow": held,
    "/background": lambda: work.start_thread(held, daemon=True),
    "/pool": lambda: pool.submit(held),
    "/process": child,
}
BODIES = {"/big": lambda: [BIG], "/stream": stream}

def shop(environ, start_response):
    path = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path in BODIES:
        return BODIES[path]()
    PLAIN.get(path, lambda: None)()
    return [b"1"]

app = application = work.wsgi(shop)
"""
)

STARLETTE = (
    PIECES
    + """
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute

work = Work()
pool = ThreadPoolExecutor(2)

async def plain(request):
    return Response(b"1")

async def slow(request):
    await hold()
    return Response(b"1")

async def big(request):
    return Response(BIG)

async def stream(request):
    async def body():
        yield b"first"
        await hold()
        yield b"last"
    return StreamingResponse(body())

async def background(request):
    return Response(b"1", background=BackgroundTask(hold))

async def thread(request):
    await asyncio.to_thread(held)
    return Response(b"1")

async def impatient(request):
    await gives_up()
    return Response(b"1")

def framework(request):
    held()
    return Response(b"1")

async def pooled(request):
    asyncio.get_running_loop().run_in_executor(pool, held)
    return Response(b"1")

async def process(request):
    child()
    return Response(b"1")

async def ws(socket):
    await socket.accept()
    await socket.receive_text()
    await asyncio.to_thread(held)

paths = {"plain": plain, "slow": slow, "big": big, "stream": stream, "background": background,
         "thread": thread, "impatient": impatient, "framework": framework, "pool": pooled,
         "process": process}
routes = [Route(f"/{path}", view) for path, view in paths.items()]
app = work.asgi(Starlette(routes=[*routes, WebSocketRoute("/ws", ws)]))
"""
)

DJANGO = (
    PIECES
    + """
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x", DEBUG=False)
work = Work()
pool = ThreadPoolExecutor(2)

async def plain(request):
    return HttpResponse(b"1")

async def slow(request):
    await hold()
    return HttpResponse(b"1")

async def big(request):
    return HttpResponse(BIG)

async def stream(request):
    async def body():
        yield b"first"
        await hold()
        yield b"last"
    return StreamingHttpResponse(body())

async def background(request):
    work.create_task(hold())
    return HttpResponse(b"1")

async def thread(request):
    await asyncio.to_thread(held)
    return HttpResponse(b"1")

async def impatient(request):
    await gives_up()
    return HttpResponse(b"1")

def framework(request):
    return HttpResponse(held())

async def pooled(request):
    asyncio.get_running_loop().run_in_executor(pool, held)
    return HttpResponse(b"1")

async def process(request):
    child()
    return HttpResponse(b"1")

views = {"plain": plain, "slow": slow, "big": big, "stream": stream, "background": background,
         "thread": thread, "impatient": impatient, "framework": framework, "pool": pooled,
         "process": process}
urlpatterns = [path(name, view) for name, view in views.items()]
app = work.asgi(get_asgi_application())
"""
)

QUART = (
    PIECES
    + """
from quart import Quart, Response, websocket

work = Work()
api = Quart(__name__)
pool = ThreadPoolExecutor(2)

@api.get("/plain")
async def plain():
    return "1"

@api.get("/slow")
async def slow():
    await hold()
    return "1"

@api.get("/big")
async def big():
    return Response(BIG)

@api.get("/stream")
async def stream():
    async def body():
        yield b"first"
        await hold()
        yield b"last"
    return Response(body())

@api.get("/background")
async def background():
    api.add_background_task(work.handed_on(hold))
    return "1"

@api.get("/thread")
async def thread():
    await asyncio.to_thread(held)
    return "1"

@api.get("/impatient")
async def impatient():
    await gives_up()
    return "1"

@api.get("/framework")
def framework():
    return held()

@api.get("/pool")
async def pooled():
    asyncio.get_running_loop().run_in_executor(pool, held)
    return "1"

@api.get("/process")
async def process():
    child()
    return "1"

@api.websocket("/ws")
async def ws():
    await websocket.accept()
    await websocket.receive()
    await asyncio.to_thread(held)

app = work.asgi(api)
"""
)

SANIC = (
    PIECES
    + """
from sanic import Sanic
from sanic.response import raw, text

work = Work()
api = Sanic("shop")
pool = ThreadPoolExecutor(2)

@api.get("/plain")
async def plain(request):
    return text("1")

@api.get("/slow")
async def slow(request):
    await hold()
    return text("1")

@api.get("/big")
async def big(request):
    return raw(BIG)

@api.get("/stream")
async def stream(request):
    answer = await request.respond(content_type="text/plain")
    await answer.send("first")
    await hold()
    await answer.send("last")
    await answer.eof()

@api.get("/background")
async def background(request):
    request.app.add_task(work.handed_on(hold)())
    return text("1")

@api.get("/thread")
async def thread(request):
    await asyncio.to_thread(held)
    return text("1")

@api.get("/impatient")
async def impatient(request):
    await gives_up()
    return text("1")

@api.get("/pool")
async def pooled(request):
    asyncio.get_running_loop().run_in_executor(pool, held)
    return text("1")

@api.get("/process")
async def process(request):
    child()
    return text("1")

@api.websocket("/ws")
async def ws(request, socket):
    await socket.recv()
    await asyncio.to_thread(held)

app = work.asgi(api)
"""
)


def documented(begins: str) -> str:
    """Return the program of the how-to whose introduction begins so, with its port as given."""
    text = HOW_TO.read_text()
    (block,) = re.findall(rf"^{begins}[^\n]*\n\n((?:(?:    [^\n]*)?\n)+)", text, re.MULTILINE)
    program = re.sub(r"^    ", "", str(block), flags=re.MULTILINE)
    return program.replace("9001", 'int(os.environ["WORK_PORT"])')


def aiohttp() -> str:
    """Return the app of aiohttp, counted as the how-to says."""
    return f"""
from aiohttp import web
{PIECES}
{documented("aiohttp, ")}
pool = work.executor(ThreadPoolExecutor(2))

def answer(does):
    async def handler(request):
        await does()
        return web.Response(body=b"1")
    return handler

async def nothing():
    pass

async def pooled():
    asyncio.get_running_loop().run_in_executor(pool, held)

async def background():
    work.create_task(hold())

async def process():
    child()

async def big(request):
    return web.Response(body=BIG)

async def stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"first")
    await hold()
    await response.write(b"last")
    return response

async def ws(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.receive()
    await asyncio.to_thread(held)
    return socket

paths = {{"plain": nothing, "slow": hold, "background": background,
         "thread": lambda: asyncio.to_thread(held), "impatient": gives_up, "pool": pooled,
         "process": process}}
app.router.add_routes([
    *(web.get(f"/{{path}}", answer(does)) for path, does in paths.items()),
    web.get("/big", big), web.get("/stream", stream), web.get("/ws", ws),
])
web.run_app(
    app, host="127.0.0.1", port=int(os.environ["PORT"]), handler_cancellation="CANCEL" in os.environ
)
"""


def tornado() -> str:
    """Return the app of Tornado, counted as the how-to says."""
    return f"""
import tornado.ioloop, tornado.web, tornado.websocket
{PIECES}
{documented("Tornado, ")}
workers = work.executor(ThreadPoolExecutor(2))

def answer(does):
    class Answer(Counted):
        async def get(self):
            await does()
            self.write(b"1")
    return Answer

async def nothing():
    pass

async def pooled():
    asyncio.get_running_loop().run_in_executor(workers, held)

async def background():
    work.create_task(hold())

async def process():
    child()

class Big(Counted):
    def get(self):
        self.write(BIG)

class Stream(Counted):
    async def get(self):
        self.write(b"first")
        await self.flush()
        await hold()
        self.write(b"last")

class Echo(Socket):
    async def on_message(self, message):
        await asyncio.to_thread(held)

async def framework():
    await tornado.ioloop.IOLoop.current().run_in_executor(None, held)

paths = {{"plain": nothing, "slow": hold, "background": background,
         "thread": lambda: asyncio.to_thread(held), "impatient": gives_up, "pool": pooled,
         "process": process, "framework": framework}}

async def serve():
    await main()
    app = tornado.web.Application([
        *((f"/{{path}}", answer(does)) for path, does in paths.items()),
        ("/big", Big), ("/stream", Stream), ("/ws", Echo),
    ])
    app.listen(int(os.environ["PORT"]), "127.0.0.1")
    await asyncio.Event().wait()

asyncio.run(serve())
"""
