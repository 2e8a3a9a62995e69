"""Cost of training: the published algorithm's structure, PEFT, one process per concept, and packs, in one run.

    python benchmarks/training.py                        # all parts: about ten minutes on two cores
    python benchmarks/training.py --quick                # tiny model and counts: only checks that the benchmark runs
    python benchmarks/training.py --part step --repeats 21 --json training.json

Parts: `step` (losses on equal draws, then alternating steps in one process), `memory` (peak of one process per side),
`concepts` (concepts per hour, including start-up), `orchestration` (a lane against a bare pack). Losses are compared first,
without dropout; the timed training uses the foundation's recommended settings.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

# A script's folder comes first on the path, where `training` would be this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# Spinning threads make a step ten times slower if anything else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.training_parts import concepts, overhead, steps, tasks
from benchmarks.training_parts.process import Job
from benchmarks.training_parts.steps import LOOP, PUBLISHED, PUBLISHED_WHOLE
from models.foundations.base import Foundation
from models.load import load_foundation

PARTS = ("step", "memory", "concepts", "orchestration")
SAME = 1e-4  # largest relative difference of two sides' losses


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="repeatable (default: all)")
    parser.add_argument("--quick", action="store_true", help="a tiny model and small counts")
    parser.add_argument("--foundation", default=None, help="path or id (default: the embedded foundation)")
    parser.add_argument("--device", default=None)
    parser.add_argument("--packs", default="1,2,4,8", help="pack sizes, separated by commas")
    parser.add_argument("--repeats", type=int, default=11, help="timed steps of each side")
    parser.add_argument("--concepts", type=int, default=16)
    parser.add_argument(
        "--sample",
        type=int,
        default=2,
        help="concepts that each side with one process per concept trains; the others are extrapolated",
    )
    parser.add_argument("--steps", type=int, default=25, help="steps per concept in part `concepts`")
    parser.add_argument(
        "--long", type=int, default=200, help="steps per concept for the computed concepts per hour"
    )
    parser.add_argument("--json", type=Path, default=None, help="file for all figures")
    options = parser.parse_args()
    if options.quick:
        options.foundation = options.foundation or "tiny-random:unet3d"
        options.packs, options.repeats, options.concepts, options.sample = "1,2", 3, 2, 1
        options.steps = 3
    options.part = options.part or list(PARTS)
    options.packs = tuple(int(size) for size in options.packs.split(","))
    return options


class Report:
    """Results, printed part by part and kept for the JSON file."""

    def __init__(self) -> None:
        self.console = Console(width=120)
        self.progress = Console(stderr=True)
        self.found: dict[str, Any] = {}
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        self.progress.print(f"[{time.monotonic() - self.began:4.0f} s] {text}", highlight=False, markup=False)

    def table(self, title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        table = Table(title=title)
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)


def step_part(options: argparse.Namespace, report: Report) -> None:
    def load() -> Foundation:
        return load_foundation(options.foundation, device=options.device)

    report.say("step: losses of every side on the same draws")
    sides, _ = steps.make_sides(load, options.packs, dropout=0.0, steps=1000)
    differences = steps.parity(sides, 3 if options.quick else 5, report.say)
    worst = max(differences.values())
    assert worst < SAME, f"the sides' losses differ by {worst}: {differences}"
    sides, counts = steps.make_sides(load, options.packs, steps=10_000)
    times = steps.timings(
        sides, counts, options.repeats, on_round=lambda done, of: report.say(f"step: round {done} of {of}")
    )
    report.found["step"] = {
        "losses_differ": differences,
        "seconds": {name: timing.asdict() for name, timing in times.items()},
    }
    rows = []
    for name, timing in times.items():
        figures, median = timing.asdict(), timing.median
        rows.append(
            (
                name,
                f"{median * 1e3:.0f}",
                f"{figures['low'] * 1e3:.0f}-{figures['high'] * 1e3:.0f}",
                f"{times[PUBLISHED].median / median:.2f} x",
                f"{times[PUBLISHED_WHOLE].median / median:.2f} x",
                f"{times[LOOP].median / median:.2f} x",
                f"{differences[name]:.0e}",
            )
        )
    columns = (
        *("side", "ms per concept-step", "range"),
        *("speedup to (i)", "to (i) no ckpt", "to (ii)", "losses differ by"),
    )
    report.table("One training step, medians of alternating steps", columns, rows)


def job_template(options: argparse.Namespace, folder: Path, own: dict[str, Any]) -> Job:
    return Job(
        side="loop",
        data=str(folder / "clips"),
        out=str(folder / "adapters"),
        concepts=[tasks.concept_name(0)],
        foundation=options.foundation,
        device=options.device,
        settings=own,
    )


def memory_part(options: argparse.Namespace, report: Report, folder: Path) -> None:
    template = job_template(options, folder, {"steps": 4})
    found = report.found["memory"] = concepts.memory(template, options.packs, report.say)
    rows = [
        (
            name,
            f"{used['peak'] / 2**20:.0f}",
            f"{used['peak'] / found[PUBLISHED]['peak']:.2f}",
            f"{used['peak'] / found[PUBLISHED_WHOLE]['peak']:.2f}",
            f"{used['training'] / 2**20:.0f}",
            f"{used['training'] / found[PUBLISHED]['training']:.2f}",
            f"{used['training'] / found[PUBLISHED_WHOLE]['training']:.2f}",
        )
        for name, used in found.items()
    ]
    of = ("of (i)", "of (i) no ckpt")
    report.table(
        "Peak memory of a process", ("side", "MiB in total", *of, "MiB added by training", *of), rows
    )


def concepts_part(options: argparse.Namespace, report: Report, folder: Path) -> None:
    template = job_template(options, folder, {"steps": options.steps})
    found = concepts.rates(
        template, options.concepts, options.sample, options.packs, options.steps, options.long, report.say
    )
    report.found["concepts"] = {name: asdict(rate) for name, rate in found.items()}
    published, loop = found[f"{PUBLISHED}, a process each"], found[f"{LOOP}, a process each"]
    rows = [
        (
            name,
            str(rate.measured),
            f"{rate.start:.1f}",
            f"{rate.per_step * 1e3:.0f}",
            f"{rate.per_hour:.0f}",
            f"{rate.per_hour / published.per_hour:.2f} x",
            f"{rate.per_hour / loop.per_hour:.2f} x",
            f"{rate.long:.0f}",
            f"{rate.long / published.long:.2f} x",
        )
        for name, rate in found.items()
    ]
    columns = (
        *(
            "side",
            "trained",
            "start s",
            "ms per step",
            f"per hour, {options.steps} steps",
            "to (i)",
            "to (ii)",
        ),
        *(f"{options.long} steps, computed", "to (i)"),
    )
    report.table(f"Concepts per hour: {options.concepts} concepts, including start-up", columns, rows)


def orchestration_part(options: argparse.Namespace, report: Report, folder: Path) -> None:
    foundation = load_foundation(options.foundation, device=options.device)
    size = max(size for size in options.packs if size <= 4)
    own: dict[str, Any] = {"steps": options.steps, "checkpoint_interval": 10}
    repeats = 1 if options.quick else 3
    found = overhead.orchestration(
        foundation, options.foundation, folder / "batches", size, size, repeats, report.say, **own
    )
    pairs = zip(found["lane"], found["bare pack"], strict=True)
    ratios = sorted(lane / bare for lane, bare in pairs)
    report.found["orchestration"] = {"seconds": found, "ratios": ratios}
    rows = [(name, *(f"{seconds:.2f}" for seconds in times)) for name, times in found.items()]
    numbers = tuple(str(number + 1) for number in range(repeats))
    report.table(f"{size} concepts of {options.steps} steps in one pack, seconds", ("", *numbers), rows)
    extra = statistics.median(
        lane - bare for lane, bare in zip(found["lane"], found["bare pack"], strict=True)
    )
    report.console.print(
        f"lane / bare pack: median {statistics.median(ratios):.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f}), "
        f"{extra / size * 1e3:.0f} ms per concept",
        highlight=False,
    )


def main() -> None:
    options, report = arguments(), Report()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        foundation = load_foundation(options.foundation, device="cpu", parts=())
        count = max(options.concepts, *options.packs)
        tasks.write_clip_set(str(folder / "clips"), foundation.defaults.bucket, count)
        if "step" in options.part:
            step_part(options, report)
        for part, run in (
            ("memory", memory_part),
            ("concepts", concepts_part),
            ("orchestration", orchestration_part),
        ):
            if part in options.part:
                run(options, report, folder)
    gpu = torch.cuda.is_available() and options.device != "cpu"
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    about = {
        "foundation": foundation.name,
        "hardware": torch.cuda.get_device_name() if gpu else machine,
        "dtype": "bfloat16" if gpu else "float32",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "waiting": os.environ["OMP_WAIT_POLICY"].lower(),
        "date": str(date.today()),
    }
    report.found["about"] = about
    report.console.print(", ".join(f"{what} {value}" for what, value in about.items()), highlight=False)
    if options.json:
        options.json.write_text(json.dumps(report.found, indent=1))


if __name__ == "__main__":
    main()
