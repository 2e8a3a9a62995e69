"""Clips as a foundation model sees them, computed once: latents of the clip, of its frames, and of its caption.

    cache = LatentCache(open_storage(data_uri))
    for clip in prepare(read_clips(data_uri, "car-turn"), foundation, Bucket(16, 256, 256), cache): ...

Objects lie beside the clips in the set's own storage, under names that plain Parquet readers skip:

    .latents/<REVISION>/<foundation fingerprint>/<its precision>/<bucket>/<clip sha256>.safetensors
    .latents/<REVISION>/<foundation fingerprint>/<its precision>/<bucket>/<clip sha256>-<its frames>.safetensors
    .latents/<REVISION>/<foundation fingerprint>/<its precision>/text/<sha256 of the caption>.safetensors

The key holds all that a value depends on, so nothing ever expires; an object that is damaged is computed again, with
a warning. Any number of processes may prepare the same clips at once: they write the same objects.

Shapes: C latent channels, F frames (of latents in `latents_CFHW`, of pixels in `frame_latents_FC1HW`), H W latent
height and width, L D text.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from datasets.clips import Clip, ClipFacts
from datasets.parts import Pace, Part, all_parts
from datasets.select import cover
from infra.errors import InvalidInput
from infra.storage import ObjectNotFound, Storage
from models.foundation import Bucket, Foundation

log = logging.getLogger(__name__)

# Raise it when an encoder gives other values for the same input: what was cached before is then not found.
# 2: Wan's prompts have the 512 tokens of the stock pipeline, not 226.
REVISION = 2


@dataclass(frozen=True)
class CachedClip:
    """What training needs of a clip, or of a part of one; float32."""

    clip_id: str
    sha256: str  # of the clip's video
    caption: str
    latents_CFHW: Tensor  # the whole clip, for the temporal path
    frame_latents_FC1HW: Tensor  # each pixel frame as a video of one, for the spatial path
    text_LD: Tensor
    empty_text_LD: Tensor  # of an empty caption; clips share it
    told: str = ""  # which frames of the clip (`datasets.parts.Part.told`)

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
        told: str = "",
    ) -> CachedClip:
        """From what `latents_of` gives, and the embeddings of the caption and of an empty one."""
        latents_CFHW = visual["latents"]
        # A VAE without time gives a frame the same latents alone as in its clip: stored once.
        frames = visual.get("frame_latents", latents_CFHW.transpose(0, 1).unsqueeze(2))
        latents, frames, text, empty = (
            tensor.to(device) for tensor in (latents_CFHW, frames, text_LD, empty_text_LD)
        )
        return cls(clip_id, sha256, caption, latents, frames, text, empty, told)


class LatentCache:
    """Tensors by key in a storage; what cannot be read back whole counts as absent."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage.sub(f".latents/{REVISION}")

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors under a key, or None when there are none (or damaged ones, with a warning)."""
        try:
            data = self.storage.get(key)
        except ObjectNotFound:
            return None
        try:
            tensors = load(data)
            if _digest(tensors) == _stored_digest(data):
                return tensors
            reason = "its content does not have its checksum"
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            reason = str(error)
        log.warning(
            "cached latents %s/%s are damaged (%s); computing them again", self.storage.uri, key, reason
        )
        return None

    def has(self, key: str) -> bool:
        """Whether there is something under a key; `get` tells whether it is whole."""
        return self.storage.exists(key)

    def keys(self, prefix: str) -> set[str]:
        """All keys below a prefix (`folder_of`); one listing."""
        return {info.key for info in self.storage.list(prefix)}

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Store tensors, replacing damaged ones."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        self.storage.put(key, save(tensors, metadata={"sha256": _digest(tensors)}))


def _digest(tensors: dict[str, Tensor]) -> str:
    told = hashlib.sha256()
    for name in sorted(tensors):
        told.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        told.update(tensors[name].contiguous().numpy().tobytes())
    return told.hexdigest()


def _stored_digest(data: bytes) -> str:
    """The checksum in a safetensors header (`save` writes it as metadata)."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])["__metadata__"]["sha256"]


def precision_of(foundation: Foundation) -> str:
    """What a foundation was loaded in, as keys have it: "float32", "bfloat16" or "float16"."""
    return str(foundation.dtype).removeprefix("torch.")


def clip_key(sha256: str, fingerprint: str, precision: str, bucket: Bucket, told: str = "") -> str:
    """Where a clip's latents lie: by the hash of its video, the foundation's fingerprint and precision, and the size.

    Args:
        told: which frames, for a part other than the first frames (`datasets.parts.Part.told`).
    """
    part = f"-{hashlib.sha256(told.encode()).hexdigest()[:16]}" if told else ""
    return f"{fingerprint}/{precision}/{bucket}/{sha256}{part}.safetensors"


def text_key(caption: str, fingerprint: str, precision: str) -> str:
    """Where a caption's embedding lies."""
    return f"{fingerprint}/{precision}/text/{hashlib.sha256(caption.encode()).hexdigest()}.safetensors"


def prepare(
    clips: Sequence[Clip],
    foundation: Foundation,
    bucket: Bucket,
    cache: LatentCache,
    device: str | torch.device = "cpu",
    *,
    pace: Pace | None = None,
    lock: AbstractContextManager[Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[CachedClip]:
    """The latents and text embedding of each clip's parts, from the cache or computed and cached.

    Args:
        foundation: its VAE and text encoder are used only for what the cache lacks.
        bucket: size to train in; clips that are larger are scaled and cropped.
        pace: how much of longer and faster clips is taken (datasets/parts.py); None: at the foundation's own frames a second.
        device: where the returned tensors lie.
        lock: held while the foundation encodes, where other threads do so too (a VAE may keep state of its own); what
            another made meanwhile is not made again.

    Raises:
        InvalidInput: a bucket the foundation cannot do, or a clip smaller, shorter or slower than is learned.
    """
    foundation.check_bucket(bucket)
    model = foundation.fingerprint, precision_of(foundation)
    parts = all_parts(clips, bucket, pace or Pace(foundation.defaults.fps))

    def embedding(caption: str) -> Tensor:
        key = text_key(caption, *model)
        return _found_or_made(cache, key, lambda: {"text": text_of(caption, foundation)}, lock)["text"]

    empty = embedding("").to(device)
    prepared = []
    for done, part in enumerate(parts, 1):
        visual = _found_or_made(
            cache,
            clip_key(part.sha256, *model, bucket, part.told),
            lambda part=part: latents_of(pixels(part, bucket), foundation, called(part.clip)),  # type: ignore[misc]
            lock,
        )
        clip_id, text = part.clip.clip_id, embedding(part.caption)
        prepared.append(
            CachedClip.of(clip_id, part.sha256, part.caption, visual, text, empty, device, part.told)
        )
        if on_progress:
            on_progress(done, len(parts))
    return prepared


def _found_or_made(
    cache: LatentCache,
    key: str,
    make: Callable[[], dict[str, Tensor]],
    lock: AbstractContextManager[Any] | None,
) -> dict[str, Tensor]:
    found = cache.get(key)
    if found is not None:
        return found
    with lock or nullcontext():
        # Another thread may have made it while this one waited.
        found = cache.get(key) if lock is not None and cache.has(key) else None
        if found is None:
            found = make()
            cache.put(key, found)
    return found


def pixels(part: Part, bucket: Bucket) -> np.ndarray:
    """A part's frames at the bucket's size, uint8 [F, H, W, 3]: decoding, the CPU's part. Raises UserError."""
    assert isinstance(part.clip, Clip), "facts have no video"
    frames_FHWC = part.clip.frames_FHWC()[list(part.indices)]
    return np.stack([cover(frame, bucket.height, bucket.width) for frame in frames_FHWC])


def called(clip: Clip | ClipFacts) -> str:
    """What an error calls a clip."""
    return f"clip {clip.clip_id[:12]}"


def text_of(caption: str, foundation: Foundation) -> Tensor:
    """A caption's embedding [L, D]; float32, CPU."""
    return foundation.encode_text([caption])[0].float().cpu()


def latents_of(frames_FHWC: np.ndarray, foundation: Foundation, name: str) -> dict[str, Tensor]:
    """Latents of uint8 frames, as `encode`. `name` is what an error calls them."""
    video_CFHW = torch.from_numpy(frames_FHWC).permute(3, 0, 1, 2).float() / 127.5 - 1
    video_BCFHW = video_CFHW.unsqueeze(0).to(foundation.device)
    latents_CFHW, frames_FC1HW = (found[0].float().cpu() for found in foundation.encode_both(video_BCFHW))
    for tensor in (latents_CFHW, frames_FC1HW):
        if not torch.isfinite(tensor).all():
            raise InvalidInput(
                f"the VAE of {foundation.name} gives NaN or infinite latents for {name}; load it in float32.",
                code="invalid_latents",
            )
    tensors = {"latents": latents_CFHW.contiguous()}
    if not torch.equal(latents_CFHW.transpose(0, 1).unsqueeze(2), frames_FC1HW):
        tensors["frame_latents"] = frames_FC1HW.contiguous()
    return tensors
