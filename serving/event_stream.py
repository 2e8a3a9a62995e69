"""`GET /v1/videos/{id}/events`: a job's life as server-sent events.

An event is a look at the job (its `video.<state>`), sent when something of it has changed; its id says what was seen.
A client that comes back with Last-Event-ID is sent nothing it has seen, so nothing has to be kept for it, and any
ingress can go on where another one stopped.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.types import Receive, Scope, Send

from infra.errors import NotFound, Throttled
from serving.answers import video_of
from serving.database import Job
from serving.engine_client import EngineClient, EngineLost
from serving.events import Failed
from serving.jobs import FINAL, IN_PROGRESS, STATES

POLL = 0.5  # seconds between looks at a job, unless this ingress knows of a change
HEARTBEAT = 15.0  # seconds without an event after which a comment is sent
PREVIEW_PAUSE = 1.0  # seconds between previews of one stream, at least
PREVIEW_TIMEOUT = 10.0  # seconds an engine is waited for
RETRY = 2000  # milliseconds a client shall wait before it comes back


class Changes:
    """Wakes whoever waits for news of a job. For one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def notice(self, id: str) -> None:
        """The job has changed."""
        for event in self._waiting.get(id, ()):
            event.set()

    @contextmanager
    def of(self, id: str) -> Iterator[asyncio.Event]:
        """An event that is set at each change."""
        event = asyncio.Event()
        self._waiting.setdefault(id, set()).add(event)
        try:
            yield event
        finally:
            self._waiting[id].discard(event)
            if not self._waiting[id]:
                del self._waiting[id]


class JobSource(Protocol):
    """What a stream needs of the service."""

    changes: Changes
    engine: EngineClient

    async def get(self, id: str, tenant: str) -> Job: ...

    async def placed(self, jobs: Sequence[Job]) -> list[tuple[Job, int | None]]: ...


class Streams:
    """The open event streams of one ingress: each holds a connection, so their number is bounded.

    Args:
        most: of all tenants together.
        tenants: how many there are; of several, one has a share, a quarter at least.
    """

    def __init__(self, most: int, tenants: int) -> None:
        self.most, self.share = most, math.ceil(most / min(4, max(1, tenants)))
        self._open: Counter[str] = Counter()  # by tenant

    @property
    def open(self) -> int:
        """How many there are."""
        return self._open.total()

    def check(self, tenant: str) -> None:
        """Raises Throttled when there is room for no other of this tenant."""
        if self.open >= self.most:
            open = f"{self.open} event streams are open"
        elif self._open[tenant] >= self.share:
            open = f"{self.share} event streams of this API key are open"
        else:
            return
        raise Throttled(
            f"{open}; poll GET /v1/videos/{{id}} instead.", code="too_many_streams", retry_after=30.0
        )

    @contextmanager
    def one(self, tenant: str) -> Iterator[None]:
        """While a stream is open. Raises Throttled when there is room for no other of this tenant."""
        self.check(tenant)  # nothing is awaited between this and the next line
        self._open[tenant] += 1
        try:
            yield
        finally:
            self._open[tenant] -= 1
            if not self._open[tenant]:
                del self._open[tenant]


class EventStream(StreamingResponse):
    """An answer of events. It takes its place among the open streams as it begins, and gives it back however it ends."""

    def __init__(self, events: AsyncIterator[bytes], streams: Streams, tenant: str) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._streams, self._tenant = streams, tenant

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._streams.one(self._tenant):
            await super().__call__(scope, receive, send)


def stamp(job: Job, position: int | None) -> str:
    """What of a job an event shows, as the event's id."""
    place = "" if position is None else f".{position}"
    return f"{job.attempts}.{STATES.index(job.state)}.{job.progress}{place}"


def was_end(last_event_id: str | None, job: Job) -> bool:
    """Whether the client has seen the job's end, and need not come back."""
    return job.state in FINAL and last_event_id == stamp(job, None)


async def follow(
    service: JobSource, id: str, tenant: str, last_event_id: str | None, previews: bool
) -> AsyncIterator[bytes]:
    """Events up to the job's end, or its deletion."""
    seen, quiet, pictured, shown = last_event_id, time.monotonic(), 0.0, -1
    yield format_sse_event(retry=RETRY)
    with service.changes.of(id) as changed:
        while True:
            changed.clear()
            try:
                [(job, position)] = await service.placed([await service.get(id, tenant)])
            except NotFound:
                yield format_sse_event(event="video.deleted", data_str=json.dumps({"id": id}))
                return
            if (now_seen := stamp(job, position)) != seen:
                seen, quiet = now_seen, time.monotonic()
                data = video_of(job, position).model_dump_json()
                yield format_sse_event(event=f"video.{job.state}", id=seen, data_str=data)
            if job.state in FINAL:
                return
            due = time.monotonic() - pictured >= PREVIEW_PAUSE and job.progress != shown
            if previews and job.state == IN_PROGRESS and due:
                picture = await preview(service, id)
                pictured = time.monotonic()
                if picture is not None:
                    shown, quiet = job.progress, pictured
                    content = {
                        "id": id,
                        "progress": job.progress,
                        "media_type": "image/webp",
                        "image": base64.b64encode(picture).decode(),
                    }
                    yield format_sse_event(event="video.preview", data_str=json.dumps(content))
            if time.monotonic() - quiet >= HEARTBEAT:
                quiet = time.monotonic()
                yield KEEPALIVE_COMMENT
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await changed.wait()


async def preview(service: JobSource, id: str) -> bytes | None:
    """The job as it looks now; None while there is nothing to be seen."""
    try:
        async with asyncio.timeout(PREVIEW_TIMEOUT):
            answer = await service.engine.preview(id)
    except (EngineLost, TimeoutError):
        return None
    return None if isinstance(answer, Failed) else answer
