"""What a foundation makes is known without loading it, or the libraries that would."""

import subprocess
import sys

import pytest

from infra.errors import UserError
from models.load import load_foundation
from models.locating import foundation_sizes, locate
from models.sizes import Bucket
from models.tiny import RECIPES


@pytest.mark.parametrize("source", [None, *(f"tiny-random:{name}" for name in sorted(RECIPES))])
def test_the_sizes_are_those_of_the_loaded_foundation(source):
    sizes = foundation_sizes(source)
    model = load_foundation(source, device="cpu", parts=())
    assert (sizes, sizes.defaults) == (model.sizes, model.defaults)
    model.check_bucket(sizes.defaults.bucket)
    for frames, height, width in ((2, 64, 64), (8, 63, 64), (8, 64, 72), (9, 64, 64), (9, 4, 64)):
        bucket, said = Bucket(frames, height, width), []
        for check in (sizes.check, model.check_bucket):
            try:
                said.append(check(bucket))
            except UserError as error:
                said.append(error.message)
        assert said[0] == said[1]


def test_ingest_loads_no_model_library_for_four_numbers():
    """torch, diffusers and transformers take seconds to import, on a busy machine many."""
    script = """
import sys
from motiondirector.api.ingest import size_for
print(*size_for(None, None, None, None, None))
import datasets.ingest.local, datasets.ingest.sources
print([name for name in ("torch", "diffusers", "transformers", "ray") if name in sys.modules])
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == ["8x64x64 (frames, height, width) for sprites 8", "[]"]


def test_a_configuration_that_cannot_be_read_is_one_sentence(tmp_path):
    folder = tmp_path / "model"
    (folder / "vae").mkdir(parents=True)
    (folder / "model_index.json").write_bytes((locate(None) / "model_index.json").read_bytes())
    (folder / "vae" / "config.json").write_text("{")
    with pytest.raises(UserError, match="download the checkpoint again"):
        foundation_sizes(str(folder))
