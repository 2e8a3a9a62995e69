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
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from infra.errors import UserError
from serving.answers import video_of
from serving.database import Job
from serving.engine import Failed
from serving.engine_service import EngineLost
from serving.errors import Throttled
from serving.jobs import FINAL, IN_PROGRESS, STATES

if TYPE_CHECKING:
    from serving.service import VideoService

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


class Streams:
    """The open event streams of one ingress: each holds a connection, so their number is bounded."""

    def __init__(self, most: int) -> None:
        self.most, self.open = most, 0

    def check(self) -> None:
        """Raises Throttled when there is room for no other."""
        if self.open >= self.most:
            raise Throttled(
                f"{self.open} event streams are open; poll GET /v1/videos/{{id}} instead.",
                code="too_many_streams",
                retry_after=30.0,
            )

    @contextmanager
    def one(self) -> Iterator[None]:
        """While a stream is open."""
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


def stamp(job: Job, position: int | None) -> str:
    """What of a job an event shows, as the event's id."""
    place = "" if position is None else f".{position}"
    return f"{job.attempts}.{STATES.index(job.state)}.{job.progress}{place}"


def was_end(last_event_id: str | None, job: Job) -> bool:
    """Whether the client has seen the job's end, and need not come back."""
    return job.state in FINAL and last_event_id == stamp(job, None)


async def follow(
    service: VideoService, id: str, tenant: str, last_event_id: str | None, previews: bool
) -> AsyncIterator[bytes]:
    """Events up to the job's end, or its deletion."""
    seen, quiet, pictured, shown = last_event_id, time.monotonic(), 0.0, -1
    yield format_sse_event(retry=RETRY)
    with service.streams.one(), service.changes.of(id) as changed:
        while True:
            changed.clear()
            try:
                [(job, position)] = await service.placed([await service.get(id, tenant)])
            except UserError as gone:
                if gone.status != 404:
                    raise
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


async def preview(service: VideoService, id: str) -> bytes | None:
    """The job as it looks now; None while there is nothing to be seen."""
    try:
        async with asyncio.timeout(PREVIEW_TIMEOUT):
            answer = await service.engine.preview(id)
    except (EngineLost, TimeoutError):
        return None
    return None if isinstance(answer, Failed) else answer
