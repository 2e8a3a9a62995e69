"""Turns a drawn path into a clip of the caller's files, from which a training learns as from an uploaded one."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field

from datasets.clip_sets.select import Selection
from datasets.sprites.captions import drawable
from datasets.sprites.motion_sources import trajectory_of
from datasets.sprites.render import render_clip
from datasets.video.writing import CRF_CLIP, encode_mp4
from motiondirector.studio.draw import FPS, SHARES, Drawing
from motiondirector.studio.teach.foundation import usual_selection
from serving.http.auth import Writer
from serving.http.bodies import read_json
from serving.http.dependencies import service_of
from serving.http.learning.answers import file_of
from serving.http.learning.file_service import PURPOSES
from serving.http.learning.routes import trains
from serving.trainings.schemas import FileObject, Suffix

router = APIRouter()
KEPT = 7 * 86_400.0  # seconds for which the clip is kept


class NamedDrawing(Drawing):
    """A path with the name of its motion."""

    name: Annotated[Suffix, Field(description="of the motion, and of the file")] = "my-motion"


@router.post("/drawings/clip")
async def make_clip(request: Request, caller: Writer) -> FileObject:
    """Draw the path at the size that the served model learns, and keep the clip as a file for a week."""
    service = service_of(request)
    filing = trains(request).filing
    with service.bodies.one(caller.tenant):
        drawing = await read_json(request, NamedDrawing)
    selection = await usual_selection(service)
    mp4 = await SHARES.run(caller.tenant, drawn_clip, drawing, selection)
    about = {"filename": f"{drawing.name}.mp4", "purpose": PURPOSES[0], "expires_at": time.time() + KEPT}
    with filing.local_file() as path:
        await asyncio.to_thread(path.write_bytes, mp4)
        return file_of(await filing.store(path, caller.tenant, **about))


def drawn_clip(drawing: NamedDrawing, selection: Selection) -> bytes:
    """The drawn clip as an mp4. Raises UserError for a path or words that cannot be drawn."""
    motion = trajectory_of(drawing.points, drawing.name, "the drawn path")
    side = max(selection.height, selection.width)
    frames_FHWC = render_clip(drawable(drawing.prompt), motion, selection.frames, side)
    return encode_mp4(frames_FHWC, selection.fps or FPS, crf=CRF_CLIP)
