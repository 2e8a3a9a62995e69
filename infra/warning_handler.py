"""Handles the warnings of this project's loggers within a block."""

from __future__ import annotations

import logging
from typing import Self

LOGGERS = ("training", "datasets", "models", "infra")


class WarningHandler(logging.Handler):
    """A context manager; subclasses handle each warning or error in `emit`."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def __enter__(self) -> Self:
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self)
