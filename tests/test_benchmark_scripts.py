"""`make bench` runs each file of benchmarks/ as a script: there its folder, whose names are those of rooms, is searched first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")))
def test_a_benchmark_starts_as_a_script(script: str):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {script}")
