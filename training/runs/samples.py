"""Sample videos of a training run: rendered in parallel with the training, without blocking it."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from datasets.clip_sets.inverted import invert_clip
from datasets.clip_sets.latents import CachedClip
from infra.storage import Storage
from models.denoise import install, sample
from models.foundations.base import Bucket, Foundation
from models.generation import AdapterSettings, GenerationParams
from training.adapters import PathTensors
from training.loop.checkpoint import MemberState
from training.loop.finished import finished
from training.reporting.shown import harmless


def render(
    foundation: Foundation,
    tensors: PathTensors,
    prompts: Sequence[str],
    bucket: Bucket,
    seed: int,
    steps: tuple[float, float] | None = None,
) -> list[np.ndarray]:
    """Render one video [F, H, W, 3] uint8 per prompt with these adapters, at the foundation's defaults.

    Args:
        steps: the part of the denoising steps in which the adapters act; None: all.
    """
    adapters = install(foundation, tensors, AdapterSettings(steps=steps))
    return sample(
        foundation,
        [
            GenerationParams(prompt=prompt, seed=seed, **asdict(bucket), adapters=adapters)
            for prompt in prompts
        ],
    )


def write_samples(
    storage: Storage,
    step: int,
    prompts: Sequence[str],
    videos: Sequence[np.ndarray],
    fps: float,
    metadata: Mapping[str, str],
) -> list[str]:
    """Write `samples/<step>-<n>.mp4` and the contact sheet `samples/<step>.png`.

    Returns the keys, the sheet last.
    """
    from datasets.video.writing import contact_sheet, encode_mp4

    keys = []
    for number, (prompt, video) in enumerate(zip(prompts, videos, strict=True), 1):
        key = f"samples/{step:06d}-{number}.mp4"
        storage.put(key, encode_mp4(video, fps, metadata={**metadata, "prompt": prompt, "step": str(step)}))
        keys.append(key)
    sheet = io.BytesIO()
    contact_sheet(list(zip(prompts, videos, strict=True))).save(sheet, format="PNG")
    keys.append(f"samples/{step:06d}.png")
    storage.put(keys[-1], sheet.getvalue())
    return keys


class Renderer:
    """An actor that holds the foundation and renders samples at low CPU priority."""

    def __init__(self, source: str | None, device: str | None, loading: Mapping[str, Any]) -> None:
        os.nice(15)
        from models.load import load_foundation

        self.foundation = load_foundation(source, device=device, **loading)

    def render(
        self,
        storage: Storage,
        step: int,
        tensors: Any,
        prompts: Sequence[str],
        bucket: Bucket,
        seed: int,
        steps: tuple[float, float] | None,
        metadata: Mapping[str, str],
    ) -> tuple[int, list[str]]:
        """Render and write samples. Returns (step, keys)."""
        videos = render(self.foundation, tensors, prompts, bucket, seed, steps)
        return step, write_samples(storage, step, prompts, videos, self.foundation.defaults.fps, metadata)

    def invert(self, clip: Any) -> Any:
        """The noise of a reference (models/inversion.py)."""
        return invert_clip(self.foundation, clip)


class Rendering:
    """A job's samples: a `Renderer` actor renders those during the training, this process the last ones.

    On a GPU cluster the actor asks for one GPU; if the workers hold all GPUs, it starts when they are
    done. Meanwhile this process keeps its foundation on the CPU, because a worker may use the GPU it
    was on. The actor also renders the last samples if this process has no GPU on a GPU cluster, or no
    denoiser (ZeRO 3).

    A failed rendering is logged in one line; it never fails the training.
    """

    def __init__(
        self,
        task: Any,
        run: Storage,
        foundation: Foundation,
        prompts: Sequence[str],
        run_id: str,
        use_gpu: bool,
    ) -> None:
        config = task.config
        self.task, self.run, self.foundation, self.prompts = task, run, foundation, prompts
        self.bucket = Bucket(config.frames, config.height, config.width)
        self.metadata = {"concept": task.concept, "run": run_id, "seed": str(config.seed)}
        self.use_gpu = use_gpu
        self.actor: Any = None
        self.pending: dict[Any, tuple[int, Any]] = {}  # (step, actor) of each rendering in progress
        self.device = foundation.device
        foundation.to("cpu")

    def _start_actor(self) -> None:
        import ray

        if self.actor is None:
            remote = ray.remote(Renderer).options(num_cpus=0, num_gpus=1 if self.use_gpu else 0)
            device = None if self.use_gpu else "cpu"  # an actor that asks for no GPU still sees them all
            self.actor = remote.remote(self.task.foundation, device, self.task.config.loading)

    def submit(self, step: int, tensors: Any) -> None:
        """Submit samples of a step for rendering; returns at once."""
        self._start_actor()
        reference = self.actor.render.remote(
            self.run,
            step,
            tensors,
            self.prompts,
            self.bucket,
            self.task.config.seed,
            self.task.config.adapter_steps,
            self.metadata,
        )
        self.pending[reference] = step, self.actor

    def ready(self) -> list[tuple[int, list[str]]]:
        """Returns (step, keys) of each rendering that finished since the last call."""
        import ray

        if not self.pending:
            return []
        done, _ = ray.wait(list(self.pending), num_returns=len(self.pending), timeout=0)
        return self._rendered(done)

    def rest(self) -> list[tuple[int, list[str]]]:
        """Wait for all submitted samples. Returns (step, keys) of each."""
        return self._rendered(list(self.pending))

    def _rendered(self, references: Sequence[Any]) -> list[tuple[int, list[str]]]:
        import ray

        rendered = []
        for reference in references:
            step, actor = self.pending.pop(reference)
            with harmless(f"no samples of step {step}"):
                try:
                    rendered.append(ray.get(reference))
                except ray.exceptions.ActorDiedError:
                    if self.actor is actor:
                        self.actor = None  # the next sample starts a new actor
                    raise
        return rendered

    def final(self, state: MemberState) -> list[str]:
        """Render samples of the last step. Returns their keys; empty if rendering failed."""
        with harmless(f"no samples of step {state.step}"):
            return self._final(state.step, state)
        return []

    def _final(self, step: int, state: MemberState) -> list[str]:
        config = self.task.config
        tensors = finished(config, state.adapter)
        if not self._renders_here:
            self.submit(step, tensors)
            return next((keys for _, keys in self._rendered([list(self.pending)[-1]])), [])
        self.foundation.to(self.device)
        videos = render(
            self.foundation, tensors, self.prompts, self.bucket, config.seed, config.adapter_steps
        )
        fps = self.foundation.defaults.fps
        return write_samples(self.run, step, self.prompts, videos, fps, self.metadata)

    @property
    def _renders_here(self) -> bool:
        """Whether this process renders after the training: with the whole model, on a GPU if the cluster has any."""
        import torch

        return self.foundation.has_denoiser and (torch.cuda.is_available() or not self.use_gpu)

    def invert(self, clip: CachedClip) -> Tensor:
        """The noise of a reference, after the training: made where `final` renders."""
        if self._renders_here:
            self.foundation.to(self.device)
            return invert_clip(self.foundation, clip)
        import ray

        self._start_actor()
        return ray.get(self.actor.invert.remote(clip))
