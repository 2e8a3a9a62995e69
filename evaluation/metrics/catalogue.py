"""Which metrics there are for what is measured."""

from __future__ import annotations

from evaluation.metric import Metric
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
from evaluation.metrics.sprite_appearance import (
    ATTRIBUTES,
    LEAKING,
    AppearanceAccuracy,
    AppearanceLeakage,
    ObjectPresence,
)
from evaluation.metrics.tracklets import TrackletFidelity
from evaluation.metrics.trajectories import MotionFidelity, ScaleFidelity


def metrics_for(
    references_are_sprites: bool,
    clip: str | None = None,
    pickscore: str | None = None,
    *,
    device: str | None = None,
) -> list[Metric]:
    """The metrics that can be measured, in the order of a table.

    Sprites are measured by the exact tracker, other videos by optical flow and colours. `clip` and `pickscore` name
    weights (a folder or a hub id) and add the metrics that need them; without, those are left out, not replaced.
    The weights are loaded here, so that wrong ones are known before anything is generated, and once when both name
    the same ones.

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
