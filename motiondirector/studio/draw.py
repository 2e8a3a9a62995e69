"""Draws a path as the sprite world's renderer shows it: what a training on it would see."""

from __future__ import annotations

import io
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Request, Response
from PIL import Image
from pydantic import Field

from datasets.sprites.captions import drawable
from datasets.sprites.motion_sources import trajectory_of
from datasets.sprites.render import render_clip
from serving.http.auth import Writer
from serving.http.bodies import read_json
from serving.http.dependencies import service_of
from serving.schemas import Prompt, Strict
from serving.threads import Shares, Threads

router = APIRouter()
MAX_POINTS = 256
FPS = 8
SIZE = 128  # pixels
EACH = 1  # drawings of one tenant at once
SHARES = Shares(Threads("studio-drawing", 2), EACH)

Numbers = Annotated[list[float], Field(min_length=3, max_length=5)]


class Drawing(Strict):
    """A path and what moves along it."""

    points: Annotated[
        list[Numbers],
        Field(
            min_length=2,
            max_length=MAX_POINTS,
            description="[t, x, y], [t, x, y, scale] or [t, x, y, scale, angle], as `motiondirector sprites render` reads them",
        ),
    ]
    prompt: Prompt = "a red star on a navy background"
    frames: Annotated[int, Field(ge=2, le=32)] = 16


@router.post("/drawings/preview", response_class=Response, responses={200: {"content": {"image/webp": {}}}})
async def preview(request: Request, caller: Writer) -> Response:
    """The drawn clip as an animation (WebP)."""
    with service_of(request).bodies.one(caller.tenant):
        drawing = await read_json(request, Drawing)
    animation = await SHARES.run(caller.tenant, animate, drawing)
    return Response(animation, media_type="image/webp")


def animate(drawing: Drawing) -> bytes:
    """Render the clip. Raises UserError for a path or words that cannot be drawn."""
    motion = trajectory_of(drawing.points, "drawn", "the drawn path")
    frames_FHWC = render_clip(drawable(drawing.prompt), motion, drawing.frames, SIZE)
    return webp(frames_FHWC, FPS * drawing.frames / 8)


def webp(frames_FHWC: np.ndarray, fps: float) -> bytes:
    """Frames as a looping animation."""
    first, *rest = (Image.fromarray(frame) for frame in frames_FHWC)
    buffer = io.BytesIO()
    first.save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=rest,
        duration=round(1000 / fps),
        loop=0,
        quality=86,
        method=2,
    )
    return buffer.getvalue()
