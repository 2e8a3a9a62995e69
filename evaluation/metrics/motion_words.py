"""Text alignment of sprites: compares the motion and appearance in a prompt with what the tracker sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from datasets.sprites.captions import parse
from datasets.sprites.motions import KNOWN, NOVEL
from evaluation.metric import Case, PerCase, Score
from evaluation.metrics.sprite_appearance import AppearanceAccuracy, named
from evaluation.metrics.sprite_tracking import tracked
from evaluation.metrics.trajectories import positions, scale_agreement, size_changes, trajectory_agreement


class MotionWords(PerCase):
    """Agreement of the object's path with the motion that the prompt names; higher is better, [-1, 1].

    The named motion's path on the screen serves as the reference: `trajectory_agreement` with it,
    `scale_agreement` if the motion changes only the size, or their mean if it changes position and
    size. Under a zoom the position depends on where the object is, so only the size counts. Speed words
    ("slowly") have no effect, because the scale of a path is removed. None: no motion named, "wanders"
    (each clip draws a different path), or "spins" (rotation of a round shape cannot be measured). Own
    measure, for base motions; `MotionFidelity` measures customized motions.
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
    """Mean agreement with the named appearance and motion; higher is better, [0, 1].

    Each named colour, shape, texture or background counts 1 if shown, else 0 (`AppearanceAccuracy`); a
    named motion counts `max(0, MotionWords)`. None: the prompt names nothing. Replaces CLIP text
    alignment in the sprite world, since no real model's weights measure 64-pixel frames well. Own measure.
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
