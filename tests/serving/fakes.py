"""An engine whose pace a test controls, a server on loopback, and a receiver of webhooks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from serving.config import ServeConfig
from serving.engine_client import EngineLost, Residency
from serving.events import Admitted, Event, Failed, Finished, Progressed
from serving.http.api import create_api
from serving.http.service import VideoService
from serving.requests import AdapterUsed, FoundationInfo, VideoRequest
from serving.trainings.trainer import Trainer

INFO = FoundationInfo(
    name="fake",
    family="fake",
    fingerprint="f" * 64,
    frames=4,
    first_frames=1,
    frame_step=1,
    height=32,
    width=32,
    fps=8,
    steps=4,
    guidance_scale=1.0,
    negative_prompt="",
    slots={"temporal": 4, "spatial": 4},
    rank=4,
    max_pixels=10**6,
)


class FakeEngine:
    """An engine that finishes at once. `held`: it waits at step `reached`; `lost`: it raises EngineLost."""

    def __init__(self, *, held: bool = False, steps: int = 4) -> None:
        self.held, self.steps, self.lost = held, steps, False
        self.reached = 0  # while held: steps that running requests may do
        self.seen: list[VideoRequest] = []
        self.prefetched: list[str] = []  # sha256
        self.kept: list[
            tuple[int, list[str]]
        ] = []  # (revision, sha256 of all pinned adapters) of each call of `keep`
        self.picture: bytes | Failed = b"RIFF-a-webp"
        self.backlogs: list[float] = []
        self.forgotten: set[str] = set()  # sha256
        self.engines = 1

    def release(self) -> None:
        self.held = False

    async def describe(self) -> FoundationInfo:
        if self.lost:
            raise EngineLost("nobody is here")
        return INFO

    async def check(self, request: VideoRequest) -> Failed | None:
        if self.lost:
            raise EngineLost("nobody is here")
        return None

    async def generate(self, id: str, request: VideoRequest) -> AsyncIterator[Event]:
        self.seen.append(request)
        yield Admitted(0.0, 0.0)
        for step in range(1, self.steps + 1):
            while self.held and self.reached < step:
                await asyncio.sleep(0.005)
            yield Progressed(step, self.steps)
        yield Finished(b"mp4 of " + request.prompt.encode(), "0" * 64, {"denoise": 1.0, "decode": 0.5})

    async def preview(self, id: str) -> bytes | Failed:
        return self.picture

    async def prefetch(self, use: AdapterUsed) -> list[Failed | None]:
        self.prefetched.append(use.sha256)
        return [None] * self.engines

    async def set_pins(self, revision: int, uses: Sequence[AdapterUsed]) -> int:
        if self.lost:
            raise EngineLost("nobody is here")
        self.kept.append((revision, [use.sha256 for use in uses]))
        return self.engines

    async def forget(self, hashes: Sequence[str]) -> bool:
        if self.lost:
            raise EngineLost("nobody is here")
        self.forgotten |= set(hashes)
        return True

    async def backlog(self, work: float) -> int:
        self.backlogs.append(work)
        return self.engines

    async def residency(self) -> dict[str, list[Residency]]:
        held = [Residency("temporal", "a" * 64, "slot", users=1, pinned=True)]
        return {f"engine{n}": held if n == 0 else [] for n in range(self.engines)}


@contextmanager
def on_loopback(app: FastAPI) -> Iterator[str]:
    """Run the application behind a real HTTP server. Yields its URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < end
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@dataclass
class Receiver:
    """The calls that a webhook's receiver got. It answers `statuses` in order, then 200."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)  # headers of its answers
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def wait(self, calls: int) -> None:
        end = time.monotonic() + 30
        while len(self.got) < calls:
            assert time.monotonic() < end, self.got
            time.sleep(0.01)


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Run a receiver on loopback."""
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = state.statuses.pop(0) if state.statuses else 200
            state.got.append((self.path, headers, body))
            self.send_response(status)
            for name, value in {**state.headers, "content-length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/hook"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@contextmanager
def api_over(engine: FakeEngine, trainer: Trainer | None = None, **settings) -> Iterator[TestClient]:
    """A local client of an API in this process; `client.service` is its service."""
    service = VideoService(ServeConfig(**settings), engine, trainer=trainer)
    client = TestClient(
        create_api(service),
        raise_server_exceptions=False,
        client=("127.0.0.1", 50000),
        base_url="http://127.0.0.1:8000",
        follow_redirects=False,
    )
    client.service = service  # type: ignore[attr-defined]
    with client:
        yield client
        engine.release()
