"""Scenes, motions and captions of the sprite world."""

import json

import numpy as np
import pytest

from datasets.sprites.captions import canonical, caption, drawable, parse, vocabulary
from datasets.sprites.motion_sources import motion_named, read_trajectory
from datasets.sprites.motions import (
    DIRECTIONS,
    KNOWN,
    NOVEL,
    SPEEDS,
    TRAVEL,
    sample_known,
)
from datasets.sprites.render import draw, render_clip
from datasets.sprites.wander import agreement
from datasets.sprites.world import (
    BACKGROUND_COLOURS,
    BACKGROUND_KINDS,
    COLOURS,
    SHAPES,
    TEXTURES,
    Background,
    Scene,
    Sprite,
    appearances,
    sample_scene,
)
from infra.errors import UserError


def test_the_appearance_space_is_rich():
    assert len(SHAPES) >= 8
    assert len(COLOURS) >= 10
    assert len(TEXTURES) >= 3
    assert len(BACKGROUND_COLOURS) * len(BACKGROUND_KINDS) >= 10
    assert len(NOVEL) >= 10


def test_the_same_seed_draws_the_same_pixels_and_another_seed_others():
    scene, motion = sample_scene(np.random.default_rng(3)), KNOWN["right"]
    first, again, other = (render_clip(scene, motion, seed=s) for s in (7, 7, 8))
    assert first.shape == (8, 64, 64, 3)
    assert first.dtype == np.uint8
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("size", [64, 128])
def test_a_scene_looks_the_same_at_every_resolution(size):
    scene = Scene(Sprite("star", "red"), Background("navy", "checkered"))
    clip = render_clip(scene, KNOWN["still"], 2, size, seed=1).astype(float)
    large = render_clip(scene, KNOWN["still"], 2, 256, seed=1).astype(float)
    pooled = large.reshape(2, size, 256 // size, size, 256 // size, 3).mean((2, 4))
    assert np.abs(clip - pooled).mean() < 3  # of 255


@pytest.mark.parametrize("motion", [*KNOWN.values(), *NOVEL.values()], ids=lambda m: m.name)
def test_named_motions_stay_in_the_frame(motion):
    for seed in range(5):
        x, y, scale = motion.trajectory(8, np.random.default_rng(seed)).on_screen()
        assert np.isfinite([x, y, scale]).all()
        assert (np.abs(np.stack([x, y]) - 0.5) < 0.5).all()


@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize("adverb", SPEEDS)
def test_directions_travel_the_length_that_their_words_mean(name, adverb):
    path = KNOWN[name].trajectory(8, np.random.default_rng(0), speed=SPEEDS[adverb])
    way = np.array([path.x[-1] - path.x[0], path.y[-1] - path.y[0]])
    assert np.hypot(*way) == pytest.approx(TRAVEL * SPEEDS[adverb])
    assert np.sign(way.round(9)).tolist() == list(np.sign(DIRECTIONS[name]))


def test_the_camera_moves_the_background_and_the_object():
    scene = Scene(Sprite("circle", "red"), Background("sky", "checkered"))
    panned = render_clip(scene, KNOWN["pan-right"], seed=0)
    assert (panned[0, 0] != panned[-1, 0]).any()  # the board's upper edge, far from the object
    x = KNOWN["pan-right"].trajectory(8, np.random.default_rng(0)).on_screen()[0]
    assert x[-1] < x[0]  # the camera goes right, so what it sees goes left


def test_two_objects_move_each_in_its_own_way():
    one, two = Sprite("square", "red", size="small"), Sprite("circle", "blue", size="small")
    scene = Scene(one, Background("gray"), two)
    clip = render_clip(scene, KNOWN["right"], seed=4, second_motion=KNOWN["still"]).astype(int)
    blue = (clip[..., 2] - clip[..., 0] > 120).sum((1, 2))
    red = (clip[..., 0] - clip[..., 2] > 120).sum((1, 2))
    assert (red > 40).all()
    assert (blue > 40).any()


def test_captions_are_read_back_to_the_scene_and_the_motion():
    rng = np.random.default_rng(0)
    for _ in range(400):
        scene = sample_scene(rng)
        motion, adverb = sample_known(rng)
        said = parse(caption(scene, motion, rng, adverb))
        assert said.sprite is not None
        assert said.background == scene.background
        assert (said.sprite.shape, said.sprite.colour, said.sprite.texture, said.sprite.size) == (
            scene.sprite.shape,
            scene.sprite.colour,
            scene.sprite.texture,
            scene.sprite.size,
        )
        assert (said.motion, said.adverb) == (motion.name, adverb)


def test_of_two_objects_the_first_is_read_with_its_own_words_alone():
    rng = np.random.default_rng(3)
    two = [scene for scene in (sample_scene(rng, second=1.0) for _ in range(200)) if scene.second]
    for scene in two:
        said = parse(caption(scene, None, rng)).sprite
        assert said is not None
        assert (said.shape, said.colour, said.texture) == (
            scene.sprite.shape,
            scene.sprite.colour,
            scene.sprite.texture,
        )


def test_what_can_be_drawn_is_the_scene_of_its_caption():
    rng = np.random.default_rng(1)
    for _ in range(200):
        scene = sample_scene(rng)
        drawn = drawable(caption(scene, sample_known(rng)[0], rng))
        assert (drawn.appearance, drawn.sprite.size) == (scene.appearance, scene.sprite.size)
    assert drawable("a red star, striped, on navy") == Scene(
        Sprite("star", "red", "striped"), Background("navy")
    )
    assert drawable("a red star draws loops") == Scene(Sprite("star", "red"), Background("gray"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a red striped star on a blue gradient moves to the right", "no background is blue; its colour must be one of teal, navy"),
        ("a red star on a white background", "no background is white"),
        ("a star on a blue background", "no background is blue"),
        ("a red star on a striped navy background", "no background is striped"),
        ("a red star on a grey background", "cannot be drawn"),
        ("a red star on white", "cannot be drawn"),
        ("a red star over a lawn", "cannot be drawn"),
        ("a red star, gradient", "cannot be drawn"),
        ("a red star and a blue striped circle on a gray background", "more than one shape .star, circle."),
        ("a red and blue star", "more than one colour"),
        ("a red star on a gray and navy background", "more than one background colour"),
        ("a dog in the snow", "names no object"),
    ],
)  # fmt: skip
def test_what_would_be_drawn_otherwise_than_it_is_said_is_refused(text, says):
    with pytest.raises(UserError, match=says) as caught:
        drawable(text)
    assert "\n" not in caught.value.message


def test_a_caption_without_a_motion_names_none():
    scene = Scene(Sprite("star", "orange"), Background("olive", "gradient"))
    assert canonical(scene, None) == "an orange star on an olive gradient"
    assert parse(canonical(scene, None)).motion is None


def test_every_word_of_the_grammar_is_in_the_vocabulary():
    words, rng = set(vocabulary()), np.random.default_rng(1)
    for _ in range(300):
        motion, adverb = sample_known(rng)
        assert set(caption(sample_scene(rng), motion, rng, adverb).split()) <= words


def test_novel_motions_are_never_in_the_known_sampler():
    rng = np.random.default_rng(2)
    seen = {sample_known(rng)[0].name for _ in range(2000)}
    assert seen == set(KNOWN)
    assert not set(KNOWN) & set(NOVEL)
    known_words = {phrase for motion in KNOWN.values() for phrase in motion.phrases}
    assert not known_words & {phrase for motion in NOVEL.values() for phrase in motion.phrases}


def test_wandering_is_another_path_for_each_seed_and_never_a_novel_motion():
    t = np.linspace(0, 1, 8)
    novel = [np.stack([m.path(t)["x"], m.path(t)["y"]], 1) for m in NOVEL.values()]
    paths = []
    for seed in range(150):
        track = KNOWN["wander"].trajectory(8, np.random.default_rng(seed))
        paths.append(np.stack([track.x, track.y], 1))
        assert max(agreement(paths[-1], other) for other in novel) < 0.9
        assert 0.2 < np.ptp(paths[-1], axis=0).max() < 0.6
    same = KNOWN["wander"].trajectory(8, np.random.default_rng(0))
    assert (same.x == paths[0][:, 0]).all()
    assert np.mean([agreement(paths[0], other) for other in paths[1:]]) < 0.5


def test_agreement_knows_equal_opposite_and_unrelated_paths():
    t = np.linspace(0, 1, 9)
    line = np.stack([t, 0 * t], 1)
    assert agreement(line, 0.3 * line + 5) == pytest.approx(1)
    assert agreement(line, -line) == pytest.approx(-1)
    assert agreement(line, line[:, ::-1]) == pytest.approx(0)


def test_appearances_differ_from_each_other():
    scenes = appearances(10, seed=5)
    assert len({s.sprite.colour for s in scenes}) == 10
    assert len({s.background.colour for s in scenes}) == 10
    assert len({s.appearance for s in appearances(300)}) == 300


def test_a_trajectory_file_is_followed(tmp_path):
    file = tmp_path / "wave.json"
    file.write_text(json.dumps([[0, 0.2, 0.5], [5, 0.5, 0.3, 1.5], [10, 0.8, 0.5, 2, 0.25]]))
    path = read_trajectory(file).trajectory(3, np.random.default_rng(0))
    assert path.x.tolist() == [0.2, 0.5, 0.8]
    assert path.y.tolist() == [0.5, 0.3, 0.5]
    assert path.scale.tolist() == [1.0, 1.5, 2.0]
    assert path.angle.tolist() == [0.0, 0.0, 0.25]
    assert draw(Scene(), path, 64).shape == (3, 64, 64, 3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not json", "not JSON"),
        ("[[0, 0.1, 0.1]]", "at least two"),
        ('{"t": 0}', "at least two"),
        ("[[0, 0.1, 0.1], [1, 0.2]]", "point 1"),
        ('[[0, 0.1, 0.1], [1, "a", 0.2]]', "point 1"),
        ("[[0, 0.1, 0.1], [1, NaN, 0.2]]", "point 1"),
        (f"[[0, 0.1, 0.1], [{'9' * 400}, 0.2, 0.2]]", r"point 1: \[9999.*\.\.\. is not"),
        ("[[1, 0.1, 0.1], [0, 0.2, 0.2]]", "t must increase"),
        ("[[0, 10, 20], [1, 60, 20]]", "frame widths"),
        ("[[0, 0.1, 0.1, 0], [1, 0.2, 0.2, 1]]", "scale"),
    ],
)
def test_a_bad_trajectory_is_refused_in_one_sentence(tmp_path, text, says):
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        read_trajectory(file)
    assert "\n" not in caught.value.message


def test_unknown_words_are_answered_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="orbit"):
        motion_named("moonwalk")
    with pytest.raises(UserError, match="circle"):
        Sprite("dodecahedron")
    with pytest.raises(UserError, match="cannot be read"):
        read_trajectory(tmp_path / "missing.json")
