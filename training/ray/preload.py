"""Preloads modules when Ray's processes start, if the session says so (`processes.session_variables`).

Imports Ray Train, and in a worker also torch, DeepSpeed and the model's classes. Reads no weights.
"""

from __future__ import annotations

import importlib
import os

from training.ray.processes import PRELOAD, RAY_SETTINGS


def preload() -> None:
    if not all(name in os.environ for name in RAY_SETTINGS):
        return  # not a process of a training
    importlib.import_module("ray.train")
    source = os.environ.get(PRELOAD)
    if source is None:
        return
    importlib.import_module("ray.train.torch")
    importlib.import_module("training.ray.train")
    from models.load import load_foundation
    from training.loop.deepspeed_engines import import_deepspeed

    import_deepspeed()
    if source:
        load_foundation(source, device="cpu", parts=())


preload()
