"""The regions of a request's adapters as a weight for each token of each layer.

A weight is the mean coverage of the frames, rows and columns that the token represents (`Foundation.token_layout`). It
does not change between steps, so it is computed once for a request.

Shapes: n rows of a batch, k adapters per row, N tokens of a row in a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from infra.errors import InvalidInput
from models.foundations.base import Foundation
from models.foundations.shared.layout import TokenLayout
from models.generation import SlotUse
from models.lora.routing import PATHS, LoraPath
from models.regions.coverage import coverage, union
from models.regions.region import Region
from models.sizes import Bucket

PARTS = (
    4  # a latent's side is divided into so many: coverage is then right to 0.02, and pixels would take longer
)


@dataclass(frozen=True)
class LatentCoverage:
    """How much of each latent of a clip a region covers: 0 to 1, float32, on the CPU."""

    latents_fhw: Tensor  # of the whole clip
    frames_Fhw: Tensor  # of each frame as a one-frame video


def latent_coverage(region: Region | None, foundation: Foundation, bucket: Bucket) -> LatentCoverage:
    """The coverage of a clip's latents, as the mean over the frames and pixels that each represents.

    Args:
        region: None covers nothing.

    Raises:
        InvalidInput: the region does not suit the bucket.
    """
    layout, (_, frames, height, width) = foundation.latent_layout(bucket), foundation.latent_shape(bucket)
    if region is None:
        return LatentCoverage(torch.zeros(frames, height, width), torch.zeros(bucket.frames, height, width))
    region.check(bucket)
    covered_Fhw = coverage(region, bucket, (PARTS * height, PARTS * width))
    single = replace(layout, frames=tuple(range(frame, frame + 1) for frame in range(bucket.frames)))
    return LatentCoverage(
        layout.means(covered_Fhw).view(frames, height, width),
        single.means(covered_Fhw).view(bucket.frames, height, width),
    )


class RegionWeights:
    """The weights of one request. On the foundation's device, in its precision.

    Args:
        adapters: those of the request; one at least has a region.

    Raises:
        InvalidInput: a region does not suit the bucket.
    """

    def __init__(self, foundation: Foundation, bucket: Bucket, adapters: Sequence[SlotUse]) -> None:
        self.layers = layers_by_layout(foundation, bucket)
        device, dtype = foundation.device, foundation.dtype
        rows, columns = (PARTS * side for side in foundation.latent_shape(bucket)[2:])
        covered: dict[Region, Tensor] = {}
        for region in {use.region for use in adapters if use.region is not None}:
            region.check(bucket)
            covered[region] = coverage(region, bucket, (rows, columns))
        self._ones: dict[TokenLayout, Tensor] = {}
        # By the identity of the adapter's entry: to hash a region costs more than to multiply by its weights.
        self._weights: dict[TokenLayout, dict[int, Tensor]] = {}
        for layout in {layout for groups in self.layers.values() for layout in groups}:
            weights = {
                region: layout.means(covered_Fhw).to(device, dtype) for region, covered_Fhw in covered.items()
            }
            self._ones[layout] = torch.ones_like(next(iter(weights.values())))
            self._weights[layout] = {
                id(use): weights[use.region] for use in adapters if use.region is not None
            }
        latents, shape = foundation.latent_layout(bucket), foundation.latent_shape(bucket)[1:]
        parts = [latents.means(covered_Fhw).view(shape) for covered_Fhw in covered.values()]
        # How much of each latent the regions cover together, float32 [1, 1, f, h, w].
        self.union_11fhw = union(parts)[None, None].to(device)

    def of(self, use: SlotUse | None, layout: TokenLayout) -> Tensor:
        """The weights of the tokens [N] of layers of this layout for one of the request's adapters.

        Ones for an adapter without a region, and for None.
        """
        return self._weights[layout].get(id(use), self._ones[layout])


def layers_by_layout(
    foundation: Foundation, bucket: Bucket
) -> dict[LoraPath, dict[TokenLayout, tuple[str, ...]]]:
    """The target layers of each path, grouped by the tokens that they take.

    Raises InvalidInput if some act on the text.
    """
    if set(foundation.more_targets) & set(foundation.targets["temporal"]):
        raise InvalidInput(
            f"{foundation.name} was loaded with adapter_layers all, and some of these layers act on the text, which has no place "
            "in the frame; leave region out, or load it with adapter_layers own.",
            code="invalid_region",
        )
    found: dict[LoraPath, dict[TokenLayout, tuple[str, ...]]] = {}
    for path in PATHS:
        groups = found.setdefault(path, {})
        for layer in foundation.targets[path]:
            layout = foundation.token_layout(layer, bucket)
            groups[layout] = (*groups.get(layout, ()), layer)
    return found


def batch_coverage(
    path: LoraPath, rows: Sequence[tuple[RegionWeights | None, Sequence[SlotUse]]]
) -> dict[str, Tensor] | None:
    """`Mix.coverage` of a batch: [n, k, N] by layer; None if no adapter has a region.

    Args:
        rows: the weights of each row's request (None: without regions) and its adapters of this path in this step.
    """
    known = next(
        (weights for weights, uses in rows if weights is not None and any(use.region for use in uses)), None
    )
    if known is None:
        return None
    width = max(len(uses) for _, uses in rows)
    found: dict[str, Tensor] = {}
    for layout, layers in known.layers[path].items():
        weights_N = [
            (known if weights is None else weights).of(uses[j] if j < len(uses) else None, layout)
            for weights, uses in rows
            for j in range(width)
        ]
        coverage_nkN = torch.stack(weights_N).view(len(rows), width, -1)
        found |= dict.fromkeys((f"{path}:{layer}" for layer in layers), coverage_nkN)
    return found
