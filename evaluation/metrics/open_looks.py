"""Open prompts name the subject's class alone ("a heart"): whatever else a video then shows, the adapter chose or the base did.

Both measures compare with the base model's videos of the same prompts and seeds. Leakage: how much more often do videos show
what the reference clips looked like? Diversity: how much of the base's variety of looks is left?

`SpriteLeakage` and `SpriteDiversityShare` read each look with the tracker. `ColourApproach` and `DistanceShare` do the same
for any clip, by colour statistics or by CLIP.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from datasets.sprites.captions import spoken
from evaluation.metric import Case, PerCase, Reference, Score
from evaluation.metrics.diversity import ColourDiversity, PairDistance, groups, lab_histogram
from evaluation.metrics.sights import FIELDS, shown

if TYPE_CHECKING:
    from evaluation.metrics.clip_scores import ClipScorer

LOOKS = FIELDS  # what a video shows besides its motion
VARIED = tuple(look for look in LOOKS if look != "shape")  # an open prompt names the shape: it is the class
NEAR = 0.05  # Hellinger distance: a base video this near to a reference leaves nothing to approach


def words_for(look: str) -> str:
    """A look as a title says it: "background kind"."""
    return look.replace("_", " ")


def left_open(prompt: str) -> set[str]:
    """The looks that a prompt does not name."""
    return set(LOOKS) - set(spoken(prompt))


def learnt(references: Sequence[Reference]) -> dict[str, set[str]]:
    """By look: what most frames of each reference show. An object that the tracker does not find shows nothing."""
    seen = [shown(reference.video_FHWC) for reference in references]
    return {look: {word for one in seen if (word := one[look]) is not None} for look in LOOKS}


class ReferenceLooks(PerCase):
    """The share of the looks left open in which a video shows what a reference shows; [0, 1].

    `|{looks left open: shown in {what the references show}}| / |{looks left open}|` over colour, texture, shape, background
    colour and background kind. With `look`, that one alone: 1 or 0. Chance and the base's habits are in it: compare with the base
    (`SpriteLeakage` does). An object absent from most frames shows nothing. None: the prompt names the look (or all
    of them), or no reference shows it (the tracker does not find their object). Own measure.
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
    """How much more often than the base's a video shows a reference's looks where the prompt leaves them open; [-1, 1].

    For each prompt and seed: `ReferenceLooks` of the video minus that of the base's video. The mean over prompts and seeds is
    the difference of two shares: 0 is the base's own habit, 1 a reference in every video of a base that never shows it. Below 0
    the adapter avoids the reference's looks. With `look`, that one alone. Own measure: what debiasing and the dual path are for, in
    the way that people write prompts.
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
    """Shannon entropy in nats of how often each word occurs; what shows nothing (None) is left out. 0 for none."""
    counts = np.array(list(Counter(word for word in words if word is not None).values()), float)
    shares = counts / counts.sum() if len(counts) else counts
    return float(-(shares * np.log(shares)).sum())


class SpriteDiversityShare:
    """Entropy of a look over all prompts and seeds, as a share of the base's; higher is more diverse, from 0, base: 1.

    `H(look) / H_base(look)` with `H = -sum p log p` over the words that the videos show; without `look` the mean over
    colour, texture, background colour and background kind. 0: every video has the same looks. Above 1: more varied than the base.
    An object absent from most frames has no looks. A look in which the base does not vary is left out. The number of videos
    bounds the entropy of both sides alike; a handful tells little. One value a group of cases with the same references; None where the
    base varies in nothing. Own measure.
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
    """How far a video's colours have come from the base's towards the nearest reference's; lower is better, at most 1.

    `1 - H(video, reference) / H(base's video, reference)`, with H the Hellinger distance of the Lab histograms (`ColourDiversity`)
    and the nearest reference on either side. 0: as far as the base's video of the same prompt and seed; 1: the
    reference's colours; below 0: further away than the base. None where the base has those colours already. Any clip;
    it sees colours only. Own measure.
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
    """How much more alike than the base's a video is to the references by CLIP; lower is better, [-2, 2].

    `cos(v, r) - cos(b, r)` with v, b and r the mean frame embeddings of the video, of the base's video of the same prompt and seed, and of
    the reference, at the most alike reference on either side. 0: as unlike as the base. An open prompt names the subject, which both
    sides show. Own measure.
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
    """The mean pairwise distance of the videos, as a share of the base's; higher is more diverse, from 0, base: 1.

    `of(cases) / of(base)` for a metric of pairs: `ColourDiversity`, or `ClipDiversity` with weights. One value a group of cases with
    the same references; None for a group of one, or where the base's videos are all alike.
    """

    better: Literal["higher", "lower"] = "higher"
    range = (0.0, float("inf"))

    def __init__(self, of: PairDistance, name: str, title: str) -> None:
        self.of, self.name, self.title = of, name, title

    def __call__(self, cases: Sequence[Case], base: Sequence[Case]) -> Score:
        pairs = zip(self.of(cases).values, self.of(base).values, strict=True)
        return Score(self.name, tuple(a / b if a is not None and b else None for a, b in pairs))
