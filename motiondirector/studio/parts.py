"""Parts of pages that htmx loads: the library, a video in its present state, the next page of the history, code."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from infra.errors import Unavailable
from motiondirector.studio.again import as_command, as_curl, as_python
from motiondirector.studio.pages import PAGE, video_named
from motiondirector.studio.signin import Visitor
from motiondirector.studio.templating import render
from serving.http.dependencies import service_of
from serving.schemas import ModelList

router = APIRouter(prefix="/parts")


@router.get("/library")
async def library_part(request: Request, visitor: Visitor) -> Response:
    """The concepts with their versions, newest first; while the model loads, a part that asks again."""
    service = service_of(request)
    try:
        listed = ModelList.model_validate_json(await service.catalogue.models(visitor.tenant))
    except Unavailable as error:
        return render(request, "part_waiting.html.j2", message=error.message, again="library")
    versions = [model for model in listed.data if model.concept is not None]
    concepts = [
        sorted(group, key=lambda version: -(version.version or 0))
        for _, group in groupby(versions, key=lambda version: version.concept)
    ]
    return render(request, "part_library.html.j2", concepts=concepts, foundation=listed.data[0].foundation)


@router.get("/videos")
async def more_videos(
    request: Request, visitor: Visitor, after: Annotated[str, Query(max_length=64)]
) -> Response:
    """The history after a video."""
    visitor.check("videos:read")
    service = service_of(request)
    jobs, more = await service.page(visitor.tenant, after, PAGE, "desc")
    return render(request, "part_history.html.j2", videos=await service.videos(jobs), more=more)


@router.get("/videos/{id}")
async def video_part(
    id: str,
    request: Request,
    visitor: Visitor,
    look: Annotated[str, Query(pattern="^(stage|card|tile)$")] = "card",
) -> Response:
    """A video in its present state."""
    return render(request, "part_video.html.j2", video=await video_named(request, id, visitor), look=look)


@router.get("/videos/{id}/code")
async def code_part(id: str, request: Request, visitor: Visitor) -> Response:
    """The request for a video in three languages."""
    video = await video_named(request, id, visitor)
    server = f"{request.url.scheme}://{request.url.netloc}"
    has_keys = visitor.key is not None
    codes = {
        "curl": as_curl(video, server, has_keys=has_keys),
        "Python": as_python(video, server, has_keys=has_keys),
        "Command line": as_command(video, server),
    }
    return render(request, "part_code.html.j2", codes=codes, id=id)
