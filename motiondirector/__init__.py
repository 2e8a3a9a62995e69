"""The front door: the command line, and the Python API that it is made of. No algorithm lives here.

    import motiondirector as md

    md.render("clips/orbit", md.RenderConfig(motion="orbit", appearances=4))

Every function takes its main arguments, and a configuration with the options of the command of the same name. Heavy
libraries are imported when a function is first used. docs/python.md has a complete example.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infra.registry import open_registry as open_registry
    from models.load import load_foundation as load_foundation
    from motiondirector.api.generate import GenerateConfig as GenerateConfig
    from motiondirector.api.generate import generate as generate
    from motiondirector.api.ingest import IngestConfig as IngestConfig
    from motiondirector.api.ingest import ingest as ingest
    from motiondirector.api.mix import MixConfig as MixConfig
    from motiondirector.api.mix import mix as mix
    from motiondirector.api.serve import serve as serve
    from motiondirector.api.train import train as train
    from motiondirector.batch.config import BatchConfig as BatchConfig
    from motiondirector.batch.run import train_batch as train_batch
    from motiondirector.judging.config import EvaluationConfig as EvaluationConfig
    from motiondirector.judging.evaluate import evaluate as evaluate
    from motiondirector.sprites.config import RenderConfig as RenderConfig
    from motiondirector.sprites.render import render as render
    from serving.config import ServeConfig as ServeConfig
    from training.config import TrainConfig as TrainConfig

__version__ = "0.1.0"

WHERE = {
    "render": "motiondirector.sprites.render",
    "RenderConfig": "motiondirector.sprites.config",
    "ingest": "motiondirector.api.ingest",
    "IngestConfig": "motiondirector.api.ingest",
    "train": "motiondirector.api.train",
    "TrainConfig": "training.config",
    "train_batch": "motiondirector.batch.run",
    "BatchConfig": "motiondirector.batch.config",
    "generate": "motiondirector.api.generate",
    "GenerateConfig": "motiondirector.api.generate",
    "mix": "motiondirector.api.mix",
    "MixConfig": "motiondirector.api.mix",
    "evaluate": "motiondirector.judging.evaluate",
    "EvaluationConfig": "motiondirector.judging.config",
    "serve": "motiondirector.api.serve",
    "ServeConfig": "serving.config",
    "open_registry": "infra.registry",
    "load_foundation": "models.load",
}
__all__ = list(WHERE)


def __getattr__(name: str) -> Any:
    """A name of the API, imported when it is first used."""
    if name not in WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(WHERE[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *WHERE]
