"""Training in this process, without Ray, on a foundation that is already loaded: one concept, or several in a pack.

    tensors = train_local(foundation, "orbit", clips, config)
    write_adapters(folder, foundation, tensors, describe(config, "orbit", clips))   # training/adapters.py

`evaluate --against` and the study train with it. It uses the same pack of one as a run on Ray Train
with one worker, so it gives the same bits (tested) with the same number of torch threads (training/ray/threads.py):
sums that are split among threads are rounded differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from infra.errors import UserError
from models.dtypes import short_dtype
from models.foundations.base import Foundation
from training.adapters import PathTensors
from training.config import TrainConfig
from training.loop.group import group_key
from training.loop.member import Member
from training.loop.pack import Capacity, Ended, Failed, Pack
from training.loop.pack_of_one import PackOfOne
from training.loop.report import StepReport
from training.loop.step import TrainingClip


def train_local(
    foundation: Foundation,
    concept: str,
    clips: Sequence[TrainingClip],
    config: TrainConfig,
    *,
    on_step: Callable[[StepReport], None] | None = None,
) -> PathTensors:
    """Train one concept to the end and return the adapters that generation uses: {path: {layer: (A, B)}}, on the CPU.

    The foundation is unchanged afterwards: its bank, if it has one, is restored.

    Args:
        concept: its name is part of every draw, as in a run.
        clips: latents and text of at least one clip, all of one shape (`datasets.clip_sets.latents.prepare`).
        config: with one worker, ZeRO 0, and the foundation's `dtype`.
        on_step: called after each step.

    Raises:
        UserError: this process cannot train with this configuration, or the loss is not finite.
    """
    check_local(foundation, config)
    member = Member(concept, concept, with_size(config, foundation, clips), clips)
    with PackOfOne(foundation, member) as run:
        for report in run.train():
            if on_step is not None:
                on_step(report)
        return run.tensors(concept)


def train_pack(
    foundation: Foundation,
    members: Sequence[Member],
    *,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> list[PathTensors]:
    """Train concepts in one forward, to the end of all. Returns the adapters of each, in order, as `train_local` does.

    Args:
        members: with the settings that a pack shares (`training.loop.group`), and with names of their own.
        on_step: called with (steps done, steps of the longest) after each step.

    Raises:
        UserError: this process cannot train with these settings, or the loss of one is not finite.
    """
    sized = [replace(one, config=with_size(one.config, foundation, one.clips)) for one in members]
    for one in sized:
        check_local(foundation, one.config)
    capacity = Capacity(len(sized), sum(one.slots()["spatial"] for one in sized))
    steps = max(one.config.steps for one in sized)
    found: dict[str, PathTensors] = {}
    with Pack(foundation, group_key(foundation.fingerprint, sized[0].config), capacity) as pack:
        for one in sized:
            pack.admit(one)
        for step in range(1, steps + 1):
            for event in pack.step():
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Ended):
                    found[event.name] = event.tensors
            on_step(step, steps)
    return [found[one.name] for one in sized]


def with_size(config: TrainConfig, foundation: Foundation, clips: Sequence[TrainingClip]) -> TrainConfig:
    """The settings with the size of these clips, unless they set one."""
    scale, (*_, height, width) = foundation.sizes.spatial_scale, clips[0].latents_CFHW.shape
    size = {"frames": len(clips[0].frame_latents_FC1HW), "height": height * scale, "width": width * scale}
    return config.model_copy(update={k: v for k, v in size.items() if getattr(config, k) is None})


def check_local(foundation: Foundation, config: TrainConfig) -> None:
    """Raises UserError for settings that would silently give another adapter here than in a run."""
    if config.worker_range[0] > 1 or config.zero:
        raise UserError(
            f"this training runs in one process, but the settings have workers {config.workers} and zero {config.zero}; set "
            "workers 1 and zero 0, or use `motiondirector train`."
        )
    own = short_dtype(str(foundation.dtype))
    if own != config.dtype:
        raise UserError(
            f"the settings ask for dtype {config.dtype}, but the foundation was loaded in {own}; load it in {config.dtype} "
            f"or set dtype {own}."
        )
    if foundation.quantization != config.quantize:
        raise UserError(
            f"the settings ask for quantize {config.quantize}, but the foundation was loaded with {foundation.quantization}; load "
            f"it with quantize={config.quantize!r} or set quantize {foundation.quantization}."
        )
