"""Writes trained tensors as adapter files with metadata, for runs on Ray and local runs alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.adapters.file import Adapter, largest_rank, read_adapter, save_adapter
from models.foundations.base import Foundation
from models.lora.routing import LoraPath
from models.lora.slots import LayerTensors
from training.config import TrainConfig, fixed_settings
from training.described import DescribedClip, data_sha256

PathTensors = Mapping[LoraPath, LayerTensors]  # per path and layer: A [rank, in], B [out, rank]


def describe(
    config: TrainConfig, concept: str, clips: Sequence[DescribedClip], *, steps: int | None = None
) -> dict[str, Any]:
    """Metadata of a trained adapter: method, concept, captions, steps, config, data_sha256.

    Args:
        steps: number of steps done; default: `config.steps`.
    """
    return {
        "method": config.method,
        "concept": concept,
        "captions": sorted({clip.caption for clip in clips}),
        "steps": config.steps if steps is None else steps,
        "config": fixed_settings(config),
        "data_sha256": data_sha256(clips),
    }


def write_adapters(
    folder: Path, foundation: Foundation, tensors: PathTensors, metadata: Mapping[str, Any]
) -> dict[LoraPath, Adapter]:
    """Write each path's adapter: the temporal one to `folder`, the spatial one to `folder/spatial`.

    Reads them back as a check and returns them. The same tensors and metadata give the same bytes.
    """
    written: dict[LoraPath, Adapter] = {}
    for path, layers in tensors.items():
        at = folder if path == "temporal" else folder / path
        adapter = Adapter(path, largest_rank(layers), dict(layers))
        save_adapter(at, adapter, foundation, metadata=metadata)
        written[path] = read_adapter(at, foundation)
    return written
