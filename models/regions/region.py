"""The part of the frame in which an adapter acts: a box, a polygon or a mask, still or moving. Imports no torch.

    Region(box=(0.5, 0, 1, 1))                                      # the right half
    Region(polygon=[(100, 20), (200, 20), (150, 90)], unit="pixels", feather=0)
    Region(keyframes=[{"frame": 0, "box": (0, 0, 0.3, 1)}, {"frame": 15, "box": (0.7, 0, 1, 1)}])
    Region(mask=[one PNG in base64, or one for each frame])

Validation here needs no video: types, bounds, one shape, keyframes in order. `check` does the rest for the size
of a video. `models.regions.coverage` computes how much of each pixel a region covers.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from infra.errors import InvalidInput
from models.regions.masks import MAX_BASE64, MAX_FRAMES, decode_masks
from models.sizes import Bucket

FEATHER = 0.05  # default width of the soft edge of a box or polygon, of the frame's shorter side
MAX_POINTS = 64  # of a polygon
MAX_ALL_POINTS = 4_096  # of all keyframes together
MAX_PIXELS = 65_536  # largest coordinate in pixels
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")  # what answers show in place of a mask

Outline = tuple[tuple[float, float], ...]  # corners (x, y)


def check_box(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Check that the box is not empty."""
    left, top, right, bottom = box
    if not (left < right and top < bottom):
        raise ValueError("expected [left, top, right, bottom] with left below right and top below bottom")
    return box


def check_image(text: str) -> str:
    """Check for base64, or for a hash as in an answer."""
    if not DIGEST.fullmatch(text):
        try:
            base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            raise ValueError("expected a PNG or GIF in base64") from None
    return text


def listed(images: Any) -> Any:
    """One image as a list of one."""
    return [images] if isinstance(images, str) else images


def numbers(count: int, words: str) -> BeforeValidator:
    """A check for a list of that many items, with a better sentence than pydantic's."""

    def check(value: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) != count:
            raise ValueError(f"expected {words}")
        return value

    return BeforeValidator(check)


Many = Field(strict=False)  # JSON's lists are taken for tuples, also by strict models
Coordinate = Annotated[float, Field(ge=0, le=MAX_PIXELS, allow_inf_nan=False)]
Point = Annotated[tuple[Coordinate, Coordinate], Many, numbers(2, "a corner [x, y]")]
Box = Annotated[
    tuple[Coordinate, Coordinate, Coordinate, Coordinate],
    Many,
    numbers(4, "[left, top, right, bottom]"),
    AfterValidator(check_box),
]
Polygon = Annotated[tuple[Point, ...], Field(strict=False, min_length=3, max_length=MAX_POINTS)]
Image = Annotated[str, Field(max_length=MAX_BASE64), AfterValidator(check_image)]
Images = Annotated[
    tuple[Image, ...], Field(strict=False, min_length=1, max_length=MAX_FRAMES), BeforeValidator(listed)
]


class Shape(BaseModel):
    """A box or a polygon."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    box: Annotated[Box | None, Field(description="[left, top, right, bottom]")] = None
    polygon: Annotated[Polygon | None, Field(description="corners [x, y] in order")] = None

    @property
    def outline(self) -> Outline | None:
        """The corners in order; None if there is neither."""
        if self.box is None:
            return self.polygon
        left, top, right, bottom = self.box
        return ((left, top), (right, top), (right, bottom), (left, bottom))


class Keyframe(Shape):
    """The region at one frame."""

    frame: Annotated[int, Field(ge=0, lt=MAX_FRAMES, description="frame of the video, from 0")]

    @model_validator(mode="after")
    def one_shape(self) -> Keyframe:
        if (self.box is None) == (self.polygon is None):
            raise ValueError("expected `frame` and one of `box` and `polygon`")
        return self


class Region(Shape):
    """The part of the frame in which an adapter acts."""

    mask: Annotated[
        Images | None,
        Field(
            description="PNG or GIF in base64, one for all frames or one for each (an animation has its frames): white "
            "is inside, black and transparent outside, grey in part; it is scaled to the video"
        ),
    ] = None
    keyframes: Annotated[
        tuple[Keyframe, ...] | None,
        Field(
            strict=False,
            min_length=1,
            max_length=MAX_FRAMES,
            description="shapes at frames of the video, linear between them, still before the first and after the last",
        ),
    ] = None
    unit: Annotated[
        Literal["fraction", "pixels"],
        Field(
            description="of coordinates: fractions of the frame's width and height, or pixels from the top left"
        ),
    ] = "fraction"
    feather: Annotated[
        float | None,
        Field(
            ge=0,
            le=MAX_PIXELS,
            allow_inf_nan=False,
            description="width of the soft edge, centred on the edge: a fraction of the frame's shorter side, or pixels; "
            f"absent: {FEATHER:g} of the shorter side, for a mask 0",
        ),
    ] = None

    @model_validator(mode="after")
    def consistent(self) -> Region:
        shapes = (self.box, self.polygon, self.mask, self.keyframes)
        if sum(shape is not None for shape in shapes) != 1:
            raise ValueError("expected exactly one of `box`, `polygon`, `mask` and `keyframes`")
        if self.mask is not None and sum(map(len, self.mask)) > MAX_BASE64:
            raise ValueError(f"mask: expected at most {MAX_BASE64} characters of base64; use smaller images")
        if self.keyframes is not None:
            check_keyframes(self.keyframes)
        if self.unit == "fraction":
            given = [number for outline in self._outlines for point in outline for number in point]
            if max([*given, self.feather or 0.0]) > 1:
                raise ValueError('expected fractions from 0 to 1; for pixels give `unit: "pixels"`')
        return self

    @property
    def _outlines(self) -> list[Outline]:
        """The outlines as given: one, or one for each keyframe; none for a mask."""
        shapes: Sequence[Shape] = (self,) if self.keyframes is None else self.keyframes
        return [shape.outline for shape in shapes if shape.outline is not None]

    def outlines(self, bucket: Bucket) -> list[Outline]:
        """The corners in pixels: of all frames, or one outline for each if there are keyframes."""
        x_scale, y_scale = (bucket.width, bucket.height) if self.unit == "fraction" else (1, 1)
        given = [tuple((x * x_scale, y * y_scale) for x, y in outline) for outline in self._outlines]
        if self.keyframes is None:
            return given
        frames = [keyframe.frame for keyframe in self.keyframes]
        return [between(frames, given, frame) for frame in range(bucket.frames)]

    def outlines_at(self, frames: Sequence[int], height: int, width: int) -> list[Outline]:
        """The corners at these frames of a video, as fractions of its picture of height x width pixels."""
        x_scale, y_scale = (1, 1) if self.unit == "fraction" else (1 / width, 1 / height)
        given = [tuple((x * x_scale, y * y_scale) for x, y in outline) for outline in self._outlines]
        at = [0] if self.keyframes is None else [keyframe.frame for keyframe in self.keyframes]
        return [between(at, given, frame) for frame in frames]

    def feather_pixels(self, bucket: Bucket) -> float:
        """Width of the soft edge in pixels."""
        side = min(bucket.height, bucket.width)
        if self.feather is None:
            return 0.0 if self.mask is not None else FEATHER * side
        return self.feather * side if self.unit == "fraction" else self.feather

    def check(self, bucket: Bucket, what: str = "the region") -> list[str]:
        """Check the region for a size of video. Returns notes about what is changed for it.

        Args:
            what: names the region in errors and notes.

        Raises:
            InvalidInput: outside the frame or the video, crossing itself, empty, or an unusable mask
                ("invalid_region").
        """
        try:
            return [f"{what}: {note}." for note in self._checked(bucket)]
        except ValueError as error:
            raise InvalidInput(f"{what}: {error}.", code="invalid_region") from None

    def _checked(self, bucket: Bucket) -> list[str]:
        for keyframe in self.keyframes or ():
            if keyframe.frame >= bucket.frames:
                raise ValueError(
                    f"there is a keyframe at frame {keyframe.frame}, and the video's frames are 0 to "
                    f"{bucket.frames - 1}; give keyframes within the video"
                )
        for outline in self._outlines:
            check_outline(outline, self.unit, bucket)
        if self.mask is None:
            return []
        if any(DIGEST.fullmatch(image) for image in self.mask):
            raise ValueError("the mask is given by its hash, as answers show it; send its images in base64")
        masks_fhw = decode_masks(self.mask)
        frames, height, width = masks_fhw.shape
        if frames not in (1, bucket.frames):
            raise ValueError(
                f"the mask has {frames} frames and the video {bucket.frames}; give one image, or one for each frame"
            )
        if not masks_fhw.any():
            raise ValueError("the mask is black everywhere; make the part where the adapter acts white")
        if (height, width) == (bucket.height, bucket.width):
            return []
        return [f"the mask of {width}x{height} was scaled to the video's {bucket.width}x{bucket.height}"]

    @property
    def shown(self) -> Region:
        """The same region with the mask's hash in place of its images, for answers."""
        if self.mask is None or DIGEST.fullmatch(self.mask[0]):
            return self
        digest = hashlib.sha256("\n".join(self.mask).encode()).hexdigest()
        return self.model_copy(update={"mask": (f"sha256:{digest}",)})

    def __str__(self) -> str:
        """One word, for an mp4's metadata: the box, or a short hash of anything longer."""
        kind = next(name for name in ("box", "polygon", "mask", "keyframes") if getattr(self, name))
        if self.model_dump(exclude_none=True).keys() == {"box", "unit"} and self.unit == "fraction":
            return "box:" + "/".join(f"{number:g}" for number in self.box or ())
        digest = hashlib.sha256(self.shown.model_dump_json(exclude_none=True).encode()).hexdigest()
        return f"{kind}:{digest[:16]}"


def check_keyframes(keyframes: Sequence[Keyframe]) -> None:
    """Raise ValueError unless frames increase and the shapes can be interpolated."""
    if any(one.frame >= other.frame for one, other in itertools.pairwise(keyframes)):
        raise ValueError("keyframes: expected frames in increasing order, each once")
    outlines = [keyframe.outline or () for keyframe in keyframes]
    if (
        len(
            {
                (keyframe.box is None, len(outline))
                for keyframe, outline in zip(keyframes, outlines, strict=True)
            }
        )
        > 1
    ):
        raise ValueError("keyframes: expected boxes only, or polygons with the same number of corners")
    if sum(map(len, outlines)) > MAX_ALL_POINTS:
        raise ValueError(f"keyframes: expected at most {MAX_ALL_POINTS} corners together (a box has 4)")


def between(frames: Sequence[int], outlines: Sequence[Outline], frame: int) -> Outline:
    """The outline at a frame, by linear interpolation between the keyframes at `frames`."""
    after = next((number for number, at in enumerate(frames) if at > frame), len(frames))
    if after in (0, len(frames)):
        return outlines[0 if after == 0 else -1]
    share = (frame - frames[after - 1]) / (frames[after] - frames[after - 1])
    return tuple(
        (x + share * (u - x), y + share * (v - y))
        for (x, y), (u, v) in zip(outlines[after - 1], outlines[after], strict=True)
    )


def check_outline(outline: Outline, unit: str, bucket: Bucket) -> None:
    """Raise ValueError for corners outside the frame, an area of zero, or sides that cross."""
    if unit == "pixels":
        for x, y in outline:
            if x > bucket.width or y > bucket.height:
                raise ValueError(
                    f"the corner ({x:g}, {y:g}) is outside the frame of {bucket.width}x{bucket.height} pixels; give "
                    "corners within it"
                )
    sides = list(zip(outline, (*outline[1:], outline[0]), strict=True))
    for (i, one), (j, other) in itertools.combinations(enumerate(sides), 2):
        if crosses(one, other):
            raise ValueError(
                f"the polygon crosses itself (the sides from corners {i + 1} and {j + 1}); give its corners in order"
            )
    if not sum(x * v - u * y for (x, y), (u, v) in sides):
        raise ValueError("the polygon is empty (all corners are on a line); give corners around an area")


Side = tuple[tuple[float, float], tuple[float, float]]


def crosses(one: Side, other: Side) -> bool:
    """Whether two sides cross at a point within both. Sides that only touch do not."""

    def turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    (a, b), (c, d) = one, other
    return turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0
