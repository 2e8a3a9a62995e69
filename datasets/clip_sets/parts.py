"""Selects the parts of clips that a model learns, if clips are longer or have a higher frame rate.

    parts_of(clip, Bucket(8, 64, 64), Pace(fps=8, windows=4))      # 72 frames at 24 fps: 3 parts of 8 frames

A clip with a higher frame rate is subsampled, so that the motion keeps its speed. A longer clip gives
several windows that share no frame; each is learned as a separate clip. A clip with a lower frame rate
is refused, because its motion would be learned too fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor

from datasets.clip_sets.clips import Clip, ClipFacts
from infra.errors import ConceptError, InvalidInput
from models.sizes import Bucket

TOLERANCE = 0.02  # accepts 23.976 fps for 24
MOST_WINDOWS = 4


@dataclass(frozen=True)
class Pace:
    """How much of a clip is learned, and at which frame rate."""

    fps: float  # frames per second to learn; 0: each clip's own rate
    windows: int = MOST_WINDOWS  # maximum number of parts per clip


@dataclass(frozen=True)
class Part:
    """Frames of a clip that are learned as one clip."""

    clip: Clip | ClipFacts
    indices: tuple[int, ...]  # of the clip's frames

    @property
    def sha256(self) -> str:
        return self.clip.sha256

    @property
    def caption(self) -> str:
        return self.clip.caption

    @property
    def mask_id(self) -> str:
        """A hash of the clip's mask; "" for none."""
        return self.clip.mask_id

    @property
    def frames_id(self) -> str:
        """Identifies the part within its clip. Empty for the clip's first frames, usually the whole clip."""
        return "" if self.indices == tuple(range(len(self.indices))) else ",".join(map(str, self.indices))

    @property
    def seconds(self) -> tuple[float, float]:
        """Start and end within the clip, in seconds."""
        step = (self.indices[-1] - self.indices[0]) / max(1, len(self.indices) - 1)
        return self.indices[0] / self.clip.fps, (self.indices[-1] + step) / self.clip.fps


def parts_of(clip: Clip | ClipFacts, bucket: Bucket, pace: Pace) -> list[Part]:
    """The parts of one clip, at least one.

    Raises:
        ConceptError: too few pixels or seconds.
        InvalidInput: too low a frame rate.
    """
    named = f"clip {clip.clip_id[:12]} of {clip.source_uri}"
    if clip.num_frames < bucket.frames or clip.height < bucket.height or clip.width < bucket.width:
        raise ConceptError(
            f"{named} is {clip.num_frames}x{clip.height}x{clip.width} (frames, height, width), smaller than {bucket}; train at "
            f"its size or ingest the source again with --frames {bucket.frames} --height {bucket.height} --width "
            f"{bucket.width}.",
            code="clip_too_small",
        )
    fps = pace.fps or clip.fps
    ratio = clip.fps / fps
    if ratio < 1 - TOLERANCE:
        raise InvalidInput(
            f"{named} has {clip.fps:.4g} fps, but training uses {fps:.4g}: its motion would be {1 / ratio:.2g} times too fast; "
            f"ingest the source again with --fps {fps:.4g}, or train with --fps {clip.fps:.4g} if you want this.",
            code="clip_too_slow",
        )
    if abs(ratio - 1) <= TOLERANCE:
        places = list(range(clip.num_frames))
    else:  # the last frame is still shown half a frame later
        count = floor((clip.num_frames - 0.5) / ratio + 1e-6) + 1
        places = [min(round(k * ratio), clip.num_frames - 1) for k in range(count)]
    if len(places) < bucket.frames:
        raise ConceptError(
            f"{named} lasts {clip.num_frames / clip.fps:.2f} s, which is {len(places)} frames at {fps:.4g} fps, but training "
            f"needs {bucket.frames}; ingest the source again with --fps {fps:.4g}, or train with --fps {clip.fps:.4g} to learn "
            f"its motion {ratio:.2g} times slower.",
            code="clip_too_small",
        )
    spare = len(places) - bucket.frames
    number = min(pace.windows, len(places) // bucket.frames)
    starts = [spare * i // (number - 1) for i in range(number)] if number > 1 else [0]
    return [Part(clip, tuple(places[start : start + bucket.frames])) for start in starts]


def all_parts(clips: Iterable[Clip | ClipFacts], bucket: Bucket, pace: Pace) -> list[Part]:
    """The parts of all clips, in order. Raises UserError as `parts_of` does."""
    return [part for clip in clips for part in parts_of(clip, bucket, pace)]


def remarks(parts: Sequence[Part]) -> list[str]:
    """A sentence for each clip that is learned only in part or in several windows."""
    by_clip: dict[str, list[Part]] = {}
    for part in parts:
        by_clip.setdefault(part.clip.clip_id, []).append(part)
    found = []
    for group in by_clip.values():
        clip = group[0].clip
        learned = sum(end - start for start, end in (part.seconds for part in group))
        length = clip.num_frames / clip.fps
        if len(group) == 1 and length - learned < 0.5 / clip.fps:
            continue
        ranges = ", ".join(f"{start:.2f}-{end:.2f}" for start, end in (part.seconds for part in group))
        found.append(
            f"clip {clip.clip_id[:12]} of {clip.source_uri} lasts {length:.2f} s; training uses only {ranges} s"
            + ("" if len(group) == 1 else f", {len(group)} windows")
        )
    return found
