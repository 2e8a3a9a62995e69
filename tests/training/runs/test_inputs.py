"""What a run says about its inputs before it trains."""

from dataclasses import replace

from clip_sets import sliding_clips

from datasets.clip_sets.parts import Pace, all_parts
from models.foundations.base import Bucket
from models.regions.region import Region
from training.config import make_config
from training.runs.inputs import remarks_on


def test_weights_of_masks_without_a_mask_are_said_to_have_no_effect(house_foundation):
    (plain,) = sliding_clips("slide", 1)
    weighed, usual = (
        make_config({"mask_outside": 0.0}),
        make_config({"mask_inside": 2.0, "mask_outside": 2.0}),
    )

    def said(clip, config):
        parts = all_parts([clip], Bucket(5, 32, 32), Pace(8))
        return [remark for remark in remarks_on(parts, house_foundation, config) if "mask" in remark]

    assert said(plain, weighed) == [
        "mask_inside 1 and mask_outside 0 have no effect: no clip has a mask (`ingest --masks` gives them)"
    ]
    assert said(plain, usual) == []
    assert said(replace(plain, mask=Region(box=(0.0, 0.0, 0.5, 1.0))), weighed) == []
