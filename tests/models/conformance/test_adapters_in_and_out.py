"""Adapters: a file and back, to the stock tools and back, and merged into the weights."""

from dataclasses import replace

import pytest
import torch
from stock_pipeline import Stock, ours, random_adapter

from infra.errors import InvalidInput
from models.adapters.export import export_merged
from models.adapters.file import Adapter, adopt, read_adapter, save_adapter
from models.denoise import install
from models.generation import GenerationParams


def test_an_adapter_returns_from_its_file_as_it_was(tmp_path, foundation):
    adapter = random_adapter(foundation)
    saved = save_adapter(tmp_path, adapter, foundation, metadata={"steps": 3, "captions": ["a cat spins"]})
    read = read_adapter(tmp_path, foundation)
    assert read.sha256 == saved.sha256
    assert (read.path, read.rank, read.concept) == ("temporal", 4, "spin")
    assert read.metadata["captions"] == '["a cat spins"]'
    assert read.metadata["foundation_fingerprint"] == foundation.fingerprint
    for name, (a, b) in adapter.tensors.items():
        assert torch.equal(read.tensors[name][0], a)
        assert torch.equal(read.tensors[name][1], b)


def test_an_adapter_that_the_stock_tools_save_is_read_as_the_same(tmp_path, foundation):
    """Of several denoisers, each has a file of its own: the first one's."""
    adapter = random_adapter(foundation)
    save_adapter(tmp_path / "ours", adapter, foundation)
    theirs = Stock(foundation).load(tmp_path / "ours").save(tmp_path / "theirs")
    part = next(iter(foundation.denoisers))
    found = read_adapter(theirs)
    renamed = {part + name: pair for name, pair in found.tensors.items()}
    adopted = adopt(replace(found, tensors=renamed), foundation, "theirs")
    assert set(adopted) == {"temporal"}
    for name, (a, b) in adapter.tensors.items():
        if name.startswith(part):
            found_a, found_b = adopted["temporal"].tensors[name]
            torch.testing.assert_close(found_b @ found_a, b @ a)


def test_layers_that_an_adapter_leaves_out_stay_as_they_are_and_unknown_ones_are_refused(foundation):
    whole = random_adapter(foundation)
    (kept, pair), *left_out = whole.tensors.items()
    found = adopt(Adapter("temporal", 4, {kept: pair}), foundation, "part")["temporal"]
    assert all(not found.tensors[name][1].any() for name, _ in left_out)
    assert torch.equal(found.tensors[kept][1], pair[1])
    with pytest.raises(
        InvalidInput, match=r"cannot change layer blocks\.99\.nowhere; expected .* another model"
    ):
        adopt(Adapter("temporal", 4, {"blocks.99.nowhere": pair}), foundation, "other")


def test_merged_weights_make_what_the_adapter_makes(tmp_path, foundation):
    adapter = save_adapter(tmp_path / "adapter", random_adapter(foundation), foundation)
    stock = Stock(foundation).merged(export_merged(foundation, [adapter], tmp_path / "merged"))
    uses = install(foundation, {"temporal": adapter.tensors})
    request = GenerationParams(prompt="a cat", seed=3, adapters=uses)
    ((latents, _),) = ours(foundation, [request])
    torch.testing.assert_close(latents, stock(request)[0], rtol=0, atol=1e-4)
