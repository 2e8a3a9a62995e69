"""The losses of MotionDirector (arXiv 2310.08465, eq. 4-8) and `preserving`, all per sample.

Shapes: B samples, C channels, F frames, H height, W width. Errors and losses are float32.

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


def mse(pred_BCFHW: Tensor, target_BCFHW: Tensor) -> Tensor:
    """Mean square error of each sample. Returns [B], float32."""
    return (pred_BCFHW.float() - target_BCFHW.float()).square().flatten(1).mean(1)


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
    pred_BCFHW: Tensor, target_BCFHW: Tensor, anchor_B: Tensor, beta: float | Tensor = 1.0
) -> Tensor:
    """MSE(phi(pred), phi(target)) of each sample (eq. 7). Returns [B], float32."""
    error_BCFHW = pred_BCFHW.float() - target_BCFHW.float()
    return phi(error_BCFHW, anchor_B, beta).square().flatten(1).mean(1)


def temporal_loss(
    pred_BCFHW: Tensor, target_BCFHW: Tensor, anchor_B: Tensor, beta: float | Tensor = 1.0
) -> Tensor:
    """L_t = MSE(pred, target) + MSE(phi(pred), phi(target)) of each sample (eq. 8). Returns [B], float32."""
    return mse(pred_BCFHW, target_BCFHW) + debiased(pred_BCFHW, target_BCFHW, anchor_B, beta)


def preserving(pred_BCFHW: Tensor, target_BCFHW: Tensor, base_BCFHW: Tensor, weight: float = 1.0) -> Tensor:
    """Loss that learns motion from the target and keeps appearance at the base model's prediction.

    It is the mean square of the error's part that differs between frames, plus `weight` times the mean
    square of the difference between the frame means of the prediction and the base prediction. At
    weight 1 this is the MSE against the target with its frame mean replaced by the base model's.

    Args:
        base_BCFHW: the model's prediction for the same input without the temporal LoRA.

    Returns:
        [B], float32.
    """
    error_BCFHW = pred_BCFHW.float() - target_BCFHW.float()
    motion_BCFHW = error_BCFHW - error_BCFHW.mean(2, keepdim=True)
    shared_BCHW = (pred_BCFHW.float() - base_BCFHW.float()).mean(2)
    return motion_BCFHW.square().flatten(1).mean(1) + weight * shared_BCHW.square().flatten(1).mean(1)
