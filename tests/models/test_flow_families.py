"""What holds for each family of rectified flow: gradients, and checkpoints that are wrong or not whole."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from stock_pipeline import tiny

from infra.errors import UserError
from models.load import load_foundation, locate
from models.lora.routing import Mix, Routing

FAMILIES = ("ltx", "hunyuan", "hunyuan15", "kandinsky5", "mochi", "skyreels", "wan-image")


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_one_slot_of_one_path_alone_also_if_blocks_are_computed_again(family):
    foundation, found = tiny(family), []
    latents = torch.randn(1, *foundation.latent_shape(foundation.defaults.bucket))
    text, routing = foundation.encode_text(["a cat"]), Routing(temporal=Mix.of([[2]]))
    for again in (False, True):
        with (
            foundation.temporary_bank({"spatial": 1, "temporal": 2}, 2, trainable=True, seed=1) as bank,
            foundation.gradient_checkpointing(again),
        ):
            with torch.no_grad():
                for _, parameter in bank.named_slot_parameters("temporal", 2):
                    parameter.add_(0.1)
            foundation.predict(latents, torch.tensor([950.0]), text, routing).square().sum().backward()
            assert all(parameter.grad is None for parameter in foundation.denoiser.parameters())
            for path, slot in (("spatial", 1), ("temporal", 1)):
                assert all(parameter.grad is None for parameter in bank.slot_parameters(path, slot))
            found.append(
                {
                    name: parameter.grad
                    for name, parameter in bank.named_slot_parameters("temporal", 2)
                    if not name.startswith("low_noise.")  # the other expert
                }
            )
    assert all(grad is not None and grad.any() for grad in found[0].values())
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad)


@pytest.fixture
def copied(tmp_path):
    def copy(family):
        return shutil.copytree(locate(f"tiny-random:{family}"), tmp_path / family)

    return copy


@pytest.mark.parametrize("family", FAMILIES)
def test_a_transformer_of_another_family_is_refused(copied, family):
    folder, other = copied(family), locate("tiny-random:cogvideox") / "transformer"
    shutil.rmtree(folder / "transformer")
    shutil.copytree(other, folder / "transformer")
    with pytest.raises(UserError, match="has a CogVideoXTransformer3DModel in transformer"):
        load_foundation(folder, device="cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_are_not_whole_are_refused(copied, family):
    folder = copied(family)
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    whole = load_file(file)
    name = next(key for key in whole if key.endswith(("to_q.weight", "to_query.weight")))
    less = {key: tensor for key, tensor in whole.items() if key != name}
    save_file(less, file, {"format": "pt"})
    with pytest.raises(UserError, match=rf"lacks 1 of its weights, such as transformer\.{name}"):
        load_foundation(folder, device="cpu")
    save_file({**less, name: whole[name][:-1].clone()}, file, {"format": "pt"})
    with pytest.raises(UserError, match="cannot be loaded as a"):
        load_foundation(folder, device="cpu")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be loaded as a"):
        load_foundation(folder, device="cpu")


def test_a_missing_shard_is_refused(copied):
    folder = copied("ltx") / "transformer"
    whole = load_file(folder / "diffusion_pytorch_model.safetensors")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    half = dict(list(whole.items())[::2])
    save_file(half, folder / "diffusion_pytorch_model-00001-of-00002.safetensors", {"format": "pt"})
    shards = {
        key: f"diffusion_pytorch_model-0000{1 if key in half else 2}-of-00002.safetensors" for key in whole
    }
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": shards})
    )
    with pytest.raises(UserError, match="cannot be loaded as a LTXPipeline"):
        load_foundation(folder.parent, device="cpu")
