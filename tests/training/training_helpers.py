"""Clips of random latents and small engines for the training tests."""

from dataclasses import asdict, dataclass, replace

import torch

from models.foundations.base import Bucket
from models.regions.layers import LatentCoverage, latent_coverage
from models.regions.region import Region
from training.config import make_config
from training.loop.checkpoint import MOMENTS
from training.loop.engine import Engine, make_optimizer
from training.loop.member import Member, bank_options
from training.loop.pack_of_one import PackOfOne
from training.loop.step import DualStep

BUCKETS = {"unet3d": Bucket(4, 32, 32), "wan": Bucket(5, 32, 32), "wan-image": Bucket(5, 32, 32)}
SMALL = {"rank": 4, "steps": 3, "learning_rate": 1e-2}


@dataclass(frozen=True)
class RandomClip:
    latents_CFHW: torch.Tensor
    frame_latents_FC1HW: torch.Tensor
    text_LD: torch.Tensor
    empty_text_LD: torch.Tensor
    look_texts: tuple = ()
    coverage: LatentCoverage | None = None


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


def masked(clips, foundation, box=(0.0, 0.0, 0.5, 1.0)):
    """The same clips with a mask: a box in fractions, with a sharp edge."""
    region = Region(box=box, feather=0.0)
    coverage = latent_coverage(region, foundation, BUCKETS[foundation.family])
    return [replace(clip, coverage=coverage) for clip in clips]


def solo_config(foundation, **settings):
    return make_config({**SMALL, **asdict(BUCKETS[foundation.family]), **settings})


def solo(foundation, clips, state=None, make_engine=Engine, **settings):
    """A pack of one, not yet entered: `with solo(foundation, random_clips(foundation, 2), steps=4) as run`."""
    config = solo_config(foundation, **settings)
    return PackOfOne(foundation, Member("c", "c", config, clips), state, make_engine=make_engine)


def plain_engine(foundation, clips=1, **settings):
    """An engine without a pack, to look at one forward."""
    config = solo_config(foundation, **settings)
    bank = foundation.add_bank(**bank_options(config, clips))
    return Engine(DualStep(foundation, config), make_optimizer(bank, config, clips))


def parameters(run):
    """A copy of everything that trains, by its key in a state, without the moments."""
    return {k: t for k, t in run.state("c").tensors.items() if k.split("/")[-1] not in MOMENTS}


def save(run, folder, zero=0, workers=1):
    """A checkpoint of a run, as its first worker writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    replace(run.state("c"), extra={"zero": zero, "workers": workers}).write(folder)


def watch_deepspeed(deepspeed):
    """Returns a list that collects the number of base parameters of each model given to DeepSpeed."""
    handed, initialize = [], deepspeed.initialize

    def watched(**options):
        base = [p for name, p in options["model"].named_parameters() if "denoiser." in name]
        handed.append(sum(parameter.numel() for parameter in base))
        return initialize(**options)

    deepspeed.initialize = watched
    return handed
