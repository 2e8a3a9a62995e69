"""Requests with regions in the engine: the video they have alone, their cost, and one that cannot be made."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from serving_helpers import Bench, use, video_request

from models.regions.region import Region
from serving.engine import finishing
from serving.events import Failed, Finished
from serving.requests import cost_of, rows_of

LEFT, RIGHT = Region(box=(0, 0, 0.5, 1)), Region(box=(0.5, 0, 1, 1))


def test_requests_with_regions_get_the_frames_they_have_alone(foundation, monkeypatch):
    made = defaultdict(list)  # frames before the codec, by seed
    real = finishing.finish

    def finish(foundation, state):
        frames = real(foundation, state)
        made[state.params.seed].append(frames.astype(int))
        return frames

    monkeypatch.setattr(finishing, "finish", finish)
    bench = Bench(foundation, max_batch=4)
    requests = {
        "two": bench.request(1, use("a", region=LEFT), use("b", region=RIGHT, steps=(0, 0.5))),
        "whole": bench.request(2, use("a", scale=0.5)),
        "held": bench.request(3, use("b", region=LEFT, scale=(4.0, 2.0)), outside="base"),
        "same": bench.request(4, use("a", region=LEFT), use("a", region=RIGHT)),  # one adapter, in one slot
        "bare": bench.request(5),
    }
    for id, request in requests.items():
        bench.run(**{f"{id} alone": request})
    bench.run(**requests)
    assert bench.last("two").neighbours == 3
    for seed, (one, other) in made.items():
        assert np.abs(one - other).max() <= 1, seed
    bench.run(free=requests["held"].model_copy(update={"outside": None}))
    held, _, free = made[3]
    assert np.abs(held - free).max() > 4, "what `outside` does is seen in the frames"


def test_outside_doubles_the_cost_of_a_request_with_adapters():
    plain = video_request(adapters=(use("a", region=LEFT),), guidance_scale=3.0)
    held = plain.model_copy(update={"outside": "base"})
    assert (rows_of(plain), rows_of(held)) == (2, 4)
    assert cost_of(held) == 2 * cost_of(plain)
    assert rows_of(video_request(outside="base")) == 1, "without adapters there is nothing to hold"


def test_a_request_whose_region_does_not_suit_it_fails_alone(foundation):
    """Such a job is refused before; a stored one may be damaged."""
    bench = Bench(foundation, max_batch=2)
    wrong = use("a", region=Region(box=(0, 0, 4000, 8), unit="pixels"))
    bench.run(wrong=bench.request(1, wrong), right=bench.request(2, use("a", region=LEFT)))
    failed = bench.last("wrong")
    assert isinstance(failed, Failed)
    assert failed.code == "invalid_region"
    assert isinstance(bench.last("right"), Finished)
    assert bench.engine.stats().free_slots["temporal"] == Bench.SLOTS["temporal"]
