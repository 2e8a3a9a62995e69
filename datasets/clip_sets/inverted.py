"""The inverted noise of clips (models/inversion.py), cached beside their latents.

    .latents/<REVISION>/<foundation fingerprint>/<its precision>/noise/<steps>x<iterations>/<bucket>/<clip>.safetensors

`<clip>` names a clip's frames as in datasets/clip_sets/latents.py. The caption is empty, as published, so the noise
depends on the clip alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from datasets.clip_sets.clips import Clip
from datasets.clip_sets.latents import CachedClip, LatentCache, clip_key, found_or_made, precision_of, prepare
from datasets.clip_sets.parts import Pace
from models.foundations.base import Bucket, Foundation
from models.inversion import ITERATIONS, STEPS, invert


def noise_key(clip: CachedClip, fingerprint: str, precision: str, bucket: Bucket) -> str:
    """The key of a clip's inverted noise."""
    folder, _, name = clip_key(clip.sha256, fingerprint, precision, bucket, clip.frames_id).rpartition("/")
    return f"{folder.removesuffix(str(bucket))}noise/{STEPS}x{ITERATIONS}/{bucket}/{name}"


def invert_clip(
    foundation: Foundation, clip: CachedClip, on_step: Callable[[int, int], None] | None = None
) -> Tensor:
    """`invert` a prepared clip. Uses the denoiser alone, so other threads may encode meanwhile."""
    return invert(foundation, clip.latents_CFHW, clip.empty_text_LD, on_step=on_step)


def inverted_noise(
    clip: CachedClip,
    foundation: Foundation,
    bucket: Bucket,
    cache: LatentCache,
    make: Callable[[CachedClip], Tensor] | None = None,
) -> Tensor:
    """A clip's inverted noise [C, f, h, w], float32 on the CPU: from the cache, or computed now and cached.

    Args:
        bucket: the size that the clip was prepared at.
        make: inverts the clip elsewhere; by default `invert_clip` with this foundation.

    Raises InvalidInput if it is not finite.
    """
    key = noise_key(clip, foundation.fingerprint, precision_of(foundation), bucket)

    def made() -> dict[str, Tensor]:
        return {"noise": make(clip) if make is not None else invert_clip(foundation, clip)}

    return found_or_made(cache, key, made)["noise"]


def noise_of_clip(
    clip: Clip,
    foundation: Foundation,
    bucket: Bucket,
    cache: LatentCache,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The inverted noise of the first frames of a clip, as many as a video of this size has; as `inverted_noise`.

    Args:
        on_step: called with (steps done, total steps) of the inversion.

    Raises UserError if the clip has too few pixels or seconds, or a too low frame rate.
    """
    pace = Pace(foundation.defaults.fps, windows=1)
    (prepared,) = prepare([clip], foundation, bucket, cache, pace=pace)
    make = partial(invert_clip, foundation, on_step=on_step)
    return inverted_noise(prepared, foundation, bucket, cache, make)
