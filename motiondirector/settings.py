"""Training settings given to commands that train many concepts: `--setting NAME=VALUE`, repeated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from infra.errors import UserError
from infra.rows import NOT_YAML


def parse_settings(given: Iterable[str]) -> dict[str, Any]:
    """`rank=8` -> {"rank": 8}; values are read as YAML. What is no setting is found by `training.config`. Raises UserError."""
    settings: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--setting {text!r} is not NAME=VALUE, such as rank=8.")
        try:
            settings[name.strip().replace("-", "_")] = yaml.safe_load(value)
        except NOT_YAML:
            raise UserError(
                f"--setting {text!r}: the value is not readable; write it as in rank=8."
            ) from None
    return settings
