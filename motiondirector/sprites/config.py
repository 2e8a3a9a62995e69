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
    fps: float = setting(8, CLIPS, "Frames a second.", ge=1, le=120)
    seed: int = setting(
        0, CLIPS, "Decides appearances, where a named motion takes place, and clutter and grain."
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
    motion: str | None = setting(None, MOTION, "A motion by name: `sprites list` names them.")
    words: str | None = setting(
        None,
        MOTION,
        "Words for the motion in captions; with --prompt its object, these words, its background. Default: the "
        "motion's own, or the prompt as it is.",
    )
    second: str | None = setting(
        None,
        MOTION,
        'Another object beside it, such as "a small blue circle"; give its motion, too.',
    )
    second_motion: str | None = setting(None, MOTION, "The other object's motion by name.")
    second_trajectory: Path | None = setting(None, MOTION, "The other object's motion as a JSON file.")

    prompt: str | None = setting(
        None, LOOKS, 'The appearance, such as "a red striped star on a navy gradient".'
    )
    appearances: int = setting(
        1, LOOKS, "With --to: so many clips, each of another appearance.", ge=1, le=1000
    )

    outline: bool = setting(False, STYLE, "A dark line along the object's rim.", option="--outline")
    tint: str | None = setting(
        None, STYLE, "A colour cast: warm, cold, rose or leafy, as strong as 0.28 or as said: warm:0.4."
    )
    grain: float = setting(
        0.0, STYLE, "Noise in grey levels, new in each frame; 20 is plain to see.", ge=0, le=60
    )
    clutter: int = setting(
        0, STYLE, "So many small things lie on the background; 12 is plain to see.", ge=0, le=40
    )
    drift: str | None = setting(
        None,
        STYLE,
        "Way of the camera over the clip in frame widths, x or x,y: everything goes the other way. Without "
        "--clutter or a checkerboard only the object shows it.",
    )
    idle: str | None = setting(
        None,
        STYLE,
        'An object that only stands there, such as "a blue circle"; captions do not name it.',
    )


class TraceConfig(ClipConfig):
    """The references that are drawn after a point of a real clip."""

    frames: int = setting(8, CLIPS, "Frames of a reference clip.", ge=5, le=256)
    seed: int = setting(0, CLIPS, "Decides appearances, and the noise of the concept's video.")
    point: str | None = setting(
        None,
        MOTION,
        "Follow this point, x,y in pixels of the first frame. Default: the tracklet that moves most and longest.",
    )
    name: str | None = setting(None, MOTION, "Of the motion and its files. Default: the clip's.")
    words: str = setting("moves", MOTION, "Words for the motion in captions.")
    appearances: int = setting(4, LOOKS, "So many reference clips.", ge=1, le=100)
    concept: str | None = setting(
        None,
        LOOKS,
        "A concept trained on such references: a video of it joins the picture, NAME or NAME@VERSION.",
    )


class PretrainConfig(BaseModel):
    """How the sprite foundation is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Literal["vae", "unet", "decoder", "all"] = setting(
        "all", TRAINING, "vae, unet, decoder (sharpens the vae, its latents fixed), or all in turn."
    )
    steps: int | None = setting(None, TRAINING, "Steps of the stage. Default: the released recipe's.")
    device: str = setting("auto", TRAINING, "cpu, cuda, or auto.")
    resume: bool = setting(True, TRAINING, "Continue the states found in --out.")
    init: Path | None = setting(
        None, TRAINING, "Start from a checkpoint's weights, such as assets/foundation."
    )
    clips: int | None = setting(None, TRAINING, "Clips in a batch of the unet stage.", ge=1)
    image_steps: int | None = setting(None, TRAINING, "First steps that see single frames only.", ge=0)
    threads: int | None = setting(None, TRAINING, "CPU threads.", ge=1)
    every: int = setting(50, TRAINING, "Steps between states and log lines.", ge=1)
    seed: int = setting(0, TRAINING, "Of weights, scenes and noise.")

    def stages(self, name: str) -> bool:
        """Whether a stage is trained."""
        return self.stage in (name, "all")
