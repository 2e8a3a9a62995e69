"""Reads PEFT's `adapter_config.json`: how much of each layer of an adapter is added.

PEFT adds `scaling * B A x` with scaling = lora_alpha / r (rsLoRA: lora_alpha / sqrt(r)); patterns
override both per layer. Files of diffusers hold the same in their header (`lora_adapter_metadata`) or
in tensors `<layer>.alpha`. This module turns each source into one factor per layer, which is folded
into B. It refuses settings that a LoRA of this project cannot express.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.errors import InvalidInput, UserError

CONFIG_FILE = "adapter_config.json"
HEADER_KEY = "lora_adapter_metadata"  # in files of diffusers: the same settings, with a prefix
PREFIXES = ("base_model.model.", "transformer.", "unet.")
# Settings that do not change what a loaded LoRA adds to a Linear. PEFT turns fan_in_fan_out off for a
# Linear; the *_config of an initialization count only with that initialization; the others concern
# training or origin.
NEUTRAL = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
READ = {
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
}
# Initializations that loading overwrites. Others (pissa, olora, corda, loftq, ...) also change the
# base's weights.
INITIAL = (True, False, None, "gaussian", "eva", "orthogonal")


def refuse(source: str, reason: str, code: str = "invalid_adapter") -> UserError:
    """The error for an adapter that must not be loaded."""
    return InvalidInput(f"adapter {source}: {reason}", code=code)


def parse_config(source: str, content: bytes | str, what: str = CONFIG_FILE) -> dict[str, Any]:
    """Parse a configuration. Raises InvalidInput unless it is a JSON object."""
    try:
        config = json.loads(content)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise refuse(source, f"its {what} is not a JSON object; save the adapter again with PEFT.")
    return config


def read_config(folder: Path) -> dict[str, Any] | None:
    """The adapter_config.json of a folder, or None if there is none. Raises InvalidInput."""
    file = folder / CONFIG_FILE
    return parse_config(str(folder), file.read_bytes()) if file.is_file() else None


def header_config(source: str, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The settings that diffusers wrote into a file's header, or None. Raises InvalidInput."""
    if HEADER_KEY not in metadata:
        return None
    found = {}
    for key, value in parse_config(source, metadata[HEADER_KEY], HEADER_KEY).items():
        for prefix in PREFIXES:
            key = key.removeprefix(prefix)
        found[key] = value
    return found


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether every layer's scaling is 1, as in all files of this project, so nothing has to be folded in.

    Does not check layers and ranks, which needs the file (`scalings`).
    """
    return (
        config.get("r") == config.get("lora_alpha")
        and not config.get("use_rslora")
        and (config.get("rank_pattern") or {}) == (config.get("alpha_pattern") or {})
    )


def check_expressible(source: str, config: Mapping[str, Any], what: str = CONFIG_FILE) -> None:
    """Raise InvalidInput for a setting that a plain LoRA on each layer cannot express."""
    kind = config.get("peft_type") or "LORA"
    if str(kind).upper() != "LORA":
        raise refuse(source, f"its {what} has peft_type {str(kind)[:40]!a}; only LORA is supported.")
    if config.get("use_dora"):
        raise refuse(
            source,
            f"its {what} has use_dora; DoRA also scales the base's weights, so merge it into the model or train it "
            "without DoRA.",
        )
    initial = config.get("init_lora_weights", True)
    if initial not in INITIAL:
        raise refuse(
            source,
            f"its {what} has init_lora_weights {str(initial)[:40]!a}, which also changes the base's weights; save it "
            "with PEFT's path_initial_model_for_weight_conversion, which makes it an ordinary LoRA.",
        )
    if config.get("bias", "none") not in ("none", None):
        raise refuse(
            source,
            f"its {what} has bias {str(config['bias'])[:40]!a}; expected none, because biases cannot be adapted.",
        )
    for key in sorted(set(config) - NEUTRAL - READ):
        if config[key]:
            raise refuse(
                source,
                f"its {what} sets {key[:60]!a}, which is not supported and would change the result; train it "
                "without this setting.",
            )


def scalings(
    source: str, config: Mapping[str, Any], ranks: Mapping[str, int], what: str = CONFIG_FILE
) -> dict[str, float]:
    """The factor by which PEFT multiplies each layer's B A under this configuration.

    Args:
        source: the adapter's name in messages.
        ranks: rank of each layer in the file, by module name.
        what: the configuration's name in messages.

    Raises:
        InvalidInput: a setting that changes the result and cannot be expressed, a rank that differs from the
            tensors', or a layer of the file that the configuration does not target.
    """
    check_expressible(source, config, what)
    _check_targets(source, config, ranks, what)
    default_rank = _number(source, what, "r", config.get("r"))
    default_alpha = _number(source, what, "lora_alpha", config.get("lora_alpha"))
    rank_pattern = _pattern(source, what, config, "rank_pattern")
    alpha_pattern = _pattern(source, what, config, "alpha_pattern")
    if rank_pattern and is_plain(config):
        return dict.fromkeys(ranks, 1.0)  # method full writes these; importing PEFT would take seconds
    found = {}
    for layer, rank in ranks.items():
        said = _of_layer(source, what, rank_pattern, layer, default_rank)
        if said != rank:
            raise refuse(
                source,
                f"its {what} says rank {said:g} for layer {layer}, whose tensors have rank {rank}; save both again.",
            )
        alpha = _of_layer(source, what, alpha_pattern, layer, default_alpha)
        found[layer] = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return found


def _check_targets(source: str, config: Mapping[str, Any], ranks: Mapping[str, int], what: str) -> None:
    """Raise InvalidInput for tensors of layers that are not targeted. PEFT would drop them with a warning."""
    targets = config.get("target_modules")
    narrowed = any(config.get(key) for key in ("exclude_modules", "layers_pattern")) or (
        config.get("layers_to_transform") is not None
    )
    if not narrowed and (
        targets in (None, "all-linear") or (isinstance(targets, list) and set(ranks) <= set(targets))
    ):
        return
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    keys = ("exclude_modules", "layers_pattern", "layers_to_transform", "target_modules")
    try:
        peft = LoraConfig(**{key: config[key] for key in keys if config.get(key) is not None})
        if targets == "all-linear":
            peft.target_modules = ".*"
        left_out = [layer for layer in ranks if not check_target_module_exists(peft, layer)]
    except (re.error, TypeError, ValueError) as error:
        raise refuse(
            source,
            f"its {what} has targets that PEFT does not understand ({' '.join(str(error).split())[:120]}).",
        ) from None
    if left_out:
        raise refuse(
            source,
            f"its {what} does not target {len(left_out)} layers of the file, such as {left_out[0]}, and PEFT would "
            "drop them; remove them from the file or target them.",
        )


def _number(source: str, what: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise refuse(source, f"its {what} has {key} {str(value)[:40]!a}; expected a number.")
    return value


def _pattern(source: str, what: str, config: Mapping[str, Any], key: str) -> dict[str, float]:
    pattern = config.get(key) or {}
    if not isinstance(pattern, dict):
        raise refuse(source, f"its {what} has a {key} that is not a mapping of layers to numbers.")
    return {
        layer: _number(source, what, f"{key} of {layer[:60]!a}", value) for layer, value in pattern.items()
    }


def _of_layer(source: str, what: str, pattern: Mapping[str, float], layer: str, default: float) -> float:
    """A layer's value in a pattern: as in PEFT, the first key that as a regex matches the name's end."""
    if not pattern:
        return default
    from peft.utils.other import get_pattern_key

    try:
        return pattern.get(get_pattern_key(list(pattern), layer), default)
    except re.error as error:
        raise refuse(
            source, f"its {what} has a pattern that is not a regular expression ({error})."
        ) from None
