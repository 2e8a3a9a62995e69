"""Which part of the video a token stands for: the layout names the token that a changed latent moves."""

import pytest
import torch
from diffusers import UNet3DConditionModel

from models.foundations.base import Bucket
from models.foundations.unets.unet3d import lora_targets
from models.load import load_foundation

CHANGED = ((0, 0, 0), (1, 2, 1), (2, 0, 2))  # frame, row and column of the cell that is changed


@pytest.fixture(scope="module")
def two_levels():
    """A UNet whose blocks of both levels have both kinds of attention; 3 frames of 6x5 latents, of which the lower has 3x3."""
    foundation = load_foundation("tiny-random:unet3d", device="cpu", dtype=torch.float32)
    torch.manual_seed(0)
    foundation.denoiser = UNet3DConditionModel(
        sample_size=4,
        block_out_channels=(16, 16),
        down_block_types=("CrossAttnDownBlock3D", "CrossAttnDownBlock3D"),
        up_block_types=("CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    ).eval()
    foundation.targets = lora_targets(foundation.denoiser)
    return foundation, Bucket(3, 48, 40)


def tokens_of(foundation, names, latents):
    """What each of these layers takes of one sample, [R, T, width]."""
    seen, hooks = {}, []
    for name in names:

        def keep(_, args, name=name):
            seen[name] = args[0].clone()

        hooks.append(foundation.denoiser.get_submodule(name).register_forward_pre_hook(keep))
    with torch.no_grad():
        foundation.predict(latents, torch.tensor([500]), foundation.encode_text(["a cat"]))
    for hook in hooks:
        hook.remove()
    return seen


def test_a_unets_token_is_the_frame_and_pixel_that_its_block_is_given(two_levels):
    """Each transformer's own input is changed in one place: of its layers' tokens, that place's moves most."""
    foundation, bucket = two_levels
    latents = torch.randn((1, *foundation.latent_shape(bucket)), generator=torch.Generator().manual_seed(0))
    layers = [name for names in foundation.targets.values() for name in names if name.endswith("attn1.to_q")]
    levels = {name: foundation.token_layout(name, bucket) for name in layers}
    assert {(one.sequences, len(one.rows), len(one.columns)) for one in levels.values()} == {
        ("of a frame", 6, 5),
        ("of a pixel", 6, 5),
        ("of a frame", 3, 3),
        ("of a pixel", 3, 3),
    }
    names = [name for of in foundation.targets.values() for name in of]
    before = tokens_of(foundation, names, latents)
    for name, tokens in before.items():
        assert tokens.shape[:2] == foundation.token_layout(name, bucket).cells_RT3.shape[:2], name
    for name in layers:  # one at a time: a change in an earlier block would reach the later ones
        owner = foundation.denoiser.get_submodule(name.split(".transformer_blocks")[0])
        for frame, row, column in CHANGED:

            def change(_, args, at=(frame, row, column)):
                given = args[0].clone()
                given[at[0], :, at[1], at[2]] += torch.linspace(-4, 4, given.shape[1])
                return (given, *args[1:])

            changed = owner.register_forward_pre_hook(change)
            moved_RT = (tokens_of(foundation, [name], latents)[name] - before[name]).abs().sum(-1)
            changed.remove()
            most = divmod(int(moved_RT.argmax()), moved_RT.shape[1])
            assert levels[name].cells_RT3[most].tolist() == [frame, row, column], name


def test_a_unets_cells_cover_the_video_once(two_levels):
    foundation, bucket = two_levels
    deep = next(name for name in foundation.targets["spatial"] if name.startswith("mid_block"))
    layout = foundation.token_layout(deep, bucket)
    assert layout.region(1, 4) == (range(1, 2), range(16, 32), range(16, 32))
    assert layout.region(2, 8) == (range(2, 3), range(32, 48), range(32, 40)), (
        "the last column is half a cell"
    )
    first = foundation.token_layout(foundation.targets["temporal"][0], bucket)
    assert first.region(7, 2) == (range(2, 3), range(8, 16), range(16, 24))
    for one in (layout, first):
        assert [n for of in one.frames for n in of] == list(range(bucket.frames))
        assert [n for of in one.rows for n in of] == list(range(bucket.height))
        assert [n for of in one.columns for n in of] == list(range(bucket.width))


def test_of_wans_tokens_a_changed_latent_moves_its_patch_alone():
    foundation = load_foundation("tiny-random:wan", device="cpu", dtype=torch.float32)
    bucket = Bucket(9, 48, 32)
    shape = foundation.latent_shape(bucket)
    assert shape[1:] == (3, 6, 4)
    latents = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0))
    layer = next(name for name in foundation.targets["temporal"] if name.startswith("blocks.0.attn1"))
    layout = foundation.token_layout(layer, bucket)
    before = tokens_of(foundation, [layer], latents)[layer]
    assert before.shape[:2] == layout.cells_RT3.shape[:2] == (1, 3 * 3 * 2)
    for frame, row, column in ((0, 0, 0), (1, 5, 2), (2, 3, 3)):
        other = latents.clone()
        other[0, :, frame, row, column] += 1
        moved = (tokens_of(foundation, [layer], other)[layer] - before).abs().sum(-1)[0].nonzero().flatten()
        assert [layout.cells_RT3[0, token].tolist() for token in moved] == [[frame, row // 2, column // 2]]
    frames, rows, columns = layout.region(0, 17)
    assert (frames, rows, columns) == (range(5, 9), range(32, 48), range(16, 32))
    assert [list(of) for of in layout.frames] == [[0], [1, 2, 3, 4], [5, 6, 7, 8]], (
        "the VAE's compression of time"
    )
    later = foundation.token_layout(foundation.targets["spatial"][-1], bucket)
    assert later == layout, "every block has the same tokens"
