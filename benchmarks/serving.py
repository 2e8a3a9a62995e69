"""Serving many adapters: our engine against stock diffusers and PEFT, in one run.

    python benchmarks/serving.py --quick                      # a minute or two on two cores
    python benchmarks/serving.py --json serving.json          # everything
    python benchmarks/serving.py --suite throughput --sides A B ours --adapters 8 --zipf 0

Sides: A loads and unloads per request, B loads all and calls set_adapters per request, C fuses and unfuses, D hotswap=True,
E PEFT's adapter_names (where it works), F our engine limited to one adapter per batch, and ours. Suites: frames (checks that
all sides make the same), steps (one denoising step), throughput (requests per minute, all present at the start), poisson
(latency under arrivals at several rates, with every adapter resident and with few slots), cold (a cold tenant among hot ones).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # otherwise `serving` would be this script

import torch
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.serving_bench.baselines import BASELINES
from benchmarks.serving_bench.load import capacity, measure_cold, measure_poisson
from benchmarks.serving_bench.report import environment, show
from benchmarks.serving_bench.runs import compare_frames, measure_throughput
from benchmarks.serving_bench.setup import Setup, Shape, make_setup
from benchmarks.serving_bench.steps import CLOCKS, measure_steps
from models.foundations.base import Bucket

SUITES = ("frames", "steps", "throughput", "poisson", "cold")
SIDES = (*BASELINES, "F", "ours")
QUICK: dict[str, Any] = {
    "adapters": [8],
    "zipf": [0.0],
    "steps": 2,
    "size": "half",
    "requests": 16,
    "repeats": 2,
    "turns": 5,
    "loads": [0.6],
    "load_requests": 40,
    "load_adapters": 16,
}
FULL: dict[str, Any] = {
    "adapters": [1, 8, 64, 512],
    "zipf": [0.0, 0.9, 1.2],
    "steps": None,
    "size": "full",
    "requests": 24,
    "repeats": 3,
    "turns": 15,
    "loads": [0.4, 0.6, 0.8],
    "load_requests": 150,
    "load_adapters": 64,
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--quick", action="store_true", help="small workloads; the options below override their sizes")
    add(
        "--models",
        nargs="+",
        default=["unet3d", "wan"],
        help="unet3d (the embedded foundation, PEFT), wan (random weights, diffusers' loader), or a path or hub id "
        "(benchmarks/zeroscope.py writes a random one of ZeroScope's shape); bfloat16 on a GPU",
    )
    add("--suite", nargs="+", choices=SUITES, default=list(SUITES))
    add("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    add("--adapters", nargs="+", type=int, help="numbers of adapters in the throughput workloads (8 64 ...)")
    add("--zipf", nargs="+", type=float, help="exponents of the adapters' popularity")
    add(
        "--ranks",
        nargs="+",
        type=int,
        default=[4, 8, 16, 32, 64],
        help="ranks that the adapters cycle through",
    )
    add("--steps", type=int, help="denoising steps of a throughput request (default: the model's own)")
    add(
        "--size",
        choices=["full", "half"],
        help="video size: the model's own, or half of its width and height",
    )
    add("--requests", type=int, help="requests of a throughput run")
    add("--repeats", type=int, help="runs of each side, taking turns")
    add("--turns", type=int, help="repeats of the step measurements")
    add("--loads", nargs="+", type=float, help="Poisson rates, as shares of our engine's capacity")
    add("--load-requests", type=int, help="requests of a Poisson run")
    add("--load-adapters", type=int, help="adapters of a Poisson run")
    add(
        "--load-steps",
        type=int,
        default=4,
        help="denoising steps of a request in a Poisson run, without guidance",
    )
    add(
        "--load-sides", nargs="*", choices=SIDES, default=["F"], help="sides in the Poisson runs besides ours"
    )
    add("--slots", type=int, default=64, help="maximum number of slots in the throughput runs")
    add("--few-slots", type=int, default=8, help="slots of the Poisson runs with few slots")
    add("--max-batch", type=int, default=8)
    add(
        "--preload-limit",
        type=int,
        default=64,
        help="maximum number of adapters for the sides that load all of them first (B, C, E)",
    )
    add("--threads", type=int, help="number of torch threads")
    add(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="clock for steps and throughput. cpu: the process's CPU time, for a shared machine; use it with --threads 1",
    )
    add("--device")
    add("--json", type=Path, help="file for all measurements")
    return made


def bucket_of(setup: Setup, size: str) -> Bucket:
    bucket = setup.foundation.defaults.bucket
    if size == "half" and setup.foundation.family == "unet3d":
        return Bucket(bucket.frames, bucket.height // 2, bucket.width // 2)
    return bucket


def measure(name: str, options: argparse.Namespace, tell: Any) -> dict[str, Any]:
    """Run all suites on one model class."""
    load_adapters, guests = options.load_adapters, max(1, round(options.load_requests * 0.05))
    count = max(8, *options.adapters) if "throughput" in options.suite else 8
    count = max(count, load_adapters) if "poisson" in options.suite else count
    count = max(count, 8 + guests) if "cold" in options.suite else count
    with tempfile.TemporaryDirectory() as folder:
        tell(f"{name}: {count} adapters")
        setup = make_setup(name, Path(folder), count, options.ranks, options.device)
        defaults = setup.foundation.defaults
        steps = options.steps or defaults.num_inference_steps
        shape = Shape(bucket_of(setup, options.size), steps, defaults.guidance_scale)
        light = Shape(bucket_of(setup, "half"), options.load_steps, 1.0)
        results: dict[str, Any] = {
            "model": name,
            "device": str(setup.foundation.device),
            "dtype": str(setup.foundation.dtype),
        }
        clock, working = CLOCKS[options.clock], list(options.sides)
        if "frames" in options.suite:
            few = Shape(shape.bucket, min(steps, 4), shape.guidance_scale)
            results["frames"] = compare_frames(setup, options.sides, few, tell)
            working = [side for side in working if not isinstance(results["frames"].get(side), str)]
        if "steps" in options.suite:
            results["steps"] = measure_steps(setup, shape, options.turns, clock, tell)
        if "throughput" in options.suite:
            results["throughput"] = [
                measure_throughput(
                    setup,
                    [
                        side
                        for side in working
                        if adapters <= options.preload_limit or side not in ("B", "C", "E")
                    ],
                    shape,
                    adapters=adapters,
                    exponent=exponent,
                    requests=options.requests,
                    slots=min(adapters, options.slots),
                    max_batch=options.max_batch,
                    repeats=options.repeats,
                    clock=clock,
                    tell=tell,
                )
                for adapters in options.adapters
                for exponent in (options.zipf if adapters > 1 else options.zipf[:1])
            ]
        if {"poisson", "cold"} & set(options.suite):
            tell(f"{name}: capacity")
            most = capacity(
                setup, light, adapters=8, max_batch=options.max_batch, requests=options.load_requests
            )
            results["capacity_per_second"] = most
        if "poisson" in options.suite:
            results["poisson"] = [
                measure_poisson(
                    setup,
                    options.load_sides,
                    light,
                    rate=load * most,
                    load=load,
                    adapters=load_adapters,
                    few_slots=options.few_slots,
                    exponent=exponent,
                    requests=options.load_requests,
                    max_batch=options.max_batch,
                    repeats=options.repeats,
                    tell=tell,
                )
                for load in options.loads
                for exponent in options.zipf
            ]
        if "cold" in options.suite:
            load = options.loads[len(options.loads) // 2]
            results["cold"] = [
                measure_cold(
                    setup,
                    light,
                    rate=load * most,
                    load=load,
                    hot=8,
                    requests=options.load_requests,
                    max_batch=options.max_batch,
                    repeats=options.repeats,
                    tell=tell,
                )
            ]
    return results


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print and write the results; returns them."""
    options = parser().parse_args(arguments)
    for key, value in (QUICK if options.quick else FULL).items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    if "ours" not in options.sides:
        options.sides.append("ours")
    if options.threads:
        torch.set_num_threads(options.threads)
    began = time.time()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("")
        models = [
            measure(name, options, lambda what: bar.update(task, description=what)) for name in options.models
        ]
    report = {
        "environment": environment(torch.device(models[0]["device"])),
        "options": {
            key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()
        },
        "began": began,
        "seconds": time.time() - began,
        "models": models,
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    show(report)
    return report


if __name__ == "__main__":
    main()
