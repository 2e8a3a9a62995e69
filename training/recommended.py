"""The settings that a foundation recommends, in the `recommended.yaml` of its folder.

Section `training:` is overridden by `training_several_clips:` for a concept of more than one clip, and by `training_appearance:` for
method appearance. They are recommended for method `dual`; `training.methods.suited_to` adapts them to the others.
"""

from __future__ import annotations

from typing import Any

from infra.errors import UserError
from training.config import TrainConfig, make_config
from training.methods import WITHOUT_TEMPORAL_PASS, suited_to


def resolve(given: dict[str, Any], recommended: dict[str, Any] | None = None, clips: int = 1) -> TrainConfig:
    """The run's settings: `given` (command line over YAML) over the foundation's recommendation over defaults.

    Args:
        recommended: the content of the foundation's `recommended.yaml`.
        clips: number of clips of the concept.

    Raises:
        UserError: a setting is wrong, or the recommendation has an unknown one.
    """
    method = given.get("method")
    suited = suited_to(method, recommendation(recommended, clips))
    if method in WITHOUT_TEMPORAL_PASS:
        suited |= _section(recommended, "training_appearance")
    return make_config({**suited, **given})


def recommendation(recommended: dict[str, Any] | None, clips: int) -> dict[str, Any]:
    """A foundation's recommended settings for this number of clips; arguments and errors as in `resolve`."""
    several = _section(recommended, "training_several_clips")
    return {**_section(recommended, "training"), **(several if clips > 1 else {})}


def _section(recommended: dict[str, Any] | None, key: str) -> dict[str, Any]:
    """One section of a recommended.yaml. Raises UserError unless it has known settings alone."""
    suited = (recommended or {}).get(key) or {}
    if not isinstance(suited, dict) or not set(suited) <= set(TrainConfig.model_fields):
        raise UserError(
            f"the foundation's recommended.yaml must contain known training settings under `{key}:`; found {suited!r}."
        )
    return suited
