"""Inputs of the serving benchmarks: model classes, adapter files on local disk, requests.

Both sides get the same checkpoint folder, the same adapter files (written by `models.adapters.file.save_adapter`) and the same
requests. A request's noise is drawn from its seed as in the engine.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from infra.files import cache_folder
from models.adapters.file import WEIGHTS_FILE, Adapter, save_adapter
from models.foundations.base import Bucket, Foundation
from models.load import load_foundation
from serving.schemas import AdapterUsed

WORDS = ("a red circle", "a blue square", "a green star", "a white ring", "a yellow triangle")
MOTIONS = ("moves to the right", "goes round", "jumps up and down", "falls", "swings")
# A transformer with diffusers' full loader, large enough that overhead does not dominate a step.
WAN_SMALL = {
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "ffn_dim": 1024,
    "num_layers": 6,
    "freq_dim": 64,
}


@dataclass(frozen=True)
class StoredAdapter:
    """A version's folder (PEFT's two files) and the name that requests use."""

    folder: Path
    rank: int
    used: AdapterUsed


@dataclass(frozen=True)
class Job:
    """One request of a workload."""

    id: str
    adapter: int | None  # index among the setup's adapters
    prompt: str
    seed: int
    arrival: float = 0.0  # seconds after the start
    tenant: str = ""


@dataclass(frozen=True)
class Shape:
    """The parameters shared by all requests of a workload."""

    bucket: Bucket
    steps: int
    guidance_scale: float

    def __str__(self) -> str:
        return f"{self.bucket}, {self.steps} steps, guidance {self.guidance_scale:g}"


@dataclass
class Setup:
    """A model class with adapters."""

    name: str
    source: str | None  # argument of `load_foundation`
    foundation: Foundation  # of our side
    adapters: list[StoredAdapter]
    files: Path  # the same adapter files, named by hash: an engine's local disk

    @property
    def rank(self) -> int:
        return max(adapter.rank for adapter in self.adapters)

    def noise(self, job: Job, shape: Shape) -> Tensor:
        """The request's initial latents [1, C, f, h, w], before a scheduler scales them."""
        generator = torch.Generator("cpu").manual_seed(job.seed)
        return torch.randn((1, *self.foundation.latent_shape(shape.bucket)), generator=generator)


def random_adapter(foundation: Foundation, rank: int, seed: int) -> Adapter:
    """A random temporal adapter with the magnitude of a trained one."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in foundation.targets["temporal"]:
        layer = foundation.denoiser.get_submodule(name)
        tensors[name] = (
            torch.randn(rank, layer.in_features, generator=generator) / rank,
            torch.randn(layer.out_features, rank, generator=generator) * 0.02,
        )
    return Adapter("temporal", rank, tensors)


def make_setup(name: str, folder: Path, count: int, ranks: list[int], device: str | None = None) -> Setup:
    """Load the class `name`, and write `count` adapters whose ranks cycle through `ranks`.

    Args:
        name: "unet3d" (the embedded foundation), "wan" (random weights, diffusers' full loader), or an
            argument of `load_foundation`.
        folder: where the adapters are written.
    """
    source = {"unet3d": None, "wan": wan_small}.get(name, name)
    source = str(source()) if callable(source) else source
    foundation = load_foundation(source, device=device)
    files = folder / "disk"
    files.mkdir(parents=True, exist_ok=True)
    adapters = []
    for number in range(count):
        rank = ranks[number % len(ranks)]
        place = folder / f"adapter-{number:03d}"
        saved = save_adapter(place, random_adapter(foundation, rank, number), foundation)
        os.link(place / WEIGHTS_FILE, files / f"{saved.sha256}.safetensors")
        used = AdapterUsed(concept=place.name, version=1, path="temporal", scale=1.0, sha256=saved.sha256)
        adapters.append(StoredAdapter(place, rank, used))
    return Setup(name, source, foundation, adapters, files)


def wan_small() -> Path:
    """The folder of a `WanPipeline` with a random transformer of WAN_SMALL's shape, written on first use."""
    from diffusers import WanTransformer3DModel

    from models.tiny import tiny_checkpoint

    tiny = tiny_checkpoint("wan")
    folder = cache_folder() / f"{tiny.name}-small"
    if (folder / "model_index.json").is_file():
        return folder
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "model"
        shutil.copytree(tiny, made)
        torch.manual_seed(0)
        config = json.loads((tiny / "transformer" / "config.json").read_text())
        transformer = WanTransformer3DModel.from_config({**config, **WAN_SMALL})
        shutil.rmtree(made / "transformer")
        transformer.save_pretrained(made / "transformer", safe_serialization=True)
        os.rename(made, folder)
    return folder


def zipf(count: int, exponent: float) -> list[float]:
    """Request shares of `count` adapters by popularity rank n: proportional to 1 / n^exponent (0: equal)."""
    weights = [1 / (n + 1) ** exponent for n in range(count)]
    return [weight / sum(weights) for weight in weights]


def make_jobs(
    requests: int, adapters: int, exponent: float = 0.0, rate: float | None = None, seed: int = 0
) -> list[Job]:
    """Requests whose adapters follow a Zipf distribution.

    Args:
        adapters: how many of the setup's adapters are requested; 0: none, the base model.
        rate: arrivals per second (Poisson); None: all are present at the start, with the adapters in turn.
    """
    draw = random.Random(seed)
    shares, now, jobs = zipf(adapters, exponent), 0.0, []
    for number in range(requests):
        if rate is not None:
            now += draw.expovariate(rate)
        even = not exponent and rate is None
        chosen = None
        if adapters:
            chosen = number % adapters if even else draw.choices(range(adapters), shares)[0]
        prompt = f"{WORDS[number % len(WORDS)]} {MOTIONS[number // len(WORDS) % len(MOTIONS)]}"
        jobs.append(Job(f"r{number}", chosen, prompt, 1000 + number, now))
    return jobs
