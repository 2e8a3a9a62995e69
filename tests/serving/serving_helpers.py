"""Adapters with random weights, requests, and an engine for tests."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from sample_adapters import random_adapter as random_adapter

from datasets.video.decode import decode
from datasets.video.writing import read_metadata
from infra.registry import Version
from models.adapters.file import Adapter
from models.adapters.noise_prior import StoredNoise
from models.foundations.base import Foundation
from serving.config import ServeConfig
from serving.engine.engine import Engine
from serving.events import Event, Finished
from serving.ray.engine_service import EngineService
from serving.requests import VideoRequest
from serving.schemas import AdapterUsed, NoisePriorUsed

Publish = Callable[..., Version]  # publish(foundation, "orbit", path=..., rank=..., seed=...)


def until(true: Callable[[], bool], *, seconds: float = 60.0, pause: float = 0.01) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(pause)


def random_noise(foundation: Foundation, references: int, seed: int = 0) -> list[torch.Tensor]:
    """Stands for the inverted noise of this many references, at the foundation's own size."""
    generator = torch.Generator().manual_seed(seed)
    shape = foundation.latent_shape(foundation.defaults.bucket)
    return [torch.randn(shape, generator=generator) for _ in range(references)]


def sha(concept: str, path: str) -> str:
    return (concept + path).encode().hex().ljust(64, "0")


def use(concept: str, *, path: str = "temporal", **settings) -> AdapterUsed:
    return AdapterUsed(concept=concept, version=1, path=path, sha256=sha(concept, path), **settings)


def prior(concept: str, weight: float = 0.5) -> NoisePriorUsed:
    return NoisePriorUsed(concept=concept, version=1, sha256=sha(concept, "noise"), weight=weight)


def video_request(**kind) -> VideoRequest:
    """A request for a small video; `kind` overrides its fields."""
    given = {
        "prompt": "a bear",
        "negative_prompt": "",
        "frames": 4,
        "height": 32,
        "width": 32,
        "fps": 8,
        "seed": 1,
        "steps": 2,
        "guidance_scale": 1.0,
    }
    return VideoRequest(**{**given, **kind})


def mixed_body(number: int, draw: random.Random, concepts: int, *, steps: tuple[int, int]) -> dict:
    """A request body for the soak tests: up to two of c0, c1, ..., with random scales, guidance and steps."""
    adapters = draw.sample(range(concepts), draw.choice([0, 1, 1, 1, 2]))
    return {
        "prompt": f"prompt {number % 5}",
        "seed": number,
        "steps": draw.randint(*steps),
        "guidance_scale": draw.choice([1.0, 3.0]),
        "lora": [{"name": f"c{n}@1", "scale": draw.choice([1.0, 0.5])} for n in adapters],
    }


async def alone(config: ServeConfig, requests: dict[str, VideoRequest]) -> dict[str, bytes]:
    """The mp4 of each request from an engine that runs one request at a time."""
    engine = EngineService(config)
    try:
        made = {}
        for id, request in requests.items():
            async for event in engine.generate(id, request):
                last = event
            made[id] = last.mp4
        return made
    finally:
        engine.close()


def same_video(one: bytes, other: bytes) -> bool:
    """Whether two mp4 have equal metadata and show the same video.

    Rounding differs with the neighbours in a forward and may change a pixel by one level. The codec
    spreads that over the noise that random weights draw: a change of one level in two of 12,288 pixels
    gave a mean difference of 0.9 levels. A different video differs by 30.
    """
    first, second = (decode(mp4).frames_FHWC.astype(int) for mp4 in (one, other))
    return read_metadata(one) == read_metadata(other) and float(np.abs(first - second).mean()) < 3


class Memory:
    """A `Source` without registry and disk: adapters from `make`, by default with random weights by hash."""

    def __init__(self, foundation: Foundation, make: Callable[[AdapterUsed], Adapter] | None = None) -> None:
        self.foundation, self.make = foundation, make or self.random
        self.fetched: list[str] = []
        self.reads: list[str] = []

    def random(self, used: AdapterUsed) -> Adapter:
        seed = int(used.sha256[:8], 16)
        return replace(random_adapter(self.foundation, path=used.path, seed=seed), sha256=used.sha256)

    def has(self, used: AdapterUsed) -> bool:
        return used.sha256 in self.fetched

    def fetch(self, used: AdapterUsed) -> None:
        self.fetched.append(used.sha256)

    def forget(self, sha256: str) -> bool:
        self.fetched = [known for known in self.fetched if known != sha256]
        return True

    def read(self, used: AdapterUsed) -> Adapter:
        self.reads.append(used.concept)
        return self.make(used)

    def read_noise(self, used: NoisePriorUsed) -> StoredNoise:
        self.reads.append(used.concept)
        noises = random_noise(self.foundation, 2, seed=int(used.sha256[:8], 16))
        return StoredNoise(torch.stack(noises).half(), used.sha256)


class Bench:
    """An engine with the events of each request."""

    SLOTS = {"temporal": 3, "spatial": 2}  # noqa: RUF012

    def __init__(self, foundation: Foundation, source=None, **settings) -> None:
        self.foundation = foundation
        self.events: dict[str, list[Event]] = defaultdict(list)
        bank = foundation.add_bank(settings.pop("slots", self.SLOTS), 4)
        self.source = source or Memory(foundation)
        self.engine = Engine(foundation, bank, self.source, **settings)

    def request(self, seed: int, *adapters: AdapterUsed, **kind) -> VideoRequest:
        bucket = self.foundation.defaults.bucket
        size = {"frames": bucket.frames, "height": bucket.height, "width": bucket.width}
        given = {"prompt": f"prompt {seed}", "seed": seed, "steps": 3, "guidance_scale": 4.0}
        return video_request(**{**size, **given, "adapters": adapters, **kind})

    def submit(self, id: str, request: VideoRequest) -> None:
        self.engine.submit(id, request, self.events[id].append)

    def last(self, id: str) -> Event:
        return self.events[id][-1]

    def frames(self, id: str) -> np.ndarray:
        event = self.last(id)
        assert isinstance(event, Finished), event
        return decode(event.mp4).frames_FHWC

    def run(self, **requests: VideoRequest) -> None:
        for id, request in requests.items():
            self.submit(id, request)
        self.engine.run_until_idle()
