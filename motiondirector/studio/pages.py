"""The studio's pages. None waits for an engine: what only an engine knows comes in a part that is loaded later."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from motiondirector.studio.again import body_of, has_mask
from motiondirector.studio.signin import Visitor
from motiondirector.studio.templating import render
from motiondirector.studio.words import SPRITE_PROMPTS, prompts_for
from serving.http.auth import Caller
from serving.http.dependencies import service_of
from serving.schemas import MAX_LORA, MAX_PROMPT, Video

router = APIRouter()
PAGE = 24  # videos of the history that are loaded at once
MOST_COMPARED = 12


@router.get("/")
async def library_page(request: Request, visitor: Visitor) -> Response:
    """All motions, moving; each is one click away from a video."""
    return render(request, "library.html.j2", prompts=starting_prompts(request))


@router.get("/make")
async def make_page(
    request: Request,
    visitor: Visitor,
    motion: Annotated[str, Query(max_length=200)] = "",
    again: Annotated[str, Query(max_length=64, alias="from")] = "",
    id: Annotated[list[str] | None, Query(max_length=MOST_COMPARED)] = None,
) -> Response:
    """Everything about a new video; `from` fills it in from an earlier one, `id` shows what was made here before."""
    body: dict[str, Any] = {"lora": [{"name": motion}]} if motion else {}
    video = await video_named(request, again, visitor) if again else None
    if video is not None:
        body = body_of(video)
    made = [await video_named(request, one, visitor) for one in id or ()]
    return render(
        request,
        "make.html.j2",
        body=json.dumps(body),
        source=video,
        masked=video is not None and has_mask(video),
        made=made,
        prompts=starting_prompts(request),
        max_prompt=MAX_PROMPT,
        max_motions=MAX_LORA,
    )


@router.get("/videos")
async def history_page(request: Request, visitor: Visitor) -> Response:
    """The visitor's videos, newest first."""
    visitor.check("videos:read")
    service = service_of(request)
    jobs, more = await service.page(visitor.tenant, None, PAGE, "desc")
    return render(request, "history.html.j2", videos=await service.videos(jobs), more=more)


@router.get("/videos/{id}")
async def video_page(
    id: str,
    request: Request,
    visitor: Visitor,
    beside: Annotated[bool, Query(description="show the base model's video at once")] = False,
) -> Response:
    """One video, beside the base model's, and what can be done with it."""
    video = await video_named(request, id, visitor)
    return render(request, "video.html.j2", video=video, beside=beside, masked=has_mask(video))


@router.get("/compare")
async def compare_page(
    request: Request,
    visitor: Visitor,
    id: Annotated[list[str] | None, Query(max_length=MOST_COMPARED)] = None,
) -> Response:
    """Any videos side by side, playing in step."""
    videos = [await video_named(request, one, visitor) for one in dict.fromkeys(id or ())]
    return render(request, "compare.html.j2", videos=videos, most=MOST_COMPARED)


@router.get("/draw")
async def draw_page(request: Request, visitor: Visitor) -> Response:
    """A motion as a drawn path."""
    return render(request, "draw.html.j2", prompts=SPRITE_PROMPTS)


async def video_named(request: Request, id: str, visitor: Caller) -> Video:
    """One of the visitor's videos. Raises NotFound, and Forbidden without the scope to read."""
    visitor.check("videos:read")
    service = service_of(request)
    return (await service.videos([await service.get(id, visitor.tenant)]))[0]


def starting_prompts(request: Request) -> list[str]:
    """Prompts that the served model understands, as far as it is known already."""
    known = service_of(request).known_info
    return list(prompts_for(known.name if known else None))
