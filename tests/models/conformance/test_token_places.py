"""Which part of the video each token of a layer stands for, as regions of adapters need it."""

import pytest
import torch

from models.lora.routing import PATHS

CHANGES = 16


def taken(foundation, names, latents):
    """What each of these layers takes, by name, in the order in which they run: [samples, tokens, width].

    With much noise and with little: of several denoisers, one runs for each.
    """
    seen, hooks = {}, []
    for name in names:

        def keep(_module, args, name=name):
            seen[name] = args[0].reshape(len(latents), -1, args[0].shape[-1]).clone()

        hooks.append(foundation.denoiser.get_submodule(name).register_forward_pre_hook(keep))
    text = foundation.encode_text(["a cat"] * len(latents))
    with torch.no_grad():
        for level in (0.99, 0.01):
            t = foundation.noise.timesteps(torch.full((len(latents),), level))
            foundation.predict(latents, t, text)
    for hook in hooks:
        hook.remove()
    return seen


def noise(foundation, samples=1):
    shape = foundation.latent_shape(foundation.defaults.bucket)
    return torch.randn((samples, *shape), generator=torch.Generator().manual_seed(0))


def test_every_target_layer_takes_the_tokens_that_its_layout_says(foundation):
    names = {name for of in foundation.targets.values() for name in of}
    bucket = foundation.defaults.bucket
    found = taken(foundation, names, noise(foundation))
    assert found.keys() == names
    for name, tokens in found.items():
        layout = foundation.token_layout(name, bucket)
        expected = layout.text + layout.cells_RT3.shape[:2].numel() + layout.text_after
        assert tokens.shape[1] == expected, name


@pytest.mark.parametrize("path", PATHS)
def test_a_changed_latent_moves_the_token_that_stands_for_it_most(foundation, path):
    """Of models that make tokens of patches of latents."""
    bucket, latents = foundation.defaults.bucket, noise(foundation, CHANGES)
    change_BC = 6 * torch.randn(latents.shape[:2], generator=torch.Generator().manual_seed(1))
    first = next(iter(taken(foundation, foundation.targets[path], latents)))
    layout, places = foundation.token_layout(first, bucket), foundation.latent_layout(bucket)
    if layout.sequences != "of the video":
        pytest.skip("convolutions come before its layers: test_layout.py changes a block's own input")
    _, frames, height, width = foundation.latent_shape(bucket)
    before = taken(foundation, [first], latents)[first]
    video = layout.cells_RT3.shape[:2].numel()
    for at in ((0, height - 2, 1), (frames - 1, 0, 1), (frames // 2, 1, width - 2)):
        changed = latents.clone()
        changed[:, :, *at] += change_BC
        moved = (taken(foundation, [first], changed)[first] - before).abs().sum((0, 2))
        prompt = torch.cat([moved[: layout.text], moved[layout.text + video :]])
        assert not prompt.any(), "before attention, the prompt's tokens know nothing of the video"
        most = int(moved[layout.text : layout.text + video].argmax())
        cell = layout.region(*divmod(most, layout.cells_RT3.shape[1]))
        latent = (places.frames[at[0]], places.rows[at[1]], places.columns[at[2]])
        for inner, outer in zip(latent, cell, strict=True):
            assert set(inner) <= set(outer), (first, at, cell)


def test_cells_cover_the_video(foundation):
    bucket = foundation.defaults.bucket
    layouts = {foundation.token_layout(name, bucket) for of in foundation.targets.values() for name in of}
    for layout in (*layouts, foundation.latent_layout(bucket)):
        for cells, whole in (
            (layout.frames, bucket.frames),
            (layout.rows, bucket.height),
            (layout.columns, bucket.width),
        ):
            assert {n for of in cells for n in of} == set(range(whole))
