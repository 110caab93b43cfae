"""The apps that the servers of ``web`` run: with the app library, and with metrics."""

# Each piece of work waits for a file with the number of its round, and says when it has ended.
SHARED = """
import time
from pathlib import Path
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

def is_over(number):
    return Path(f"release-{number}").exists()

def ends(number, what):
    Path(f"ended-{number}-{what}.new").write_text(repr(time.monotonic()))
    Path(f"ended-{number}-{what}.new").rename(f"ended-{number}-{what}")

live = {"multiprocess_mode": "livesum"}
requests = Gauge("http_requests_inprogress", "Under way.", ["path"], **live)
jobs = Gauge("jobs_running", "Under way.", **live)
started = Counter("http_requests", "All.", ["path"])
for path in ("/slow", "/stream", "/background"):
    requests.labels(path), started.labels(path)
"""
FLASK = (
    SHARED
    + """
import threading
from concurrent.futures import ThreadPoolExecutor
from flask import Flask, Response
from prometheus_client.multiprocess import MultiProcessCollector
from deregister_agent.app import Work

work = Work()
pool = work.executor(ThreadPoolExecutor(4))
app = Flask(__name__)
app.wsgi_app = work.wsgi(app.wsgi_app)

def hold(number, what):
    while not is_over(number):
        time.sleep(0.002)
    ends(number, what)

def job(number):
    with jobs.track_inprogress():
        hold(number, "job")

def message(number):
    with work.message(), jobs.track_inprogress():
        hold(number, "message")

@app.get("/slow/<number>")
def slow(number):
    started.labels("/slow").inc()
    with requests.labels("/slow").track_inprogress():
        hold(number, "slow")
    return "done"

@app.get("/stream/<number>")
def stream(number):
    def body():
        started.labels("/stream").inc()
        with requests.labels("/stream").track_inprogress():
            yield "first"
            hold(number, "stream")
            yield "last"
    return Response(body())

@app.get("/background/<number>")
def background(number):
    started.labels("/background").inc()
    pool.submit(job, number)
    threading.Thread(target=message, args=(number,)).start()
    return "accepted", 202

@app.get("/metrics")
def metrics():
    every = CollectorRegistry()
    MultiProcessCollector(every)
    return Response(generate_latest(every), mimetype="text/plain")
"""
)
FASTAPI = (
    SHARED
    + """
import asyncio
from fastapi import BackgroundTasks, FastAPI, Response, WebSocket
from fastapi.responses import StreamingResponse
from deregister_agent.app import Work

work = Work()
api = FastAPI()

async def hold(number, what):
    while not is_over(number):
        await asyncio.sleep(0.002)
    ends(number, what)

async def job(number):
    with jobs.track_inprogress():
        await hold(number, "job")

@api.get("/slow/{number}")
async def slow(number):
    started.labels("/slow").inc()
    with requests.labels("/slow").track_inprogress():
        await hold(number, "slow")

@api.get("/stream/{number}")
async def stream(number):
    async def body():
        started.labels("/stream").inc()
        with requests.labels("/stream").track_inprogress():
            yield b"first"
            await hold(number, "stream")
            yield b"last"
    return StreamingResponse(body())

@api.get("/background/{number}")
async def background(number, tasks: BackgroundTasks):
    started.labels("/background").inc()
    tasks.add_task(job, number)

@api.websocket("/socket/{number}")
async def socket(socket: WebSocket, number):
    await socket.accept()
    while not is_over(number):
        await asyncio.sleep(0.002)
    await socket.close()
    ends(number, "socket")

@api.get("/metrics")
async def metrics():
    return Response(generate_latest(), media_type="text/plain; version=0.0.4")

app = work.asgi(api)
"""
)
