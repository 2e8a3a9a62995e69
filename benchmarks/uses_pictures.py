"""Makes the pictures of docs/uses.md: one sheet for each use of a motion, with the concepts of the library.

    python benchmarks/uses_pictures.py --to docs/images/uses        # some minutes on two cores

The appearances of the mix and of the animated image are trained first, in runs/uses-pictures; a second run reuses them.
The line over the frames is the object's measured path.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `training` would be the script here

import numpy as np
from PIL import Image

import motiondirector as md
from datasets.sprites.motion_sources import motion_named
from datasets.sprites.render import render_clip
from datasets.sprites.world import Background, Scene, Sprite
from datasets.video.writing import contact_sheet
from evaluation.pictures import traced
from infra.errors import NotFound
from motiondirector.library.library import add_library

WORK = Path("runs/uses-pictures")
REGISTRY = str(WORK / "registry")
HEART = "a green heart on a beige background"
STRIPED = Scene(Sprite("moon", "orange", "striped"), Background("sky", "gradient"))  # the look of the image
SEED = 7

Rows = list[tuple[str, np.ndarray]]


def made(label: str, prompt: str, **options: object) -> tuple[str, np.ndarray]:
    """A row of a sheet: one generated video with its path."""
    video = md.generate(prompt, md.GenerateConfig(seed=SEED, **options), registry=REGISTRY)  # type: ignore[arg-type]
    return label, traced(video.frames_FHWC)


def appearance() -> Path:
    """Learn the appearance of an image as the concept `moon`; the image."""
    picture_HWC = render_clip(STRIPED, motion_named("still"), frames=2, size=64, seed=3)[0]
    image = WORK / "moon.png"
    Image.fromarray(picture_HWC).save(image)
    try:
        md.open_registry(REGISTRY).resolve("moon")
    except NotFound:
        md.train("moon", image=image, caption="a moon", registry=REGISTRY, run_dir=str(WORK / "moon"))
    return image


def strength() -> Rows:
    return [made(f"--scale {scale:g}", HEART, concept="arc", scale=scale) for scale in (0.25, 0.5, 1.0, 1.25)]


def steps() -> Rows:
    return [made(f"--until {until:g}", "a heart", concept="spiral", until=until) for until in (0.2, 0.5, 1.0)]


def remix() -> Rows:
    prompts = (HEART, "a blue ring on a beige checkerboard", "a small yellow star on a maroon gradient")
    return [made(prompt, prompt, concept="figure-eight") for prompt in prompts]


def combine() -> Rows:
    look = "a white cross on a teal checkerboard"
    return [
        made("arc", look, concept="arc"),
        made("tilt", look, concept="tilt"),
        made("both: --lora arc --lora tilt", look, lora=["arc", "tilt"]),
    ]


def region() -> Rows:
    prompt = "a red square on a gray background moves to the right"
    return [
        made("base model", prompt),
        made("arc in the whole frame", prompt, lora=["arc"]),
        made("arc in the left half", prompt, lora=["arc:region=0,0,0.5,1,feather=0.1"]),
    ]


def animate() -> Rows:
    image = appearance()
    still = np.repeat(np.asarray(Image.open(image))[None], 8, axis=0)
    rows = [("the image (train --image)", still), made("its appearance alone", "a moon", appearance="moon")]
    return rows + [
        made(f"at scale 0.5, with the motion {name}", "a moon", appearance="moon", concept=name)
        for name in ("boomerang", "spiral")
    ]


def mix() -> Rows:
    appearance()
    rows = []
    for motions in (["orbit"], ["orbit:0.5", "zigzag:0.5"], ["zigzag"]):
        config = md.MixConfig(appearance=["moon"], motion=motions, seed=SEED)
        video = md.mix("a moon", config, registry=REGISTRY)
        rows.append((" ".join(f"--motion {name}" for name in motions), traced(video.frames_FHWC)))
    return rows


def library() -> Rows:
    look = "a purple circle on a beige checkerboard"
    return [made(name, look, concept=name) for name in ("square", "bounce", "boomerang", "tilt")]


SHEETS: dict[str, Callable[[], Rows]] = {
    "strength": strength,
    "steps": steps,
    "remix": remix,
    "library": library,
    "combine": combine,
    "region": region,
    "animate": animate,
    "mix": mix,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--sheet", action="append", choices=SHEETS, help="only these (repeat)")
    given = parser.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    WORK.mkdir(parents=True, exist_ok=True)
    add_library(REGISTRY)
    for name in given.sheet or SHEETS:
        path = given.to / f"{name}.png"
        contact_sheet(SHEETS[name](), cell_width=80).save(path, optimize=True)
        print(path, flush=True)


if __name__ == "__main__":
    main()
