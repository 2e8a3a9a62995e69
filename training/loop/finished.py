"""The adapters that a training gives out: those that generation uses, at the setting `strength`."""

from __future__ import annotations

from collections.abc import Callable

from models.lora.routing import LoraPath
from models.lora.slots import LayerTensors
from training.config import TrainConfig, sampled_paths


def finished(
    config: TrainConfig, adapter: Callable[[LoraPath], LayerTensors]
) -> dict[LoraPath, LayerTensors]:
    """Each path's adapter as it is published, rendered and measured.

    The temporal one is multiplied by `strength` here, and nowhere else: checkpoints and training keep what was learned, and
    whoever uses a published adapter, also with other tools, need not know of it.

    Args:
        adapter: the learned adapter of a path: {layer: (A [rank, in], B [out, rank])}.
    """
    return {
        path: _times(adapter(path), config.strength if path == "temporal" else 1.0)
        for path in sampled_paths(config)
    }


def _times(layers: LayerTensors, factor: float) -> LayerTensors:
    return layers if factor == 1 else {name: (a, b * factor) for name, (a, b) in layers.items()}
