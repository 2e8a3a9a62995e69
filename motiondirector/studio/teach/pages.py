"""The page Teach: clips in, a training out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from infra.errors import NotFound, UserError
from motiondirector.studio.signin import Visitor
from motiondirector.studio.teach.following import looks_at, page_of, stamp_of
from motiondirector.studio.teach.foundation import served_facts
from motiondirector.studio.teach.presets import Preset, presets
from motiondirector.studio.teach.standing import duration
from motiondirector.studio.templating import render
from serving.http.dependencies import service_of
from serving.http.learning.routes import trains
from serving.http.learning.service import TrainingService
from serving.trainings.schemas import MAX_CAPTION, MAX_SUFFIX

router = APIRouter()
MOST_CLIPS = 50  # of one training


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
    listed, more = await page_of(service.trainings, visitor.tenant, None)
    return render(
        request,
        "teach/teach.html.j2",
        clips=json.dumps(clips),
        gone=gone,
        caption=caption,
        name=name,
        limits={"caption": MAX_CAPTION, "name": MAX_SUFFIX, "clips": MOST_CLIPS},
        looks=await looks_at(service.trainings, listed),
        more=more,
        stamp=stamp_of(listed),
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
