"""`motiondirector sprites trace`: from a real clip to references of its motion."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.sprites.motion_sources import read_trajectory
from datasets.sprites.track import track
from datasets.sprites.wander import agreement
from datasets.video.decode import decode

CLIPS = Path(__file__).parents[2] / "assets" / "clips"


def test_the_references_go_the_way_of_the_clip(run, tmp_path):
    command = ("sprites", "trace", CLIPS / "fox_running.mp4", "--to", tmp_path / "fox", "--appearances", 2)
    code, out, err = run(*command, "--words", "runs")
    assert code == 0, err
    rows = list(csv.DictReader((tmp_path / "fox" / "captions.csv").open()))
    assert [row["file"] for row in rows] == ["fox_running-000.mp4", "fox_running-001.mp4"]
    assert all("runs" in row["caption"] for row in rows)
    way = read_trajectory(tmp_path / "fox" / "fox_running.json").trajectory(8, np.random.default_rng(0))
    for row in rows:
        seen = track(decode(tmp_path / "fox" / row["file"]).frames_FHWC)
        assert agreement(np.stack([seen.x, seen.y], 1), np.stack([way.x, way.y], 1)) > 0.99
    with Image.open(tmp_path / "fox" / "trace.png") as picture:
        assert picture.width > 800
    assert "tracked in 32 of 32 frames" in " ".join(out.split())


def test_wrong_points_are_answered_in_one_sentence_and_nothing_is_written(run, tmp_path):
    for point, says in (
        ("here", "expected x,y in pixels"),
        ("900,10", "fox_running.mp4: the point 900,10 is not"),
    ):
        code, _, err = run(
            "sprites", "trace", CLIPS / "fox_running.mp4", "--to", tmp_path / "fox", "--point", point
        )
        assert code == 2
        assert says in " ".join(err.split())
        assert not (tmp_path / "fox").exists()
