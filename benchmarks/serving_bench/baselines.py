"""Baselines A to E, one class each: stock diffusers and PEFT serving many LoRAs.

A model class with diffusers' LoRA loader (Wan) uses its pipeline's methods. `UNet3DConditionModel` has no loader and uses
PEFT, whose format `models.adapters.file` writes. Every baseline serves a request from its adapter's file (or preloaded weights) to
an mp4, as the engine does. All but E serve one request at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils.hotswap import hotswap_adapter, prepare_model_for_compiled_hotswap

from benchmarks.serving_bench.setup import Job, Setup, Shape
from datasets.video.writing import encode_mp4
from models.adapters.file import read_adapter
from models.load import load_foundation

Videos = dict[str, tuple[np.ndarray, bytes]]  # job id -> frames uint8 [F, H, W, 3], mp4


class Stock:
    """A stock pipeline with its adapters. Subclasses define how an adapter is applied.

    Args:
        adapters: how many of the setup's adapters the workload uses.
    """

    what = ""
    batch = 1  # requests per pipeline call

    def __init__(self, setup: Setup, adapters: int) -> None:
        self.setup, self.stored = setup, setup.adapters[:adapters]
        self.pipe: Any = stock_pipeline(setup)
        self.pipe.set_progress_bar_config(disable=True)
        self.loader = hasattr(self.pipe, "load_lora_weights") and setup.foundation.family == "wan"
        self.module = getattr(self.pipe, setup.foundation.denoiser_name)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            self.prepare()

    def prepare(self) -> None:
        """Prepare for the first request; timed separately."""

    def apply(self, adapter: int | None) -> None:
        """Make the next pipeline call use this adapter."""
        raise NotImplementedError

    def remove(self) -> None:
        """Clean up after the call."""

    def peft_name(self, adapter: int) -> str:
        return f"a{adapter}"

    def preload(self) -> None:
        """Load every adapter of the workload, by name."""
        for index, stored in enumerate(self.stored):
            if self.loader:
                self.pipe.load_lora_weights(stored.folder, adapter_name=self.peft_name(index))
            elif index == 0:
                self.wrapped = PeftModel.from_pretrained(
                    self.module, stored.folder, adapter_name=self.peft_name(0)
                )
            else:
                self.wrapped.load_adapter(stored.folder, adapter_name=self.peft_name(index))

    def select(self, adapter: int) -> None:
        if self.loader:
            self.pipe.set_adapters([self.peft_name(adapter)])
        else:
            self.wrapped.set_adapter(self.peft_name(adapter))

    @torch.no_grad()
    def make(self, jobs: Sequence[Job], shape: Shape) -> Videos:
        """Run one pipeline call."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns at each change that is timed here
            assert len(jobs) <= self.batch
            self.apply(jobs[0].adapter)
            try:
                frames_BFHWC = self.call(jobs, shape)
            finally:
                self.remove()
        fps = self.setup.foundation.defaults.fps
        return {
            job.id: (frames, encode_mp4(frames, fps)) for job, frames in zip(jobs, frames_BFHWC, strict=True)
        }

    def call(self, jobs: Sequence[Job], shape: Shape) -> np.ndarray:
        noise = torch.cat([self.setup.noise(job, shape) for job in jobs])
        made = self.pipe(
            [job.prompt for job in jobs],
            negative_prompt=[""] * len(jobs),
            height=shape.bucket.height,
            width=shape.bucket.width,
            num_frames=shape.bucket.frames,
            num_inference_steps=shape.steps,
            guidance_scale=shape.guidance_scale,
            latents=noise.to(self.setup.foundation.device),
            output_type="np",
        ).frames
        return (np.asarray(made) * 255).round().astype(np.uint8)


class LoadUnload(Stock):
    """A: loads the adapter's file for the request and unloads it afterwards."""

    what = "load + unload per request"

    def apply(self, adapter):
        self.wrapped = None
        if adapter is None:
            return
        folder = self.stored[adapter].folder
        if self.loader:
            self.pipe.load_lora_weights(folder)
        else:
            self.wrapped = PeftModel.from_pretrained(self.module, folder)

    def remove(self):
        if self.loader:
            self.pipe.unload_lora_weights()
        elif self.wrapped is not None:
            self.wrapped.unload()


class SetAdapters(Stock):
    """B: loads all adapters and selects one per request."""

    what = "set_adapters per request"

    def prepare(self):
        self.preload()

    def apply(self, adapter):
        self.select(adapter)


class FuseUnfuse(Stock):
    """C: loads all adapters, merges one into the weights for the request and unmerges it afterwards."""

    what = "fuse + unfuse per request"

    def prepare(self):
        self.preload()

    def apply(self, adapter):
        self.select(adapter)
        if self.loader:
            self.pipe.fuse_lora(adapter_names=[self.peft_name(adapter)])
        else:
            self.wrapped.merge_adapter([self.peft_name(adapter)])

    def remove(self):
        if self.loader:
            self.pipe.unfuse_lora()
        else:
            self.wrapped.unmerge_adapter()


class Hotswap(Stock):
    """D: swaps the request's file into one adapter slot of the largest rank."""

    what = "hotswap=True per request"

    def prepare(self):
        first = self.stored[0].folder
        if self.loader:
            self.pipe.enable_lora_hotswap(target_rank=self.setup.rank, check_compiled="ignore")
            self.pipe.load_lora_weights(first, adapter_name="one")
        else:
            self.wrapped = PeftModel.from_pretrained(self.module, first, adapter_name="one")
            prepare_model_for_compiled_hotswap(
                self.wrapped, target_rank=self.setup.rank, check_compiled="ignore"
            )

    def apply(self, adapter):
        folder = self.stored[adapter].folder
        if self.loader:
            self.pipe.load_lora_weights(folder, hotswap=True, adapter_name="one")
        else:
            hotswap_adapter(self.wrapped, str(folder), "one")


class AdapterNames(Stock):
    """E: PEFT's mixed batches (`adapter_names` per sample), in batches of 8 that start and end together.

    Hand-written around the stock pipeline, because diffusers does not pass on `adapter_names`.
    """

    what = "PEFT adapter_names, static batches of 8"
    batch = 8

    def prepare(self):
        foundation = self.setup.foundation
        for index, stored in enumerate(self.stored):
            config = LoraConfig(
                r=stored.rank,
                lora_alpha=stored.rank,
                target_modules=list(foundation.targets["temporal"]),
                init_lora_weights=False,
            )
            if index == 0:
                self.wrapped = get_peft_model(self.module, config, adapter_name=self.peft_name(0))
            else:
                self.wrapped.add_adapter(self.peft_name(index), config)
            state = {}
            for name, (a, b) in read_adapter(stored.folder, foundation).tensors.items():
                state[f"base_model.model.{name}.lora_A.weight"] = a
                state[f"base_model.model.{name}.lora_B.weight"] = b
            set_peft_model_state_dict(self.wrapped, state, adapter_name=self.peft_name(index))
        self.wrapped.eval()

    def apply(self, adapter):
        pass

    def call(self, jobs, shape):
        names = [self.peft_name(job.adapter) for job in jobs]
        if self.setup.foundation.family == "unet3d":
            names = (
                names * 2 if shape.guidance_scale > 1 else names
            )  # the pipeline stacks both rows of guidance
        with self.wrapped.base_model._enable_peft_forward_hooks(adapter_names=names):
            return super().call(jobs, shape)


BASELINES: dict[str, type[Stock]] = {
    "A": LoadUnload,
    "B": SetAdapters,
    "C": FuseUnfuse,
    "D": Hotswap,
    "E": AdapterNames,
}


def stock_pipeline(setup: Setup) -> Any:
    """The model class's pipeline as diffusers loads it, with our side's device and dtypes."""
    foundation = load_foundation(setup.source, device=setup.foundation.device)
    if foundation.family != "unet3d":
        return foundation.pipeline
    for module in foundation.denoiser.modules():  # undo: our loader lets temporal layers skip single frames
        module.__dict__.pop("forward", None)
    return foundation.pipeline
