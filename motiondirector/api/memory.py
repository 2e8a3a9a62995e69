"""How much memory training and serving a model take, and docs/memory.md, which is written from that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader

from models.scale.needs import GPUS, SERVING, TRAINING, USABLE, first_that_fits

if TYPE_CHECKING:
    from models.scale.footprint import Footprint

TEMPLATES = Path(__file__).resolve().parent
GIB = 2**30


@dataclass(frozen=True)
class MemoryNeeds:
    """What a model needs, in GiB, and what fits which GPU."""

    name: str
    size: str
    dtype: str
    rank: int
    parameters: int  # of the denoiser
    adapter_parameters: int  # of what a run of one clip trains
    weights: dict[str, float]  # of the denoiser (also in int8), the text encoder and the VAE
    activations: dict[
        str, float
    ]  # of a training step (also with gradient checkpointing), a denoising step and decoding
    training: dict[str, float]  # by settings
    serving: dict[str, float]
    trains_on: dict[int, str | None]  # by GPU: the first settings that fit, None if none do
    serves_on: dict[int, str | None]


def memory(
    source: str | None = None, size: str | None = None, *, dtype: str = "bf16", rank: int = 32
) -> MemoryNeeds:
    """What a model needs to train on one clip, and to serve, computed from its configurations.

    Args:
        source: a folder, a hub id, `published:NAME` (models/scale/published.py), or None for the embedded model.
        size: FRAMESxHEIGHTxWIDTH; None: the model's default.
        dtype: of the denoiser and the text encoder.
        rank: of the adapters.

    Raises:
        UserError: an unknown model or precision; InvalidInput for a size that does not suit.
    """
    from models.dtypes import parse_dtype
    from models.foundations.base import Bucket
    from models.scale.footprint import footprint

    bucket = None if size is None else Bucket.parse(size)
    return needs_of(footprint(source, bucket, dtype=parse_dtype(dtype), rank=rank))


def needs_of(found: Footprint) -> MemoryNeeds:
    """A footprint in GiB, with what fits."""
    return MemoryNeeds(
        name=found.name,
        size=str(found.bucket),
        dtype=found.dtype,
        rank=found.rank,
        parameters=found.parameters,
        adapter_parameters=found.adapters,
        weights=_gib(
            {
                "denoiser": found.denoiser,
                "denoiser, int8": found.denoiser_int8,
                "text encoder": found.text,
                "VAE": found.vae,
            }
        ),
        activations=_gib(
            {
                "training step": found.steps[False],
                "training step, gradient checkpointing": found.steps[True],
                "denoising step": found.denoising,
                "decoding": found.decoding,
            }
        ),
        training=_gib({str(plan): plan.need(found) for plan in TRAINING}),
        serving=_gib({str(plan): plan.need(found) for plan in SERVING}),
        trains_on={gpu: first_that_fits(TRAINING, found, gpu) for gpu in GPUS},
        serves_on={gpu: first_that_fits(SERVING, found, gpu) for gpu in GPUS},
    )


def _gib(values: dict[str, int]) -> dict[str, float]:
    return {name: round(value / GIB, 1) for name, value in values.items()}


def page() -> str:
    """docs/memory.md."""
    from models.scale.published import PREFIX, PUBLISHED

    models: list[dict[str, Any]] = [
        {"name": name, "about": about, "needs": memory(PREFIX + name)} for name, about in PUBLISHED.items()
    ]
    templates = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True)
    text = templates.get_template("memory.j2").render(models=models, gpus=GPUS, usable=round(100 * USABLE))
    return text.rstrip() + "\n"
