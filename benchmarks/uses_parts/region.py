"""Region: an object inside of it follows the motion, an object outside moves as the base model moves it.

The embedded model shows one object, so the two are two requests with one prompt and seed. The region around the object is the
part of the frame that it needs for the motion: the bounding box of its way where the motion acts everywhere. The region beside it
is the largest strip at an edge that the base model's object never touches. Each is measured as it is, and with `outside: base`.
"""

from __future__ import annotations

import numpy as np

from benchmarks.uses_parts.lab import Concept, Lab, Order, Part
from benchmarks.uses_parts.use import Target, Unit, Use, Values, cases_of, fidelity, mean, right, share
from evaluation.metrics.sprite_tracking import tracked
from models.regions.region import Region
from motiondirector.study.looks import Asked

PROMPTS = 6
MARGIN = 0.03  # around the object, frame widths
NARROWEST = 0.15  # of a strip beside the object, frame widths
LOST = 0.5  # frame widths, for a frame in which one of two videos shows no object
OUTSIDE = {"": None, ", outside: base": "base"}

Box = tuple[float, float, float, float]


class RegionUse(Use):
    targets = {  # noqa: RUF012
        "object in the region: fidelity": Target(0.8),
        "object in the region: fidelity, outside: base": Target(0.8),
        "object outside: distance from the base's path": Target(0.05, "lower"),
        "object outside: distance from the base's path, outside: base": Target(0.05, "lower"),
    }

    def measure(self, lab: Lab, unit: Unit, concepts: list[Concept]) -> Values:
        [concept] = concepts
        asked = concept.full(PROMPTS)
        whole, base = lab.videos(asked, Part(concept)), lab.videos(asked)
        around = [box_around(video) for video in whole]
        beside = [box_beside(video) for video in base]
        everywhere = fidelity(cases_of(whole, asked, concept.recipe.clips))
        found: Values = {"whole frame: fidelity": everywhere}
        for words, outside in OUTSIDE.items():
            held, of = self.made(lab, concept, asked, around, outside)
            cases = cases_of(held, of, concept.recipe.clips)
            found |= {
                f"object in the region: fidelity{words}": fidelity(cases),
                f"object in the region: of the whole frame's{words}": share(fidelity(cases), everywhere),
                f"object in the region: looks right{words}": right(cases),
            }
            kept = [i for i, box in enumerate(beside) if box is not None]
            moved, _ = self.made(lab, concept, asked, beside, outside)
            found[f"object outside: distance from the base's path{words}"] = mean(
                [path_difference(video, base[i]) for video, i in zip(moved, kept, strict=True)]
            )
        found["object everywhere: distance from the base's path"] = mean(
            [path_difference(one, other) for one, other in zip(whole, base, strict=True)]
        )
        return found

    def made(
        self,
        lab: Lab,
        concept: Concept,
        asked: list[Asked],
        boxes: list[Box | None],
        outside: str | None,
    ) -> tuple[list[np.ndarray], list[Asked]]:
        """A video with the motion in its box, and its prompt, for each prompt that has one."""
        orders = [
            Order(one, [Part(concept, region=Region(box=box))], outside=outside)
            for one, box in zip(asked, boxes, strict=True)
            if box is not None
        ]
        return lab.make(orders), [order.asked for order in orders]


def reach(video_FHWC: np.ndarray) -> Box | None:
    """The bounding box of the object over all frames, as fractions; None if no frame shows it."""
    seen = tracked(video_FHWC)
    if not seen.found.any():
        return None
    lows = [float(np.nanmin(at - seen.radius)) for at in (seen.x, seen.y)]
    highs = [float(np.nanmax(at + seen.radius)) for at in (seen.x, seen.y)]
    return (lows[0], lows[1], highs[0], highs[1])


def box_around(video_FHWC: np.ndarray) -> Box | None:
    """The object's bounding box with a margin, within the frame."""
    box = reach(video_FHWC)
    if box is None:
        return None
    left, top, right, bottom = box
    low, high = (lambda at: max(0.0, at - MARGIN)), (lambda at: min(1.0, at + MARGIN))
    return (low(left), low(top), high(right), high(bottom))


def box_beside(video_FHWC: np.ndarray) -> Box | None:
    """The widest strip at an edge of the frame that the object does not touch; None if all are narrow."""
    box = reach(video_FHWC)
    if box is None:
        return None
    left, top, right, bottom = box
    strips: dict[Box, float] = {
        (0.0, 0.0, max(0.0, left - MARGIN), 1.0): left - MARGIN,
        (0.0, 0.0, 1.0, max(0.0, top - MARGIN)): top - MARGIN,
        (min(1.0, right + MARGIN), 0.0, 1.0, 1.0): 1 - right - MARGIN,
        (0.0, min(1.0, bottom + MARGIN), 1.0, 1.0): 1 - bottom - MARGIN,
    }
    widest = max(strips, key=lambda strip: strips[strip])
    return widest if strips[widest] >= NARROWEST else None


def path_difference(one_FHWC: np.ndarray, other_FHWC: np.ndarray) -> float:
    """Mean distance of the objects of two videos, frame by frame, in frame widths. LOST where one shows none."""
    one, other = tracked(one_FHWC), tracked(other_FHWC)
    apart = np.hypot(one.x - other.x, one.y - other.y)
    apart[one.found != other.found] = LOST
    return float(np.mean(apart[one.found | other.found])) if (one.found | other.found).any() else float("nan")
