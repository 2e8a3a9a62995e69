"""Previews of videos that are still being denoised."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor

from models.foundations.base import Foundation

SIDE = 256  # maximum pixels of the longer side


@torch.no_grad()
def render(foundation: Foundation, x0_1Cfhw: Tensor) -> bytes:
    """A small WebP of the middle latent frame of the current estimate of the clean latents.

    The frame is decoded alone, which is cheap and close enough. Does not change the latents.
    """
    middle = x0_1Cfhw.shape[2] // 2
    latents = torch.nan_to_num(x0_1Cfhw[:, :, middle - foundation.extra_frames : middle + 1])
    picture = Image.fromarray(foundation.decode(latents)[0, 0].numpy())
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=70)
    return buffer.getvalue()
