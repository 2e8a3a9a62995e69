"""The temporal layers' convolutions on a CPU: three-dimensional as in diffusers, and two-dimensional as computed here.

    python benchmarks/temporal_convolution.py                # a minute on two cores
    python benchmarks/temporal_convolution.py --rounds 21

Runs two copies of the embedded foundation's denoiser with the same weights and inputs: forward only and forward with backward,
with one thread and with all. The sides take turns, and their outputs are compared. Prints milliseconds and their ratio.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # otherwise `training` would be this script

import torch
from torch import Tensor, nn

from models.load import load_foundation

SAME = 1e-4  # largest difference of outputs, which reach about 6


def in_three_dimensions(unet: nn.Module) -> nn.Module:
    """The denoiser with diffusers' convolutions."""
    for module in unet.modules():
        if isinstance(module, nn.Conv3d):
            del module.forward  # ours, set on the instance
    return unet


def timed(unet: nn.Module, inputs: tuple[Tensor, ...], backward: bool) -> tuple[float, Tensor]:
    """(seconds, output) of a call."""
    latents, *others = inputs
    began = time.perf_counter()
    with torch.set_grad_enabled(backward):
        out = unet(latents.requires_grad_(backward), *others).sample
        if backward:
            out.square().sum().backward()
    return time.perf_counter() - began, out.detach()


def main() -> None:
    """Run and print both sides."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--batch", type=int, default=4, help="videos per forward pass")
    options = parser.parse_args()
    ours, theirs = load_foundation().denoiser, in_three_dimensions(load_foundation().denoiser)
    config, generator = ours.config, torch.Generator().manual_seed(0)
    side = config.sample_size
    inputs = (
        torch.randn(options.batch, config.in_channels, 8, side, side, generator=generator),
        torch.full((options.batch,), 500),
        torch.randn(options.batch, 24, config.cross_attention_dim, generator=generator),
    )
    print("threads  what                  3 dimensions   2 dimensions   ratio   outputs differ by")
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        for backward in (False, True):
            before, now, apart = [], [], 0.0
            for number in range(options.rounds + 1):
                three, expected = timed(theirs, inputs, backward)
                two, found = timed(ours, inputs, backward)
                apart = max(apart, (found - expected).abs().max().item())
                assert apart < SAME, f"the sides' outputs differ by {apart}"
                if number:  # the first is a warm-up
                    before.append(three)
                    now.append(two)
            ratios = sorted(three / two for three, two in zip(before, now, strict=True))
            what = "forward and backward" if backward else "forward"
            print(
                f"{threads:7}  {what:20}  {statistics.median(before) * 1e3:9.0f} ms   {statistics.median(now) * 1e3:9.0f} ms"
                f"   {statistics.median(ratios):.2f} x ({ratios[0]:.2f}-{ratios[-1]:.2f})   {apart:.1e}"
            )
    print(
        f"{os.cpu_count()} CPU cores ({platform.machine()}), float32, torch {torch.__version__}, batch {options.batch}, "
        f"{options.rounds} rounds, {datetime.now(UTC):%Y-%m-%d}"
    )


if __name__ == "__main__":
    main()
