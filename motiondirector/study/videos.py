"""Videos of trials: many adapters in one forward, the base's made once, a few kept for contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.store import Store, key_of
from infra.files import atomic_file
from motiondirector.study.looks import Asked

if TYPE_CHECKING:
    from models.foundations.base import Foundation
    from models.generation import SlotUse
    from training.adapters import PathTensors

BATCH = {"cpu": 16, "cuda": 256}  # videos generated in one forward
SHOWN = 3  # number of videos per kind of prompt kept for a contact sheet


@dataclass(frozen=True)
class Order:
    """Videos to make with one set of adapters (empty: the base model)."""

    asked: Sequence[Asked]
    adapters: PathTensors = field(default_factory=dict)
    steps: tuple[float, float] | None = None  # the part of the denoising steps in which they act; None: all


def made_with(foundation: Foundation, dtype: str) -> dict[str, Any]:
    """Everything that determines the frames beside prompt, seed and adapters: the foundation's defaults.

    Args:
        dtype: the foundation's, named as in the training settings.
    """
    from evaluation.evaluate import Generation

    return {**Generation().resolved(foundation).facts(), "dtype": dtype}


def generate(
    foundation: Foundation, orders: Sequence[Order], batch_size: int | None = None
) -> list[list[np.ndarray]]:
    """Make one video [F, H, W, 3] per prompt of each order. Videos of all orders share forwards."""
    from models.denoise import sample
    from models.generation import GenerationParams

    used = _install(foundation, orders)
    requests = [
        GenerationParams(prompt=one.prompt, seed=one.seed, adapters=uses)
        for order, uses in zip(orders, used, strict=True)
        for one in order.asked
    ]
    size = batch_size or BATCH.get(foundation.device.type, BATCH["cpu"])
    return split(sample(foundation, requests, batch_size=size), [order.asked for order in orders])


def split(videos: Sequence[np.ndarray], like: Sequence[Sequence[Any]]) -> list[list[np.ndarray]]:
    """Split videos into parts with the lengths of `like`."""
    rest = iter(videos)
    return [[next(rest) for _ in part] for part in like]


def _install(foundation: Foundation, orders: Sequence[Order]) -> list[tuple[SlotUse, ...]]:
    """Put every order's adapters into slots of one bank. Returns how its requests use them."""
    from models.generation import SlotUse
    from models.lora.bank import rank_for

    sets = [order.adapters for order in orders]
    paths = list(dict.fromkeys(path for of in sets for path in of))
    if not paths:
        return [() for _ in sets]
    rank = rank_for([layers for of in sets for layers in of.values()])
    bank = foundation.add_bank(dict.fromkeys(paths, len(sets)), rank)
    for slot, of in enumerate(sets, 1):
        for path, layers in of.items():
            bank.write(path, slot, layers)
    return [
        tuple(SlotUse(path=path, slot=slot, steps=order.steps) for path in order.adapters)
        for slot, order in enumerate(orders, 1)
    ]


def base_videos(
    foundation: Foundation, asked: Sequence[Sequence[Asked]], generation: dict[str, Any], store: Store
) -> list[list[np.ndarray]]:
    """The base model's videos for each list of prompts. Stored and duplicate ones are not made again."""
    flat = [one for of in asked for one in of]
    keys = [
        key_of(base=foundation.fingerprint, prompt=one.prompt, seed=one.seed, **generation) for one in flat
    ]
    found = {key: video for key in dict.fromkeys(keys) if (video := store.video(key)) is not None}
    missing = {key: one for key, one in zip(keys, flat, strict=True) if key not in found}
    if missing:
        [made] = generate(foundation, [Order(list(missing.values()))])
        for key, video in zip(missing, made, strict=True):
            store.put_video(key, video)
            found[key] = video
    return split([found[key] for key in keys], asked)


def frames_file(out: Path, name: str) -> Path:
    """The file with a trial's frames, if they are kept."""
    return out / "frames" / f"{name}.npz"


def keep_frames(path: Path, shown: Sequence[tuple[str, np.ndarray]]) -> None:
    """Store a few videos with their titles for a contact sheet."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        videos: dict[str, Any] = {f"{number:03d}": video for number, (_, video) in enumerate(shown)}
        np.savez_compressed(file, titles=np.array([title for title, _ in shown]), **videos)


def kept_frames(path: Path) -> list[tuple[str, np.ndarray]]:
    """Load the result of `keep_frames`."""
    with np.load(path) as kept:
        return [(str(title), kept[f"{number:03d}"]) for number, title in enumerate(kept["titles"])]
