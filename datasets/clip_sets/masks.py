"""The region of a clip that matters more or less in training, and where it is in a clip cut out of a picture.

A row of a clip set may have a mask: one `models.regions.Region`, in fractions of the clip's picture and frames of the
clip. Boxes and polygons stay what they are where the clip shows all of them; otherwise, and for mask videos, it is
a mask of small pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from datasets.clip_sets.select import crop_box
from models.regions.masks import decode_masks, encode_masks
from models.regions.region import MAX_ALL_POINTS, Keyframe, Outline, Region

if TYPE_CHECKING:
    import numpy as np

SMALLEST = 1e-6  # fractions of the picture: a shape of less is empty


@dataclass(frozen=True)
class View:
    """The part of a picture of height x width pixels that a clip shows, and the clip's own size in pixels."""

    height: int
    width: int
    clip_height: int
    clip_width: int
    pixel_aspect: float = 1.0
    mirror: bool = False

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) in pixels of the picture."""
        return crop_box(self.height, self.width, self.clip_height, self.clip_width, self.pixel_aspect)

    @property
    def whole(self) -> bool:
        """Whether the clip shows all of the picture as it is, in whatever size."""
        left, top, right, bottom = self.box
        missing = left + top + (self.width - right) + (self.height - bottom)
        return not self.mirror and missing < SMALLEST * min(self.width, self.height)

    def outline(self, outline: Outline) -> Outline:
        """An outline in fractions of the picture, in fractions of the clip."""
        left, top, right, bottom = self.box
        found = [
            ((x * self.width - left) / (right - left), (y * self.height - top) / (bottom - top))
            for x, y in outline
        ]
        return tuple((1 - x if self.mirror else x, y) for x, y in found)

    def pictures(self, masks_fhw: np.ndarray) -> np.ndarray:
        """Masks of the picture, uint8 [f, h, w] of any h and w, as the clip shows them.

        Returns [f, clip_height, clip_width], or fewer pixels if the masks have no more.
        """
        if self.whole and masks_fhw.shape[1] <= self.clip_height and masks_fhw.shape[2] <= self.clip_width:
            return masks_fhw  # has no more pixels to give
        import numpy as np
        from PIL import Image

        _, h, w = masks_fhw.shape
        left, top, right, bottom = self.box
        box = (left * w / self.width, top * h / self.height, right * w / self.width, bottom * h / self.height)
        size = (self.clip_width, self.clip_height)
        shown = [
            np.asarray(Image.fromarray(mask_hw).resize(size, Image.Resampling.BILINEAR, box=box))
            for mask_hw in masks_fhw
        ]
        return np.stack([picture[:, ::-1] if self.mirror else picture for picture in shown])


def placed(region: Region, view: View, frames: Sequence[int]) -> Region | None:
    """A region of a video as the region of a clip cut out of it; None if the clip shows none of it.

    The result is in fractions. Without a `feather` its edge is sharp.

    Args:
        region: in coordinates and frames of the video.
        frames: the frame of the video that each frame of the clip shows.

    Raises:
        Unusable: a mask that cannot be decoded, or that is too detailed to store.
    """
    feather = _feather(region, view)
    if region.mask is not None:
        masks_fhw = decode_masks(region.mask)
        chosen = masks_fhw if len(masks_fhw) == 1 else masks_fhw[list(frames)]
        return from_pictures(view.pictures(chosen), feather)
    outlines = [view.outline(one) for one in region.outlines_at(frames, view.height, view.width)]
    is_box = region.box is not None or bool(region.keyframes and region.keyframes[0].box)
    shapes = _boxes(outlines) if is_box else _polygons(outlines)
    if shapes is None:
        return from_pictures(_drawn(outlines, view), feather)
    if all(shape == shapes[0] for shape in shapes):
        return Region(**shapes[0], feather=feather)
    keyframes = [Keyframe(frame=number, **shape) for number, shape in enumerate(shapes)]
    return Region(keyframes=tuple(keyframes), feather=feather)


def from_pictures(masks_FHW: np.ndarray, feather: float = 0.0) -> Region | None:
    """The region of a mask, uint8 [F, H, W] or [1, H, W] for all frames; None if it is black everywhere.

    It is reduced until it is small enough to store. Raises Unusable if it never is.
    """
    if not masks_FHW.any():
        return None
    still = bool((masks_FHW == masks_FHW[:1]).all())
    return Region(mask=tuple(encode_masks(masks_FHW[:1] if still else masks_FHW)), feather=feather)


def _feather(region: Region, view: View) -> float:
    """The width of the soft edge, of the clip's shorter side."""
    if region.feather is None:
        return 0.0
    left, top, right, bottom = view.box
    pixels = region.feather * (1 if region.unit == "pixels" else min(view.height, view.width))
    return round(min(1.0, pixels / min(right - left, bottom - top)), 6)


def _boxes(outlines: Sequence[Outline]) -> list[dict[str, Any]] | None:
    """The parts of the boxes within the picture; None if one has none."""
    found = []
    for outline in outlines:
        x, y = ([min(1.0, max(0.0, point[axis])) for point in outline] for axis in (0, 1))
        box = tuple(round(number, 6) for number in (min(x), min(y), max(x), max(y)))
        if box[2] - box[0] < SMALLEST or box[3] - box[1] < SMALLEST:
            return None
        found.append({"box": box})
    return found


def _polygons(outlines: Sequence[Outline]) -> list[dict[str, Any]] | None:
    """The polygons; None if a corner is outside the picture or there are too many."""
    within = all(0 <= number <= 1 for outline in outlines for point in outline for number in point)
    if not within or sum(map(len, outlines)) > MAX_ALL_POINTS:
        return None
    return [{"polygon": tuple((round(x, 6), round(y, 6)) for x, y in outline)} for outline in outlines]


def _drawn(outlines: Sequence[Outline], view: View) -> np.ndarray:
    """Outlines in fractions of the clip as masks, uint8 [F, H, W]."""
    import numpy as np

    from models.regions.coverage import filled

    height, width = view.clip_height, view.clip_width
    pixels = [[(x * width, y * height) for x, y in outline] for outline in outlines]
    return np.stack([(filled(one, height, width) * 255).round().byte().numpy() for one in pixels])


# ------------------------------------------------------------------------------ in a row
def _read(value: Any) -> Any:
    """A region from the text in a row."""
    return Region.model_validate_json(value) if isinstance(value, str) else value


Mask = Annotated[Region | None, BeforeValidator(_read)]


def mask_text(mask: Region | None) -> str | None:
    """What a row stores: the region's fields as JSON."""
    return None if mask is None else mask.model_dump_json(exclude_none=True)


def mask_id(mask: Region | None) -> str:
    """A hash of a mask; "" for none."""
    text = mask_text(mask)
    return "" if text is None else hashlib.sha256(text.encode()).hexdigest()
