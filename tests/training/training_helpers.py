"""Clips of random latents and small engines for the training tests."""

from dataclasses import dataclass

import torch

from models.foundation import Bucket
from training.config import make_config
from training.engine import PlainEngine, make_optimizer
from training.loop import bank_options
from training.step import DualStep

BUCKETS = {"unet3d": Bucket(4, 32, 32), "wan": Bucket(5, 32, 32)}
SMALL = {"rank": 4, "steps": 3, "learning_rate": 1e-2}


@dataclass(frozen=True)
class RandomClip:
    latents_CFHW: torch.Tensor
    frame_latents_FC1HW: torch.Tensor
    text_LD: torch.Tensor
    empty_text_LD: torch.Tensor


def random_clips(foundation, count, seed=0):
    bucket = BUCKETS[foundation.family]
    g = torch.Generator().manual_seed(seed)
    shape = foundation.latent_shape(bucket)
    clips = []
    empty = foundation.encode_text([""])[0].float()
    for number in range(count):
        latents = torch.randn(shape, generator=g)
        if foundation.family == "wan":  # single frames are not slices of the clip's compressed latents
            frames = torch.randn(bucket.frames, shape[0], 1, *shape[2:], generator=g)
        else:
            frames = latents.transpose(0, 1).unsqueeze(2).contiguous()
        text = foundation.encode_text([f"clip {number}"])[0].float()
        clips.append(RandomClip(latents, frames, text, empty))
    return clips


def plain_engine(foundation, clips=1, **settings):
    config = make_config({**SMALL, **settings})
    bank = foundation.add_bank(**bank_options(config, clips))
    return PlainEngine(DualStep(foundation, config), make_optimizer(bank, config, clips))


def watch_deepspeed(deepspeed):
    """Returns a list that collects the number of base parameters of each model given to DeepSpeed."""
    handed, initialize = [], deepspeed.initialize

    def watched(**options):
        base = [p for name, p in options["model"].named_parameters() if "denoiser." in name]
        handed.append(sum(parameter.numel() for parameter in base))
        return initialize(**options)

    deepspeed.initialize = watched
    return handed
