"""Styles: drawn over a scene, passed over by captions, read back from pixels, and no hindrance to the tracker."""

from dataclasses import replace

import numpy as np
import pytest

from datasets.sprites.captions import canonical
from datasets.sprites.looks import looks_of
from datasets.sprites.motions import KNOWN, NOVEL, drifting
from datasets.sprites.render import draw, render_clip
from datasets.sprites.style import PARTS, TINTS, Style, marks, sample_style
from datasets.sprites.track import Track, detect, track
from datasets.sprites.world import BACKGROUND_COLOURS, Background, Scene, Sprite, sample_scene
from evaluation.metrics.sprite_tracking import is_sprite_world
from evaluation.tracker_accuracy import looks_accuracy, softened
from infra.errors import UserError

ORBIT = NOVEL["orbit"]
SCENE = Scene(Sprite("star", "red", "striped"), Background("navy", "gradient"))
IDLE = Sprite("circle", "yellow", size="small")
STYLES = {
    "outline": Style(outline=True),
    "tint": Style(tint="warm"),
    "grain": Style(grain=20),
    "clutter": Style(clutter=12),
    "drift": Style(drift=(0.18, -0.05), clutter=12),
    "idle": Style(idle=IDLE),
}


def clip(style, scene=SCENE, motion=ORBIT, seed=3):
    return render_clip(replace(scene, style=style), motion, seed=seed)


@pytest.mark.parametrize("name", STYLES)
def test_a_style_changes_the_pixels_the_same_way_each_time_and_no_caption(name):
    style = STYLES[name]
    assert (clip(style) == clip(style)).all()
    assert (clip(style) != clip(None)).any()
    assert canonical(replace(SCENE, style=style), ORBIT) == canonical(SCENE, ORBIT)


def test_no_style_and_one_of_nothing_draw_the_same():
    assert Style().plain
    assert (clip(Style()) == clip(None)).all()
    assert not any(style.plain for style in STYLES.values())


@pytest.mark.parametrize("name", ["grain", "clutter", "idle"])
def test_the_seed_decides_what_a_style_draws_by_chance(name):
    assert (clip(STYLES[name]) != clip(replace(STYLES[name], seed=1))).any()


@pytest.mark.parametrize("size", [64, 128])
def test_a_style_looks_the_same_at_every_resolution(size):
    style = Style(True, "cold", 0.28, 20, 10, (0.1, 0.0), IDLE)
    scene = replace(SCENE, style=style)
    small, large = (render_clip(scene, ORBIT, 2, s, seed=1).astype(float) for s in (size, 256))
    pooled = large.reshape(2, size, 256 // size, size, 256 // size, 3).mean((2, 4))
    assert np.abs(small - pooled).mean() < 3  # of 255


def test_an_outline_keeps_the_object_as_large_as_it_is():
    plain, lined = (track(clip(style)) for style in (None, STYLES["outline"]))
    assert lined.radius == pytest.approx(plain.radius, rel=0.04)


def test_clutter_is_none_of_the_background_and_none_on_another():
    for background in BACKGROUND_COLOURS:
        own = np.array(BACKGROUND_COLOURS[background], float)
        things = marks(Style(clutter=12), background)
        assert len(things) >= 12
        assert min(np.linalg.norm(np.array(m.rgb) - own) for m in things) > 70
        places = np.array([(m.x, m.y) for m in things])
        gaps = np.linalg.norm(places[:, None] - places, axis=-1)[np.triu_indices(len(things), 1)]
        assert gaps.min() > 0.08


def test_a_drifting_camera_moves_all_that_is_there():
    drift = (0.2, 0.1)
    moved = drifting(KNOWN["still"], *drift).trajectory(8, np.random.default_rng(0))
    x, y, _ = moved.on_screen()
    assert (x[-1] - x[0], y[-1] - y[0]) == pytest.approx((-0.2, -0.1))
    assert ((np.stack([x, y]) > 0.1) & (np.stack([x, y]) < 0.9)).all()
    one, other = (KNOWN["wander"], drifting(KNOWN["wander"], *drift))
    here, there = (m.trajectory(8, np.random.default_rng(5)) for m in (one, other))
    assert np.diff(there.x) == pytest.approx(np.diff(here.x))  # the same wandering in the scene


def test_the_idle_object_stands_clear_of_the_others_way():
    for seed in range(6):
        style = Style(idle=IDLE, seed=seed)
        video = clip(style, Scene(Sprite("circle", "red"), Background("gray")), seed=seed).astype(int)
        yellow = (video[..., 1] - video[..., 2] > 120).sum((1, 2))
        assert np.ptp(yellow) == 0, "never covered, never cut off"
        assert yellow[0] > 50


@pytest.mark.parametrize("blur", [0.0, 0.7])
@pytest.mark.parametrize("name", STYLES)
def test_a_style_is_read_back_and_no_other(name, blur):
    seen = looks_of(softened(clip(STYLES[name]), blur, np.random.default_rng(0)))
    found = {
        "outline": seen.outlined,
        "tint": seen.tint == "warm",
        "grain": seen.grainy,
        "clutter": seen.cluttered,
        "drift": bool(seen.drifts),
        "idle": seen.second,
    }
    assert found == {part: part == name or (part, name) == ("clutter", "drift") for part in PARTS}
    if name == "drift":
        assert seen.drift == pytest.approx((0.18, -0.05), abs=0.02)
    if name == "tint":
        assert seen.tint_strength == pytest.approx(0.28, abs=0.05)
    if name == "grain" and not blur:
        assert seen.grain == pytest.approx(20, abs=3)
    if name == "clutter" and not blur:
        assert 6 <= seen.clutter <= 12


@pytest.mark.parametrize("tint", TINTS)
def test_each_tint_is_told_by_its_direction_and_strength(tint):
    for strength in (0.2, 0.36):
        seen = looks_of(clip(Style(tint=tint, tint_strength=strength)))
        assert (seen.tint, seen.tint_strength) == (tint, pytest.approx(strength, abs=0.05))


def test_without_clutter_a_checkerboard_tells_the_cameras_way_and_a_plain_background_nothing():
    scene = replace(SCENE, background=Background("sky", "checkered"))
    style = Style(drift=(-0.2, 0.12))
    assert looks_of(clip(style, scene)).drift == pytest.approx((-0.2, 0.12), abs=0.02)
    assert looks_of(clip(None, scene)).drift == pytest.approx((0, 0), abs=0.02)
    nothing = looks_of(clip(style, replace(SCENE, background=Background("sky"))))
    assert (nothing.drift, nothing.drifts) == (None, None)


@pytest.mark.parametrize("name", STYLES)
def test_the_tracker_reads_the_object_whatever_the_style(name):
    video = clip(STYLES[name])
    seen = track(video)
    assert seen.present
    assert (seen.most("colour"), seen.most("texture"), seen.most("shape")) == ("red", "striped", "star")
    assert (seen.most("background"), seen.most("background_kind")) == ("navy", "gradient")
    assert is_sprite_world(video)


def test_a_clip_without_a_style_is_measured_as_frame_by_frame():
    """All that was measured before there were styles stays as it was."""
    rng = np.random.default_rng(4)
    for motion in list((KNOWN | NOVEL).values())[::4]:
        scene = sample_scene(rng)
        drawn = draw(scene, motion.trajectory(8, rng, scene.sprite.radius), 64)
        for video in (drawn, softened(drawn, 0.7, rng)):
            assert repr(track(video)) == repr(Track(tuple(detect(frame) for frame in video))), motion.name


@pytest.mark.parametrize("blur", [0.0, 0.7])
def test_styles_of_two_parts_are_read_right(blur):
    got = looks_accuracy(19, blur=blur, seed=11)
    for name in ("colour", "background", "background_kind", "presence", "shape"):
        assert got[name] >= 0.89, name  # two of 19 may be wrong
    for name in ("outline", "tint", "grain", "clutter", "second object"):
        assert got[name] >= 0.89, name
    assert got["texture"] >= 0.75
    assert got["position error, median"] < 0.4  # pixels
    assert got["drift error"] < 0.02  # frame widths
    assert got["tint strength error"] < 0.05


def test_no_clip_without_a_style_is_said_to_have_one():
    got = looks_accuracy(19, blur=0.7, seed=5, parts=0)
    assert [got[name] for name in ("outline", "tint", "grain", "clutter", "second object")] == [1.0] * 5


def test_an_object_that_the_background_cuts_in_pieces_is_one():
    """The dark stripes of a white star are nearly mint: its light ones are no second object."""
    scene = Scene(Sprite("star", "white", "striped", "large"), Background("mint", "gradient"))
    for motion in ("still", "dolly-out", "orbit"):
        seen = looks_of(render_clip(scene, (KNOWN | NOVEL)[motion], seed=2))
        assert not seen.second, motion


@pytest.mark.parametrize("size", [32, 64])
def test_an_object_that_leaps_in_colour_or_place_is_one_and_seen_in_every_frame(size):
    scene = Scene(Sprite("star", "red", "plain"), Background("gray", "checkered"))
    blue = replace(scene, sprite=replace(scene.sprite, colour="blue"))
    frames = render_clip(scene, KNOWN["right"], 8, size, 1)
    frames[1::2] = render_clip(blue, KNOWN["right"], 8, size, 1)[1::2]
    seen = track(frames)
    assert seen.present
    assert [s.colour for s in seen.detections] == ["red", "blue"] * 4
    few = render_clip(scene, KNOWN["right"], 8, size, 1)[[0, 0, 7, 7]]
    assert track(few).present
    assert is_sprite_world(few)


def test_what_is_no_sprite_clip_is_measured_all_the_same():
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    assert looks_of(noise).grainy
    black = looks_of(np.zeros((1, 64, 64, 3), np.uint8))
    assert (black.drift, black.clutter, black.second, black.grain) == (None, 0, False, 0)


def test_a_sampled_style_has_so_many_parts():
    for parts in (1, 2, 6):
        style = sample_style(np.random.default_rng(parts), parts)
        named = [style.outline, style.tint, style.grain, any(style.drift), style.idle]
        assert parts - 1 <= sum(map(bool, named)) <= parts
    assert sample_style(np.random.default_rng(0), 0).plain


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tint": "sepia"}, "no tint is called 'sepia'; choose one of: warm"),
        ({"tint": "warm", "tint_strength": 0.9}, "strength of a tint is 0.9"),
        ({"grain": -1.0}, "grain is -1"),
        ({"clutter": 400}, "number of clutter objects"),
        ({"drift": (0.9, 0.0)}, "drift of the camera is 0.9"),
    ],
)
def test_a_style_that_cannot_be_drawn_is_refused(wrong, says):
    with pytest.raises(UserError, match=says):
        Style(**wrong)
