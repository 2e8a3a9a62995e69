"""Cost of changing adapters: the bank's slots against PEFT, on one model, in one run.

    python benchmarks/adapter_bank.py [--foundation PATH_OR_ID] [--rank 16] [--batch 4] [--device cuda]

Prints a table of medians with ratios, then hardware, dtype and versions. Both sides run the same network, the
same adapters and the same inputs; the outputs are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import peft
import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils.hotswap import hotswap_adapter
from rich.console import Console
from rich.table import Table

from benchmarks.serving_bench.setup import random_adapter
from models.adapters.file import Adapter, save_adapter
from models.load import load_foundation
from models.lora.routing import Mix, Routing


def medians_ms(
    functions: dict[str, Callable[[], Any]], repeats: int, device: torch.device
) -> dict[str, float]:
    """Median wall time of each call in milliseconds.

    The calls take turns, so that load on the machine affects all of them alike. Two warm-up rounds are not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for index in range(repeats + 2):
        for name, function in functions.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if index >= 2:
                times[name].append((time.perf_counter() - began) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def peft_state(adapter: Adapter) -> dict[str, torch.Tensor]:
    """The adapter's tensors under the keys that PEFT's setter expects."""
    state = {}
    for name, (a, b) in adapter.tensors.items():
        state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"] = a, b
    return state


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--foundation", default=None)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default=None)
    options = parser.parse_args()

    plain, ours, theirs, swapped = (
        load_foundation(options.foundation, device=options.device) for _ in range(4)
    )
    device, batch, repeats = ours.device, options.batch, options.repeats
    adapters = [random_adapter(ours, options.rank, seed) for seed in range(batch)]
    bank = ours.add_bank({"temporal": batch}, rank=options.rank)
    for slot, adapter in enumerate(adapters, 1):
        bank.write("temporal", slot, adapter.tensors)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.rank,
        target_modules=list(ours.targets["temporal"]),
        init_lora_weights=False,
    )
    for index, adapter in enumerate(adapters):
        inject_adapter_in_model(config, theirs.denoiser, adapter_name=f"a{index}")
        set_peft_model_state_dict(theirs.denoiser, peft_state(adapter), adapter_name=f"a{index}")
    layers = [module for module in theirs.denoiser.modules() if isinstance(module, LoraLayer)]

    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((batch, *ours.latent_shape(ours.defaults.bucket)), generator=generator).to(device)
    timesteps = ours.noise.timesteps(torch.full((batch,), 0.5)).to(device)
    text = ours.encode_text(["a red circle moves to the right"] * batch)
    mixed = Routing(temporal=Mix.of([[slot] for slot in range(1, batch + 1)], device=device))
    equal = Routing(temporal=Mix.of([[1]] * batch, device=device))

    @torch.no_grad()
    def forward(foundation: Any, routing: Routing | None = None) -> torch.Tensor:
        return foundation.predict(latents, timesteps, text, routing)

    def activate(name: str) -> None:
        for layer in layers:
            layer.set_adapter(name)

    @torch.no_grad()
    def peft_each() -> torch.Tensor:
        """A batch of different adapters as in stock PEFT: one forward per adapter."""
        answers = []
        for index in range(batch):
            activate(f"a{index}")
            one = slice(index, index + 1)
            answers.append(theirs.predict(latents[one], timesteps[one], text[one]))
        return torch.cat(answers)

    answer, reference = forward(ours, mixed), peft_each()
    difference, size = (answer - reference).abs().max().item(), reference.abs().max().item()
    assert difference < 1e-2 * size, f"the two sides differ by {difference}; the largest value is {size}"

    @torch.no_grad()
    def beside() -> torch.Tensor:
        """The mixed batch with B A x computed beside each layer, as in precisions other than float32."""
        with patch("models.lora.slots.pays", lambda *_: False):
            return forward(ours, mixed)

    base = "base model without a bank, one forward of the batch"
    idle, same = "bank attached, no sample uses it", "bank, every sample the same adapter"
    mixed_name = f"bank, {batch} different adapters in one forward"
    beside_name = "  the same with the adapters beside the layers, not in them"
    peft_name = f"PEFT, {batch} different adapters, one forward per adapter"
    forwards = medians_ms(
        {
            base: lambda: forward(plain),
            idle: lambda: forward(ours),
            same: lambda: forward(ours, equal),
            mixed_name: lambda: forward(ours, mixed),
            beside_name: beside,
            peft_name: peft_each,
        },
        repeats,
        device,
    )
    rows = [(name, value, f"{value / forwards[base]:.2f} x base") for name, value in forwards.items()]
    slower, ours_ms = forwards[peft_name], forwards[mixed_name]
    rows.append(("  mixed batch: PEFT / bank", slower - ours_ms, f"{slower / ours_ms:.2f} x"))
    rows.append(
        ("  bank: different / equal adapters", ours_ms - forwards[same], f"{ours_ms / forwards[same]:.2f} x")
    )

    def add_and_delete() -> None:
        inject_adapter_in_model(config, theirs.denoiser, adapter_name="new")
        set_peft_model_state_dict(theirs.denoiser, peft_state(adapters[1]), adapter_name="new")
        for layer in layers:
            layer.delete_adapter("new")

    names = itertools.cycle(f"a{index}" for index in range(batch))
    with TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns at each change that is timed here
        save_adapter(Path(scratch), adapters[1], ours)
        wrapped = PeftModel.from_pretrained(swapped.denoiser, scratch)
        changes = medians_ms(
            {
                "to a resident adapter: bank (another routing)": lambda: Mix.of([[2]] * batch, device=device),
                "to a resident adapter: PEFT set_adapter": lambda: activate(next(names)),
                "to a new adapter: bank (overwrite a slot)": lambda: bank.write(
                    "temporal", 1, adapters[1].tensors
                ),
                "to a new adapter: PEFT add and delete": add_and_delete,
                "to a new adapter: PEFT hotswap (reads its file)": lambda: hotswap_adapter(
                    wrapped, scratch, "default"
                ),
            },
            repeats,
            device,
        )
    rows += [
        (name, value, f"{100 * value / forwards[base]:.2f} % of a forward") for name, value in changes.items()
    ]

    table = Table(
        title=f"{ours.name}: {len(ours.targets['temporal'])} layers, rank {options.rank}, batch {batch}"
    )
    table.add_column("what")
    table.add_column("median ms", justify="right")
    table.add_column("ratio", justify="right")
    for what, milliseconds, ratio in rows:
        table.add_row(what, f"{milliseconds:.3f}", ratio)
    console = Console(width=110)
    console.print(table)
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else machine
    console.print(
        f"{hardware}, {ours.dtype}, torch {torch.__version__}, peft {peft.__version__}, {repeats} repeats"
    )
    console.print(f"the two sides' outputs differ by {difference:.1e} at most (values up to {size:.2f})")


if __name__ == "__main__":
    main()
