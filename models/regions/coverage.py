"""How much of each pixel of a video, or of each cell of a coarser grid, a region covers: from 0 to 1.

A soft edge of width w is the region averaged over a window of w x w pixels around each pixel, so coverage falls
from 1 to 0 over w, centred on the edge (over up to 1.4 w at slanted edges). Two regions that share an edge and a
width add up to 1. At the border of the frame the region continues outwards: a box over the right half is whole
up to the frame's right side. More than w / 2 outside the edge coverage is exactly 0.

Computed on the CPU, so that every machine gets the same numbers.

Shapes: F frames, H W the grid's rows and columns (by default the video's pixels).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from models.regions.masks import decode_masks
from models.regions.region import Region
from models.sizes import Bucket

LINES = 8  # scan lines per row; along a line coverage is exact
ROUNDING = 1e-6  # sums this close to 0 or 1 are 0 or 1


def coverage(region: Region, bucket: Bucket, grid: tuple[int, int] | None = None) -> Tensor:
    """The share of each cell that the region covers: float32 [F, H, W] in 0..1, on the CPU.

    A still region has one frame in memory, shown F times. The region must have passed `check` for this bucket.

    Args:
        grid: rows and columns of equal cells; None: pixels. The time is proportional to their number. Edges are
            exact to an eighth of a cell, and a soft edge is the mean of cells.
    """
    height, width = grid or (bucket.height, bucket.width)
    y_scale, x_scale = height / bucket.height, width / bucket.width
    if region.mask is not None:
        sharp = scaled(torch.from_numpy(decode_masks(region.mask)), height, width)
    else:
        sharp = [
            filled([(x * x_scale, y * y_scale) for x, y in outline], height, width)
            for outline in region.outlines(bucket)
        ]
    feather = region.feather_pixels(bucket)
    # Frame by frame: in float64, a whole video would take gigabytes.
    frames = torch.stack(
        [softened(frame_HW, feather * y_scale, feather * x_scale).float() for frame_HW in sharp]
    )
    return frames.expand(bucket.frames, -1, -1)


def scaled(masks_fhw: Tensor, height: int, width: int) -> list[Tensor]:
    """Masks in shades of grey as float64 [H, W] in 0..1 each: linear between pixels, or their mean if there are more."""
    return [
        functional.interpolate(
            mask_hw[None, None].double() / 255, (height, width), mode="bilinear", antialias=True
        )[0, 0]
        for mask_hw in masks_fhw
    ]


def filled(outline: Sequence[tuple[float, float]], height: int, width: int) -> Tensor:
    """The share of each cell inside a polygon, float64 [H, W]: exact along x, from LINES samples along y.

    Corners are in cells, from the top left.

    Where a side crosses a scan line, everything to its right changes by one; the changes are summed up along
    the line. Going up and going down have opposite signs, so the sum is the winding number: 0 outside.
    """
    start_E2 = torch.tensor(outline, dtype=torch.float64)
    end_E2 = start_E2.roll(-1, dims=0)
    (x_E1, y_E1), (u_E1, v_E1) = start_E2.T[:, :, None], end_E2.T[:, :, None]
    line_Y = (torch.arange(height * LINES, dtype=torch.float64) + 0.5) / LINES
    down_EY = (y_E1 <= line_Y) & (line_Y < v_E1)
    up_EY = (v_E1 <= line_Y) & (line_Y < y_E1)
    edge, line = (down_EY | up_EY).nonzero(as_tuple=True)
    sign = down_EY[edge, line].double() - up_EY[edge, line].double()
    x, y, u, v = (one_E1[edge, 0] for one_E1 in (x_E1, y_E1, u_E1, v_E1))
    crossing = (x + (line_Y[line] - y) / (v - y) * (u - x)).clamp(0, width)
    column = crossing.floor().long()
    part = crossing - column  # of the crossed cell, to the left of the crossing
    change_HW = torch.zeros(height, width + 2, dtype=torch.float64)
    row = line // LINES
    change_HW.index_put_((row, column), sign * (1 - part) / LINES, accumulate=True)
    change_HW.index_put_((row, column + 1), sign * part / LINES, accumulate=True)
    return rounded(change_HW.cumsum(1)[:, :width].abs())


def softened(values_HW: Tensor, rows: float, columns: float) -> Tensor:
    """The mean over a window of this many rows and columns around each cell, [H, W]; 0: as given."""
    if rows <= 0:
        return values_HW
    return rounded(averaged(averaged(values_HW, columns).T, rows).T)


def averaged(values_NL: Tensor, window: float) -> Tensor:
    """The mean along the last dimension over `window` cells around each; the outermost values continue outside."""
    length = values_NL.shape[1]
    beyond = math.ceil(window / 2) + 1
    wide = functional.pad(values_NL[None], (beyond, beyond), mode="replicate")[0]
    sums = functional.pad(wide.cumsum(1), (1, 0))  # sums[:, n]: of the first n values

    def up_to(offset: float) -> Tensor:
        """The integral from the left up to each cell's centre plus `offset`."""
        first = math.floor(beyond + 0.5 + offset)
        below, above = (sums[:, at : at + length] for at in (first, first + 1))
        return torch.lerp(below, above, beyond + 0.5 + offset - first)

    return (up_to(window / 2) - up_to(-window / 2)) / window


def rounded(values: Tensor) -> Tensor:
    """Values in 0..1, exactly 0 or 1 where only rounding kept them from it."""
    values = values.clamp(0, 1)
    values = torch.where(values < ROUNDING, 0.0, values)
    return torch.where(values > 1 - ROUNDING, 1.0, values)


def union(coverages: Sequence[Tensor]) -> Tensor:
    """How much of each pixel several regions cover together: their sum, at most 1. Shapes as given."""
    return torch.stack(list(coverages)).sum(0).clamp(max=1)
