"""Selects the metrics for a kind of clips."""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.metric import Comparison, Metric
from evaluation.metrics.clip_scores import (
    ClipConsistency,
    ClipDiversity,
    ClipFrameConsistency,
    ClipScorer,
    ClipTextAlignment,
    PickScore,
)
from evaluation.metrics.consistency import SpriteConsistency, WarpingError
from evaluation.metrics.diversity import ColourDiversity, SpriteDiversity
from evaluation.metrics.motion_words import MotionWords, SpriteTextAlignment
from evaluation.metrics.open_looks import (
    LOOKS,
    VARIED,
    ClipApproach,
    ColourApproach,
    DistanceShare,
    ReferenceLooks,
    SpriteDiversityShare,
    SpriteLeakage,
)
from evaluation.metrics.sprite_appearance import (
    ATTRIBUTES,
    LEAKING,
    AppearanceAccuracy,
    AppearanceLeakage,
    ObjectPresence,
)
from evaluation.metrics.tracklets import TrackletFidelity
from evaluation.metrics.trajectories import MotionFidelity, ScaleFidelity


@dataclass(frozen=True)
class OpenMetrics:
    """The measures of open prompts' videos, alone and against the base's. Reported as `open_<name>`."""

    metrics: tuple[Metric, ...] = ()
    comparisons: tuple[Comparison, ...] = ()


def open_metrics_for(references_are_sprites: bool, clip: ClipScorer | None = None) -> OpenMetrics:
    """The measures of open prompts (`open_looks`): tracker for sprites, else colours, and CLIP if given."""
    if references_are_sprites:
        return OpenMetrics(
            (
                MotionFidelity(),
                ObjectPresence(),
                SpriteConsistency(),
                ReferenceLooks(),
                *(ReferenceLooks(look) for look in LOOKS),
            ),
            (
                SpriteLeakage(),
                *(SpriteLeakage(look) for look in LOOKS),
                SpriteDiversityShare(),
                *(SpriteDiversityShare(look) for look in VARIED),
            ),
        )
    colours = DistanceShare(ColourDiversity(), "diversity", "diversity, of the base's (colours)")
    comparisons: tuple[Comparison, ...] = (ColourApproach(), colours)
    if clip is not None:
        share = DistanceShare(ClipDiversity(clip), "clip_diversity", "diversity, of the base's (CLIP)")
        comparisons += (ClipApproach(clip), share)
    return OpenMetrics((TrackletFidelity(),), comparisons)


def metrics_for(
    references_are_sprites: bool,
    clip: str | None = None,
    pickscore: str | None = None,
    *,
    device: str | None = None,
) -> list[Metric]:
    """The metrics that can be measured, in the order of a table.

    Sprites are measured by the exact tracker, other videos by optical flow and colours. `clip` and
    `pickscore` name weights (a folder or a hub id) and add the metrics that need them. Without weights
    those metrics are left out. Weights are loaded here, so that errors appear before anything is
    generated; if both names are equal, only once.

    Raises:
        UserError: weights that cannot be loaded.
    """
    metrics: list[Metric]
    if references_are_sprites:
        metrics = [
            MotionFidelity(),
            ScaleFidelity(),
            AppearanceAccuracy(),
            *(AppearanceAccuracy(attribute) for attribute in ATTRIBUTES),
            ObjectPresence(),
            AppearanceLeakage(),
            *(AppearanceLeakage(attribute) for attribute in LEAKING),
            SpriteDiversity(),
            SpriteConsistency(),
            MotionWords(),
            SpriteTextAlignment(),
        ]
    else:
        metrics = [TrackletFidelity(), ColourDiversity(), WarpingError()]
    scorer = ClipScorer.load(clip, device=device) if clip else None
    if scorer is not None:
        metrics += [ClipTextAlignment(scorer), ClipConsistency(scorer), ClipFrameConsistency(scorer)]
        metrics.append(ClipDiversity(scorer))
    if pickscore:
        if scorer is None or pickscore != clip:
            scorer = ClipScorer.load(pickscore, what="PickScore", device=device)
        metrics.append(PickScore(scorer))
    return metrics
