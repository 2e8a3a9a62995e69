"""Processes one source of an ingest: cuts its clips and their variants, with captions and masks.

A plain function without shared state, which `datasets/ingest/local.py` maps over the sources here and
`datasets/ingest/cluster.py` on a cluster.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from datasets.clip_sets.amend import MAX_CAPTION
from datasets.clip_sets.clips import clip_id, make_clip
from datasets.clip_sets.parquet import Pending
from datasets.clip_sets.select import (
    Selection,
    Unsuitable,
    Window,
    at_speed,
    cut,
    scene_cuts,
    windows,
)
from datasets.clip_sets.variants import AS_IT_IS, Variant
from datasets.ingest.completing import Incomplete, completer
from datasets.ingest.masks import SourceMask, SourceRegion
from datasets.ingest.sources import VIDEO_SUFFIXES, Source
from datasets.video.decode import UnreadableVideo, VideoFile, open_video
from infra.errors import UserError
from infra.storage import ObjectError, Storage, bucket_and_key
from infra.storage.objects import sha256_file

# duplicate: already in the set (not an error); ignored: a file in a folder whose name is not a video's
STATUSES = ACCEPTED, DUPLICATE, REFUSED, IGNORED = "accepted", "duplicate", "refused", "ignored"


@dataclass
class Outcome:
    """The result for one clip of an input, or for the whole input."""

    source: str
    status: str  # one of STATUSES
    reason: str = ""  # why it was not accepted
    warnings: list[str] = field(default_factory=list)
    concept: str = ""
    caption: str = ""
    completed_from: str = ""  # the original caption, if it was completed from the clip
    clip_id: str = ""  # id in the set; empty if refused or ignored
    start: float = 0.0  # second of the input at which the clip begins
    end: float = 0.0
    length: float | None = None  # seconds of the whole input; None: not all of it was scanned
    fps: float = 0.0
    size: str = ""  # frames x height x width
    variant: str = ""  # "reverse", "mirror" or such as "speed-0.5", of the clip `variant_of`
    variant_of: str = ""
    mask: str = ""  # what its mask is: a box, keyframes, a mask with a short hash


@dataclass(frozen=True)
class Job:
    """One source with everything that `process` needs."""

    source: Source
    selection: Selection
    concept: str
    caption: str
    ingested_at: datetime
    complete: str | None = None  # completes the caption (`datasets.ingest.completing.completer`)
    variants: tuple[Variant, ...] = ()  # to make beside each clip
    mask: SourceRegion | str | None = None  # of the whole source (`datasets.ingest.masks.Masks`)


Result = tuple[list[Outcome], list[Pending]]


def mark_duplicate(outcome: Outcome, clip_id: str, caption: str) -> None:
    """Mark the outcome as a duplicate of the set's clip with this id."""
    outcome.status, outcome.clip_id = DUPLICATE, clip_id
    outcome.reason = f"the set has it as clip {clip_id[:12]}"
    if caption != outcome.caption:
        outcome.reason += f" with the caption {caption!r}; `motiondirector clips edit` can correct it"


def process(job: Job, spool: Storage, known: dict[str, str]) -> Result:
    """Process one source and put its clips and their variants into the spool.

    Returns as many accepted outcomes as pending clips, in the same order.

    Args:
        known: clips that need not be cut again, clip_id -> caption.

    Raises:
        UserError: the spool or S3 refuses. Bad input does not raise; it is an outcome.
    """
    try:
        with local_copy(job.source.uri) as path:
            video = open_video(path, name=PurePosixPath(job.source.uri).name)
            found = windows(video, job.selection)
            mask = None if job.mask is None else SourceMask(job.mask, video)
            cutting = _Cutting(job, video, sha256_file(path), mask, spool, known)
            pairs = [pair for window in found for pair in cutting.clip_and_variants(window)]
    except (UnreadableVideo, Unsuitable, Unfetched) as error:  # not errors of the spool or of S3 as a whole
        refused = Outcome(job.source.uri, REFUSED, error.message, concept=job.concept, caption=job.caption)
        return [refused], []
    return [outcome for outcome, _ in pairs], [item for _, item in pairs if item]


Made = tuple[Outcome, Pending | None]


@dataclass
class _Cutting:
    """Cuts the clips of one open video."""

    job: Job
    video: VideoFile
    source_sha256: str
    mask: SourceMask | None
    spool: Storage
    known: dict[str, str]

    def clip_and_variants(self, window: Window) -> list[Made]:
        """The clip of a window and its variants; of a refused clip there are none."""
        cut_once = cache(lambda: cut(self.video, window, self.job.selection))
        made = [self.one(window, AS_IT_IS, cut_once)]
        if made[0][0].status == REFUSED:
            return made
        return made + [self.one(window, variant, cut_once) for variant in self.job.variants]

    def one(self, window: Window, variant: Variant, cut_once: Callable[[], np.ndarray]) -> Made:
        """A window's clip, or a variant of it. `cut_once` gives the frames of the clip."""
        job, video, chosen = self.job, self.video, self.job.selection
        length = video.duration if video.complete else None  # finding it would decode all of a long video
        end = window.start + chosen.frames * variant.speed / window.fps
        outcome = Outcome(
            job.source.uri,
            ACCEPTED,
            concept=job.concept,
            caption=variant.caption(job.caption),
            start=window.start,
            end=end if length is None else min(end, length),
            length=length,
            fps=window.fps,
            size=f"{chosen.frames}x{chosen.height}x{chosen.width}",
            variant=variant.name,
        )
        identity = window.identity(chosen)
        if variant.name:
            outcome.variant_of = clip_id(job.concept, self.source_sha256, identity)
            identity["variant"] = variant.name
        name = clip_id(job.concept, self.source_sha256, identity)
        if name in self.known:
            mark_duplicate(outcome, name, self.known[name])
            if self.mask is not None:
                outcome.reason += "; its mask is as it was: to change it, `motiondirector clips rm` it first"
            return outcome, None
        try:
            shown = at_speed(video, window, chosen, variant.speed)
            frames_FHWC = cut_once() if shown is window else cut(video, shown, chosen)
            region = None if self.mask is None else self.mask.of(shown, variant, chosen)
        except (UnreadableVideo, Unsuitable) as error:  # damage in one window does not affect the others
            outcome.status, outcome.reason = REFUSED, error.message
            return outcome, None
        frames_FHWC = variant.frames(frames_FHWC) if variant.name else frames_FHWC
        outcome.warnings += self.remarks(shown, variant, frames_FHWC)
        if region is not None:
            outcome.mask = str(region)
            outcome.warnings += [] if variant.name or self.mask is None else self.mask.notes
        caption = job.caption
        if job.complete is not None:
            try:
                caption = completer(job.complete)(job.caption, frames_FHWC)
                outcome.completed_from = job.caption
            except Incomplete as error:
                outcome.warnings.append(f"the caption was not completed: {error.message.rstrip('.')}")
        outcome.caption = variant.caption(caption)
        if len(outcome.caption) > MAX_CAPTION:
            outcome.status = REFUSED
            outcome.reason = (
                f"the caption has {len(outcome.caption)} characters, at most {MAX_CAPTION} are allowed"
            )
            return outcome, None
        clip = make_clip(
            concept=job.concept,
            caption=outcome.caption,
            frames_FHWC=frames_FHWC,
            fps=window.fps,
            source_uri=job.source.uri,
            source_sha256=self.source_sha256,
            selection=identity,
            ingested_at=job.ingested_at,
            variant=variant.name or None,
            variant_of=outcome.variant_of or None,
            mask=region,
        )
        outcome.clip_id = clip.clip_id
        return outcome, Pending.spooled(clip, self.spool)

    def remarks(self, window: Window, variant: Variant, frames_FHWC: np.ndarray) -> list[str]:
        """What a user should know about the pictures. Variants of the same pictures have nothing to add."""
        if variant.name and variant.speed == 1:
            return []
        found = [] if variant.name else list(self.video.notes)
        count, rate = len(window.indices), window.fps / variant.speed
        repeats = count - len(set(window.indices))
        if repeats:
            found.append(
                f"{repeats} of {count} frames repeat: the source has {self.video.fps:.4g} fps, but {rate:.4g} are requested"
            )
        cuts = scene_cuts(frames_FHWC)
        if cuts:
            seconds = ", ".join(f"{window.start + i / rate:.1f} s" for i in cuts)
            found.append(f"scene cut inside the clip at {seconds}")
        return found


class Unfetched(UserError):
    """A single source that cannot be fetched: it vanished, or access is denied."""


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """The source as a local file; an S3 object is downloaded to a temporary file.

    Raises:
        Unfetched: this one source cannot be read.
        UserError: the storage is unavailable, or refuses the credentials.
    """
    if not uri.startswith("s3://"):
        try:
            Path(uri).open("rb").close()
        except OSError as error:
            raise Unfetched(f"{PurePosixPath(uri).name} cannot be read ({error.strerror}).") from None
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="motiondirector-source-") as folder:
        suffix = PurePosixPath(uri).suffix.lower()
        path = Path(folder) / f"source{suffix if suffix in VIDEO_SUFFIXES else ''}"
        try:
            storage, key = bucket_and_key(uri)
            storage.get_file(key, path)
        except ObjectError as error:
            raise Unfetched(error.message) from None
        yield path
