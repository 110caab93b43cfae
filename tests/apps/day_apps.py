"""
Apps for a day under load: each piece of work notes its begin and its end in a file.

A line is written at once and at the end of the file, so a kill loses none of it. The paths are
/KIND/PIECE/SECONDS, and each framework has its own way of doing each kind.
"""

COMMON = """
import asyncio, os, time
from concurrent.futures import ThreadPoolExecutor, TimeoutError as GivenUp
from deregister_agent.app import Work

work = Work()
record = os.open("record", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def note(what, piece):
    os.write(record, f"{what} {piece}\\n".encode())

def works(piece, seconds):
    note("begin", piece)
    time.sleep(seconds)
    note("end", piece)
    return "done"

async def works_on(piece, seconds):
    note("begin", piece)
    try:
        await asyncio.sleep(seconds)
    finally:
        note("end", piece)
    return "done"

async def told(piece, seconds):
    note("begin", piece)
    try:
        for _ in range(10):
            yield b"x" * 10_000
            await asyncio.sleep(seconds / 10)
    finally:
        note("end", piece)

threads = ThreadPoolExecutor(32)

async def gives_up(piece, seconds):
    try:
        await asyncio.wait_for(asyncio.to_thread(works, piece, seconds), 0.05)
    except TimeoutError:
        pass

async def by_kind(kind, piece, seconds):
    if kind == "plain":
        await works_on(piece, seconds)
    elif kind == "thread":
        await asyncio.to_thread(works, piece, seconds)
    elif kind == "impatient":
        await gives_up(piece, seconds)
    elif kind == "pool":
        asyncio.get_running_loop().run_in_executor(threads, works, piece, seconds)
    return "done"
"""

FLASK = (
    COMMON
    + """
from flask import Flask, Response

app = Flask(__name__)
app.wsgi_app = work.wsgi(app.wsgi_app)
pool = work.executor(threads)

@app.get("/<kind>/<piece>/<float:seconds>")
def one(kind, piece, seconds):
    if kind in ("plain", "thread", "framework"):
        works(piece, seconds)
    elif kind == "background":
        work.start_thread(works, piece, seconds, daemon=True)
    elif kind == "pool":
        pool.submit(works, piece, seconds)
    elif kind == "impatient":
        try:
            pool.submit(works, piece, seconds).result(0.05)
        except GivenUp:
            pass
    elif kind == "stream":
        return Response(parts(piece, seconds))
    return "done"

def parts(piece, seconds):
    note("begin", piece)
    try:
        for _ in range(10):
            yield b"x" * 10_000
            time.sleep(seconds / 10)
    finally:
        note("end", piece)
"""
)

FASTAPI = (
    COMMON
    + """
from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse

api = FastAPI()

@api.get("/framework/{piece}/{seconds}")
def framework(piece: str, seconds: float):
    return works(piece, seconds)

@api.get("/background/{piece}/{seconds}")
async def background(piece: str, seconds: float, tasks: BackgroundTasks):
    tasks.add_task(works_on, piece, seconds)

@api.get("/stream/{piece}/{seconds}")
async def stream(piece: str, seconds: float):
    return StreamingResponse(told(piece, seconds))

@api.get("/{kind}/{piece}/{seconds}")
async def one(kind: str, piece: str, seconds: float):
    return await by_kind(kind, piece, seconds)

app = work.asgi(api)
"""
)

QUART = (
    COMMON
    + """
from quart import Quart, Response

api = Quart(__name__)

@api.get("/framework/<piece>/<float:seconds>")
def framework(piece, seconds):
    return works(piece, seconds)

@api.get("/<kind>/<piece>/<float:seconds>")
async def one(kind, piece, seconds):
    if kind == "background":
        api.add_background_task(work.handed_on(works_on), piece, seconds)
    elif kind == "stream":
        return Response(told(piece, seconds))
    return await by_kind(kind, piece, seconds)

app = work.asgi(api)
"""
)

DJANGO = (
    COMMON
    + """
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x", DEBUG=False)

def framework(request, piece, seconds):
    return HttpResponse(works(piece, float(seconds)))

async def one(request, kind, piece, seconds):
    if kind == "background":
        work.create_task(works_on(piece, float(seconds)))
    elif kind == "stream":
        return StreamingHttpResponse(told(piece, float(seconds)))
    return HttpResponse(await by_kind(kind, piece, float(seconds)))

urlpatterns = [
    path("framework/<piece>/<seconds>", framework),
    path("<kind>/<piece>/<seconds>", one),
]
app = work.asgi(get_asgi_application())
"""
)
