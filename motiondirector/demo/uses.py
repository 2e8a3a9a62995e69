"""What else the demo shows of a motion: mixed with the look of a clip, given to a still image, kept to a part of the frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.sprites.motion_sources import motion_named
from datasets.sprites.render import render_clip
from datasets.sprites.world import Background, Scene, Sprite
from infra.files import atomic_file
from models.generation import APPEARANCE_SCALE
from motiondirector.demo.trainings import Training
from serving.client import Client
from serving.schemas import CreateVideo, LoraUse

CLIP = "dressed"  # the concept of the clip whose look is learned
IMAGE = "picture"  # the concept of the image
PICTURE_FILE = "clips/picture.png"  # in the demo's folder
IMAGE_SIZE = 512  # pixels; scaled to the model's size
LOOKS = (CLIP, IMAGE)
LOOK, CAPTION = (
    "a purple striped heart on a beige checkerboard",
    "a heart",
)  # of the clip; its caption leaves the look out
PICTURE = Scene(Sprite("moon", "orange", "striped"), Background("sky", "gradient"))
SEED = 31


@dataclass(frozen=True)
class Use:
    """One use, shown as a video beside one without the motion.

    Args:
        lora: the adapters of the video.
        without: those of the video beside it.
        source: what the look is learned from: `clip`, `image`, or None.
    """

    name: str
    about: str
    prompt: str
    lora: tuple[LoraUse, ...]
    without: tuple[LoraUse, ...]
    source: str | None = None


def uses_of(motion: str) -> tuple[Use, ...]:
    """The uses that are shown with a motion."""
    acts = LoraUse(name=motion, path="temporal")
    clip, image = (LoraUse(name=name, path="spatial", scale=APPEARANCE_SCALE) for name in (CLIP, IMAGE))
    left = LoraUse.model_validate(
        {"name": motion, "path": "temporal", "region": {"box": [0, 0, 0.5, 1], "feather": 0.1}}
    )
    return (
        Use(
            "mix",
            f"The look of one clip, with the motion {motion}.",
            "a heart",
            (clip, acts),
            (clip,),
            "clip",
        ),
        Use(
            "animate",
            f"A still image, moved by the motion {motion}.",
            "a moon",
            (image, acts),
            (image,),
            "image",
        ),
        Use(
            "region",
            f"The motion {motion} in the left half of the frame alone.",
            "a red square on a gray background",
            (left,),
            (),
        ),
    )


def draw_picture(path: Path) -> Path:
    """Draw the image that is animated, as a PNG. Returns its path."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    picture_HWC = render_clip(PICTURE, motion_named("still"), frames=1, size=IMAGE_SIZE, seed=3)[0]
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        Image.fromarray(picture_HWC).save(file, "PNG")
    return path


def look_trainings(out: Path, data: str, registry: str, runs: str, options: Sequence[str]) -> list[Training]:
    """The `train` commands of both looks.

    Args:
        options: of every training.
    """
    picture = draw_picture(out / PICTURE_FILE)
    sources = {
        CLIP: ("--data", data, "--method", "appearance"),
        IMAGE: ("--image", str(picture), "--caption", "a moon"),
    }
    return [
        Training(
            name,
            (
                "train",
                "--concept",
                name,
                *source,
                "--registry",
                registry,
                "--run-dir",
                f"{runs}/{name}",
                *options,
            ),
            out / "logs" / f"train-{name}.log",
        )
        for name, source in sources.items()
    ]


def show_uses(
    url: str, motion: str, made: Callable[[Client, CreateVideo, str], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Make the videos of all uses. Returns the report's entries.

    Args:
        url: of the service.
        made: makes one video and stores it under a name (`Demo.made`).
    """
    uses = uses_of(motion)
    with Client(url) as client, ThreadPoolExecutor(2 * len(uses)) as pool:

        def make(use: Use, lora: Sequence[LoraUse], suffix: str) -> Future[dict[str, Any]]:
            request = CreateVideo(prompt=use.prompt, seed=SEED, lora=list(lora))
            return pool.submit(made, client, request, f"videos/{use.name}{suffix}.mp4")

        jobs = [(use, make(use, use.lora, ""), make(use, use.without, "-base")) for use in uses]
        return [
            {"name": use.name, "about": use.about, "source": use.source, **ours.result()}
            | {"beside": {"base": base.result()["file"]}}
            for use, ours, base in jobs
        ]
