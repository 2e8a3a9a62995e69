"""What regions of adapters cost: a denoising step without them, as before there were any, with one, and with `outside: base`.

    python benchmarks/regions.py                              # a few minutes on two cores
    python benchmarks/regions.py --quick                      # a tiny model: checks that it runs, no figures
    python benchmarks/regions.py --foundation PATH_OR_ID --batch 4 --dtype bf16 --device cuda

All sides run on one model in one run and take turns. "As before" is the layers' code without the check for regions;
its answer is compared with today's. Prints a table of medians with ratios, then hardware, dtype and versions.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `training` would be the script here

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.adapter_bank import medians_ms
from benchmarks.serving_bench.setup import random_adapter
from models.denoise import denoise_step, routing_of, start
from models.foundations.base import Foundation
from models.generation import GenerationParams, SlotUse
from models.load import load_foundation
from models.lora.routing import Mix
from models.lora.slots import LoraSlots, pays
from models.regions.layers import RegionWeights
from models.regions.region import Region

RIGHT = Region(box=(0.5, 0, 1, 1))


def in_the_layer_before(linear: Any, x: Tensor, routed: Sequence[tuple[LoraSlots, Mix]]) -> Tensor | None:
    """`models.lora.slots.in_the_layer` as it was before there were regions."""
    out, width = linear.weight.shape
    n = routed[0][1].slots.shape[0]
    kinds = {x.dtype, linear.weight.dtype, *(slots.B.dtype for slots, _ in routed)}
    tokens = x.numel() // (n * width)
    if kinds != {torch.float32} or type(linear) is not nn.Linear or not pays(tokens, out, width):
        return None
    weight_noi = linear.weight.expand(n, out, width)
    for slots, mix in routed:
        weight_noi = slots.added_to(weight_noi, mix)
    x_nNi, weight_nio = x.reshape(n, -1, width), weight_noi.transpose(1, 2)
    if linear.bias is None:
        y_nNo = torch.bmm(x_nNi, weight_nio)
    else:
        y_nNo = torch.baddbmm(linear.bias.expand(n, 1, out), x_nNi, weight_nio)
    return y_nNo.view(*x.shape[:-1], out)


def moving(frames: int) -> Region:
    """A box that crosses the frame from left to right."""
    keyframes = [{"frame": 0, "box": (0, 0, 0.4, 1)}, {"frame": frames - 1, "box": (0.6, 0, 1, 1)}]
    return Region.model_validate({"keyframes": keyframes if frames > 1 else keyframes[:1]})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model and few repeats")
    parser.add_argument("--foundation", default=None)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4, help="requests of a step, each with guidance")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--device", default=None)
    options = parser.parse_args()
    if options.quick:
        options.foundation, options.repeats, options.batch = "tiny-random:unet3d", 2, 2
    foundation = load_foundation(options.foundation, device=options.device, dtype=options.dtype)
    bank = foundation.add_bank({"temporal": 1}, rank=options.rank)
    bank.write("temporal", 1, random_adapter(foundation, options.rank, 0).tensors)
    whole = SlotUse(path="temporal", slot=1)
    part = whole.model_copy(update={"region": RIGHT})
    steps = options.repeats + 2  # `medians_ms` warms up twice

    def request(seed: int, *uses: SlotUse, outside: Any = None) -> GenerationParams:
        return GenerationParams(
            prompt="a red circle moves to the right",
            seed=seed,
            steps=steps,
            guidance_scale=4.0,
            adapters=uses,
            outside=outside,
        )

    def step_of(requests: Sequence[GenerationParams], *, before: bool = False) -> Callable[[], None]:
        """A step of these requests together; each call is their next one."""
        states = [start(foundation, one) for one in requests]

        def step() -> None:
            if before:
                with patch("models.lora.bank.in_the_layer", in_the_layer_before):
                    denoise_step(foundation, states)
            else:
                denoise_step(foundation, states)

        return step

    many = range(options.batch)
    apart = parity(foundation, request(0, whole))
    base, before, now = (
        "without adapters",
        "adapters, as before there were regions",
        "adapters without regions",
    )
    one, all_, outside = "one of them with a region", "all with a region", "all with a region, outside: base"
    sides = {
        base: step_of([request(seed) for seed in many]),
        before: step_of([request(seed, whole) for seed in many], before=True),
        now: step_of([request(seed, whole) for seed in many]),
        one: step_of([request(seed, part if seed == 0 else whole) for seed in many]),
        all_: step_of([request(seed, part) for seed in many]),
        outside: step_of([request(seed, part, outside="base") for seed in many]),
    }
    bucket = foundation.defaults.bucket
    still, shifted = (
        whole.model_copy(update={"region": region}) for region in (RIGHT, moving(bucket.frames))
    )
    once = {
        "weights of a still box, once for a request": lambda: RegionWeights(foundation, bucket, [still]),
        "weights of a moving box, once for a request": lambda: RegionWeights(foundation, bucket, [shifted]),
    }
    medians = medians_ms(sides, options.repeats, foundation.device)
    table = Table(
        title=f"{foundation.name} {bucket}: a step of {options.batch} requests, rank {options.rank}"
    )
    table.add_column("what")
    table.add_column("median ms", justify="right")
    table.add_column("ratio to adapters as before", justify="right")
    for name, milliseconds in medians.items():
        table.add_row(name, f"{milliseconds:.2f}", f"{milliseconds / medians[before]:.2f} x")
    for name, milliseconds in medians_ms(once, options.repeats, foundation.device).items():
        table.add_row(name, f"{milliseconds:.2f}", f"{milliseconds / medians[before]:.2f} x")
    console = Console(width=110)
    console.print(table)
    cuda = foundation.device.type == "cuda"
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    console.print(
        f"{torch.cuda.get_device_name() if cuda else machine}, {foundation.dtype}, torch {torch.__version__}, "
        f"{options.repeats} repeats; today's and the earlier code's answers differ by {apart:.1e}"
    )


@torch.no_grad()
def parity(foundation: Foundation, params: GenerationParams) -> float:
    """The largest difference between the answers of today's and the earlier code, without regions."""
    state = start(foundation, params)
    rows = state.text_RLD.shape[0]
    inputs = (
        state.latents_1Cfhw.expand(rows, -1, -1, -1, -1),
        state.timesteps[:1].expand(rows),
        state.text_RLD,
        routing_of(foundation, [state] * rows),
    )
    now = foundation.predict(*inputs)
    with patch("models.lora.bank.in_the_layer", in_the_layer_before):
        before = foundation.predict(*inputs)
    difference = (now - before).abs().max().item()
    assert difference == 0.0, f"the two sides disagree by {difference}"
    return difference


if __name__ == "__main__":
    main()
