"""Time from starting `motiondirector train` until its workers train, in this checkout and optionally in another.

    python benchmarks/train_start.py                                        # this checkout alone, by stage
    git worktree add ../before COMMIT
    python benchmarks/train_start.py --against ../before --rounds 3         # both, taking turns

Trains one clip of one concept for two steps with one worker, on a new Ray cluster each time. Prints the seconds from the
command's start to the line that reports training, the CPU seconds of all processes (including Ray's, which outlive the
command), and the stages that the command reports. Stages may overlap. Wall-clock times are meaningful only on an idle machine;
the sides take turns, so their ratio is more robust.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # otherwise `training` would be this script

TRAINS = re.compile(r"^orbit: .*\d+ workers? on ")  # the line printed when training begins
PART = re.compile(r"^orbit: (.+), ([0-9.]+) s$")
PR_SET_CHILD_SUBREAPER = 36  # from linux/prctl.h


def clips(folder: Path) -> str:
    """A clip set of one rendered clip."""
    videos, data = folder / "videos", str(folder / "data")
    program = ["-m", "motiondirector"]
    run(ROOT, [*program, "sprites", "render", "--motion", "orbit", "--appearances", "1", "--to", str(videos)])
    captions = ["--captions", str(videos / "captions.csv")]
    run(ROOT, [*program, "ingest", str(videos), *captions, "--concept", "orbit", "--to", data])
    return data


def run(checkout: Path, arguments: list[str]) -> dict[str, Any]:
    """Run a checkout's command to its end; record when its lines appeared and what it cost."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "NO_COLOR": "1",
        "COLUMNS": "200",
        "PYTHONUNBUFFERED": "1",
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    found: dict[str, Any] = {"begins": None, "parts": {}}
    output = []
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=checkout,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line)
            if found["begins"] is None and TRAINS.match(line):
                found["begins"] = time.monotonic() - began
            if part := PART.match(line):
                found["parts"][part[1]] = float(part[2])
    if process.returncode:
        sys.exit("".join(output[-20:]))
    with contextlib.suppress(ChildProcessError):  # none is left
        while True:
            os.wait()  # Ray's processes, which were reparented to this one
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found["cpu"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return found


def main() -> None:
    """Print a line per run, the medians, then everything as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    sides = {"this": ROOT, **({"other": options.against.resolve()} if options.against else {})}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory(prefix="motiondirector-start-") as folder:
        data = clips(Path(folder) / "clips")
        for number in range(options.rounds):
            for name, checkout in list(sides.items())[:: -1 if number % 2 else 1]:
                place = Path(folder) / f"{name}-{number}"
                command = [
                    "-m",
                    "motiondirector",
                    "train",
                    "--concept",
                    "orbit",
                    "--data",
                    data,
                    "--steps",
                    "2",
                ]
                done = run(
                    checkout, [*command, "--run-dir", f"{place}/run", "--registry", f"{place}/registry"]
                )
                runs[name].append(done)
                parts = "; ".join(f"{part} {seconds:.1f}" for part, seconds in done["parts"].items())
                print(
                    f"{name}: trains after {done['begins']:.1f} s, {done['cpu']:.1f} s of CPU. {parts}",
                    flush=True,
                )
    for name, each in runs.items():
        begins, cpu = (statistics.median(one[key] for one in each) for key in ("begins", "cpu"))
        print(f"{name}, median of {len(each)}: trains after {begins:.1f} s, {cpu:.1f} s of CPU")
    print(json.dumps(runs))


if __name__ == "__main__":
    main()
