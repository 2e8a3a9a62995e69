"""Each file of benchmarks/ starts as a script, as `make bench` runs it.

A script's folder is searched first for imports, and its files have the names of packages of this project.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from warm import WarmProcesses

from benchmarks import zeroscope
from models.denoise import sample
from models.generation import GenerationParams
from models.load import load_foundation

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")))
def test_a_benchmark_starts_as_a_script(script: str, warm: WarmProcesses):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = warm.start([f"benchmarks/{script}", "--help"], cwd=ROOT, env=environment)
    assert done.wait() == 0, done.errors
    assert done.output.startswith(f"usage: {script}")


def test_the_random_model_has_the_size_of_zeroscope_and_loads_as_such_a_model_does(tmp_path):
    with torch.device("meta"):
        whole = zeroscope.build(zeroscope.Shape())
    assert round(parameters(whole.unet) / 1e9, 2) == 1.41
    assert round(parameters(whole.text_encoder) / 1e9, 2) == 0.34
    assert round(parameters(whole.vae) / 1e9, 2) == 0.08
    small = zeroscope.Shape((16, 16, 32, 32), 8, 16, 1, 2, 32, (8, 8, 8, 8), 8)
    folder = zeroscope.write(tmp_path / "small", small, (4, 32, 32))
    foundation = load_foundation(folder, device="cpu", dtype="float32")
    assert str(foundation.defaults.bucket) == "4x32x32"
    assert {path: len(names) for path, names in foundation.targets.items()} == {
        "spatial": 96,
        "temporal": 170,
    }
    assert sample(foundation, [GenerationParams(prompt="a cat", steps=1)])[0].shape == (4, 32, 32, 3)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())
