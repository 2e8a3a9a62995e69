"""Inputs of a training job: its clips, the parts of them that are learned, the foundation and the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from infra.errors import ConceptError
from infra.paths import expanded
from infra.storage import open_storage
from training.config import TrainConfig
from training.recommended import resolve
from training.runs.job import Job, Watcher

if TYPE_CHECKING:
    from datasets.clip_sets.clips import Clip, ClipFacts
    from datasets.clip_sets.latents import CachedClip
    from datasets.clip_sets.parts import Pace, Part
    from models.foundations.base import Foundation
    from models.locating import FoundationFacts
    from models.sizes import Bucket, Sizes


def read_concept(job: Job) -> list[Clip]:
    """The concept's clips, each with a caption. Raises UserError."""
    from datasets.clip_sets.clips import read_clips

    clips = read_clips(job.data, job.concept)
    check_captions(clips)
    return clips


def check_captions(clips: Sequence[Clip | ClipFacts]) -> None:
    """Raises ConceptError ("caption_missing") if a clip has no caption."""
    for clip in clips:
        if not clip.caption.strip():
            raise ConceptError(
                f"clip {clip.clip_id[:12]} of {clip.source_uri} has no caption; ingest it again with --caption TEXT.",
                code="caption_missing",
            )


def check_before_loading(job: Job, given: Mapping[str, Any], clips: Sequence[Clip]) -> TrainConfig:
    """The settings, as far as they can be resolved without the foundation's weights and libraries.

    Raises UserError if they do not suit the foundation or the clips, without first waiting for torch or Ray.
    """
    from models.locating import foundation_sizes, locate, read_recommended

    config = resolve(dict(given), read_recommended(locate(job.foundation)), len(clips))
    learned_parts(config, foundation_sizes(job.foundation), clips)
    return config


def load(job: Job, given: Mapping[str, Any], clips: int) -> tuple[Foundation, TrainConfig]:
    """Resolve the settings for this number of clips, and load the foundation in their precision to encode and sample.

    At ZeRO 3 the denoiser is not loaded, as it may fit no single device; an actor then renders the samples.
    """
    from models.load import PARTS, load_foundation, locate, read_recommended
    from training.memory import explaining_memory

    config = resolve(dict(given), read_recommended(locate(job.foundation)), clips)
    parts = ("vae", "text") if config.zero == 3 else PARTS
    with explaining_memory(job.foundation, config.dtype, config.zero):
        return load_foundation(job.foundation, **config.loading, parts=parts), config


def foundation_source(source: str | None) -> str | None:
    """The absolute path of a local folder, for workers with another working directory; an id unchanged."""
    if source and not source.startswith("tiny-random:") and expanded(source).exists():
        return str(expanded(source).resolve())
    return source


def bucket_of(config: TrainConfig, foundation: Foundation | Sizes) -> Bucket:
    """The size to train at: from the settings, else the foundation's own. Raises UserError if it is not supported."""
    from models.sizes import Bucket, Sizes

    own = foundation.defaults.bucket
    bucket = Bucket(config.frames or own.frames, config.height or own.height, config.width or own.width)
    (foundation if isinstance(foundation, Sizes) else foundation.sizes).check(bucket)
    return bucket


def pace_of(config: TrainConfig, foundation: Foundation | Sizes) -> Pace:
    """The frame rate (as set, else the foundation's) and the number of windows for longer and faster clips."""
    from datasets.clip_sets.parts import Pace

    return Pace(foundation.defaults.fps if config.fps is None else config.fps, config.windows)


def learned_parts(
    config: TrainConfig, foundation: Foundation | Sizes, clips: Sequence[Clip | ClipFacts]
) -> tuple[Bucket, list[Part]]:
    """The size to train at, and the parts of the clips to learn. Raises UserError if the clips do not suit."""
    from datasets.clip_sets.parts import all_parts

    bucket = bucket_of(config, foundation)
    return bucket, all_parts(clips, bucket, pace_of(config, foundation))


def remarks_on(
    parts: Sequence[Part], foundation: Foundation | FoundationFacts, config: TrainConfig
) -> list[str]:
    """Sentences on the parts of clips, captions and sample prompts that are not learned or not read."""
    from datasets.clip_sets.parts import remarks

    captions = dict.fromkeys(part.caption for part in parts)
    unread = [foundation.text_limit.warning(caption, f"caption {caption[:40]!r}...") for caption in captions]
    prompts = [
        foundation.text_limit.warning(prompt, f"sample prompt {prompt[:40]!r}...")
        for prompt in config.sample_prompts
    ]
    masks = (
        [
            f"mask_inside {config.mask_inside:g} and mask_outside {config.mask_outside:g} have no effect: no clip has a mask "
            "(`ingest --masks` gives them)"
        ]
        if config.weighs_masks and not any(part.mask_id for part in parts)
        else []
    )
    return [*remarks(parts), *(text for text in (*unread, *prompts) if text), *masks]


def prepare_latents(
    job: Job,
    clips: Sequence[Clip],
    foundation: Foundation,
    bucket: Bucket,
    watcher: Watcher,
    config: TrainConfig,
) -> list[CachedClip]:
    """Latents and text of the learned parts of every clip, computed now or cached beside the clips."""
    from datasets.clip_sets.latents import LatentCache, prepare

    cache = LatentCache(open_storage(job.data))
    return prepare(
        clips,
        foundation,
        bucket,
        cache,
        pace=pace_of(config, foundation),
        looks=config.looks,
        on_progress=watcher.prepared,
    )
