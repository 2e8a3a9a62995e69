"""Measures of open prompts, which name only the subject's class ("a heart") and leave the other looks open.

What else a video shows comes from the adapter or from the base. So both measures compare with the base
model's videos of the same prompts and seeds. Leakage: how much more often do videos show the reference
clips' looks? Diversity: how much of the base's variety of looks is left?

`SpriteLeakage` and `SpriteDiversityShare` read each look with the tracker. `ColourApproach`,
`ClipApproach` and `DistanceShare` do the same for any clip, by colour statistics or by CLIP.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from datasets.sprites.captions import spoken
from evaluation.metric import Case, PerCase, Reference, Score
from evaluation.metrics.diversity import ColourDiversity, PairDistance, groups, lab_histogram
from evaluation.metrics.sprite_tracking import FIELDS, shown

if TYPE_CHECKING:
    from evaluation.metrics.clip_scores import ClipScorer

LOOKS = FIELDS  # the attributes that a video shows besides its motion
VARIED = tuple(look for look in LOOKS if look != "shape")  # not the shape, which an open prompt names
NEAR = 0.05  # Hellinger distance; a base video this close to a reference leaves nothing to approach


def words_for(look: str) -> str:
    """A look as written in titles: "background kind"."""
    return look.replace("_", " ")


def left_open(prompt: str) -> set[str]:
    """The looks that a prompt does not name."""
    return set(LOOKS) - set(spoken(prompt))


def learnt(references: Sequence[Reference]) -> dict[str, set[str]]:
    """The values of each look in most frames of each reference; an object that is not found has none."""
    seen = [shown(reference.video_FHWC) for reference in references]
    return {look: {word for one in seen if (word := one[look]) is not None} for look in LOOKS}


class ReferenceLooks(PerCase):
    """Share of the open looks in which a video matches a reference; [0, 1].

    `|{looks left open: shown in {what the references show}}| / |{looks left open}|` over colour,
    texture, shape, background colour and background kind. With `look`, only that one: 1 or 0. The value
    includes chance and the base's habits, so compare with the base (`SpriteLeakage` does). An object
    absent from most frames matches nothing. None: the prompt names the look (or all of them), or no
    reference shows it (the tracker does not find the object). Own measure.
    """

    better: Literal["higher", "lower"] = "lower"
    range = (0.0, 1.0)

    def __init__(self, look: str | None = None) -> None:
        assert look is None or look in LOOKS, look
        self.looks = LOOKS if look is None else (look,)
        self.name = "reference_looks" + (f"_{look}" if look else "")
        self.title = "shows the reference's looks" + (f", {words_for(look)}" if look else "")

    def value(self, case: Case) -> float | None:
        theirs, free = learnt(case.references), left_open(case.prompt)
        judged = [look for look in self.looks if look in free]
        if not judged or not all(theirs[look] for look in judged):
            return None
        seen = shown(case.video_FHWC)
        return float(np.mean([seen[look] in theirs[look] for look in judged]))


class SpriteLeakage:
    """How much more often than the base a video shows a reference's looks left open by the prompt; [-1, 1].

    For each prompt and seed: `ReferenceLooks` of the video minus that of the base's video. The mean is
    a difference of two shares: 0 equals the base, 1 is a reference's looks in every video although the
    base never shows them. Below 0 the adapter avoids the reference's looks. With `look`, only that one.
    Own measure, with the kind of prompts that people write, of what debiasing and the dual path are
    meant to prevent.
    """

    better: Literal["higher", "lower"] = "lower"
    range = (-1.0, 1.0)

    def __init__(self, look: str | None = None) -> None:
        self.of = ReferenceLooks(look)
        self.name = "leakage" + (f"_{look}" if look else "")
        self.title = "leakage" + (f", {words_for(look)}" if look else "")

    def __call__(self, cases: Sequence[Case], base: Sequence[Case]) -> Score:
        pairs = zip(self.of(cases).values, self.of(base).values, strict=True)
        return Score(self.name, tuple(None if a is None or b is None else a - b for a, b in pairs))


def entropy(words: Sequence[str | None]) -> float:
    """Shannon entropy in nats of the word frequencies, without None; 0 if there are no words."""
    counts = np.array(list(Counter(word for word in words if word is not None).values()), float)
    shares = counts / counts.sum() if len(counts) else counts
    return float(-(shares * np.log(shares)).sum())


class SpriteDiversityShare:
    """Entropy of the looks over all prompts and seeds, relative to the base's (1); higher is more diverse.

    `H(look) / H_base(look)` with `H = -sum p log p` over the words that the videos show. Without
    `look`, the mean over colour, texture, background colour and background kind. 0: every video has the
    same looks. Above 1: more varied than the base. An object absent from most frames has no looks.
    Looks in which the base does not vary are left out. The number of videos bounds both entropies
    alike, so a handful of videos tells little. One value per group of cases with the same references;
    None if the base does not vary at all. Own measure.
    """

    better: Literal["higher", "lower"] = "higher"
    range = (0.0, float("inf"))

    def __init__(self, look: str | None = None) -> None:
        assert look is None or look in VARIED, look
        self.looks = VARIED if look is None else (look,)
        self.name = "diversity" + (f"_{look}" if look else "")
        self.title = "diversity, of the base's" + (f", {words_for(look)}" if look else "")

    def __call__(self, cases: Sequence[Case], base: Sequence[Case]) -> Score:
        return Score(self.name, tuple(map(self._share, groups(cases), groups(base))))

    def _share(self, cases: Sequence[Case], base: Sequence[Case]) -> float | None:
        seen, theirs = ([shown(case.video_FHWC) for case in of] for of in (cases, base))
        shares = []
        for look in self.looks:
            usual = entropy([one[look] for one in theirs])
            if usual > 0:
                shares.append(entropy([one[look] for one in seen]) / usual)
        return float(np.mean(shares)) if shares else None


class ColourApproach:
    """How far a video's colours moved from the base's towards a reference's; lower is better, at most 1.

    `1 - H(video, reference) / H(base's video, reference)`, with H the Hellinger distance of the Lab
    histograms (`ColourDiversity`), each with its nearest reference. 0: as far as the base's video of
    the same prompt and seed; 1: the reference's colours; below 0: further away than the base. None if
    the base already has those colours. Works for any clip, but measures only colours. Own measure.
    """

    name = "leakage"
    title = "leakage (colours)"
    better: Literal["higher", "lower"] = "lower"
    range = (-float("inf"), 1.0)

    def __call__(self, cases: Sequence[Case], base: Sequence[Case]) -> Score:
        return Score(self.name, tuple(map(self._approach, cases, base)))

    def _approach(self, case: Case, base: Case) -> float | None:
        if not case.references:
            return None
        ours, theirs = (self._nearest(one) for one in (case, base))
        return 1 - ours / theirs if theirs > NEAR else None

    @staticmethod
    def _nearest(case: Case) -> float:
        own = lab_histogram(case.video_FHWC)
        return min(
            ColourDiversity.distance(own, lab_histogram(reference.video_FHWC))
            for reference in case.references
        )


class ClipApproach:
    """How much more similar to the references than the base's a video is, by CLIP; lower is better, [-2, 2].

    `cos(v, r) - cos(b, r)` with the mean frame embeddings v of the video, b of the base's video of the
    same prompt and seed, and r of the reference, each with its most similar reference. 0: as dissimilar
    as the base. An open prompt names the subject, which both videos show. Own measure.
    """

    name = "clip_leakage"
    title = "leakage (CLIP)"
    better: Literal["higher", "lower"] = "lower"
    range = (-2.0, 2.0)

    def __init__(self, clip: ClipScorer) -> None:
        self.clip = clip

    def __call__(self, cases: Sequence[Case], base: Sequence[Case]) -> Score:
        values = (
            self._nearest(one) - self._nearest(other) if one.references else None
            for one, other in zip(cases, base, strict=True)
        )
        return Score(self.name, tuple(values))

    def _nearest(self, case: Case) -> float:
        def mean(video_FHWC: np.ndarray) -> Any:
            embedding_D = self.clip.embed_frames(video_FHWC).mean(0)
            return embedding_D / embedding_D.norm()

        own = mean(case.video_FHWC)
        return max(float(own @ mean(reference.video_FHWC)) for reference in case.references)


class DistanceShare:
    """The mean pairwise distance of the videos relative to the base's; higher is more diverse, base: 1.

    `of(cases) / of(base)` for a pairwise metric: `ColourDiversity`, or `ClipDiversity` with weights.
    One value per group of cases with the same references; None for a group of one, or if the base's
    videos are all alike.
    """

    better: Literal["higher", "lower"] = "higher"
    range = (0.0, float("inf"))

    def __init__(self, of: PairDistance, name: str, title: str) -> None:
        self.of, self.name, self.title = of, name, title

    def __call__(self, cases: Sequence[Case], base: Sequence[Case]) -> Score:
        pairs = zip(self.of(cases).values, self.of(base).values, strict=True)
        return Score(self.name, tuple(a / b if a is not None and b else None for a, b in pairs))
