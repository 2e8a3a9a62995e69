"""Small metrics with known results, and adapters that change a tiny model's videos."""

import numpy as np
from sample_adapters import random_adapter

from datasets.sprites.motions import NOVEL
from datasets.sprites.render import render_clip
from datasets.sprites.world import appearances
from evaluation.metric import Reference, Score

FOUNDATION = "tiny-random:unet3d"


class Brightness:
    """The mean of all pixels, 0 to 1."""

    name, title, better, range = "brightness", "brightness", "higher", (0.0, 1.0)

    def __init__(self):
        self.calls = 0

    def __call__(self, cases):
        self.calls += 1
        return Score(self.name, tuple(float(case.video_FHWC.mean()) / 255 for case in cases))


class Spread:
    """The spread of a prompt's videos: one value per prompt, not per case."""

    name, title, better, range = "spread", "spread [of seeds]", "lower", (0.0, 255.0)

    def __call__(self, cases):
        prompts = dict.fromkeys(case.prompt for case in cases)
        groups = [np.stack([c.video_FHWC for c in cases if c.prompt == prompt]) for prompt in prompts]
        return Score(self.name, tuple(float(group.std(0).mean()) for group in groups))


class Unmeasurable:
    """A metric without a value for any case."""

    name, title, better, range = "nothing", "nothing", "higher", (0.0, 1.0)

    def __call__(self, cases):
        return Score(self.name, (None,) * len(cases))


def adapters_of(foundation, seed=0, paths=("temporal",), strength=0.3):
    return {
        path: random_adapter(foundation, path, rank=2, seed=seed, scale=strength).tensors for path in paths
    }


def sprite_references(count=2, frames=8, size=64, motion="orbit"):
    return [
        Reference(
            render_clip(scene, NOVEL[motion], frames, size, seed),
            f"a {scene.sprite.colour} {scene.sprite.shape} orbits on a {scene.background.colour} background",
        )
        for seed, scene in enumerate(appearances(count, 5))
    ]
