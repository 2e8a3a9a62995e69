"""A look at a video that is still being denoised."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor

from models.foundation import Foundation

SIDE = 256  # pixels of the longer side, at most


@torch.no_grad()
def render(foundation: Foundation, x0_1Cfhw: Tensor) -> bytes:
    """The present guess at the clean latents as a small WebP of the middle one.

    It is decoded by itself (cheap, and near enough for a look); the latents stay as they are.
    """
    middle = x0_1Cfhw.shape[2] // 2
    latents = torch.nan_to_num(x0_1Cfhw[:, :, middle : middle + 1])
    picture = Image.fromarray(foundation.decode(latents)[0, 0].numpy())
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=70)
    return buffer.getvalue()
