"""Kandinsky 5: texts of other lengths in one batch, its two texts, and checkpoints that are refused."""

import json
import shutil

import pytest
import torch
from stock_pipeline import tiny

from infra.errors import UserError
from models.foundations.base import Bucket
from models.load import load_foundation, locate
from models.lora.routing import Mix, Routing

PROMPTS = ["a cat", "a longer prompt", "a dog", ""]


@pytest.fixture(scope="module")
def kandinsky():
    return tiny("kandinsky5")


def inputs(model):
    shape = (len(PROMPTS), *model.latent_shape(Bucket(5, 32, 32)))
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return latents, torch.tensor([900.0, 500.0, 100.0, 300.0]), model.encode_text(PROMPTS)


@pytest.mark.parametrize("sharded", [False, True])
def test_texts_of_one_length_share_a_forward_and_each_has_its_own_adapter(kandinsky, fill, sharded):
    """Workers whose weights are sharded all ask for every sample alone: each forward gathers weights from all of them."""
    latents, t, text = inputs(kandinsky)
    slots, asked = [[1], [2], [], [1, 2]], []
    hook = kandinsky.denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: asked.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    first = next(kandinsky.denoiser.parameters())
    try:
        with kandinsky.temporary_bank({"spatial": 1, "temporal": 2}, rank=4) as bank, torch.no_grad():
            for slot in (1, 2):
                fill(bank, "temporal", slot, seed=slot)
            if sharded:
                first.ds_id = 0  # as DeepSpeed marks what it shards
            together = kandinsky.predict(latents, t, text, Routing(temporal=Mix.of(slots)))
            assert sorted(asked) == ([1, 1, 1, 1] if sharded else [1, 1, 2])
            for row, own in enumerate(slots):
                one = slice(row, row + 1)
                alone = kandinsky.predict(latents[one], t[one], text[one], Routing(temporal=Mix.of([own])))
                # 1e-3: the model rounds queries and keys to bfloat16
                torch.testing.assert_close(together[one], alone, atol=1e-3, rtol=1e-3)
    finally:
        hook.remove()
        if sharded:
            del first.ds_id


def test_both_texts_reach_the_model_and_what_is_not_there_does_not(kandinsky):
    latents, t, text = inputs(kandinsky)
    base = None
    for change in (None, (0, 3), (2, 3), (-1, 3)):  # CLIP's vector, a word, padding
        changed = text[:1].clone()
        if change is not None:
            changed[(0, *change)] += 1
        with torch.no_grad():
            answer = kandinsky.predict(latents[:1], t[:1], changed)
        base = answer if base is None else base
        moved = bool((answer - base).abs().max() > 1e-6)
        assert moved == (change in ((0, 3), (2, 3))), change


def test_sparse_attention_is_refused(tmp_path):
    folder = shutil.copytree(locate("tiny-random:kandinsky5"), tmp_path / "model")
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "attention_type": "nabla"}))
    with pytest.raises(UserError, match="has nabla attention, which is sparse and not supported"):
        load_foundation(folder, device="cpu")
