"""Shows a clip as the model will see it: the frames that a training cuts out of a file, cropped and scaled."""

from __future__ import annotations

import base64
import contextlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from datasets.clip_sets.clips import read_clips
from datasets.clip_sets.select import MAX_START, Selection
from datasets.ingest.confined import CLIPS, FILES, Bounds, StrangeFile, ingest_confined
from motiondirector.studio.draw import webp
from motiondirector.studio.teach.foundation import usual_selection
from serving.http.auth import Writer
from serving.http.dependencies import service_of
from serving.http.learning.routes import trains
from serving.http.service import VideoService
from serving.jobs.training_tables import StoredFile
from serving.threads import Shares, Threads

router = APIRouter()
SHARES = Shares(Threads("studio-clips", 2), 1)  # previews of one tenant at once
BOUNDS = Bounds(seconds=120.0, cpu_seconds=120)
SHOWN = 4  # clips of one file that are shown; the others are counted
STALE = 3600.0  # seconds after which what a killed server left is removed
NAME = "clip"  # of the concept, in a clip set that nobody keeps


class SeenClips(BaseModel):
    """What a training will see of a file."""

    clips: int  # that are cut out of it
    frames: int  # of each
    fps: float
    width: int
    height: int
    remarks: list[str]  # on what will not be learned well, such as a cut between two scenes
    animations: Annotated[list[str], Field(description="the first clips as WebP, in base64")]


@router.get("/clips/{id}")
async def see_clips(
    id: str,
    request: Request,
    caller: Writer,
    start: Annotated[float, Query(ge=0, lt=MAX_START, description="second at which the clip begins")] = 0.0,
) -> SeenClips:
    """The clips of an uploaded file. Raises InvalidInput with the sentence that a training would fail with."""
    service = service_of(request)
    filing = trains(request).filing
    file = await filing.file(id, caller.tenant)
    selection = await usual_selection(service)
    return await SHARES.run(caller.tenant, seen, service, file, selection, start)


def seen(service: VideoService, file: StoredFile, selection: Selection, start: float) -> SeenClips:
    """Cut a file's clips in a process with bounds, and show them. Raises UserError."""
    assert service.trainings is not None
    place = Path(service.config.data_dir, "previews").absolute()
    place.mkdir(exist_ok=True, mode=0o700)
    remove_stale(place)
    with tempfile.TemporaryDirectory(dir=place) as made:
        folder = Path(made)
        path = folder / FILES / "0" / file.filename
        path.parent.mkdir(parents=True)
        service.trainings.filing.files.fetch(file, path)
        strange = StrangeFile(f"0/{file.filename}", file.filename, NAME, start or None)
        found = ingest_confined([strange], selection, folder, concept=NAME, caption=NAME, bounds=BOUNDS)
        clips = read_clips(folder / CLIPS)[:SHOWN]
        animations = [webp(clip.frames_FHWC(), clip.fps) for clip in clips]
    return SeenClips(
        clips=found.clips,
        frames=selection.frames,
        fps=clips[0].fps,
        width=selection.width,
        height=selection.height,
        remarks=list(found.warnings),
        animations=[base64.b64encode(one).decode() for one in animations],
    )


def remove_stale(place: Path) -> None:
    """Remove what previews of a killed server left on this disk."""
    for folder in place.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another preview has ended
            if time.time() - folder.stat().st_mtime > STALE:
                shutil.rmtree(folder, ignore_errors=True)
