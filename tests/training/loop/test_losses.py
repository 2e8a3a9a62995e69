"""The losses: the paper's formulas, and what they weigh."""

import pytest
import torch

from training.loop.losses import debiased, mse, phi, preserving, temporal_loss


def transcription(pred, target, anchor, beta):
    """Eq. 6-8 of arXiv 2310.08465 for one clip [C,F,H,W], written out frame by frame in float64."""
    pred, target = pred.double(), target.double()
    root = (beta * beta + 1) ** 0.5
    plain = torch.stack([(pred[:, f] - target[:, f]).pow(2).mean() for f in range(pred.shape[1])]).mean()
    frames = []
    for f in range(pred.shape[1]):
        phi_pred = root * pred[:, f] - beta * pred[:, anchor]
        phi_target = root * target[:, f] - beta * target[:, anchor]
        frames.append((phi_pred - phi_target).pow(2).mean())
    return plain + torch.stack(frames).mean()


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_temporal_loss_is_the_formula(beta):
    g = torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, 3, 4, 5, 6, 7, generator=g)
    anchor = torch.tensor([0, 3, 4])
    expected = torch.stack([transcription(pred[b], target[b], int(anchor[b]), beta) for b in range(3)])
    torch.testing.assert_close(
        temporal_loss(pred, target, anchor, beta).double(), expected, rtol=1e-6, atol=0
    )


def test_an_error_common_to_all_frames_weighs_017():
    target = torch.zeros(1, 2, 5, 3, 3)
    pred = torch.randn(1, 2, 1, 3, 3).expand(1, 2, 5, 3, 3)
    ratio = debiased(pred, target, torch.tensor([2])) / mse(pred, target)
    assert ratio.item() == pytest.approx((2**0.5 - 1) ** 2, rel=1e-5)
    assert ratio.item() == pytest.approx(0.17, abs=0.005)


def test_an_error_that_differs_between_frames_weighs_3_over_all_anchors():
    error = torch.randn(1, 2, 5, 3, 3)
    error = error - error.mean(2, keepdim=True)
    target = torch.randn(1, 2, 5, 3, 3)
    over_anchors = torch.stack([debiased(target + error, target, torch.tensor([a])) for a in range(5)])
    assert (over_anchors.mean() / error.square().mean()).item() == pytest.approx(3, rel=1e-4)


def test_phi_takes_each_samples_own_anchor():
    x = torch.randn(3, 2, 4, 1, 1)
    anchor = torch.tensor([1, 0, 3])
    out = phi(x, anchor, 1.0)
    for b in range(3):
        torch.testing.assert_close(out[b, :, anchor[b]], (2**0.5 - 1) * x[b, :, anchor[b]])


def test_preserving_is_the_plain_loss_against_a_target_whose_mean_over_frames_is_the_bases():
    pred, target, base = torch.randn(3, 2, 3, 5, 4, 4)
    mixed = target - target.mean(2, keepdim=True) + base.mean(2, keepdim=True)
    torch.testing.assert_close(preserving(pred, target, base), mse(pred, mixed))
    shared = mse(pred.mean(2, keepdim=True), base.mean(2, keepdim=True))
    torch.testing.assert_close(preserving(pred, target, base, 3.0), mse(pred, mixed) + 2 * shared)


def test_preserving_asks_nothing_of_the_clip_that_all_its_frames_share():
    pred, target, base = torch.randn(3, 2, 3, 5, 4, 4)
    other_looks = target + torch.randn(2, 3, 1, 4, 4)
    torch.testing.assert_close(preserving(pred, target, base), preserving(pred, other_looks, base))


def test_losses_are_float32_for_bf16_predictions():
    x = torch.randn(1, 2, 3, 4, 4).bfloat16()
    assert mse(x, x).dtype == torch.float32
    assert temporal_loss(x, torch.zeros(1, 2, 3, 4, 4), torch.tensor([0])).dtype == torch.float32


def losses(pred, target, base, anchor, **options):
    return {
        "mse": mse(pred, target, **options),
        "debiased": debiased(pred, target, anchor, 0.7, **options),
        "temporal": temporal_loss(pred, target, anchor, 0.7, **options),
        "preserving": preserving(pred, target, base, 2.0, **options),
    }


def test_weights_of_one_change_no_bit_of_any_loss():
    pred, target, base = torch.randn(3, 2, 3, 5, 4, 4)
    anchor, ones = torch.tensor([1, 4]), torch.ones(2, 1, 5, 4, 4)
    plain, weighed = (losses(pred, target, base, anchor, weight_B1FHW=w) for w in (None, ones))
    for name in plain:
        assert torch.equal(plain[name], weighed[name]), name


def test_a_weight_multiplies_the_square_of_its_error_in_every_loss():
    pred, target, base = torch.randn(3, 2, 3, 5, 4, 4)
    anchor, weight = torch.tensor([1, 4]), torch.rand(2, 1, 5, 4, 4)
    found = losses(pred, target, base, anchor, weight_B1FHW=weight)
    error = pred - target

    def mean(values):
        return values.flatten(1).mean(1)

    difference = phi(error, anchor, 0.7)
    expected = {"mse": mean(weight * error**2), "debiased": mean(weight * difference**2)}
    expected["temporal"] = expected["mse"] + expected["debiased"]
    motion, shared = error - error.mean(2, keepdim=True), (pred - base).mean(2)
    expected["preserving"] = mean(weight * motion**2) + 2 * mean(weight.mean(2) * shared**2)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_a_weight_of_zero_leaves_out_what_it_covers():
    pred, target, base = torch.randn(3, 2, 3, 5, 4, 4)
    weight = torch.ones(2, 1, 5, 4, 4)
    weight[..., :2] = 0
    other, other_base = pred.clone(), base.clone()
    other[..., :2], other_base[..., :2] = 7, 9
    anchor = torch.tensor([1, 4])
    found = losses(pred, target, base, anchor, weight_B1FHW=weight)
    assert all(
        torch.equal(value, found[name])
        for name, value in losses(other, target, other_base, anchor, weight_B1FHW=weight).items()
    )
