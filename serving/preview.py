"""A look at a video that is still being denoised."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.foundation import Foundation

SIDE = 256  # pixels of the longer side, at most


@torch.no_grad()
def render(foundation: Foundation, x0_1Cfhw: Tensor, frames: int = 1, fps: float = 4.0) -> bytes:
    """The present guess at the clean latents as a small WebP: one picture, or several as an animation.

    Each shown latent frame is decoded by itself (cheap, and near enough for a look); the latents stay as they are.
    """
    count = x0_1Cfhw.shape[2]
    picks = (
        [count // 2]
        if frames == 1
        else np.unique(np.linspace(0, count - 1, frames).round().astype(int)).tolist()
    )
    pictures = []
    for index in picks:
        latents = torch.nan_to_num(x0_1Cfhw[:, :, index : index + 1])
        picture = Image.fromarray(foundation.decode(latents)[0, 0].numpy())
        picture.thumbnail((SIDE, SIDE))
        pictures.append(picture)
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": pictures[1:], "duration": round(1000 / fps), "loop": 0}
    pictures[0].save(buffer, "WEBP", quality=70, **(more if len(pictures) > 1 else {}))
    return buffer.getvalue()
