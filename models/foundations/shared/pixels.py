"""Converts a VAE's pixels to those of a video file."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(video_BCFHW: Tensor) -> Tensor:
    """Pixels in [-1, 1] -> uint8 [B, F, H, W, 3], rounded as diffusers' video processor does."""
    video = (video_BCFHW.float() / 2 + 0.5).clamp(0, 1)
    return (video * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous().cpu()
