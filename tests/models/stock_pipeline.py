"""What our loop and the stock pipeline make of the same request, the stock one with an adapter that it loads itself."""

import inspect
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import diffusers
import numpy as np
import sample_adapters
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file

from models.adapters.file import WEIGHTS_FILE, save_adapter
from models.denoise import denoise_step, finish, install, start
from models.generation import GenerationParams
from models.load import load_foundation


def tiny(family):
    return load_foundation(f"tiny-random:{family}", device="cpu", dtype=torch.float32)


def random_adapter(foundation, path="temporal", rank=4, seed=0, std=0.2):
    about = {"concept": "spin"}
    return sample_adapters.random_adapter(foundation, path, rank=rank, seed=seed, scale=std, metadata=about)


def saved(foundation, folder, **about):
    """A random adapter and its folder, for a stock loader."""
    adapter = random_adapter(foundation, **about)
    save_adapter(folder, adapter, foundation)
    return adapter


def with_adapter(foundation, adapter, **about):
    """A request that uses an adapter, which is put into a new bank."""
    return GenerationParams(**about, adapters=install(foundation, {adapter.path: adapter.tensors}))


@contextmanager
def decoded(vae):
    """Collects what the VAE is given to decode: the latents of a video in the VAE's own scale."""
    given, decode = [], vae.decode

    def watched(latents, *rest, **more):
        given.append(latents.detach().float().clone())
        return decode(latents, *rest, **more)

    vae.decode = watched
    try:
        yield given
    finally:
        del vae.decode


def denoised(foundation, requests):
    """The requests, made in one batch to their last step."""
    states = [start(foundation, request) for request in requests]
    while running := [one for one in states if not one.done]:
        denoise_step(foundation, running)
    return states


def our_latents(foundation, requests):
    """The finished latents [1, C, f, h, w] of each request."""
    return [one.latents_1Cfhw for one in denoised(foundation, requests)]


def ours(foundation, requests):
    """(latents as the VAE is given them, frames [F, H, W, 3] in 0..1) of each request."""
    made = []
    for one in denoised(foundation, requests):
        with decoded(foundation.pipeline.vae) as given:
            frames = finish(foundation, one)
        made.append((torch.cat(given), frames / 255.0))
    return made


def stock_output(pipeline, foundation, request, output_type, **more):
    """What the stock pipeline returns for a request."""
    wanted = request.resolved(foundation.defaults)
    pipeline.set_progress_bar_config(disable=True)
    known = inspect.signature(pipeline.__call__).parameters
    if "frame_rate" in known:
        more["frame_rate"] = foundation.defaults.fps
    if "fps" in known:
        more["fps"] = foundation.defaults.fps
    if "guidance_scale" in known:
        more["guidance_scale"] = wanted.guidance_scale
    else:
        pipeline.guider = pipeline.guider.new(guidance_scale=wanted.guidance_scale)
    return pipeline(
        prompt=wanted.prompt,
        negative_prompt=wanted.negative_prompt,
        num_frames=wanted.frames,
        height=wanted.height,
        width=wanted.width,
        num_inference_steps=wanted.steps,
        generator=torch.Generator("cpu").manual_seed(wanted.seed),
        output_type=output_type,
        **more,
    ).frames


def stock_latents(pipeline, foundation, request, **more):
    """What the stock pipeline returns for `output_type="latent"`."""
    return stock_output(pipeline, foundation, request, "latent", **more)


class Stock:
    """A stock pipeline, read from the checkpoint's folder."""

    def __init__(self, foundation):
        kind = getattr(diffusers, foundation.spec.pipeline_class)
        module = sys.modules[kind.__module__]
        if not hasattr(
            module, "ftfy"
        ):  # some do not work without this package; it leaves our prompts as they are
            module.ftfy = SimpleNamespace(fix_text=lambda text: text)
        self.foundation = foundation
        self.pipeline = kind.from_pretrained(foundation.folder, local_files_only=True)

    @property
    def loader(self):
        """What reads an adapter: the pipeline, its denoiser, or PEFT."""
        one = getattr(self.pipeline, self.foundation.denoiser_name)
        if not hasattr(one, "load_lora_adapter"):
            return "peft"  # though `TextToVideoSDPipeline` has a method that would call it
        return "pipeline" if hasattr(self.pipeline, "load_lora_weights") else "denoiser"

    def load(self, folder):
        """Load an adapter as a user would."""
        name = self.foundation.denoiser_name
        if self.loader == "peft":
            setattr(self.pipeline, name, PeftModel.from_pretrained(getattr(self.pipeline, name), str(folder)))
        elif self.loader == "denoiser":
            getattr(self.pipeline, name).load_lora_adapter(str(folder), weight_name=WEIGHTS_FILE)
        elif len(self.foundation.denoisers) == 1:
            self.pipeline.load_lora_weights(str(folder), weight_name=WEIGHTS_FILE)
        else:  # a file for each, as users have them
            prefix, keys = self.foundation.adapter_key_prefix, load_file(folder / WEIGHTS_FILE)
            for part, (component, _) in self.foundation.denoisers.items():
                own = f"{prefix}{part}"
                found = {
                    prefix + key.removeprefix(own): one for key, one in keys.items() if key.startswith(own)
                }
                second = component != name
                self.pipeline.load_lora_weights(found, **{f"load_into_{component}": True} if second else {})
        return self

    def save(self, folder):
        """Save the loaded adapter with the tool that loaded it; return what a user would give us."""
        component = self.foundation.denoiser_name
        denoiser = getattr(self.pipeline, component)
        if self.loader == "peft":
            denoiser.save_pretrained(folder)
            return folder
        if self.loader == "denoiser":
            denoiser.save_lora_adapter(folder, adapter_name="default_0")
        else:
            layers = get_peft_model_state_dict(denoiser, adapter_name="default_0")
            type(self.pipeline).save_lora_weights(folder, **{f"{component}_lora_layers": layers})
        return folder / "pytorch_lora_weights.safetensors"

    def merged(self, folder):
        """With the denoisers of a folder that `export_merged` wrote."""
        several = len(self.foundation.denoisers) > 1
        for component, _ in self.foundation.denoisers.values():
            kind = type(getattr(self.pipeline, component))
            setattr(self.pipeline, component, kind.from_pretrained(folder / component if several else folder))
        return self

    def __call__(self, request):
        """What `ours` gives for one request."""
        with decoded(self.pipeline.vae) as given:
            frames = stock_output(self.pipeline, self.foundation, request, "np")
        return torch.cat(given), np.asarray(frames[0])
