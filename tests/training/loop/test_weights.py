"""Masked training: weights inside and outside of a clip's mask, from the settings to every loss."""

from dataclasses import replace

import pytest
import torch
from training_helpers import BUCKETS, SMALL, masked, parameters, plain_engine, random_clips, solo

from infra.errors import ConceptError, UserError
from models.regions.layers import LatentCoverage, latent_coverage
from models.regions.region import Region
from training.config import TrainConfig, fixed_settings, make_config
from training.loop.group import group_key
from training.loop.member import Member
from training.loop.pack import Capacity, Ended, Pack
from training.loop.step import collate, dual_path_losses
from training.loop.weights import loss_weights

INSIDE = {"mask_inside": 3.0, "mask_outside": 1.0}


def trained(foundation, clips, **settings):
    with solo(foundation, clips, **settings) as run:
        reports = list(run.train())
        return [report.loss for report in reports], parameters(run)


def same(one, other):
    return one[0] == other[0] and all(torch.equal(a, other[1][key]) for key, a in one[1].items())


def test_weights_follow_the_coverage_and_have_a_mean_of_one():
    covered = torch.zeros(2, 4, 4)
    covered[0, :, :1], covered[1, 0] = 1.0, 0.5
    weights = loss_weights(make_config(INSIDE), LatentCoverage(covered, covered))
    assert weights.clip_fhw.mean() == pytest.approx(1)
    inside, half, outside = (float(weights.clip_fhw[at]) for at in ((0, 0, 0), (1, 0, 0), (0, 0, 3)))
    assert inside == pytest.approx(3 * outside)
    assert half == pytest.approx(2 * outside)
    # a frame that shows more of the object counts for more in the spatial pass
    assert weights.frame(0).shape == (1, 4, 4)
    assert weights.frame(0).mean() > 1 > weights.frame(1).mean()


@pytest.mark.parametrize("settings", [{}, {"mask_inside": 2.0, "mask_outside": 2.0}])
def test_without_a_difference_there_are_no_weights(settings):
    covered = torch.ones(2, 4, 4)
    assert loss_weights(make_config(settings), LatentCoverage(covered, covered)) is None
    assert loss_weights(make_config(INSIDE), None) is None


def test_the_coverage_of_latents_is_that_of_their_frames_and_pixels(foundation):
    bucket = BUCKETS[foundation.family]
    keyframes = [{"frame": 0, "box": (0, 0, 0.5, 1)}, {"frame": bucket.frames - 1, "box": (0.5, 0, 1, 1)}]
    found = latent_coverage(Region(keyframes=keyframes, feather=0.0), foundation, bucket)
    _, frames, height, width = foundation.latent_shape(bucket)
    assert found.latents_fhw.shape == (frames, height, width)
    assert found.frames_Fhw.shape == (bucket.frames, height, width)
    assert found.frames_Fhw[0, 0].tolist() == [1.0] * (width // 2) + [0.0] * (width // 2)
    assert found.frames_Fhw[-1, 0].tolist() == [0.0] * (width // 2) + [1.0] * (width // 2)
    # each latent frame is the mean of its frames; the first one has the first frame alone
    spans = [len(span) for span in foundation.latent_layout(bucket).frames]
    means = [part.mean(0) for part in found.frames_Fhw.split(spans)]
    torch.testing.assert_close(found.latents_fhw, torch.stack(means))
    nothing = latent_coverage(None, foundation, bucket)
    assert not nothing.latents_fhw.any()
    assert not nothing.frames_Fhw.any()
    assert nothing.latents_fhw.shape == found.latents_fhw.shape


def test_defaults_and_clips_without_masks_change_no_bit(foundation):
    clips = random_clips(foundation, 2)
    plain = trained(foundation, clips)
    assert same(plain, trained(foundation, masked(clips, foundation)))
    assert same(plain, trained(foundation, clips, **INSIDE))
    assert not same(plain, trained(foundation, masked(clips, foundation), **INSIDE))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "no-debias"},
        {"method": "coupled"},
        {"method": "full"},
        {"appearance_preservation": 1.0},
        {"appearance_share": 0.5, "appearance_frames": 2},
    ],
)
def test_with_no_weight_outside_only_the_inside_is_learned(foundation, settings):
    member = Member(
        "c", "c", make_config({**SMALL, "mask_outside": 0.0, **settings}), random_clips(foundation, 1)
    )
    member = replace(member, clips=masked(member.clips, foundation))
    place = plain_engine(foundation, **settings).place
    for step in range(3):
        batch = collate([member.sample(step, 0, place)], "cpu")
        found = dual_path_losses(foundation, batch, member.config)
        for rows, loss_B in ((batch.frames, found.spatial_B), (batch.clips, found.temporal_B)):
            if rows is None:
                continue
            half = rows.x0.shape[-1] // 2
            assert rows.weight.shape == (len(rows.sample), 1, *rows.x0.shape[2:])
            assert (rows.weight[..., :half] > 0).all()
            assert not rows.weight[..., half:].any()
            assert loss_B > 0


def test_a_neighbour_without_a_mask_is_not_weighed(foundation):
    clips = [*masked(random_clips(foundation, 1), foundation), *random_clips(foundation, 1, seed=1)]
    config = make_config({**SMALL, **INSIDE, "batch_size": 2})
    engine = plain_engine(foundation, clips=2, batch_size=2)
    member = Member("c", "c", config, clips)
    samples = [member.sample(0, index, engine.place) for index in range(2)]
    together = engine.losses(collate(samples, "cpu"))
    plain = engine.losses(collate([replace(sample, weights=None) for sample in samples], "cpu"))
    for number, sample in enumerate(samples):
        has_mask = sample.clip.coverage is not None
        for one, other in zip(together, plain, strict=True):
            assert torch.equal(one[number], other[number]) != has_mask


def test_members_of_a_pack_have_weights_of_their_own(unet3d):
    sizes = {"frames": 4, "height": 32, "width": 32}
    settings = ({}, INSIDE, {"mask_inside": 0.0})
    members = [
        Member(
            f"m{number}",
            f"c{number}",
            make_config({**SMALL, "learning_rate": 1e-3, **sizes, **own}),
            masked(random_clips(unet3d, 1, seed=number), unet3d),
        )
        for number, own in enumerate(settings)
    ]
    ended = {}
    with Pack(unet3d, group_key(unet3d.fingerprint, members[0].config), Capacity(3, 3)) as pack:
        for member in members:
            pack.admit(member)
        while pack.members:
            ended |= {event.name: event for event in pack.step() if isinstance(event, Ended)}
    for member in members:
        with Pack(unet3d, group_key(unet3d.fingerprint, member.config), Capacity(1, 1)) as pack:
            pack.admit(member)
            alone = [event for _ in range(SMALL["steps"]) for event in pack.step()][-1]
        found, expected = flat(ended[member.name].tensors["temporal"]), flat(alone.tensors["temporal"])
        assert (found - expected).norm() < 1e-4 * expected.norm()


def flat(layers):
    return torch.cat([tensor.flatten().double() for pair in layers.values() for tensor in pair])


@pytest.mark.parametrize(
    ("settings", "box", "says"),
    [
        ({"mask_outside": 0.0}, None, "covers nothing"),
        ({"mask_inside": 0.0}, (0.0, 0.0, 1.0, 1.0), "covers everything"),
    ],
)
def test_a_clip_of_which_nothing_is_left_is_refused_by_name(unet3d, settings, box, says):
    clips = random_clips(unet3d, 1)
    region = None if box is None else Region(box=box, feather=0.0)
    clips = [replace(clips[0], coverage=latent_coverage(region, unet3d, BUCKETS["unet3d"]))]
    refused = pytest.raises(ConceptError, match=f"clip 1 of c: its mask {says}.*leave nothing to learn")
    with refused as told, solo(unet3d, clips, **settings):
        pass
    assert told.value.code == "invalid_mask"
    assert unet3d.bank is None


def test_both_weights_zero_are_refused_and_defaults_keep_the_hashes_of_earlier_trainings():
    with pytest.raises(UserError, match="mask_inside 0 and mask_outside 0 leave nothing to learn"):
        make_config({"mask_inside": 0, "mask_outside": 0})
    with pytest.raises(UserError, match="mask-outside -1"):
        make_config({"mask_outside": -1})
    assert not {"mask_inside", "mask_outside"} & fixed_settings(TrainConfig()).keys()
    assert fixed_settings(make_config({"mask_outside": 0.1}))["mask_outside"] == 0.1
