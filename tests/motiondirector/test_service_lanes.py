"""Lanes beside a server: started again when they die, and ended in order with it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from motiondirector.service import lanes
from motiondirector.service.lanes import Keeper


def wait_for(path: Path, lines: int) -> list[str]:
    end = time.monotonic() + 30
    while True:
        found = path.read_text().split() if path.exists() else []
        if len(found) >= lines:
            return found
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_lane_that_dies_is_started_again_and_ends_when_its_input_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lanes, "PAUSES", (0.0,))
    monkeypatch.setattr(lanes, "LOOK_S", 0.01)
    told = tmp_path / "told"
    # the first two die at once; the third stays until its standard input ends, and then takes leave
    script = f'echo begun >> {told}; [ "$(wc -l < {told})" -lt 3 ] && exit 3; cat; echo ended >> {told}'
    keeper = Keeper(["sh", "-c", script])
    keeper.start()
    assert wait_for(told, 3) == ["begun"] * 3
    keeper.over.set()
    keeper.join(30)
    assert not keeper.is_alive()
    assert told.read_text().split() == ["begun"] * 3 + ["ended"]


def test_a_lane_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lanes, "STOP_S", 0.1)
    monkeypatch.setattr(lanes, "LOOK_S", 0.01)
    told = tmp_path / "told"
    keeper = Keeper(["sh", "-c", f"echo begun >> {told}; exec sleep 600"])
    keeper.start()
    wait_for(told, 1)
    keeper.over.set()
    keeper.join(30)
    assert not keeper.is_alive()
