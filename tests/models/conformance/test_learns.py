"""From pixels to an adapter: latents as ingest makes them, a few steps in this process, a file that acts."""

from dataclasses import replace

import numpy as np
import pytest
from stock_pipeline import ours

from datasets.clip_sets.latents import CachedClip, latents_of
from models.adapters.file import Adapter, read_adapter, save_adapter
from models.denoise import install
from models.generation import GenerationParams
from models.regions.layers import latent_coverage
from models.regions.region import Region
from training.config import make_config
from training.recommended import resolve
from training.runs.local import train_local


def clips(foundation):
    """Two clips of noise; the second has a mask."""
    bucket, draw = foundation.defaults.bucket, np.random.default_rng(0)
    empty = foundation.encode_text([""])[0].float()
    found = []
    for number in range(2):
        pixels = draw.integers(0, 256, (bucket.frames, bucket.height, bucket.width, 3), dtype=np.uint8)
        text = foundation.encode_text([f"clip {number}"])[0].float()
        clip = CachedClip.of(str(number), "0" * 64, "", latents_of(pixels, foundation, "noise"), text, empty)
        found.append(clip)
    covered = latent_coverage(Region(box=(0, 0, 0.5, 1), feather=0), foundation, bucket)
    return [found[0], replace(found[1], coverage=covered)]


@pytest.mark.parametrize("method", ["motiondirector", "dual", "appearance"])
def test_a_few_steps_give_an_adapter_that_acts(foundation, tmp_path, method):
    config = make_config(
        {
            "method": method,
            "steps": 4,
            "rank": 2,
            "learning_rate": 1e-2,
            "batch_size": 2,
            "mask_outside": 0.5,
            "gradient_checkpointing": True,
        }
    )
    losses = []
    trained = train_local(
        foundation, "spin", clips(foundation), config, on_step=lambda report: losses.append(report.loss)
    )
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    (path, tensors), *none = trained.items()
    assert not none
    assert path == ("spatial" if method == "appearance" else "temporal")
    assert tensors.keys() == set(foundation.targets[path])
    save_adapter(tmp_path, Adapter(path, 2, tensors), foundation)
    read = read_adapter(tmp_path, foundation)
    uses = install(foundation, {path: read.tensors})
    requests = [GenerationParams(prompt="a cat", seed=1, adapters=adapters) for adapters in ((), uses)]
    (base, _), (adapted, _) = ours(foundation, requests)
    assert (adapted - base).abs().max() > 1e-3


def test_the_familys_recommended_settings_are_a_training_configuration(foundation):
    family = foundation.spec
    found = resolve({}, family.recommended)
    assert {name: getattr(found, name) for name in family.training} == {
        name: one.value for name, one in family.training.items()
    }
    assert all(one.source for one in (*family.training.values(), *family.defaults.values()))
