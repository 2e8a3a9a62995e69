"""What a device is measured to do: a curve a group, within its budget, once."""

import pytest
from clip_sets import sliding_clips, write_set

from infra.registry import open_registry
from models.load import load_foundation
from training.batch.manifest.entries import Entry
from training.batch.manifest.plan import make_plan
from training.batch.profile import measure
from training.batch.profile.measure import device_profile, measure_curve
from training.batch.profile.profile import Profile

WAN = "tiny-random:wan"
SETTINGS = {"frames": 5, "height": 32, "width": 32, "steps": 4, "rank": 4}


@pytest.fixture
def works(tmp_path):
    clips = write_set(tmp_path / "clips", *sliding_clips("c0", count=1))
    registry = open_registry(tmp_path / "registry")
    return make_plan([Entry("c0", clips, WAN, settings=SETTINGS)], "m", registry).works


def test_a_curve_rises_and_the_foundation_is_left_as_it_was(works):
    foundation = load_foundation(WAN, device="cpu", dtype="float32")
    told = []
    curve = measure_curve(
        foundation, works[0].key, sizes=(1, 2, 4), on_progress=lambda *said: told.append(said)
    )
    assert curve.samples == (1, 2, 4)
    assert min(curve.seconds) > 0
    assert curve.bytes[0] > sum(p.nbytes for p in foundation.denoiser.parameters())
    assert [done for _, done, _ in told] == [0, 1, 2]
    assert foundation.bank is None


def test_the_budget_and_the_memory_end_it_early(works):
    foundation = load_foundation(WAN, device="cpu", dtype="float32")
    assert measure_curve(foundation, works[0].key, budget_s=0.0).samples == (1,)
    assert measure_curve(foundation, works[0].key, memory=1 << 20).samples == (1,)


def test_a_device_is_measured_once_and_the_plan_reads_it(works, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "SIZES", (1, 2))
    cache = tmp_path / "profile.json"
    profile = device_profile(works, device="cpu", cache=cache, budget_s=0.0)
    assert Profile.parse(cache.read_text(), "f") == profile
    assert profile.load_seconds > 0
    assert profile.best_pack(works[0].key, 1, 64) >= 1
    monkeypatch.setattr(measure, "load_foundation", None)  # a second time nothing is loaded
    assert device_profile(works, device="cpu", cache=cache) == profile
    cache.write_text("{")
    assert measure.read_cached(cache) is None
