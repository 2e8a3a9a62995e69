"""The options of `motiondirector sprites render`, `trace` and `pretrain`, as configuration classes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from infra.setting import setting

MOTION = "Motion"
LOOKS = "Appearance"
CLIPS = "Clips"
STYLE = "Style: looks that captions have no word for"
TRAINING = "Training"


class ClipConfig(BaseModel):
    """The clips that are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int = setting(8, CLIPS, "Frames of a clip.", ge=2, le=256)
    size: int = setting(64, CLIPS, "Side of the square frame in pixels, even.", ge=16, le=1024)
    fps: float = setting(8, CLIPS, "Frames per second.", ge=1, le=120)
    seed: int = setting(
        0, CLIPS, "Random seed of appearances, the position of a named motion, clutter and grain."
    )

    @model_validator(mode="after")
    def _even(self) -> Self:
        if self.size % 2:
            raise ValueError(f"--size {self.size} is odd; mp4 needs an even side")
        return self


class RenderConfig(ClipConfig):
    """What is drawn: one motion, in one appearance or in several."""

    trajectory: Path | None = setting(
        None, MOTION, r"JSON file: a list of \[t, x, y], \[t, x, y, scale] or \[t, x, y, scale, angle]."
    )
    motion: str | None = setting(None, MOTION, "A motion by name; `sprites list` shows all.")
    words: str | None = setting(
        None,
        MOTION,
        "Words for the motion in captions; with --prompt, they are put between its object and its background. Default: the "
        "motion's own words, or the unchanged prompt.",
    )
    second: str | None = setting(
        None,
        MOTION,
        'A second object, such as "a small blue circle"; also give its motion.',
    )
    second_motion: str | None = setting(None, MOTION, "The second object's motion by name.")
    second_trajectory: Path | None = setting(None, MOTION, "The second object's motion as a JSON file.")

    prompt: str | None = setting(
        None, LOOKS, 'The appearance, such as "a red striped star on a navy gradient".'
    )
    appearances: int = setting(
        1, LOOKS, "With --to: number of clips, each with another appearance.", ge=1, le=1000
    )

    masks: bool = setting(
        False,
        CLIPS,
        "With --to: also write masks.json, the boxes around the object in every frame, which `ingest --masks` takes; of a second "
        "object masks-second.json.",
        option="--masks",
    )

    outline: bool = setting(False, STYLE, "A dark line along the object's rim.", option="--outline")
    tint: str | None = setting(
        None, STYLE, "A colour cast: warm, cold, rose or leafy, with strength 0.28 or a given one: warm:0.4."
    )
    grain: float = setting(
        0.0, STYLE, "Noise in grey levels, new in each frame; 20 is clearly visible.", ge=0, le=60
    )
    clutter: int = setting(
        0, STYLE, "Number of small objects on the background; 12 are clearly visible.", ge=0, le=40
    )
    drift: str | None = setting(
        None,
        STYLE,
        "Movement of the camera over the clip in frame widths, x or x,y; everything in the picture moves the opposite way. "
        "Without --clutter or a checkerboard, only the object shows it.",
    )
    idle: str | None = setting(
        None,
        STYLE,
        'An object that does not move, such as "a blue circle"; captions do not name it.',
    )


class TraceConfig(ClipConfig):
    """The references that move like a point of a real clip."""

    frames: int = setting(8, CLIPS, "Frames of a reference clip.", ge=5, le=256)
    seed: int = setting(0, CLIPS, "Random seed of appearances and of the concept's video.")
    point: str | None = setting(
        None,
        MOTION,
        "Follow this point, x,y in pixels of the first frame. Default: the tracklet that moves most and longest.",
    )
    name: str | None = setting(None, MOTION, "Name of the motion and its files. Default: the clip's.")
    words: str = setting("moves", MOTION, "Words for the motion in captions.")
    appearances: int = setting(4, LOOKS, "Number of reference clips.", ge=1, le=100)
    concept: str | None = setting(
        None,
        LOOKS,
        "A concept trained on such references, NAME or NAME@VERSION: a video of it is added to the picture.",
    )


class PretrainConfig(BaseModel):
    """How the sprite foundation is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Literal["vae", "unet", "decoder", "all"] = setting(
        "all", TRAINING, "vae, unet, decoder (sharpens the vae with fixed latents), or all in this order."
    )
    steps: int | None = setting(None, TRAINING, "Steps of the stage. Default: the released recipe's.")
    device: str = setting("auto", TRAINING, "cpu, cuda, or auto.")
    resume: bool = setting(True, TRAINING, "Continue from the states in --out.")
    init: Path | None = setting(
        None, TRAINING, "Start from a checkpoint's weights, such as assets/foundation."
    )
    clips: int | None = setting(None, TRAINING, "Clips in a batch of the unet stage.", ge=1)
    image_steps: int | None = setting(
        None, TRAINING, "Number of first steps that use only single frames.", ge=0
    )
    threads: int | None = setting(None, TRAINING, "CPU threads.", ge=1)
    every: int = setting(50, TRAINING, "Steps between saved states and log lines.", ge=1)
    seed: int = setting(0, TRAINING, "Random seed of weights, scenes and noise.")

    def stages(self, name: str) -> bool:
        """Whether a stage is trained."""
        return self.stage in (name, "all")
