"""Training settings given to commands that train many concepts: `--setting NAME=VALUE`, repeated; a mapping in Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator

from infra.errors import UserError
from infra.rows import NOT_YAML


def parse_settings(given: Iterable[str] | Mapping[str, Any]) -> dict[str, Any]:
    """`rank=8` -> {"rank": 8}; values are read as YAML. A mapping is used as it is.

    `training.config` checks the names later. Raises UserError.
    """
    if isinstance(given, Mapping):
        return {str(name).replace("-", "_"): value for name, value in given.items()}
    settings: dict[str, Any] = {}
    for text in [given] if isinstance(given, str) else given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--setting {text!r} is not NAME=VALUE, such as rank=8.")
        try:
            settings[name.strip().replace("-", "_")] = yaml.safe_load(value)
        except NOT_YAML:
            raise UserError(
                f"--setting {text!r}: the value cannot be read as YAML; expected NAME=VALUE, such as rank=8."
            ) from None
    return settings


TrainingSettings = Annotated[dict[str, Any], BeforeValidator(parse_settings)]
