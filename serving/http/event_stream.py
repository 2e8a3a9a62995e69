"""`GET /v1/videos/{id}/events`: the progress of a job as server-sent events.

An event (`video.<state>`) shows the job and is sent when it has changed; its id encodes what it shows. A
client that reconnects with Last-Event-ID gets only what it has not seen. The server keeps no state per
client, so any ingress can continue the stream of another.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.types import Receive, Scope, Send

from infra.errors import NotFound, Throttled
from serving.engine_client import EngineClient, EngineLost
from serving.events import Failed
from serving.http.answers import status_of, video_of
from serving.jobs.database import Job
from serving.jobs.jobs import FINAL, IN_PROGRESS, STATES

POLL = 0.5  # seconds between looks at a job, unless this ingress knows of a change
HEARTBEAT = 15.0  # seconds without an event after which a comment is sent
PREVIEW_PAUSE = 1.0  # minimum seconds between previews of one stream
PREVIEW_TIMEOUT = 10.0  # seconds to wait for an engine
RETRY = 2000  # milliseconds that a client waits before it reconnects


class Changes:
    """Wakes tasks that wait for a change of a job. For one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def notify(self, id: str) -> None:
        """Announce that the job has changed."""
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
    """What a stream needs from the service."""

    changes: Changes
    engine: EngineClient

    async def get(self, id: str, tenant: str) -> Job: ...

    async def with_positions(self, jobs: Sequence[Job]) -> list[tuple[Job, int | None]]: ...


class Streams:
    """Limits the open event streams of one ingress, because each holds a connection.

    Args:
        most: maximum for all tenants together.
        tenants: returns their number. If there are several, each is limited to a share, at least a quarter.
    """

    def __init__(self, most: int, tenants: Callable[[], int]) -> None:
        self.most, self._tenants = most, tenants
        self._open: Counter[str] = Counter()  # by tenant

    @property
    def share(self) -> int:
        """The maximum for one tenant."""
        return math.ceil(self.most / min(4, max(1, self._tenants())))

    @property
    def open(self) -> int:
        """The number of open streams."""
        return self._open.total()

    def check(self, tenant: str) -> None:
        """Raise Throttled if this tenant may not open another stream."""
        if self.open >= self.most:
            open = "too many event streams are open"
        elif self._open[tenant] >= self.share:
            open = f"{self.share} event streams of this API key are open"
        else:
            return
        raise Throttled(
            f"{open}; poll GET /v1/videos/{{id}} instead.", code="too_many_streams", retry_after=30.0
        )

    @contextmanager
    def one(self, tenant: str) -> Iterator[None]:
        """Hold a place while a stream is open. Raises Throttled if this tenant may not open another."""
        self.check(tenant)  # nothing is awaited between this and the next line
        self._open[tenant] += 1
        try:
            yield
        finally:
            self._open[tenant] -= 1
            if not self._open[tenant]:
                del self._open[tenant]


class EventStream(StreamingResponse):
    """A response of events. It takes a place among the open streams at its start and frees it at its end."""

    def __init__(self, events: AsyncIterator[bytes], streams: Streams, tenant: str) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._streams, self._tenant = streams, tenant

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._streams.one(self._tenant):
            await super().__call__(scope, receive, send)


def stamp(job: Job, position: int | None) -> str:
    """An event's id, which encodes what it shows of a job."""
    place = "" if position is None else f".{position}"
    return f"{job.attempts}.{STATES.index(job.state)}.{job.progress}{place}"


def was_end(last_event_id: str | None, job: Job) -> bool:
    """Whether the client has already seen the job's end."""
    return job.state in FINAL and last_event_id == stamp(job, None)


async def follow(
    service: JobSource, id: str, tenant: str, last_event_id: str | None, previews: bool
) -> AsyncIterator[bytes]:
    """Yield events until the job ends or is deleted."""
    seen, quiet, pictured, shown = last_event_id, time.monotonic(), 0.0, -1
    yield format_sse_event(retry=RETRY)
    with service.changes.of(id) as changed:
        while True:
            changed.clear()
            try:
                [(job, position)] = await service.with_positions([await service.get(id, tenant)])
            except NotFound:
                yield format_sse_event(event="video.deleted", data_str=json.dumps({"id": id}))
                return
            if (now_seen := stamp(job, position)) != seen:
                seen, quiet = now_seen, time.monotonic()
                data = video_of(job, position).model_dump_json()
                yield format_sse_event(event=f"video.{status_of(job)}", id=seen, data_str=data)
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
    """A preview of the job; None if there is none yet."""
    try:
        async with asyncio.timeout(PREVIEW_TIMEOUT):
            answer = await service.engine.preview(id)
    except (EngineLost, TimeoutError):
        return None
    return None if isinstance(answer, Failed) else answer
