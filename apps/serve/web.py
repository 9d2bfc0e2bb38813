"""The HTTP side: which requests are let in, which are refused and how, and what is counted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, exposition
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.serve.engine import Batcher, Full, Network
from cifar_utils.predict import PictureError, open_picture, prepare

STATIC = Path(__file__).parent / "static"
PATHS = ("/", "/predict", "/health", "/metrics")
TOP = 5
CLOSE = {"Connection": "close"}
LINGER = 1.0  # seconds that a refused body is still taken off the line
REQUESTS = Counter("serve_requests", "Requests answered", ["path", "status"])
SECONDS = Histogram(
    "serve_request_seconds",
    "From head to last byte",
    ["path"],
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20),
)
BATCHES = Histogram(
    "serve_batch_pictures", "Pictures asked for at once", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
DEPTH = Gauge("serve_queue_depth", "Pictures inside, not answered", multiprocess_mode="livesum")
WORKER = Gauge("serve_worker_up", "One line a worker", multiprocess_mode="liveall")
HEADERS = [
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob: data:"),
    (b"x-content-type-options", b"nosniff"),
]
logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a bad form is no news to the log


@dataclass(frozen=True)
class Settings:
    """What a worker needs to know; bytes, pixels, pictures, seconds. Limits hold for each worker.

    At most `max_queue` pictures wait or are computed, and four times as many bodies are received.
    `timeout` is for a body to arrive, and then again for its answer.
    """

    model: str
    threads: int = 1
    max_bytes: int = 10_000_000
    max_pixels: int = 25_000_000
    max_queue: int = 64
    batch: int = 16
    wait: float = 0.005
    timeout: float = 10.0


def create_app(settings: Settings, network: Network | None = None) -> ASGIApp:
    """The application of one worker; it loads the network itself if it is given none."""
    service = Service(settings, network)
    app = Starlette(
        routes=[
            Route("/predict", service.predict, methods=["POST"]),
            Route("/health", service.health),
            Route("/metrics", metrics),
            Route("/", page),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        lifespan=service.lifespan,
        exception_handlers=dict.fromkeys(
            (HTTPException, PictureError, Full, ClientDisconnect, Exception), refusal
        ),
    )
    return Measured(app)


class Service:
    """One worker's network, batches and counts."""

    def __init__(self, settings: Settings, network: Network | None):
        self.settings, self.network, self.reading = settings, network, 0

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette):
        """Between start and stop: the batches are worked off, pictures decoded beside them."""
        s = self.settings
        self.network = self.network or Network(s.model, s.threads)
        self.batcher = Batcher(self.network, s.batch, s.wait, s.max_queue)
        self.decoders = ThreadPoolExecutor(s.threads, "decoder")
        self.work = asyncio.create_task(self.batcher.work(BATCHES.observe))
        WORKER.set(1)
        yield
        self.work.cancel()

    async def predict(self, request: Request) -> Response:
        """The likeliest classes of the picture in the body."""
        s = self.settings
        self.batcher.check()  # before a byte of the body is read
        content = await self.upload(request)
        if await request.is_disconnected():
            raise ClientDisconnect
        with self.batcher.place(), DEPTH.track_inprogress():
            try:
                async with asyncio.timeout(s.timeout):
                    loop = asyncio.get_running_loop()
                    image = await loop.run_in_executor(self.decoders, self.decode, content)
                    shares = await self.batcher.answer(image)
            except TimeoutError:
                raise Full from None
        best = shares.argsort(kind="stable")[::-1][:TOP]
        named = [{"class": self.network.classes[i], "probability": float(shares[i])} for i in best]
        return JSONResponse({"predictions": named, "model": self.network.name})

    def decode(self, content: bytes):
        """An upload as `(3, H, W) uint8`. Raises PictureError."""
        s = self.settings
        picture = open_picture(content, max_bytes=s.max_bytes, max_pixels=s.max_pixels)
        return prepare(picture, self.network.size).numpy()

    async def upload(self, request: Request) -> bytes:
        """The picture's bytes, from a form or as they are. Raises HTTPException, Full."""
        if self.reading >= 4 * self.settings.max_queue:
            raise Full
        self.reading += 1
        try:
            async with asyncio.timeout(self.settings.timeout):
                body = await self.body(request)
        except TimeoutError:
            raise HTTPException(408, "The body did not arrive in time.", CLOSE) from None
        finally:
            self.reading -= 1
        if not request.headers.get("content-type", "").lower().startswith("multipart/"):
            return body

        async def again() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            async with Request(request.scope, again).form(max_files=1, max_fields=8) as form:
                if not isinstance(file := form.get("file"), UploadFile):
                    raise HTTPException(400, "The form has no whole file in a field named 'file'.")
                return await file.read()
        except UnicodeError:  # of a codec that the client chose
            raise HTTPException(400, "The form's charset cannot be used. Leave it out.") from None

    async def body(self, request: Request) -> bytes:
        """The body, read no further than it may be long."""
        most, body = self.settings.max_bytes, bytearray()
        large = HTTPException(413, f"At most {most / 1e6:g} MB. Make the picture smaller.", CLOSE)
        if int(request.headers.get("content-length", 0)) > most:
            raise large
        async for chunk in request.stream():
            if len(body) + len(chunk) > most:
                raise large
            body += chunk
        return bytes(body)

    async def health(self, request: Request) -> Response:
        """Live, because it answers; ready, if batches are worked off. And what the page shows."""
        ready, network = not self.work.done(), self.network
        found = {"live": True, "ready": ready, "model": network.name, "classes": network.classes}
        found |= {"input_size": network.size, "max_bytes": self.settings.max_bytes}
        return JSONResponse(found | {"worker": os.getpid()}, 200 if ready else 503)


async def page(request: Request) -> Response:
    """The web page."""
    return FileResponse(STATIC / "index.html")


async def metrics(request: Request) -> Response:
    """All workers' counts, added up, from the files that they share."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return Response(
        exposition.generate_latest(registry), media_type=exposition.CONTENT_TYPE_PLAIN_0_0_4
    )


async def refusal(request: Request, error: Exception) -> Response:
    """`{"error": reason}` for whatever was raised."""
    status, reason, headers = 500, "This is the server's fault; its log says more.", None
    if isinstance(error, Full):
        status, reason, headers = 503, "Too busy. Try again in a moment.", {"Retry-After": "1"}
    elif isinstance(error, PictureError):
        status, reason = 422, str(error)
    elif isinstance(error, ClientDisconnect):
        status, reason = 499, "The client went away."  # for the counts: no one reads it
    elif isinstance(error, HTTPException):
        status, reason, headers = error.status_code, error.detail, error.headers
        reason = f"Nothing here. There are {', '.join(PATHS)}." if status == 404 else reason
    return (Closing if headers == CLOSE else JSONResponse)({"error": reason}, status, headers)


class Closing(JSONResponse):
    """An answer to a body that has not all arrived; then the connection closes.

    The answer leaves at once. What still arrives is thrown away for a moment, because a connection
    that closes on unread bytes is reset, and the client may lose the answer with it.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI response whose last part is empty and late."""
        start = {"type": "http.response.start", "status": self.status_code}
        await send(start | {"headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body"})


class Measured:
    """Counts and times every request, and adds the headers that bind a browser to this page."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application around another."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = message | {"headers": [*message["headers"], *HEADERS]}
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            path = scope["path"] if scope["path"] in PATHS else "other"
            REQUESTS.labels(path, status).inc()
            SECONDS.labels(path).observe(time.perf_counter() - begun)
