"""Caches a foundation's view of clips: latents of the clip and of its frames, and the caption's embedding.

    cache = LatentCache(open_storage(data_uri))
    for clip in prepare(read_clips(data_uri, "car-turn"), foundation, Bucket(16, 256, 256), cache): ...

Objects are stored next to the clips in the set's storage, under names that plain Parquet readers skip:

    .latents/<REVISION>/<foundation fingerprint>/<its precision>/<bucket>/<clip sha256>.safetensors
    .latents/<REVISION>/<foundation fingerprint>/<its precision>/<bucket>/<clip sha256>-<its frames>.safetensors
    .latents/<REVISION>/<foundation fingerprint>/<its precision>/text/<sha256 of the caption>.safetensors

The key covers everything that a value depends on, so nothing expires. Damaged objects are computed
again, with a warning. Any number of processes may prepare the same clips at once: they write the same
objects.

Shapes: C latent channels, F frames (of latents in `latents_CFHW`, of pixels in `frame_latents_FC1HW`, whose 1 is the
latent frames of one pixel frame: 2 in CogVideoX 1.5),
H W latent height and width, L D text.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from datasets.clip_sets.clips import Clip, ClipFacts
from datasets.clip_sets.masks import View, placed
from datasets.clip_sets.parts import Pace, Part, all_parts
from datasets.clip_sets.select import cover
from infra.errors import InvalidInput
from infra.storage import ObjectNotFound, Storage
from models.foundations.base import Bucket, Foundation
from models.regions.layers import LatentCoverage, latent_coverage
from models.regions.masks import Unusable

log = logging.getLogger(__name__)

# Raise it when an encoder's output changes for the same input, to invalidate cached values.
# 2: Wan's prompts have the 512 tokens of the stock pipeline, not 226.
REVISION = 2


@dataclass(frozen=True)
class CachedClip:
    """The tensors that training needs of a clip or a part of one; float32."""

    clip_id: str
    sha256: str  # of the clip's video
    caption: str
    latents_CFHW: Tensor  # the whole clip, for the temporal path
    frame_latents_FC1HW: Tensor  # each pixel frame as a one-frame video, for the spatial path
    text_LD: Tensor
    empty_text_LD: Tensor  # embedding of an empty caption, shared by all clips
    frames_id: str = ""  # identifies the frames of the clip (`datasets.clip_sets.parts.Part.frames_id`)
    mask_id: str = ""  # a hash of the clip's mask; "" for none
    coverage: LatentCoverage | None = None  # how much of each latent the mask covers; None: no mask
    look_texts: tuple[Tensor, ...] = ()  # embeddings of the prompts for generated references

    @classmethod
    def of(
        cls,
        clip_id: str,
        sha256: str,
        caption: str,
        visual: dict[str, Tensor],
        text_LD: Tensor,
        empty_text_LD: Tensor,
        device: str | torch.device = "cpu",
        frames_id: str = "",
    ) -> CachedClip:
        """Build from the result of `latents_of` and the embeddings of the caption and of an empty one."""
        latents_CFHW = visual["latents"]
        # If the VAE has no time dimension, a frame has the same latents alone and in its clip: stored once.
        frames = visual.get("frame_latents", latents_CFHW.transpose(0, 1).unsqueeze(2))
        latents, frames, text, empty = (
            tensor.to(device) for tensor in (latents_CFHW, frames, text_LD, empty_text_LD)
        )
        return cls(clip_id, sha256, caption, latents, frames, text, empty, frames_id)


class LatentCache:
    """Tensors by key in a storage; damaged values count as missing."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage.sub(f".latents/{REVISION}")

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors under a key, or None if they are missing or damaged (with a warning)."""
        try:
            data = self.storage.get(key)
        except ObjectNotFound:
            return None
        try:
            tensors = load(data)
            if _digest(tensors) == _stored_digest(data):
                return tensors
            reason = "its content does not match its checksum"
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            reason = str(error)
        log.warning(
            "cached latents %s/%s are damaged (%s); computing them again", self.storage.uri, key, reason
        )
        return None

    def has(self, key: str) -> bool:
        """Whether a key exists; `get` also checks that the value is intact."""
        return self.storage.exists(key)

    def keys(self, prefix: str) -> set[str]:
        """All keys with a prefix, by one listing."""
        return {info.key for info in self.storage.list(prefix)}

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Store tensors, replacing damaged ones."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        self.storage.put(key, save(tensors, metadata={"sha256": _digest(tensors)}))


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _stored_digest(data: bytes) -> str:
    """The checksum in a safetensors header (written as metadata by `save`)."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])["__metadata__"]["sha256"]


def precision_of(foundation: Foundation) -> str:
    """The foundation's precision as used in keys: "float32", "bfloat16" or "float16"."""
    return str(foundation.dtype).removeprefix("torch.")


def clip_key(sha256: str, fingerprint: str, precision: str, bucket: Bucket, frames_id: str = "") -> str:
    """The key of a clip's latents: its video's hash, the foundation's fingerprint and precision, the size.

    Args:
        frames_id: of a part other than the first frames (`datasets.clip_sets.parts.Part.frames_id`).
    """
    part = f"-{hashlib.sha256(frames_id.encode()).hexdigest()[:16]}" if frames_id else ""
    return f"{fingerprint}/{precision}/{bucket}/{sha256}{part}.safetensors"


def text_key(caption: str, fingerprint: str, precision: str) -> str:
    """The key of a caption's embedding."""
    return f"{fingerprint}/{precision}/text/{hashlib.sha256(caption.encode()).hexdigest()}.safetensors"


def prepare(
    clips: Sequence[Clip],
    foundation: Foundation,
    bucket: Bucket,
    cache: LatentCache,
    device: str | torch.device = "cpu",
    *,
    pace: Pace | None = None,
    looks: Sequence[str] = (),
    lock: AbstractContextManager[Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[CachedClip]:
    """The latents and text embedding of each clip's parts, from the cache or newly computed and cached.

    Args:
        foundation: its VAE and text encoder are used only for missing values.
        bucket: the training size; larger clips are scaled and cropped.
        pace: how longer and faster clips are sampled (datasets/clip_sets/parts.py); None: at the foundation's
            frame rate.
        device: where the returned tensors are.
        looks: the prompts for generated references (`TrainConfig.looks`).
        lock: held while the foundation encodes, if other threads use it too (a VAE may keep internal state).
            Values that another thread has computed meanwhile are not computed again.

    Raises:
        InvalidInput: a bucket that the foundation does not support, or a clip that is too small, short
            or slow.
    """
    foundation.check_bucket(bucket)
    model = foundation.fingerprint, precision_of(foundation)
    parts = all_parts(clips, bucket, pace or Pace(foundation.defaults.fps))

    def embedding(caption: str) -> Tensor:
        key = text_key(caption, *model)
        return found_or_made(cache, key, lambda: {"text": text_of(caption, foundation)}, lock)["text"]

    empty = embedding("").to(device)
    look_texts = tuple(embedding(prompt).to(device) for prompt in looks)
    prepared = []
    for done, part in enumerate(parts, 1):
        visual = found_or_made(
            cache,
            clip_key(part.sha256, *model, bucket, part.frames_id),
            lambda part=part: latents_of(pixels(part, bucket), foundation, called(part.clip)),  # type: ignore[misc]
            lock,
        )
        clip_id, text = part.clip.clip_id, embedding(part.caption)
        prepared.append(
            replace(
                CachedClip.of(
                    clip_id, part.sha256, part.caption, visual, text, empty, device, part.frames_id
                ),
                mask_id=part.mask_id,
                coverage=coverage_of(part, foundation, bucket),
                look_texts=look_texts,
            )
        )
        if on_progress:
            on_progress(done, len(parts))
    return prepared


def found_or_made(
    cache: LatentCache,
    key: str,
    make: Callable[[], dict[str, Tensor]],
    lock: AbstractContextManager[Any] | None = None,
) -> dict[str, Tensor]:
    """The tensors under a key, or those of `make`, which are then cached. `lock` is as in `prepare`."""
    found = cache.get(key)
    if found is not None:
        return found
    with lock or nullcontext():
        # Another thread may have computed it while this one waited.
        found = cache.get(key) if lock is not None and cache.has(key) else None
        if found is None:
            found = make()
            cache.put(key, found)
    return found


def pixels(part: Part, bucket: Bucket) -> np.ndarray:
    """Decode a part's frames at the bucket's size, uint8 [F, H, W, 3], on the CPU. Raises UserError."""
    assert isinstance(part.clip, Clip), "facts have no video"
    frames_FHWC = part.clip.frames_FHWC()[list(part.indices)]
    return np.stack([cover(frame, bucket.height, bucket.width) for frame in frames_FHWC])


def coverage_of(part: Part, foundation: Foundation, bucket: Bucket) -> LatentCoverage | None:
    """How much of each latent of a part its clip's mask covers; None without a mask.

    Raises InvalidInput for a mask that no ingest wrote.
    """
    clip = part.clip
    if clip.mask is None:
        return None
    clip.mask.check(Bucket(clip.num_frames, clip.height, clip.width), f"the mask of {called(clip)}")
    view = View(clip.height, clip.width, bucket.height, bucket.width)
    try:
        region = placed(clip.mask, view, part.indices)
    except Unusable as error:
        raise InvalidInput(f"the mask of {called(clip)}: {error}.", code="invalid_region") from None
    return latent_coverage(region, foundation, bucket)


def called(clip: Clip | ClipFacts) -> str:
    """A clip's name in error messages."""
    return f"clip {clip.clip_id[:12]}"


def text_of(caption: str, foundation: Foundation) -> Tensor:
    """A caption's embedding [L, D]; float32, on the CPU."""
    return foundation.encode_text([caption])[0].float().cpu()


def latents_of(frames_FHWC: np.ndarray, foundation: Foundation, name: str) -> dict[str, Tensor]:
    """Latents of uint8 frames, by `encode_both`. `name` identifies them in errors."""
    video_CFHW = torch.from_numpy(frames_FHWC).permute(3, 0, 1, 2).float() / 127.5 - 1
    video_BCFHW = video_CFHW.unsqueeze(0).to(foundation.device)
    latents_CFHW, frames_FC1HW = (found[0].float().cpu() for found in foundation.encode_both(video_BCFHW))
    for tensor in (latents_CFHW, frames_FC1HW):
        if not torch.isfinite(tensor).all():
            raise InvalidInput(
                f"the VAE of {foundation.name} produces NaN or infinite latents for {name}; load it in float32.",
                code="invalid_latents",
            )
    tensors = {"latents": latents_CFHW.contiguous()}
    if not torch.equal(latents_CFHW.transpose(0, 1).unsqueeze(2), frames_FC1HW):
        tensors["frame_latents"] = frames_FC1HW.contiguous()
    return tensors
