"""The losses of MotionDirector (arXiv 2310.08465, eq. 4-8) and their successor here, per sample.

Shapes: B samples, C channels, F frames, H height, W width. Errors and losses are float32.

`phi(x_f) = sqrt(beta^2 + 1) * x_f - beta * x_a`, with `a` an anchor frame, takes from a video most of what all its
frames share. It is linear, so `phi(pred) - phi(target) = phi(pred - target)`. On the error e of one clip and over a
uniformly drawn anchor at beta = 1, the mean square of phi(e) weighs the part of e that is common to all frames by
(sqrt(2) - 1)^2 = 0.17 and the part that differs between frames by 3.

`preserving` goes further: what differs between frames is learned from the clip, what all frames share is held to what the
base model predicts without the temporal LoRA. Nothing in it pulls the temporal LoRA towards the clip's appearance.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mse(pred_BCFHW: Tensor, target_BCFHW: Tensor) -> Tensor:
    """Mean square error of each sample. Returns [B], float32."""
    return (pred_BCFHW.float() - target_BCFHW.float()).square().flatten(1).mean(1)


def phi(x_BCFHW: Tensor, anchor_B: Tensor, beta: float | Tensor) -> Tensor:
    """The appearance-debiasing map (eq. 6): every frame against its sample's anchor frame. Keeps the shape.

    Args:
        beta: one for all samples, or one for each (float64 [B], which rounds as a float does).
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
    """The mean square of the error's part that differs between frames, plus `weight` times that of how far the frames' mean
    is from the base model's. At weight 1 this is the plain loss against a target whose frames' mean is the base model's.

    Args:
        base_BCFHW: what the model predicts for the same input without the temporal LoRA.

    Returns:
        [B], float32.
    """
    error_BCFHW = pred_BCFHW.float() - target_BCFHW.float()
    motion_BCFHW = error_BCFHW - error_BCFHW.mean(2, keepdim=True)
    shared_BCHW = (pred_BCFHW.float() - base_BCFHW.float()).mean(2)
    return motion_BCFHW.square().flatten(1).mean(1) + weight * shared_BCHW.square().flatten(1).mean(1)
