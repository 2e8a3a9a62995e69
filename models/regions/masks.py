"""Decodes and encodes the images of a region's mask. Imports no torch.

The images come from anyone, so formats, bytes, pixels and frames are limited before pixels are decoded. A mask
needs no more detail than the model's latents, so the limits are low.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as PictureImage

MAX_BYTES = 32 * 1024  # of all images of a mask; a request's body has at most 64 KiB
MAX_BASE64 = (MAX_BYTES + 2) // 3 * 4  # characters
MAX_SIDE = 1_024  # pixels
MAX_FRAMES = 1_024
MAX_PIXELS = 4 * 1_024**2  # of all frames together
FORMATS = ("PNG", "GIF")  # both say their size before anything is allocated for it


class Unusable(ValueError):
    """A mask cannot be used. The message says why."""


def decode_masks(texts: Sequence[str]) -> np.ndarray:
    """The masks as uint8 [f, h, w], from base64 of PNG or GIF files (an animation has its frames).

    Transparent pixels are black. Raises Unusable.
    """
    import numpy as np

    frames: list[np.ndarray] = []
    for text in texts:
        frames += _frames(base64.b64decode(text), len(frames))
        if frames[-1].shape != frames[0].shape:
            (h, w), (height, width) = frames[0].shape, frames[-1].shape
            raise Unusable(f"the mask's images are {w}x{h} and {width}x{height} pixels; give one size")
    return np.stack(frames)


def _frames(data: bytes, before: int) -> list[np.ndarray]:
    """The frames of one file, uint8 [h, w] each. `before`: number of frames of earlier files."""
    import numpy as np
    from PIL import Image, ImageSequence

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of large pictures; these are refused below
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = picture.size
            count = before + getattr(picture, "n_frames", 1)
            if max(width, height) > MAX_SIDE or count > MAX_FRAMES or count * width * height > MAX_PIXELS:
                raise Unusable(
                    f"the mask has {count} frames of {width}x{height} pixels; give at most {MAX_FRAMES} frames, {MAX_SIDE} "
                    f"pixels a side and {MAX_PIXELS} pixels together"
                )
            if picture.mode.startswith(("I", "F")):
                raise Unusable("the mask has 16 bits or more for a pixel; give 8")
            return [np.asarray(_grey(frame)) for frame in ImageSequence.Iterator(picture)]
    except Unusable:
        raise
    except Exception:  # a damaged file makes PIL raise nearly anything
        raise Unusable("an image of the mask is no intact PNG or GIF; save it again as PNG") from None


def _grey(frame: PictureImage) -> PictureImage:
    """A picture in shades of grey, on black where it is transparent."""
    from PIL import Image

    colours = frame.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, (0, 0, 0, 255)), colours).convert("L")


def greys(pictures_hwc: np.ndarray) -> np.ndarray:
    """Pictures uint8 [..., h, w, 3] as masks uint8 [..., h, w]: their luma."""
    import numpy as np

    return np.rint(pictures_hwc @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)


def fits(count: int, height: int, width: int) -> bool:
    """Whether a mask may have that many frames of this size."""
    return max(width, height) <= MAX_SIDE and count * width * height <= MAX_PIXELS


def encode_masks(masks_fhw: np.ndarray) -> list[str]:
    """Masks uint8 [f, h, w] as PNGs in base64: in full size if they fit into MAX_BYTES, else smaller.

    Raises Unusable if even the smallest do not fit.
    """
    from PIL import Image

    frames = [Image.fromarray(mask) for mask in masks_fhw]
    while True:
        width, height = frames[0].size
        if fits(len(frames), height, width):
            files = [_png(frame) for frame in frames]
            if sum(map(len, files)) <= MAX_BASE64:
                return files
        if min(width, height) < 16:
            raise Unusable(
                f"the mask's {len(frames)} frames do not fit into {MAX_BYTES} bytes; give fewer frames, plainer shapes or "
                "a region with keyframes"
            )
        # Half the size at a time: each pixel is the mean of four.
        frames = [frame.resize((width // 2, height // 2), Image.Resampling.BOX) for frame in frames]


def _png(picture: PictureImage) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
