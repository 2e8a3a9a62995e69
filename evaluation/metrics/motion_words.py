"""Text alignment of sprites: what a prompt says of the motion and of the appearance, against what the tracker sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from datasets.sprites.captions import parse
from datasets.sprites.motions import KNOWN, NOVEL
from evaluation.metric import Case, PerCase, Score
from evaluation.metrics.sights import tracked
from evaluation.metrics.sprite_appearance import AppearanceAccuracy, named
from evaluation.metrics.trajectories import positions, scale_agreement, size_changes, trajectory_agreement


class MotionWords(PerCase):
    """Agreement of the object's course with the motion that the prompt names; higher is better, [-1, 1].

    The named motion's own path on the screen takes the place of a reference: `trajectory_agreement` with it, or
    `scale_agreement` where it changes size and not place, or their mean where it does both. Under a zoom the place
    depends on where the object stands, so only the size counts. Speed words ("slowly") change nothing: the scale of
    a path is removed. None: no motion named, "wanders" (which has no path of its own: each clip draws another), or "spins"
    (turns cannot be read from a round shape).
    Own measure, for base motions; what customization teaches is measured by `MotionFidelity`.
    """

    name = "motion_words"
    title = "motion words"
    better: Literal["higher", "lower"] = "higher"
    range = (-1.0, 1.0)

    def value(self, case: Case) -> float | None:
        said = parse(case.prompt).motion
        motion = (KNOWN | NOVEL)[said] if said is not None else None
        if motion is None or motion.drawn is not None:
            return None
        path = motion.trajectory(len(case.video_FHWC), np.random.default_rng(0))
        x, y, scale = path.on_screen()
        grows = size_changes(scale)
        moves = max(np.ptp(x), np.ptp(y)) > 0
        zooms = np.ptp(path.zoom) > 0
        if np.ptp(path.angle) > 0 and not moves and not grows:
            return None
        found = []
        if not zooms and (moves or not grows):
            found.append(trajectory_agreement(positions(case.video_FHWC), np.stack([x, y], axis=1)))
        if grows:
            found.append(scale_agreement(tracked(case.video_FHWC).radius, scale))
        return float(np.mean(found))


class SpriteTextAlignment:
    """The mean over what the prompt says: colour, shape, texture, background, motion; higher is better, [0, 1].

    Each attribute named counts 1 (shown) or 0 (`AppearanceAccuracy`); a motion named counts `max(0, MotionWords)`.
    None: the prompt says none of them. The sprite world's stand-in for CLIP text alignment, which no weights of a
    real model measure well on 64 pixels. Own measure.
    """

    name = "text_alignment"
    title = "text alignment"
    better: Literal["higher", "lower"] = "higher"
    range = (0.0, 1.0)

    def __call__(self, cases: Sequence[Case]) -> Score:
        appearance, motion = AppearanceAccuracy()(cases).values, MotionWords()(cases).values
        values = []
        for case, share, agreement in zip(cases, appearance, motion, strict=True):
            said = len(named(case.prompt))
            total = (said * share if share is not None else 0.0) + max(agreement or 0.0, 0.0)
            count = said + (agreement is not None)
            values.append(total / count if count else None)
        return Score(self.name, tuple(values))
