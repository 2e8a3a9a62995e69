"""The pages Teach and Training, and the parts of them that htmx loads again.

A part that is polled sends the stamp of what it shows, and is answered with 204 while nothing has changed: htmx then
leaves the page as it is, and a screen reader is not told the same again.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from infra.errors import NotFound, UserError
from motiondirector.studio.signin import Visitor
from motiondirector.studio.teach.chart import chart_of
from motiondirector.studio.teach.foundation import served_facts
from motiondirector.studio.teach.presets import Preset, presets
from motiondirector.studio.teach.standing import Look, duration, look_at
from motiondirector.studio.templating import render
from serving.http.auth import Caller
from serving.http.dependencies import service_of
from serving.http.learning.routes import trains
from serving.http.learning.service import TrainingService
from serving.jobs.training_tables import Training
from serving.trainings.request import asked
from serving.trainings.schemas import MAX_CAPTION, MAX_SUFFIX
from serving.trainings.store import QUEUED, RUNNING

router = APIRouter()
PAGE = 12  # trainings of the list that are loaded at once
MOST_CLIPS = 50  # of one training
MESSAGES = 12  # events that a training's page shows
FILE, CLIPS = (
    re.compile("file-[0-9a-f]{32}"),
    "clips",
)  # an id, and where a request's metadata has those of its clips
Stamp = Annotated[str, Query(max_length=2000)]


@router.get("/teach")
async def teach_page(
    request: Request,
    visitor: Visitor,
    file: Annotated[list[str] | None, Query(max_length=MOST_CLIPS)] = None,
    caption: Annotated[str, Query(max_length=MAX_CAPTION)] = "",
    name: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """Clips in, a training out; below it the visitor's trainings. `file`: what was uploaded here before."""
    service = service_of(request)
    if service.trainings is None:
        return render(request, "teach/off.html.j2")
    visitor.check("videos:read")
    clips, gone = await known_files(service.trainings, file or (), visitor.tenant)
    looks, more = await list_of(service.trainings, visitor.tenant, None)
    return render(
        request,
        "teach/teach.html.j2",
        clips=json.dumps(clips),
        gone=gone,
        caption=caption,
        name=name,
        limits={"caption": MAX_CAPTION, "name": MAX_SUFFIX, "clips": MOST_CLIPS},
        looks=looks,
        more=more,
        stamp=stamp_of(looks),
    )


async def known_files(
    service: TrainingService, ids: Sequence[str], tenant: str
) -> tuple[list[dict[str, Any]], int]:
    """Id, name and size of the visitor's files with these ids, and how many are not there any more."""
    found = []
    for id in dict.fromkeys(ids):
        try:
            file = await service.filing.file(id, tenant)
        except NotFound:
            continue
        found.append({"id": file.id, "name": file.filename, "bytes": file.size})
    return found, len(dict.fromkeys(ids)) - len(found)


@router.get("/parts/teach/presets")
async def presets_part(
    request: Request,
    visitor: Visitor,
    clips: Annotated[int, Query(ge=1, le=100_000)] = 1,
    chosen: Annotated[str, Query(max_length=20)] = "balanced",
) -> Response:
    """The choices for a number of clips; while the model loads, a part that asks again."""
    service = service_of(request)
    learning = trains(request)
    try:
        facts = await served_facts(service)
        pace = await asyncio.to_thread(learning.figures.seconds_per_step, facts.fingerprint)
        offered = presets(facts.recommended, clips, service.config.max_train_steps, pace)
    except UserError as error:
        again = f"teach/presets?clips={clips}"
        return render(request, "part_waiting.html.j2", message=error.message, again=again)
    names = [preset.name for preset in offered]
    choice = chosen if chosen in names else names[-1] if "balanced" not in names else "balanced"
    shown = [(preset, json.dumps(preset.hyperparameters), time_of(preset)) for preset in offered]
    return render(request, "teach/part_presets.html.j2", presets=shown, chosen=choice, clips=clips)


def time_of(preset: Preset) -> str:
    """The time that a preset should take, in words; "" if nothing was measured."""
    return "" if preset.seconds is None else duration(preset.seconds)


@router.get("/trainings/{id}")
async def training_page(id: str, request: Request, visitor: Visitor) -> Response:
    """One training: its state, its losses, what happened, and at its end the way to a video."""
    return render(request, "teach/training.html.j2", **await all_of(request, id, visitor))


@router.get("/parts/trainings/{id}")
async def training_part(id: str, request: Request, visitor: Visitor, seen: Stamp = "") -> Response:
    """A training in its present state; 204 if that is what was seen."""
    content = await all_of(request, id, visitor)
    if content["look"].stamp == seen:
        return Response(status_code=204)
    return render(request, "teach/part_training.html.j2", **content)


async def all_of(request: Request, id: str, visitor: Caller) -> dict[str, Any]:
    """What the templates show of one of the visitor's trainings. Raises NotFound."""
    visitor.check("videos:read")
    service = trains(request)
    training = await service.training(id, visitor.tenant)
    losses = await asyncio.to_thread(service.figures.losses, training.id)
    events, _ = await asyncio.to_thread(service.store.events, training.id, limit=10 * MESSAGES)
    [look] = await looks_at(service, [training])
    return {
        "look": look,
        "asked": asked(training),
        "chart": chart_of(losses, training.steps),
        "events": [event for event in events if event.kind == "message"][:MESSAGES],
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


async def looks_at(service: TrainingService, trainings: Sequence[Training]) -> list[Look]:
    """The trainings as pages show them."""

    def look(training: Training) -> Look:
        before = service.store.waiting_before(training) if training.state == QUEUED else 0
        losses = service.figures.losses(training.id) if training.state == RUNNING else ()
        return look_at(training, asked(training).suffix, before, losses)

    return await asyncio.to_thread(lambda: [look(training) for training in trainings])


# ----------------------------------------------------------------------- the list
async def list_of(service: TrainingService, tenant: str, after: str | None) -> tuple[list[Look], bool]:
    trainings, more = await service.page(tenant, after, PAGE)
    return await looks_at(service, trainings), more


def stamp_of(looks: Sequence[Look]) -> str:
    """What changes when the first page of the list does."""
    return "-".join(f"{look.training.number}.{look.stamp}" for look in looks)


@router.get("/parts/trainings")
async def trainings_part(
    request: Request,
    visitor: Visitor,
    after: Annotated[str | None, Query(max_length=64)] = None,
    seen: Stamp = "",
) -> Response:
    """The visitor's trainings, newest first; of the first page 204 if it is what was seen."""
    visitor.check("videos:read")
    looks, more = await list_of(trains(request), visitor.tenant, after)
    stamp = stamp_of(looks)
    if after is None and stamp == seen:
        return Response(status_code=204)
    template = "teach/part_list.html.j2" if after is None else "teach/part_rows.html.j2"
    return render(request, template, looks=looks, more=more, stamp=stamp)
