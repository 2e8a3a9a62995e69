"""The losses of MotionDirector (arXiv 2310.08465, eq. 4-8) and `preserving`, all per sample.

Shapes: B samples, C channels, F frames, H height, W width. Errors and losses are float32.

Each takes weights w [B, 1, F, H, W] of a clip's mask (weights.py), or None for w = 1. With them, every mean of squares
is `mean(w * error^2)`: `mean(w e^2)`, `mean(w phi(e)^2)`, and for `preserving` as it says.

`phi(x_f) = sqrt(beta^2 + 1) * x_f - beta * x_a`, with anchor frame `a`, removes most of what all frames
of a video share. It is linear, so `phi(pred) - phi(target) = phi(pred - target)`. For the error e of
one clip, a uniformly drawn anchor and beta = 1, the mean square of phi(e) weighs the part of e that is
common to all frames by (sqrt(2) - 1)^2 = 0.17 and the part that differs between frames by 3.

`preserving` goes further: it learns the part that differs between frames from the clip, and holds the
common part to the base model's prediction without the temporal LoRA. So it never pulls the temporal
LoRA towards the clip's appearance.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mean_square(error: Tensor, weight: Tensor | None = None) -> Tensor:
    """mean(w * error^2) of each sample: [B].

    Args:
        weight: w, broadcast over the channels; None: 1.
    """
    square = error.square()
    return (square if weight is None else square * weight).flatten(1).mean(1)


def mse(pred_BCFHW: Tensor, target_BCFHW: Tensor, weight_B1FHW: Tensor | None = None) -> Tensor:
    """Mean square error of each sample. Returns [B], float32."""
    return mean_square(pred_BCFHW.float() - target_BCFHW.float(), weight_B1FHW)


def phi(x_BCFHW: Tensor, anchor_B: Tensor, beta: float | Tensor) -> Tensor:
    """The appearance-debiasing map (eq. 6): each frame relative to its sample's anchor. Keeps the shape.

    Args:
        beta: one value for all samples, or one per sample (float64 [B], which rounds like a Python float).
    """
    kept: float | Tensor = (beta**2 + 1) ** 0.5
    if isinstance(beta, Tensor):
        beta, kept = (scale.to(x_BCFHW).view(-1, 1, 1, 1, 1) for scale in (beta, kept))  # type: ignore[union-attr]
    anchor_BC1HW = x_BCFHW[torch.arange(len(x_BCFHW), device=x_BCFHW.device), :, anchor_B].unsqueeze(2)
    return kept * x_BCFHW - beta * anchor_BC1HW


def debiased(
    pred_BCFHW: Tensor,
    target_BCFHW: Tensor,
    anchor_B: Tensor,
    beta: float | Tensor = 1.0,
    weight_B1FHW: Tensor | None = None,
) -> Tensor:
    """MSE(phi(pred), phi(target)) of each sample (eq. 7). Returns [B], float32."""
    error_BCFHW = pred_BCFHW.float() - target_BCFHW.float()
    return mean_square(phi(error_BCFHW, anchor_B, beta), weight_B1FHW)


def temporal_loss(
    pred_BCFHW: Tensor,
    target_BCFHW: Tensor,
    anchor_B: Tensor,
    beta: float | Tensor = 1.0,
    weight_B1FHW: Tensor | None = None,
) -> Tensor:
    """L_t = MSE(pred, target) + MSE(phi(pred), phi(target)) of each sample (eq. 8). Returns [B], float32."""
    common_B = debiased(pred_BCFHW, target_BCFHW, anchor_B, beta, weight_B1FHW)
    return mse(pred_BCFHW, target_BCFHW, weight_B1FHW) + common_B


def preserving(
    pred_BCFHW: Tensor,
    target_BCFHW: Tensor,
    base_BCFHW: Tensor,
    weight: float = 1.0,
    weight_B1FHW: Tensor | None = None,
) -> Tensor:
    """Loss that learns motion from the target and keeps appearance at the base model's prediction.

    It is the mean square of the error's part that differs between frames, plus `weight` times the mean
    square of the difference between the frame means of the prediction and the base prediction. At
    weight 1 this is the MSE against the target with its frame mean replaced by the base model's.

    With weights w of a mask, error e = pred - target and mean_f over the frames, it is
    `mean(w * (e - mean_f e)^2) + weight * mean(mean_f(w) * (mean_f(pred - base))^2)`.

    Args:
        base_BCFHW: the model's prediction for the same input without the temporal LoRA.

    Returns:
        [B], float32.
    """
    error_BCFHW = pred_BCFHW.float() - target_BCFHW.float()
    motion_BCFHW = error_BCFHW - error_BCFHW.mean(2, keepdim=True)
    shared_BCHW = (pred_BCFHW.float() - base_BCFHW.float()).mean(2)
    weight_B1HW = None if weight_B1FHW is None else weight_B1FHW.mean(2)
    return mean_square(motion_BCFHW, weight_B1FHW) + weight * mean_square(shared_BCHW, weight_B1HW)
