"""benchmarks/uses.py: every use with a tiny model, continued where it stopped; and the measures that it has of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import uses
from benchmarks.uses_parts import blend, lab, mix, noise_prior, references, region, remix, strength
from benchmarks.uses_parts.blend import distance, mean_path
from benchmarks.uses_parts.references import asked_of, clips_of, recoloured
from benchmarks.uses_parts.region import box_around, box_beside, path_difference
from datasets.sprites.captions import parse
from datasets.sprites.motions import KNOWN
from datasets.sprites.render import render_clip
from datasets.sprites.world import Background, Scene, Sprite
from evaluation.metrics.sprite_tracking import shown
from evaluation.metrics.trajectories import positions
from models.sizes import Bucket
from motiondirector.study.looks import reference_clips


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer and smaller videos than the figures need."""
    monkeypatch.setattr(lab, "SIZE", Bucket(8, 32, 32))
    for module in (strength, remix, mix, region, blend):
        monkeypatch.setattr(module, "PROMPTS", 2)
    for module in (noise_prior, references):
        monkeypatch.setattr(module, "FULL", 1)
        monkeypatch.setattr(module, "OPEN", 2)
    monkeypatch.setattr(noise_prior, "WEIGHTS", (0.0, 0.5))
    monkeypatch.setattr(strength, "SCALES", (0.5, 1.0))
    monkeypatch.setattr(blend, "SUMS", (1.0,))
    for name, value in {"COUNTS": (2, 1), "COPIES": 1, "TITLES": ("2 clips", "1 clip", "copies")}.items():
        monkeypatch.setattr(references, name, value)
    monkeypatch.setattr(
        noise_prior, "invert", lambda foundation, _: torch.ones(foundation.latent_shape(lab.SIZE))
    )


@pytest.mark.usefixtures("few")
def test_every_use_is_measured_once_and_the_same_command_continues(tmp_path, monkeypatch, capsys):
    given = ["--quick", "--foundation", "tiny-random:unet3d", "--out", str(tmp_path / "out")]
    everything = [f"--use={name}" for name in uses.BY_DEFAULT]
    uses.main([*given, *everything, "--minutes", "0"])
    assert capsys.readouterr().out.count("0 of 1 measured; run the same command again") == len(everything)
    uses.main([*given, *everything, "--json", str(tmp_path / "first.json")])
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "first.json").read_text())
    assert [row["use"] for row in rows] == list(uses.BY_DEFAULT)
    for row in rows:
        assert set(uses.USES[row["use"]].targets) <= set(row["values"])
        assert all(name in printed for name in row["values"])
    monkeypatch.setattr(lab, "train_pack", None)
    monkeypatch.setattr(lab, "sample", None)
    uses.main([*given, *everything, "--json", str(tmp_path / "again.json")])
    assert json.loads((tmp_path / "again.json").read_text()) == rows


def test_the_mean_path_is_the_path_of_a_motion_alone_and_has_no_place():
    arc, square = (
        positions(reference_clips(name, 1, 0, "class")[0].video_FHWC) for name in ("arc", "square")
    )
    assert distance(arc + 0.2, mean_path([arc, square], (1, 0))) < 1e-6
    assert distance(square, arc) > 0.5
    halfway = mean_path([arc, square], (0.5, 0.5))
    assert distance(2 * halfway, halfway) == pytest.approx(1)
    hidden = np.where(np.arange(8)[:, None] < 6, np.nan, arc)
    assert np.isnan(distance(hidden, arc))


def moving(where: str) -> np.ndarray:
    scene = Scene(Sprite("circle", "red"), Background("gray", "plain"))
    return render_clip(scene, KNOWN[where], frames=8, size=64, seed=3)


def test_the_regions_around_and_beside_an_object_are_those_that_it_touches_and_does_not():
    video = moving("up")
    seen = positions(video)
    left, top, right, bottom = box_around(video)
    assert left < seen[:, 0].min() < seen[:, 0].max() < right
    assert top < seen[:, 1].min() < seen[:, 1].max() < bottom
    x0, y0, x1, y1 = box_beside(video)
    assert (y0, y1) == (0, 1)
    assert x1 - x0 >= region.NARROWEST
    assert x1 <= left or x0 >= right
    empty = np.full_like(video, 128)
    assert box_around(empty) is None
    assert box_beside(empty) is None


def test_the_difference_of_paths_is_in_frame_widths_and_counts_lost_objects():
    video = moving("right")
    assert path_difference(video, video) == 0
    assert path_difference(video, np.roll(video, 8, axis=2)) == pytest.approx(8 / 64, abs=0.02)
    empty = np.full_like(video, 128)
    assert path_difference(video, empty) == region.LOST
    assert np.isnan(path_difference(empty, empty))


def test_sets_of_references_are_nested_and_share_no_look_with_the_prompts():
    clips = clips_of("arc", 0)
    assert len(clips) == max(references.COUNTS)
    full, free = asked_of("arc", 0)
    looks = [shown(clip.video_FHWC) for clip in clips]
    asked = [parse(one.prompt) for one in full]
    assert not {look["colour"] for look in looks} & {one.sprite.colour for one in asked}
    assert not {look["background"] for look in looks} & {one.background.colour for one in asked}
    assert not {clip.caption for clip in clips} & {one.prompt for one in free}
    assert len({look["colour"] for look in looks[:4]}) == 4
    sets = [recipe.clips for recipe in references.References().recipes(uses.Unit(("arc",), 0))]
    assert [len(of) for of in sets] == [8, 4, 2, 1, 8]
    assert all(of[0] is clips[0] for of in sets)


def test_a_recoloured_copy_has_other_colours_in_the_same_places():
    clip = clips_of("arc", 0)[0]
    colours, which = np.unique(clip.video_FHWC.reshape(-1, 3), axis=0, return_inverse=True)
    for number in range(3):
        copy = recoloured(clip, np.random.default_rng(number)).video_FHWC
        assert np.abs(copy.astype(int) - clip.video_FHWC).mean() > 10
        of_each = np.empty_like(colours)
        of_each[which] = copy.reshape(-1, 3)
        assert np.array_equal(of_each[which], copy.reshape(-1, 3)), "each colour becomes one colour"
        assert len(np.unique(of_each, axis=0)) > len(colours) / 4, "the object still stands out"
