"""What the methods of training have and lack: the settings without meaning for each, and how `dual`'s suit the others.

Settings are named as in `TrainConfig`, which this module does not import: it checks itself with `check_method`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.config import TrainConfig

WITHOUT_SPATIAL_PASS = ("coupled", "full")  # methods that train whole clips alone
WITHOUT_TEMPORAL_PASS = ("appearance",)  # methods that train single frames alone
# Settings that have no meaning for those methods.
OF_THE_SPATIAL_PASS = (
    "skip_spatial",
    "appearance_share",
    "appearance_frames",
    "appearance_tokens",
    "appearance_preservation",
    "spatial_lora",
    "generated_references",
    "generated_share",
    "generated_prompts",
)
# Recommended for dual, but possible with any method that trains whole clips.
OF_DUAL = ("caption_dropout", "acts_until", "strength")
NOISE_LEVELS = ("timestep_low", "timestep_high", "noise_bias")
# Settings that have no meaning for methods of single frames: the appearance is all that is learned, at all noise levels,
# and appearance tokens would learn what the published LoRA should.
OF_THE_TEMPORAL_PASS = (
    "beta",
    "skip_spatial",
    "appearance_share",
    "appearance_tokens",
    "appearance_preservation",
    "spatial_lora",
    "generated_references",
    "generated_share",
    "generated_prompts",
    *OF_DUAL,
    *NOISE_LEVELS,
    "offset_noise",
)
# Settings of the published code that differ from our defaults.
AS_PUBLISHED = {"skip_spatial": 0.2}


def check_method(config: TrainConfig) -> None:
    """Raise ValueError for a setting that has no meaning for the method, or that it needs and that is missing."""
    if config.method in WITHOUT_SPATIAL_PASS:
        for name in OF_THE_SPATIAL_PASS:
            if getattr(config, name) != type(config).model_fields[name].default:
                raise ValueError(f"method {config.method} has no spatial pass; leave {name} out")
    elif config.method in WITHOUT_TEMPORAL_PASS:
        for name in OF_THE_TEMPORAL_PASS:
            if getattr(config, name) != type(config).model_fields[name].default:
                raise ValueError(f"method {config.method} learns no motion; leave {name} out")
        if config.spatial_learning_rate is not None:
            raise ValueError(
                f"method {config.method} trains one LoRA; give its rate as learning_rate, and leave spatial_learning_rate out"
            )
    elif config.method == "no-debias" and config.appearance_preservation:
        raise ValueError(
            "appearance_preservation is a kind of debiasing, which method no-debias does without; leave it out, or use "
            "method dual"
        )
    elif config.generated_references and (problem := generated_problem(config)):
        raise ValueError(f"generated_references {config.generated_references} {problem}")
    elif not config.spatial_lora and not config.appearance_tokens:
        raise ValueError(
            "spatial_lora false needs appearance_tokens to learn the appearance; set some, such as 8"
        )


def generated_problem(config: TrainConfig) -> str | None:
    """What keeps generated references from being made; None: nothing does."""
    if not config.generated_prompts:
        return "needs generated_prompts: prompts that name other looks"
    if not config.generated_share:
        return "needs generated_share above 0: the steps that learn from them"
    if not config.appearance_share or config.appearance_share + config.generated_share >= 1:
        return (
            "needs steps that learn the motion from the clips alone: appearance_share above 0, and below 1 together with "
            "generated_share"
        )
    if config.zero == 3:
        return (
            "needs the whole model in one process, and zero 3 spreads it over the workers; give another zero"
        )
    return None


def suited_to(method: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Adapt settings that were recommended for `dual` to `method`: drop those without meaning there.

    A method without an appearance stage gets the number of steps in which `dual` learns the motion from the clips alone, and
    one without a motion stage the number in which it learns the appearance.
    """
    if method == "motiondirector":
        dropped: tuple[str, ...] = (*OF_THE_SPATIAL_PASS, *NOISE_LEVELS, "beta", *OF_DUAL)
        own: dict[str, Any] = AS_PUBLISHED
    elif method in WITHOUT_SPATIAL_PASS:
        dropped, own = (*OF_THE_SPATIAL_PASS, *OF_DUAL), {}
    elif method in WITHOUT_TEMPORAL_PASS:
        dropped = (*OF_THE_TEMPORAL_PASS, "spatial_learning_rate")
        rate = settings.get("spatial_learning_rate")
        own = {} if rate is None else {"learning_rate": rate}
    elif method == "no-debias":
        return {name: value for name, value in settings.items() if name != "appearance_preservation"}
    else:
        return dict(settings)
    found = {name: value for name, value in settings.items() if name not in dropped}
    if "steps" in settings and settings.get("appearance_share"):
        first = appearance_steps(settings["steps"], settings["appearance_share"])
        share = settings.get("generated_share", 0.0) if settings.get("generated_references") else 0.0
        motion = settings["steps"] - first - generated_steps(settings["steps"], share, first)
        found["steps"] = max(1, first) if method in WITHOUT_TEMPORAL_PASS else motion
    return {**found, **own}


def appearance_steps(steps: int, share: float) -> int:
    """The steps, at the start, that learn only the appearance. At least one is left for the motion."""
    return min(round(share * steps), steps - 1)


def generated_steps(steps: int, share: float, first: int) -> int:
    """The steps, at the end, that learn from generated references. At least one learns the motion from the clips alone.

    Args:
        first: number of steps that learn only the appearance.
    """
    return max(0, min(round(share * steps), steps - first - 1))
