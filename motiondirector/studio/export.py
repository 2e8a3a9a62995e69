"""What can be kept or sent without a server: a comparison as one HTML file, a video as a GIF."""

from __future__ import annotations

import io
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from PIL import Image

from motiondirector.studio.pages import MOST_COMPARED, video_named
from motiondirector.studio.signin import Visitor
from motiondirector.studio.templating import ENVIRONMENT, service_of
from serving.schemas import Video
from serving.threads import Shares, Threads

router = APIRouter()
SHARES = Shares(Threads("studio-export", 2), 1)
HEIGHT = 256  # pixels of an animation


@router.get("/compare.html")
async def export(
    request: Request,
    visitor: Visitor,
    id: Annotated[list[str], Query(min_length=1, max_length=MOST_COMPARED)],
) -> Response:
    """The page, as a download. Raises Conflict if a video is not done, NotFound if it has expired."""
    service = service_of(request)
    videos = [await video_named(request, one, visitor) for one in dict.fromkeys(id)]
    contents = [await service.content(video.id, visitor.tenant) for video in videos]
    page = await SHARES.run(visitor.tenant, one_page, list(zip(videos, contents, strict=True)))
    headers = {"Content-Disposition": 'attachment; filename="side-by-side.html"'}
    return Response(page, media_type="text/html", headers=headers)


@router.get("/videos/{id}/gif")
async def as_gif(id: str, request: Request, visitor: Visitor) -> Response:
    """A video as a GIF, for places that play nothing else. Raises Conflict if it is not done, NotFound if it has expired."""
    video = await video_named(request, id, visitor)
    content = await service_of(request).content(video.id, visitor.tenant)
    gif = await SHARES.run(visitor.tenant, gif_of, video.id, content)
    headers = {"Content-Disposition": f'attachment; filename="{video.id}.gif"'}
    return Response(gif, media_type="image/gif", headers=headers)


def gif_of(name: str, mp4: bytes) -> bytes:
    """An mp4 as a looping GIF at its own size."""
    from datasets.video.decode import decode

    decoded = decode(mp4, name=name)
    first, *rest = (Image.fromarray(frame) for frame in decoded.frames_FHWC)
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=round(1000 / decoded.fps), loop=0)
    return buffer.getvalue()


def one_page(made: list[tuple[Video, bytes]]) -> str:
    """The HTML, with each video (its answer and mp4) as an animation."""
    from datasets.video.decode import decode
    from evaluation.pictures import animation_uri

    shown = []
    for video, mp4 in made:
        decoded = decode(mp4, name=video.id)
        shown.append((video, animation_uri(decoded.frames_FHWC, decoded.fps, HEIGHT)))
    return ENVIRONMENT.get_template("export.html.j2").render(shown=shown)
