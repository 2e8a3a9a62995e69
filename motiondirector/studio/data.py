"""What the studio's scripts ask beside the API's own routes: events of many videos, the base model's, a measured path."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from infra.errors import Conflict
from motiondirector.studio.again import base_of
from motiondirector.studio.words import SPRITES
from serving.http.auth import Reader, Writer
from serving.http.dependencies import service_of
from serving.http.event_stream import EventStream, follow
from serving.http.service import VideoService
from serving.jobs.database import Job
from serving.jobs.jobs import CANCELLED, COMPLETED, FAILED
from serving.schemas import Video
from serving.threads import Threads

router = APIRouter()
MOST = 24  # videos of one stream; a page shows fewer unfinished ones
TRIES = 4  # base videos that may have failed or expired before a new one is requested
MEASURING = Threads("studio-measuring", 1)


class MeasuredPath(BaseModel):
    """Where the object of a video is, measured from its pixels."""

    frames: int
    found: int  # frames in which the object was found
    points: Annotated[
        list[tuple[float, float] | None],
        Field(
            description="x, y of the object's middle in each frame, as shares of the frame; null if not found"
        ),
    ]


@router.get("/events", response_class=Response)
async def get_events(
    request: Request, caller: Reader, id: Annotated[list[str], Query(min_length=1, max_length=MOST)]
) -> Response:
    """The events of several videos in one stream, because a browser opens few connections to a server."""
    service = service_of(request)
    streams = []
    for one in dict.fromkeys(id):
        await service.get(one, caller.tenant)
        streams.append(follow(service, one, caller.tenant, None, previews=True))
    return EventStream(merged(streams), service.streams, caller.tenant)


async def merged(streams: Sequence[AsyncIterator[bytes]]) -> AsyncIterator[bytes]:
    """What the streams yield, in the order in which it comes, until all have ended. Raises what ends one early."""
    arrived: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(maxsize=2 * len(streams))

    async def forward(stream: AsyncIterator[bytes]) -> None:
        try:
            async for chunk in stream:
                await arrived.put(chunk)
        except Exception as error:
            await arrived.put(error)
        else:
            await arrived.put(None)

    tasks = [asyncio.create_task(forward(stream)) for stream in streams]
    try:
        left = len(tasks)
        while left:
            came = await arrived.get()
            if isinstance(came, Exception):
                raise came
            if came is None:
                left -= 1
            else:
                yield came
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@router.post("/videos/{id}/base")
async def make_base(id: str, request: Request, caller: Writer) -> Video:
    """The base model's video of the same prompt, seed and settings: an earlier one if it can still be seen."""
    service = service_of(request)
    [video] = await service.videos([await service.get(id, caller.tenant)])
    body = base_of(video)
    text = json.dumps(body.model_dump(mode="json"), sort_keys=True)
    idempotency = f"studio-base-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    for _ in range(TRIES):
        job, is_new = await service.create(body, caller, idempotency)
        if is_new or not is_gone(job):
            break
        idempotency = f"studio-base-{hashlib.sha256((idempotency + job.id).encode()).hexdigest()[:32]}"
    return (await service.videos([job]))[0]


def is_gone(job: Job) -> bool:
    """Whether a job has no video and will have none."""
    return job.state in (FAILED, CANCELLED) or (job.state == COMPLETED and job.result_key is None)


@router.get("/videos/{id}/path")
async def get_path(id: str, request: Request, caller: Reader) -> MeasuredPath:
    """The object's path through a finished video of the embedded model. Raises Conflict for another model's."""
    service = service_of(request)
    await check_measurable(service)
    return await MEASURING.run(measured, await service.content(id, caller.tenant))


async def check_measurable(service: VideoService) -> None:
    """Raise Conflict if the tracker does not know what the served model shows."""
    name = (await service.info()).name
    if name != SPRITES:
        raise Conflict(
            f"paths are measured only in videos of the embedded model, and {name} is served; see "
            "docs/evaluation.md for what measures real clips.",
            code="not_measurable",
        )


@lru_cache(maxsize=64)
def measured(mp4: bytes) -> MeasuredPath:
    """Track the object through a video."""
    from datasets.sprites.track import track  # takes half a second to import
    from datasets.video.decode import decode

    frames_FHWC = decode(mp4, name="the video").frames_FHWC
    seen = track(frames_FHWC)
    share = frames_FHWC.shape[2] / frames_FHWC.shape[1]  # the tracker measures in frame widths
    points = [
        (round(float(x), 4), round(float(y) * share, 4)) if found else None
        for x, y, found in zip(seen.x, seen.y, seen.found, strict=True)
    ]
    return MeasuredPath(frames=len(points), found=int(seen.found.sum()), points=points)
