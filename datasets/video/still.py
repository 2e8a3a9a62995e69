"""Reads a still image as people see it: upright, on black, 8 bits of red, green and blue.

    still = read_still("cat.jpg");  still.picture_HWC;  still.notes

The header is checked before anything is decoded, so a small file that claims a huge picture costs nothing.
Formats are named, because Pillow also knows some (EPS, for one) that start other programs.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from datasets.video.animation import composed, first_line, is_transparent
from datasets.video.videofile import MAX_SIDE, ON_BLACK
from infra.errors import InvalidInput

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
DEEP = ("I;16", "I;16L", "I;16B", "I;16N")  # grey with 16 bits, which Pillow would clip to white
BROKEN = (
    UnidentifiedImageError,
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)


class UnreadableImage(InvalidInput):
    """The file is no still image that can be used here; the message says why."""

    default_code = "unreadable_image"


@dataclass(frozen=True)
class Still:
    """A still image."""

    picture_HWC: np.ndarray  # uint8 RGB
    notes: tuple[str, ...] = ()  # what was done to it, for the user


def read_still(path: Path, name: str | None = None) -> Still:
    """Read an image file.

    Args:
        name: used in messages; by default the path.

    Raises UnreadableImage: missing, a folder, empty, no image, truncated, animated, or a side above 8192 pixels.
    """
    name = name or str(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UnreadableImage(f"{name} {what}; give an image file, such as a png or jpeg.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the sides are checked below
        try:
            with Image.open(path, formats=FORMATS) as image:
                _check_header(name, image)
                return _read(name, image)
        except Image.DecompressionBombError:
            raise UnreadableImage(
                f"{name} is far larger than {MAX_SIDE}x{MAX_SIDE} pixels, according to its header; scale it down first."
            ) from None
        except UnidentifiedImageError:
            raise UnreadableImage(
                f"{name} is not an image that can be read here; give a png, jpeg, webp, bmp, gif or tiff (a video is learned "
                "as a clip)."
            ) from None
        except BROKEN as error:
            raise UnreadableImage(
                f"{name} is not a readable image ({first_line(error)[:120]}); give an intact one, or save it as png."
            ) from None


def _check_header(name: str, image: Image.Image) -> None:
    """Raise UnreadableImage for an animation, and for a picture with too many pixels; decodes none."""
    width, height = image.size
    if max(width, height) > MAX_SIDE:
        raise UnreadableImage(
            f"{name} is {width}x{height}; sides may have at most {MAX_SIDE} pixels: scale it down first."
        )
    # A phone's JPEG may have a second picture, such as a gain map (MPO); viewers show the first.
    count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if count > 1:
        raise UnreadableImage(
            f"{name} has {count} frames, so it is no still image; save one frame as png, or learn from it as a video (an animation is "
            "a clip)."
        )


def _read(name: str, image: Image.Image) -> Still:
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("I", "F"):
        raise UnreadableImage(
            f"{name} has numbers of 32 bits as pixels; save it with 8 bits of red, green and blue, as a png."
        )
    if upright.mode in DEEP:
        upright = Image.fromarray((np.asarray(upright).astype(np.uint32) // 257).astype(np.uint8))
    if is_transparent(upright):
        return Still(composed(upright), (f"{name} is {ON_BLACK}",))
    return Still(np.array(upright.convert("RGB")))
