"""What a checkpoint's parts weigh and what its computations allocate, from its configurations alone.

    footprint("published:wan-2.1-14b")

The model's own code runs once for each number, on tensors without values: a training step, a denoising step of one
request, and decoding a video.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.dtypes import DTYPES
from models.foundations.base import Foundation
from models.load import load_foundation, quiet_libraries, torch_dtype
from models.lora.routing import PATHS, LoraPath, Mix, Routing
from models.quantizing import quantized_linears, saved_by_int8
from models.scale.allocations import Allocations, fake, without_values
from models.sizes import Bucket

SLOTS: dict[LoraPath, int] = {"spatial": 4, "temporal": 8}  # of a server, by default


@dataclass(frozen=True)
class Footprint:
    """Bytes on one device at one size, in the precision in which the weights are."""

    name: str
    bucket: Bucket
    dtype: str
    rank: int
    parameters: int  # of the denoiser
    adapter_parameters: dict[LoraPath, int]  # values of one adapter of that rank
    denoiser: int
    denoiser_int8: int  # the same in int8 (models/quantizing.py)
    largest_linear: int  # what a forward unpacks of these at once
    largest_block: int  # what ZeRO 3 gathers at once
    text: int
    vae: int
    steps: dict[
        bool, int
    ]  # a training step of one clip, by gradient checkpointing: activations and gradients
    denoising: int  # one denoising step of one request, with its guidance
    decoding: int
    slots: int  # the adapters of a server

    @property
    def adapters(self) -> int:
        """Values of what a run of one clip trains."""
        return sum(self.adapter_parameters.values())


def footprint(
    source: str | None, bucket: Bucket | None = None, *, dtype: str = "bf16", rank: int = 32
) -> Footprint:
    """The footprint of a checkpoint: a folder, a hub id, or `published:NAME`.

    Args:
        bucket: size of the clips and videos; None: the checkpoint's default.
        dtype: of the denoiser and the text encoder.

    Raises:
        UserError: as `load_foundation`; InvalidInput for a size that does not suit.
    """
    foundation = load_foundation(source, parts=(), device="cpu", dtype=dtype)
    bucket = bucket or foundation.defaults.bucket
    foundation.check_bucket(bucket)
    keep_float32(foundation)
    weights = {part: _part_bytes(foundation, part, dtype) for part in ("text", "vae")}
    foundation.pipeline.vae = component(foundation, "vae", dtype)
    with without_values(), _first_expert_alone(foundation):
        for _, one in foundation.denoisers.values():
            fake(one)
        steps = {on: step_peak(foundation, bucket, rank, checkpointing=on) for on in (False, True)}
        slots, denoising = denoising_peak(foundation, bucket, rank)
        decoding = decoding_peak(foundation, bucket)
    denoiser = foundation.denoiser
    return Footprint(
        name=foundation.name,
        bucket=bucket,
        dtype=dtype,
        rank=rank,
        parameters=sum(parameter.numel() for parameter in denoiser.parameters()),
        adapter_parameters={path: adapter_values(foundation, path, rank) for path in PATHS},
        denoiser=module_bytes(denoiser),
        denoiser_int8=module_bytes(denoiser) - saved_by_int8(foundation, foundation.dtype.itemsize),
        largest_linear=max(one.weight.nbytes for one in quantized_linears(foundation)),
        largest_block=max(module_bytes(block) for block in foundation.checkpointed_blocks()),
        text=weights["text"],
        vae=weights["vae"],
        steps=steps,
        denoising=denoising,
        decoding=decoding,
        slots=slots,
    )


def module_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters."""
    return sum(parameter.nbytes for parameter in module.parameters())


def adapter_values(foundation: Foundation, path: LoraPath, rank: int) -> int:
    """Values of an adapter of one path that changes all layers which training adapts."""
    layers = (foundation.denoiser.get_submodule(name) for name in foundation.trained_targets[path])
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)


def keep_float32(foundation: Foundation) -> None:
    """Give the parts that diffusers keeps in float32 this dtype; a denoiser on the meta device is cast as a whole."""
    for _, denoiser in foundation.denoisers.values():
        kept = getattr(denoiser, "_keep_in_fp32_modules", None) or ()
        for name, parameter in denoiser.named_parameters():
            if any(part in name.split(".") for part in kept):
                parameter.data = parameter.data.float()


@contextmanager
def _first_expert_alone(foundation: Foundation) -> Iterator[None]:
    """Ask one of two experts: which one answers depends on values, and both need the same."""
    if not foundation.experts:
        yield
        return
    experts = foundation.denoiser
    experts.answer = lambda t_B, bank, ask: ask(experts.high_noise, slice(None))
    try:
        yield
    finally:
        del experts.answer


def step_peak(foundation: Foundation, bucket: Bucket, rank: int, *, checkpointing: bool) -> int:
    """Bytes that a step of method dual on one clip allocates: activations, and the gradients of both adapters."""
    slots: dict[LoraPath, int] = {"spatial": 1, "temporal": 1}
    with (
        torch.enable_grad(),
        foundation.temporary_bank(slots, rank, trainable=True),
        foundation.gradient_checkpointing(checkpointing),
    ):
        frame = _given(foundation, foundation.clip_shape(replace(bucket, frames=1)), rows=1)
        clip = _given(foundation, foundation.clip_shape(bucket), rows=1)
        appearance = Routing(spatial=Mix.of([[1]]), dropout=0.1, seeds=(1,))
        motion = Routing(spatial=Mix.of([[1]], frozen=True), temporal=Mix.of([[1]]), dropout=0.1, seeds=(1,))
        with Allocations() as counted:  # both passes are in one graph (training/loop/step.py)
            losses = [
                foundation.predict(*given, routing).float().square().mean()
                for given, routing in ((frame, appearance), (clip, motion))
            ]
            sum(losses).backward()  # type: ignore[union-attr]
    return counted.peak


def denoising_peak(foundation: Foundation, bucket: Bucket, rank: int) -> tuple[int, int]:
    """Bytes of a server's adapters, and those that a denoising step of one guided request allocates."""
    rows = 1 if foundation.embeds_guidance else 2
    with torch.no_grad(), foundation.temporary_bank(SLOTS, rank) as bank:
        slots = sum(bank.slot_bytes(path) * (number + 1) for path, number in SLOTS.items())
        given = _given(foundation, foundation.clip_shape(bucket), rows)
        routing = Routing(temporal=Mix.of([[1]] * rows))
        with Allocations() as counted:
            foundation.predict(*given, routing)
    return slots, counted.peak


def decoding_peak(foundation: Foundation, bucket: Bucket) -> int:
    """Bytes that decoding one video allocates."""
    fake(foundation.pipeline.vae)
    latents = torch.empty(1, *foundation.latent_shape(bucket))
    with torch.no_grad(), Allocations() as counted:
        foundation.decode(latents)
    return counted.peak


def _given(
    foundation: Foundation, shape: tuple[int, int, int, int], rows: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, timesteps and text for a forward."""
    t = foundation.noise.timesteps(torch.tensor([0.5] * rows))
    return torch.empty(rows, *shape), t, torch.empty(rows, *foundation.text_shape)


def _part_bytes(foundation: Foundation, part: str, dtype: str) -> int:
    names = [name for name in foundation.spec.components[part] if _has_config(foundation.folder, name)]
    return sum(module_bytes(component(foundation, name, dtype)) for name in names)


def _has_config(folder: Path, name: str) -> bool:
    return (folder / name / "config.json").is_file()


def component(foundation: Foundation, name: str, dtype: str) -> Any:
    """A component of the pipeline on the meta device, in the dtype in which it is loaded."""
    import diffusers
    import transformers

    quiet_libraries()
    index = json.loads((foundation.folder / "model_index.json").read_text())
    config = json.loads((foundation.folder / name / "config.json").read_text())
    library, class_name = index[name]
    made: Callable[[], Any]
    if library == "diffusers":
        found = getattr(diffusers, class_name)
        made = lambda: found.from_config(config)  # noqa: E731
    else:
        found = getattr(transformers, class_name)
        made = lambda: found(found.config_class.from_dict(config))  # noqa: E731
    own = foundation.spec.vae_dtype if name == "vae" else None
    with torch.device("meta"):
        module = made().to(torch_dtype(own) if own else getattr(torch, DTYPES[dtype]))
    return module.requires_grad_(False).eval()
