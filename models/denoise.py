"""The state of one request, one denoising step of a batch, and sampling to the end.

Training samples, evaluation, `generate` and the service all use `denoise_step`, so they give the same
frames. A request's noise comes from its seed and its noise prior, and no operation mixes the samples of a batch. Neighbours
in the batch change only the order in which sums are rounded: in float32 at most one grey level
(docs/serving.md has the limits).

With `outside: base` a request is denoised twice, with its adapters and without, from the same noise. After
each step the latents outside the regions are replaced by those of the base model.

Shapes: latents [C, f, h, w] per request; B rows per forward (one per request, two with classifier-free
guidance, twice as many with `outside`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra.errors import InvalidInput
from models.foundations.base import Foundation
from models.generation import AdapterSettings, GenerationParams, InputImage, InvertedNoise, SlotUse
from models.inversion import mix
from models.lora.bank import rank_for
from models.lora.routing import PATHS, LoraPath, Mix, Routing
from models.lora.slots import LayerTensors
from models.regions.layers import RegionWeights, batch_coverage
from models.sizes import Bucket

# latents [B, C, f, h, w], timesteps [B], text [B, L, D], routing -> the denoiser's answer
Predict = Callable[[Tensor, Tensor, Tensor, Routing | None], Tensor]


class Denoising:
    """One request between noise and finished latents. Made by `start`, advanced by `denoise_step`.

    Args:
        texts: embeddings [L, D] of the negative prompt and the prompt, for a foundation whose text encoder is not loaded;
            None: those of the request.
    """

    def __init__(
        self, foundation: Foundation, params: GenerationParams, texts: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.params = params.resolved(foundation.defaults)
        self.bucket = self.params.bucket
        foundation.check_bucket(self.bucket)
        self.adapters = tuple(use for use in self.params.adapters if isinstance(use, SlotUse))
        assert len(self.adapters) == len(self.params.adapters), "adapters must be in slots (`in_slots`)"
        self.params.check_outside()
        self.regions: RegionWeights | None = None
        if any(use.region is not None for use in self.adapters):
            self.regions = RegionWeights(foundation, self.bucket, self.adapters)
        self._embeds_guidance, self._noise_process = foundation.embeds_guidance, foundation.noise
        self.condition_1Cfhw: Tensor | None = (
            None  # channels after the latents', of a model that takes an image
        )
        takes_image = self._takes_image(foundation)
        self.text_RLD = self._encode_text(foundation, texts)
        if takes_image:
            assert isinstance(self.params.image, InputImage)
            self.condition_1Cfhw, self.text_RLD = foundation.condition(
                self.params.image, self.text_RLD, self.bucket
            )
        self._set_scheduler(foundation)
        self.timesteps: Tensor = self.scheduler.timesteps
        self.index = 0
        self.x0_1Cfhw: Tensor | None = None  # the last step's estimate of the clean latents
        # Schedulers that add noise go on with the generator of the initial noise, as the stock pipelines do.
        self.generator = torch.Generator("cpu").manual_seed(self.params.seed)
        noise_Cfhw = initial_noise(foundation, self.params, self.bucket, self.generator)
        self.latents_1Cfhw = noise_Cfhw.unsqueeze(0).to(foundation.device) * float(
            getattr(self.scheduler, "init_noise_sigma", 1.0)
        )
        self.base: Denoising | None = None
        if self.params.follows_base:
            self.base = self._without_adapters(foundation)

    def _takes_image(self, foundation: Foundation) -> bool:
        """Whether the video begins with an image. Raises InvalidInput if the model and the request disagree."""
        if (self.params.image is not None) != foundation.takes_image:
            needs = (
                "makes videos that begin with an image, and none was given; give one (--image), or use a text-to-video model"
                if foundation.takes_image
                else "makes videos from text alone, but an image was given; leave it out, or use an image-to-video model"
            )
            raise InvalidInput(f"{foundation.name} {needs}.", code="invalid_image")
        return foundation.takes_image

    def _encode_text(self, foundation: Foundation, texts: tuple[Tensor, Tensor] | None) -> Tensor:
        """The embeddings of the prompts: two with classifier-free guidance."""
        params = self.params
        if self._embeds_guidance and params.negative_prompt:
            raise InvalidInput(
                f"{foundation.name} takes its guidance as an input and reads no negative prompt, but one was given; leave "
                "negative_prompt out.",
                code="invalid_prompt",
            )
        first = 0 if self.guided else 1
        if texts is None:
            prompts = (params.negative_prompt, params.prompt)
            text_RLD = torch.cat([foundation.encode_text([prompt]) for prompt in prompts[first:]])
        else:
            text_RLD = torch.stack(texts[first:]).to(foundation.device)
        return (
            foundation.with_guidance(text_RLD, params.guidance_scale) if self._embeds_guidance else text_RLD
        )

    def _without_adapters(self, foundation: Foundation) -> Denoising:
        """The same request and noise, without adapters."""
        base = copy.copy(self)
        base.adapters, base.regions = (), None
        base._set_scheduler(foundation)
        base.generator = self.generator.clone_state()
        return base

    def _set_scheduler(self, foundation: Foundation) -> None:
        """A new scheduler at its first step."""
        self.scheduler: Any = foundation.make_scheduler(self.params.scheduler)
        foundation.set_timesteps(self.scheduler, self.params.steps, self.bucket)
        self._draws = "generator" in inspect.signature(self.scheduler.step).parameters

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance is on (scale above 1), which costs a second row."""
        return self.params.guidance_scale > 1.0 and not self._embeds_guidance

    @property
    def done(self) -> bool:
        return self.index >= len(self.timesteps)

    @property
    def progress(self) -> float:
        """Share of the steps done, 0 to 1."""
        return self.index / len(self.timesteps)

    def adapters_now(self, path: LoraPath) -> list[SlotUse]:
        """The adapters of a path that act in this step."""
        return [use for use in self.adapters if use.path == path and use.scale_at(self.progress)]

    def begin_at(self, step: int, x0_Cfhw: Tensor) -> None:
        """Leave out the first steps: begin at step `step` (0-based) from these clean latents, noised to its level (SDEdit,
        arXiv 2108.01073), before any step was taken."""
        assert self.index == 0, "already begun"
        t, x0 = self.timesteps[step], x0_Cfhw.unsqueeze(0).to(self.latents_1Cfhw)
        sigma = float(getattr(self.scheduler, "init_noise_sigma", 1.0))
        noise = self.latents_1Cfhw / sigma
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(step)
        if hasattr(self.scheduler, "add_noise"):
            self.latents_1Cfhw = self.scheduler.add_noise(x0, noise, t.reshape(1))
        else:  # flow matching
            self.latents_1Cfhw = self._noise_process.add(x0, noise, t.reshape(1))
        self.index = step

    def advance(self, foundation: Foundation, answer: Tensor) -> None:
        """Take the step for which this is the denoiser's answer, guidance included."""
        t, before = self.timesteps[self.index], self.latents_1Cfhw
        draws = {"generator": self.generator} if self._draws else {}
        output = self.scheduler.step(answer, t, before, **draws)
        self.latents_1Cfhw = output.prev_sample
        self.index += 1
        self.x0_1Cfhw = foundation.clean_estimate(self.scheduler, output, before, answer)

    def follow(self, base: Denoising) -> None:
        """Outside the regions, replace the latents by the base model's."""
        assert self.regions is not None
        assert self.index == base.index, "both take every step"
        inside = self.regions.union_11fhw
        self.latents_1Cfhw = torch.lerp(base.latents_1Cfhw, self.latents_1Cfhw, inside)
        if self.x0_1Cfhw is not None and base.x0_1Cfhw is not None:
            self.x0_1Cfhw = torch.lerp(base.x0_1Cfhw, self.x0_1Cfhw, inside)


def initial_noise(
    foundation: Foundation, params: GenerationParams, bucket: Bucket, generator: torch.Generator
) -> Tensor:
    """A video's noise, float32 [C, f, h, w] on the CPU: drawn, and mixed with its noise prior if it has one.

    Args:
        generator: seeded for this video.

    Raises:
        InvalidInput: "noise_prior_size" for a prior of another shape.
    """
    noise, shape = foundation.draw_noise(bucket, generator), foundation.latent_shape(bucket)
    prior = params.noise_prior
    if prior is None:
        return noise
    assert isinstance(prior, InvertedNoise), "a noise prior acts with its latents (`in_slots`)"
    if tuple(prior.noise_Cfhw.shape) != shape:
        raise InvalidInput(
            f"the noise prior has latents of {tuple(prior.noise_Cfhw.shape)}, the video has {shape}; give a prior of the "
            "video's model and size.",
            code="noise_prior_size",
        )
    return mix(noise, prior.noise_Cfhw.float().cpu(), prior.weight)


def start(foundation: Foundation, params: GenerationParams) -> Denoising:
    """Encode the prompt, draw the noise, set the scheduler.

    Raises InvalidInput for an unsupported size, and for a noise prior of another one.
    """
    return Denoising(foundation, params)


@torch.no_grad()
def denoise_step(foundation: Foundation, batch: Sequence[Denoising], predict: Predict | None = None) -> None:
    """Advance every request by one step in one forward.

    Requests may differ in timestep, scheduler, guidance, prompt, seed and adapters. They must share a bucket
    and must not be done.

    Args:
        predict: the forward; by default the foundation's `predict`.
    """
    assert batch
    assert all(not one.done for one in batch), "a finished request cannot step"
    assert len({one.bucket for one in batch}) == 1, "all requests of a forward must share a bucket"
    batch = [each for one in batch for each in (one.base, one) if each is not None]
    rows = [one for one in batch for _ in range(2 if one.guided else 1)]
    inputs, times = [], []
    for one in batch:
        t = one.timesteps[one.index]
        scaled = one.latents_1Cfhw
        if hasattr(one.scheduler, "scale_model_input"):  # flow matching schedulers lack it
            scaled = one.scheduler.scale_model_input(scaled, t)
        if one.condition_1Cfhw is not None:
            scaled = torch.cat([scaled, one.condition_1Cfhw], dim=1)
        inputs.append(scaled.expand(2, -1, -1, -1, -1) if one.guided else scaled)
        times.append(t.expand(2 if one.guided else 1))
    predicted = (predict or foundation.predict)(
        torch.cat(inputs),
        torch.cat(times),
        torch.cat([one.text_RLD for one in batch]),
        routing_of(foundation, rows),
    ).float()
    for one, answer in zip(batch, predicted.split([2 if one.guided else 1 for one in batch]), strict=True):
        if one.guided:
            uncond, cond = answer.chunk(2)
            answer = uncond + one.params.guidance_scale * (cond - uncond)
        one.advance(foundation, answer)
        if one.base is not None:
            one.follow(one.base)


def routing_of(foundation: Foundation, rows: Sequence[Denoising]) -> Routing | None:
    """The routing of a batch's rows, or None if no row uses an adapter, which saves the routing's cost."""
    mixes: dict[LoraPath, Mix | None] = {}
    for path in PATHS:
        uses = [row.adapters_now(path) for row in rows]
        mixes[path] = (
            Mix.of(
                [[use.slot for use in now] for now in uses],
                [[use.scale_at(row.progress) for use in now] for row, now in zip(rows, uses, strict=True)],
                device=foundation.device,
                coverage=batch_coverage(
                    path, [(row.regions, now) for row, now in zip(rows, uses, strict=True)]
                ),
            )
            if any(uses)
            else None
        )
    if mixes["spatial"] is None and mixes["temporal"] is None:
        return None
    return Routing(spatial=mixes["spatial"], temporal=mixes["temporal"])


def install(
    foundation: Foundation, adapters: Mapping[LoraPath, LayerTensors], settings: AdapterSettings | None = None
) -> tuple[SlotUse, ...]:
    """Put adapters, if any, into a new bank (slot 1 of each path) and return how requests use them.

    Args:
        settings: how the adapters act; by default as trained.
    """
    if not adapters:
        return ()
    bank = foundation.add_bank(dict.fromkeys(adapters, 1), rank_for(adapters.values()))
    for path, layers in adapters.items():
        bank.write(path, 1, layers)
    acts = (settings or AdapterSettings()).settings
    return tuple(SlotUse(path=path, slot=1, **acts) for path in adapters)


def finish(foundation: Foundation, one: Denoising) -> np.ndarray:
    """Decode a finished request: uint8 frames [F, H, W, 3]."""
    return foundation.decode(one.latents_1Cfhw)[0].numpy()


def denoise(
    foundation: Foundation,
    states: Sequence[Denoising],
    *,
    batch_size: int,
    on_step: Callable[[int, int], None] | None = None,
) -> None:
    """Take every request from where it stands to its last step. Arguments as in `sample`."""
    total, taken = sum(len(one.timesteps) - one.index for one in states), 0
    for bucket in dict.fromkeys(one.bucket for one in states):
        waiting = [one for one in states if one.bucket == bucket]
        for first in range(0, len(waiting), batch_size):
            batch = waiting[first : first + batch_size]
            while batch:
                denoise_step(foundation, batch)
                taken += len(batch)
                if on_step is not None:
                    on_step(taken, total)
                batch = [one for one in batch if not one.done]


def sample(
    foundation: Foundation,
    requests: Sequence[GenerationParams],
    *,
    batch_size: int = 4,
    on_step: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """Generate every request to the end; return uint8 frames [F, H, W, 3] for each, in the given order.

    Args:
        batch_size: requests per forward.
        on_step: called with (steps done, total steps) after each denoising step.
    """
    states = [start(foundation, request) for request in requests]
    denoise(foundation, states, batch_size=batch_size, on_step=on_step)
    return [finish(foundation, one) for one in states]
