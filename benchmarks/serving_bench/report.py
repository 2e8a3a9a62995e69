"""Output of the serving benchmark: tables, and which targets were met."""

from __future__ import annotations

import os
import platform
from typing import Any

import diffusers
import peft
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.serving_bench.baselines import BASELINES

WHAT = {name: kind.what for name, kind in BASELINES.items()}
WHAT |= {"F": "our engine, one adapter per batch", "ours": "our engine, mixed batches"}
# name in "ratios" -> (bound, whether it is the smallest or the largest allowed value)
STEP_TARGETS = {
    "different / equal throughput": (0.95, "least"),
    "mixed / F throughput": (1.1, "least"),
    "bank / base forward": (1.10, "most"),
    "idle bank / base forward": (1.02, "most"),
    "switch / step": (0.01, "most"),
    "switch / step of one request": (0.01, "most"),
    "host to slot / step": (0.05, "most"),
    "host to slot / step of one request": (0.05, "most"),
}
GPU_MIXED_OVER_F = 2.0


def environment(device: torch.device) -> dict[str, Any]:
    """Hardware and versions."""
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return {
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else machine,
        "threads": torch.get_num_threads(),
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "peft": peft.__version__,
        "python": platform.python_version(),
    }


def targets(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The measured targets of a model class: value, and whether it was met."""
    found: list[dict[str, Any]] = []

    def judge(name: str, value: float, bound: float, way: str) -> None:
        met = value >= bound if way == "least" else value <= bound
        found.append({"target": name, "value": value, "bound": bound, "way": way, "met": met})

    for name, value in results.get("steps", {}).get("ratios", {}).items():
        if name in STEP_TARGETS:
            bound, way = STEP_TARGETS[name]
            if name == "mixed / F throughput" and results["device"].startswith("cuda"):
                bound = GPU_MIXED_OVER_F
            judge(name, value["median"], bound, way)
    for row in results.get("throughput", []):
        if row["adapters"] == 8 and "A" in row["sides"]:
            name = f"requests per minute, ours / A (8 adapters, zipf {row['zipf']:g})"
            judge(name, row["sides"]["A"]["ours_times"]["median"], 3.0, "least")
    for row in results.get("poisson", []):
        for kind, side in row["sides"].items():
            if kind.endswith("slots"):
                name = f"p99, {row['adapters']} adapters in {kind.split()[1]} slots / all resident"
                name += f" (load {row['load']:g}, zipf {row['zipf']:g})"
                judge(name, side["p99_ratio"], 1.5, "most")
        if row["joined"]["at_most_one_step"] is not None:
            name = f"share of requests that join the batch within one step (load {row['load']:g}, zipf {row['zipf']:g})"
            judge(name, row["joined"]["at_most_one_step"], 1.0, "least")
    for row in results.get("cold", []):
        name = f"hot tenants' p99, with / without a cold tenant (load {row['load']:g})"
        judge(name, row["hot_tenants"]["+ a cold tenant"]["p99_ratio"], 1.1, "most")
    return found


def table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    made = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index else "left")
    for row in rows:
        made.add_row(*row)
    return made


def spread(value: dict[str, float], digits: int = 2) -> str:
    """Formats median (minimum-maximum)."""
    return f"{value['median']:.{digits}f} ({value['min']:.{digits}f}-{value['max']:.{digits}f})"


def tables(results: dict[str, Any]) -> list[Table]:
    """All figures of a model class."""
    made = []
    name = f"{results['model']} ({results['dtype']})"
    if "frames" in results:
        rows = [[f"{side}: {WHAT[side]}", str(gap)] for side, gap in results["frames"].items()]
        made.append(
            table(f"{name}: frames against ours", ["side", "largest difference in grey levels"], rows)
        )
    if "steps" in results:
        steps = results["steps"]
        title = f"{name}: one step, batch {steps['batch']}, {steps['layers']} layers, {steps['shape']}"
        rows = [[what, spread(value)] for what, value in steps["ms"].items()]
        made.append(table(title, ["side", "ms"], rows))
        rows = [[what, spread(value, 4)] for what, value in steps["ratios"].items()]
        made.append(table(f"{name}: ratios within a turn", ["ratio", "median (range)"], rows))
    for row in results.get("throughput", []):
        title = (
            f"{name}: {row['adapters']} adapters of ranks {row['ranks']}, zipf {row['zipf']:g}, {row['slots']} "
            f"slots, {row['requests']} requests, {row['shape']}"
        )
        rows = [
            [
                f"{side}: {WHAT[side]}",
                spread(of["per_minute"], 1),
                spread(of["ours_times"]),
                f"{of['batch_adapters']:.1f}" if of["batch_adapters"] else "",
                f"{of['ready_seconds']:.1f}",
            ]
            for side, of in row["sides"].items()
        ]
        columns = ["side", "requests per minute", "speedup of ours", "adapters per batch", "preparation s"]
        made.append(table(title, columns, rows))
    for row in results.get("poisson", []):
        title = (
            f"{name}: {row['adapters']} adapters, zipf {row['zipf']:g}, Poisson at {row['rate']:.2f}/s "
            f"({row['load']:g} of our capacity), {row['shape']}"
        )
        columns = ["side", "p50 s", "p99 s", "p99 ratio", "wait p99 s", "requests", "batch", "slot loads"]
        rows = [
            [
                f"{kind}: {WHAT[kind]}" if kind in WHAT else kind,
                *(f"{of[key]:.2f}" for key in ("p50", "p99", "p99_ratio", "wait_p99")),
                str(of["requests"]),
                f"{of['mean_batch']:.1f}",
                str(of["slot_loads"]),
            ]
            for kind, of in row["sides"].items()
        ]
        made.append(table(title, columns, rows))
    for row in results.get("cold", []):
        title = (
            f"{name}: {row['hot']} hot tenants at {row['load']:g} of our capacity; each request of a cold tenant needs a new "
            f"adapter, fetched in {row['fetch_seconds']:g} s"
        )
        rows = [
            [kind, f"{of['p50']:.2f}", f"{of['p99']:.2f}", f"{of['p99_ratio']:.2f}", str(of["requests"])]
            for kind, of in row["hot_tenants"].items()
        ]
        rows += [
            [f"the extra tenant of '{kind}'", f"{of['p50']:.2f}", f"{of['p99']:.2f}", "", str(of["requests"])]
            for kind, of in row["guest"].items()
        ]
        made.append(table(title, ["hot tenants", "p50 s", "p99 s", "p99 ratio", "requests"], rows))
    judged = targets(results)
    if judged:
        rows = [
            [
                one["target"],
                f"{one['value']:.4f}",
                f"at {one['way']} {one['bound']:g}",
                "met" if one["met"] else "MISSED",
            ]
            for one in judged
        ]
        made.append(table(f"{name}: targets", ["figure", "measured", "target", ""], rows))
    return made


def show(report: dict[str, Any]) -> None:
    """Print everything."""
    console = Console(width=150)
    for results in report["models"]:
        for one in tables(results):
            console.print(one)
    console.print(", ".join(f"{key} {value}" for key, value in report["environment"].items()))
