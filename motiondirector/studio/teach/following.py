"""A training's page and the list of trainings, and the parts of them that htmx loads again and again.

A part that is polled sends the stamp of what it shows, and is answered with 204 while nothing has changed: htmx then
leaves the page as it is, a screen reader is not told the same again, and the losses are not read.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from infra.errors import UserError
from motiondirector.studio.signin import Visitor
from motiondirector.studio.teach.chart import chart_of
from motiondirector.studio.teach.standing import Look, look_at
from motiondirector.studio.templating import render
from serving.http.auth import Caller
from serving.http.dependencies import service_of
from serving.http.learning.routes import trains
from serving.http.learning.service import TrainingService
from serving.jobs.training_tables import Training
from serving.trainings.request import asked
from serving.trainings.store import QUEUED, RUNNING

router = APIRouter()
PAGE = 12  # trainings of the list that are loaded at once
MESSAGES = 12  # events that a training's page shows
CLIPS = "clips"  # where the metadata of a training that began here has the ids of its clips
FILE = re.compile("file-[0-9a-f]{32}")
UNCHANGED = 204
Stamp = Annotated[str, Query(max_length=2000)]


@dataclass(frozen=True)
class Placed:
    """A training, and how many unfinished ones of its owner are before it while it waits."""

    training: Training
    before: int


def stamp_of(listed: Sequence[Placed]) -> str:
    """What changes whenever the look of one of these does."""
    return "-".join(f"{one.training.number}.{one.training.revision}.{one.before}" for one in listed)


async def placed(service: TrainingService, trainings: Sequence[Training]) -> list[Placed]:
    """The trainings with their places in the queue."""

    def place(training: Training) -> Placed:
        waits = training.state == QUEUED
        return Placed(training, service.store.waiting_before(training) if waits else 0)

    return await asyncio.to_thread(lambda: [place(training) for training in trainings])


async def looks_at(service: TrainingService, listed: Sequence[Placed]) -> list[Look]:
    """The trainings as pages show them."""

    def look(one: Placed) -> Look:
        training = one.training
        losses = service.figures.losses(training.id) if training.state == RUNNING else ()
        return look_at(training, asked(training).suffix, one.before, losses)

    return await asyncio.to_thread(lambda: [look(one) for one in listed])


# ------------------------------------------------------------------- one training
@router.get("/trainings/{id}")
async def training_page(id: str, request: Request, visitor: Visitor) -> Response:
    """One training: its state, its losses, what happened, and at its end the way to a video."""
    one = await training_of(request, id, visitor)
    return render(request, "teach/training.html.j2", **await all_of(request, one, visitor))


@router.get("/parts/trainings/{id}")
async def training_part(id: str, request: Request, visitor: Visitor, seen: Stamp = "") -> Response:
    """A training in its present state; 204 if that is what was seen."""
    one = await training_of(request, id, visitor)
    if stamp_of([one]) == seen:
        return Response(status_code=UNCHANGED)
    return render(request, "teach/part_training.html.j2", **await all_of(request, one, visitor))


async def training_of(request: Request, id: str, visitor: Caller) -> Placed:
    """One of the visitor's trainings. Raises NotFound, and Forbidden without the scope to read."""
    visitor.check("videos:read")
    service = trains(request)
    return (await placed(service, [await service.training(id, visitor.tenant)]))[0]


async def all_of(request: Request, one: Placed, visitor: Caller) -> dict[str, Any]:
    """What the templates show of a training."""
    service, training = trains(request), one.training
    losses = await asyncio.to_thread(service.figures.losses, training.id)
    look = look_at(training, asked(training).suffix, one.before, losses)
    return {
        "look": look,
        "stamp": stamp_of([one]),
        "asked": asked(training),
        "chart": chart_of(losses, training.steps),
        "events": await asyncio.to_thread(service.figures.messages, training.id, MESSAGES),
        "sample": look.motion is not None and await has_sample(request, look.motion, visitor),
        "again": again(training),
    }


def again(training: Training) -> str:
    """The query of the page Teach with the same clips and words."""
    request = asked(training)
    files = FILE.findall((request.metadata or {}).get(CLIPS, request.training_file))
    given = [("file", id) for id in files] + [("caption", request.caption or ""), ("name", request.suffix)]
    return urlencode(given)


async def has_sample(request: Request, motion: str, visitor: Caller) -> bool:
    """Whether a published version has a sample video; False if the registry cannot say."""
    try:
        await service_of(request).catalogue.preview(motion, visitor.tenant)
    except UserError:
        return False
    return True


# ----------------------------------------------------------------------- the list
async def page_of(service: TrainingService, tenant: str, after: str | None) -> tuple[list[Placed], bool]:
    """Some of the visitor's trainings, newest first, and whether more follow."""
    trainings, more = await service.page(tenant, after, PAGE)
    return await placed(service, trainings), more


@router.get("/parts/trainings")
async def trainings_part(
    request: Request,
    visitor: Visitor,
    after: Annotated[str | None, Query(max_length=64)] = None,
    seen: Stamp = "",
) -> Response:
    """The visitor's trainings, newest first; of the first page 204 if it is what was seen."""
    visitor.check("videos:read")
    service = trains(request)
    listed, more = await page_of(service, visitor.tenant, after)
    stamp = stamp_of(listed)
    if after is None and stamp == seen:
        return Response(status_code=UNCHANGED)
    template = "teach/part_list.html.j2" if after is None else "teach/part_rows.html.j2"
    return render(request, template, looks=await looks_at(service, listed), more=more, stamp=stamp)
