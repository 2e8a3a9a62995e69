"""Adapters: a file and back, to the stock tools and back, and merged into the weights."""

import pytest
import torch
from stock_pipeline import Stock, random_adapter

from infra.errors import InvalidInput
from models.adapters.export import export_merged
from models.adapters.file import Adapter, adopt, read_adapter, save_adapter
from models.lora.routing import Mix, Routing


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
    adapter = random_adapter(foundation)
    save_adapter(tmp_path / "ours", adapter, foundation)
    theirs = Stock(foundation).load(tmp_path / "ours").save(tmp_path / "theirs")
    adopted = adopt(read_adapter(theirs), foundation, "theirs")
    assert set(adopted) == {"temporal"}
    for name, (a, b) in adapter.tensors.items():
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


def test_merged_weights_predict_what_the_adapter_does(tmp_path, foundation):
    adapter = save_adapter(tmp_path / "adapter", random_adapter(foundation), foundation)
    shape = foundation.latent_shape(foundation.defaults.bucket)
    latents = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0))
    t, text = foundation.noise.timesteps(torch.tensor([0.5])), foundation.encode_text(["a cat"])
    bank = foundation.add_bank({"temporal": 1}, rank=4)
    bank.write("temporal", 1, adapter.tensors)
    with torch.no_grad():
        expected = foundation.predict(latents, t, text, Routing(temporal=Mix.of([[1]])))
        bare = foundation.predict(latents, t, text)
        merged = type(Stock(foundation).denoiser).from_pretrained(
            export_merged(foundation, [adapter], tmp_path / "merged")
        )
        resident, foundation.denoiser = foundation.denoiser, merged.eval()
        try:
            found = foundation.predict(latents, t, text)
        finally:
            foundation.denoiser = resident
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - bare).abs().max() > 1e-2
