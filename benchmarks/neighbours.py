"""Differences between a video made in a batch and the same video made alone: latents, frames and mp4.

    python benchmarks/neighbours.py                               # a few minutes on two cores
    python benchmarks/neighbours.py --steps 4 12 --dtype fp32 bf16 --batch 8

Runs the same requests (the embedded foundation, random adapters in most of them, classifier-free guidance) one at a time and
in one batch. The results differ by rounding, because another batch size adds sums in another order. Prints for each setting:
the largest difference of the latents relative to the largest latent; the largest pixel difference in grey levels, and how
many values differ; the same after writing and reading an mp4; and the difference between the mp4 and its source frames.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # otherwise `training` would be this script

import numpy as np
import torch

from datasets.video.decode import decode
from datasets.video.writing import encode_mp4
from models.denoise import Denoising, denoise_step, finish, start
from models.foundations.base import Foundation
from models.generation import GenerationParams, SlotUse
from models.load import load_foundation
from models.lora.routing import PATHS, LoraPath

PROMPTS = (
    "a red circle on a gray background",
    "a blue square on a beige background",
    "a yellow star on a navy background",
    "a green heart on a lavender background",
)
RANK, STRENGTH, SLOTS = 16, 0.05, 3


def fill(foundation: Foundation) -> None:
    """Put adapters with random weights into every slot of a new bank."""
    bank = foundation.add_bank(dict.fromkeys(PATHS, SLOTS), RANK)
    path: LoraPath
    for path in PATHS:
        for slot in range(1, SLOTS + 1):
            generator = torch.Generator().manual_seed(slot)
            tensors = {
                name: tuple(torch.randn(half.shape, generator=generator) * STRENGTH for half in pair)
                for name, pair in bank.extract(path, slot).items()
            }
            bank.write(path, slot, tensors)  # type: ignore[arg-type]


def request(number: int, steps: int) -> GenerationParams:
    """A request. The requests cycle through no adapter, a temporal adapter, and both adapters."""
    uses = [
        SlotUse(path="temporal", slot=1 + number % SLOTS),
        SlotUse(path="spatial", slot=1 + number % SLOTS, scale=0.7),
    ]
    return GenerationParams(
        prompt=PROMPTS[number % len(PROMPTS)],
        seed=number,
        steps=steps,
        adapters=tuple(uses[: number % 3]),
    )


def made(foundation: Foundation, batches: list[list[GenerationParams]]) -> list[Denoising]:
    """The results of all requests, denoised in these batches."""
    done: list[Denoising] = []
    for batch in batches:
        states = [start(foundation, one) for one in batch]
        while not states[0].done:
            denoise_step(foundation, states)
        done += states
    return done


def compare(foundation: Foundation, steps: int, batch: int) -> dict[str, Any]:
    """The largest differences between requests made alone and together."""
    requests = [request(number, steps) for number in range(batch)]
    alone = made(foundation, [[one] for one in requests])
    together = made(foundation, [requests])
    found: dict[str, Any] = {"latents": 0.0, "grey": 0, "values": 0, "mp4": 0, "codec": 0}
    for one, other in zip(alone, together, strict=True):
        a, b = one.latents_1Cfhw, other.latents_1Cfhw
        found["latents"] = max(found["latents"], float((a - b).abs().max() / a.abs().max()))
        frames = [finish(foundation, state) for state in (one, other)]
        coded = [decode(encode_mp4(video, foundation.defaults.fps)).frames_FHWC for video in frames]
        found["grey"] = max(found["grey"], levels(*frames))
        found["values"] = max(found["values"], float((frames[0] != frames[1]).mean()))
        found["mp4"] = max(found["mp4"], levels(*coded))
        found["codec"] = max(found["codec"], levels(frames[0], coded[0]))
    return found


def levels(one: np.ndarray, other: np.ndarray) -> int:
    """The largest difference between two videos, in grey levels."""
    return int(np.abs(one.astype(int) - other).max())


def main() -> None:
    """Print a line for each setting, then everything as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 12])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", nargs="+", default=["fp32"])
    parser.add_argument("--device", default=None)
    options = parser.parse_args()
    results = []
    for dtype in options.dtype:
        foundation = load_foundation(device=options.device, dtype=dtype)
        fill(foundation)
        for steps in options.steps:
            found = compare(foundation, steps, options.batch)
            results.append({"dtype": dtype, "steps": steps, "batch": options.batch, **found})
            print(
                f"{dtype}, {steps} steps, alone and {options.batch} together: latents {found['latents']:.1e}; frames "
                f"{found['grey']} grey levels, {found['values']:.3%} of the values; mp4 {found['mp4']} levels (the codec "
                f"itself {found['codec']})",
                flush=True,
            )
    print(json.dumps({"device": str(foundation.device), "torch": torch.__version__, "results": results}))


if __name__ == "__main__":
    main()
