"""Finds the latents and text embeddings that a batch's caches lack, and makes them, in a lane or ahead of it.

    portions = Missing().of_all(plan.works)          # each clip and caption once, in the order of the plan
    for portion in prepare_portions(portions, foundation):
        ...                                          # in the cache now

A lane finds cached results by content key and makes missing ones itself (`prepare_work`). So preparing
ahead only saves time: `training/batch/latents/prepare_ahead.py` does it in a lane's thread,
`training/batch/latents/ray_prepare.py` on a cluster. The three stages can run in different places:
`decode_portion` (CPU), `encode_portion` (VAE and text encoder), `store_portion` (storage).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from datasets.clip_sets.clips import ClipFacts, read_clips, read_facts
from datasets.clip_sets.latents import (
    CachedClip,
    LatentCache,
    called,
    clip_key,
    latents_of,
    pixels,
    precision_of,
    prepare,
    text_key,
    text_of,
)
from datasets.clip_sets.parts import Pace, all_parts
from infra.errors import Conflict, UserError
from infra.storage import open_storage
from models.dtypes import DTYPES
from models.foundations.base import Bucket
from training.batch.state.exclusive import preparation_task
from training.batch.state.work import Work
from training.described import data_sha256

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from models.foundations.base import Foundation

log = logging.getLogger(__name__)

STOPPED = "stopped"
DECODERS = 2  # number of decoding threads, and of storing threads, beside the encoding one


@dataclass(frozen=True)
class Portion:
    """The clips and captions of one work that the caches lack, and all that is needed to make them."""

    name: str  # of the work
    data: str
    concept: str
    foundation: str | None
    fingerprint: str
    dtype: str  # of the foundation: "float32", "bfloat16"
    bucket: Bucket
    clips: tuple[
        tuple[str, str], ...
    ]  # hash of each video, and which of its frames (`datasets.clip_sets.parts.Part.frames_id`)
    captions: tuple[str, ...]
    task: str  # name of the work's preparation task (exclusive.py)
    pace: Pace


@dataclass(frozen=True)
class Decoded:
    """A portion with its pixels, or an error."""

    portion: Portion
    frames: dict[tuple[str, str], tuple[str, np.ndarray]] = field(
        default_factory=dict, repr=False
    )  # as `Portion.clips` -> (name, FHWC)
    error: str | None = None


@dataclass(frozen=True)
class Encoded:
    """A portion's tensors by cache key, or an error."""

    portion: Portion
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict, repr=False)
    error: str | None = None
    stored: int = 0  # number of objects stored in the cache already


@dataclass(frozen=True)
class Prepared:
    """A cached portion, or an error: its lane will meet the same error and report it."""

    portion: Portion
    made: int = 0  # number of objects made: clips and captions
    error: str | None = None


def bucket_of(work: Work) -> Bucket:
    """The size that a work trains at."""
    return work.key.bucket


class Missing:
    """Finds clips and captions of works that are not cached and were not returned before.

    Reads the small columns of each clip set and lists each cache once.
    """

    def __init__(self) -> None:
        self._facts: dict[str, dict[str, list[ClipFacts]]] = {}
        self._there: dict[tuple[str, str], set[str]] = {}  # (data, folder of the cache) -> keys

    def of(self, work: Work) -> Portion | None:
        """What must be made for a work; None if nothing. Raises UserError if its clips cannot be read."""
        bucket, dtype = bucket_of(work), DTYPES[work.config.dtype]
        clips: dict[tuple[str, str], None] = {}
        captions: dict[str, None] = {}
        # The empty one is for `caption_dropout`.
        texts = dict.fromkeys(["", *work.config.looks])
        for part in all_parts(self._clips(work), bucket, work.pace):
            texts[part.caption] = None
            key = clip_key(part.sha256, work.fingerprint, dtype, bucket, part.frames_id)
            if self._new(work, f"{bucket}", key):
                clips[part.sha256, part.frames_id] = None
        for text in texts:
            if self._new(work, "text", text_key(text, work.fingerprint, dtype)):
                captions[text] = None
        if not clips and not captions:
            return None
        return Portion(
            name=work.name,
            data=work.data,
            concept=work.concept,
            foundation=work.foundation,
            fingerprint=work.fingerprint,
            dtype=dtype,
            bucket=bucket,
            clips=tuple(clips),
            captions=tuple(captions),
            task=preparation_task(work.name, work.sha256),
            pace=work.pace,
        )

    def of_all(self, works: Iterable[Work]) -> Iterator[Portion]:
        """`of` each work that lacks something. Skips works with unreadable clips: their lane reports it."""
        for work in works:
            try:
                portion = self.of(work)
            except UserError as error:
                log.info("%s is not prepared ahead: %s", work.name, error.message)
                continue
            if portion is not None:
                yield portion

    def _clips(self, work: Work) -> list[ClipFacts]:
        if work.concept not in self._facts.get(work.data, {}):  # the first time, and for concepts added since
            self._facts[work.data] = read_facts(work.data)
        return self._facts[work.data].get(work.concept, [])

    def _new(self, work: Work, folder: str, key: str) -> bool:
        """Whether this key is not cached and is asked for the first time."""
        place = work.data, f"{work.fingerprint}/{DTYPES[work.config.dtype]}/{folder}/"
        if place not in self._there:
            self._there[place] = LatentCache(open_storage(work.data)).keys(place[1])
        new = key not in self._there[place]
        self._there[place].add(key)
        return new


# ---------------------------------------------------------------------- the stages
def decode_portion(portion: Portion) -> Decoded:
    """Decode a portion's clips to pixels at its size. Runs on the CPU without a model."""
    try:
        wanted = set(portion.clips)
        videos = {sha256 for sha256, _ in wanted}
        clips = [clip for clip in read_clips(portion.data, portion.concept) if clip.sha256 in videos]
        parts = all_parts(clips, portion.bucket, portion.pace)
        frames = {
            (part.sha256, part.frames_id): (called(part.clip), pixels(part, portion.bucket))
            for part in {(part.sha256, part.frames_id): part for part in parts}.values()
            if (part.sha256, part.frames_id) in wanted
        }
    except UserError as error:
        return Decoded(portion, error=error.message)
    return Decoded(portion, frames)


def encode_portion(
    decoded: Decoded,
    foundation: Foundation,
    lock: AbstractContextManager[Any] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Encoded:
    """Encode a portion's latents and text, except those cached meanwhile.

    Args:
        lock: held while the foundation encodes one clip or caption, if other threads use it too. Each
            result is then stored before the lock is released, so that a waiting thread finds it in the
            cache.
        stopping: checked before each clip or caption; True ends with the error "stopped".
    """
    portion = decoded.portion
    if decoded.error is not None:
        return Encoded(portion, error=decoded.error)
    if foundation.fingerprint != portion.fingerprint:
        own, wanted = foundation.fingerprint[:12], portion.fingerprint[:12]
        return Encoded(
            portion, error=f"the foundation on this node has fingerprint {own}, but the plan expects {wanted}"
        )
    if precision_of(foundation) != portion.dtype:
        own = precision_of(foundation)
        return Encoded(
            portion, error=f"the foundation is loaded in {own}, but the latents must be in {portion.dtype}"
        )
    cache = LatentCache(open_storage(portion.data))
    making: dict[str, Callable[[], dict[str, Tensor]]] = {}
    for (sha256, frames_id), (name, frames_FHWC) in decoded.frames.items():
        key = clip_key(sha256, portion.fingerprint, portion.dtype, portion.bucket, frames_id)
        making[key] = partial(latents_of, frames_FHWC, foundation, name)
    for caption in portion.captions:
        key = text_key(caption, portion.fingerprint, portion.dtype)
        making[key] = partial(_embedding, caption, foundation)
    tensors: dict[str, dict[str, Tensor]] = {}
    stored, error = 0, None
    try:
        for key, make in making.items():
            if stopping():
                error = STOPPED
                break
            with lock or nullcontext():
                if cache.has(key):
                    continue
                tensors[key] = make()
                if lock is not None:
                    cache.put(key, tensors[key])
                    del tensors[key]  # stays if `put` fails: `store_portion` then tries again
                    stored += 1
    except UserError as refused:
        error = refused.message
    return Encoded(portion, tensors, error, stored)


def _embedding(caption: str, foundation: Foundation) -> dict[str, Tensor]:
    return {"text": text_of(caption, foundation)}


def store_portion(encoded: Encoded) -> Prepared:
    """Store tensors in the cache beside the clips. Raises UserError if the storage is unavailable."""
    cache = LatentCache(open_storage(encoded.portion.data))
    for key, tensors in encoded.tensors.items():
        cache.put(key, tensors)
    return Prepared(encoded.portion, encoded.stored + len(encoded.tensors), encoded.error)


def prepare_portions(
    portions: Iterable[Portion],
    foundation: Foundation,
    lock: AbstractContextManager[Any] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Prepared]:
    """Make portions in order. While one is encoded here, threads decode the next and store the previous ones.

    With a `lock`, `encode_portion` stores its results itself. `portions` is read a few items in
    advance. When `stopping` returns True, encoded results are stored and the rest is dropped.

    Raises:
        UserError: the storage is unavailable.
    """
    source = iter(portions)
    decoding: deque[Future[Decoded]] = deque()
    storing: deque[Future[Prepared]] = deque()
    with ThreadPoolExecutor(DECODERS) as decoders, ThreadPoolExecutor(DECODERS) as writers:

        def fill() -> None:
            while len(decoding) <= DECODERS and (portion := next(source, None)) is not None:
                decoding.append(decoders.submit(decode_portion, portion))

        try:
            fill()
            while decoding and not stopping():
                decoded = decoding.popleft().result()
                fill()
                encoded = encode_portion(decoded, foundation, lock, stopping)
                storing.append(writers.submit(store_portion, encoded))
                while storing and (storing[0].done() or len(storing) > DECODERS):
                    yield storing.popleft().result()
            while storing:
                yield storing.popleft().result()
        finally:
            for future in decoding:
                future.cancel()


# ------------------------------------------------------------------- in the lane
def prepare_work(
    work: Work, foundation: Foundation, lock: AbstractContextManager[Any] | None = None
) -> list[CachedClip]:
    """A work's latents and text, cached beside its clips or computed now. Raises UserError."""
    clips = read_clips(work.data, work.concept)
    if data_sha256(all_parts(clips, bucket_of(work), work.pace)) != work.data_sha256:
        raise Conflict(
            f"concept {work.concept}: its clips at {work.data} have changed since it was planned; add it to the batch "
            "again.",
            code="data_changed",
        )
    cache = LatentCache(open_storage(work.data))
    bucket, looks = bucket_of(work), work.config.looks
    return prepare(
        clips, foundation, bucket, cache, foundation.device, pace=work.pace, looks=looks, lock=lock
    )
