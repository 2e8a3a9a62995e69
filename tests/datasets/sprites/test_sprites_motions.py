"""Motions nobody tuned on: new ones differ from the others, are measured, and leave what pretraining drew as it was."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from datasets.sprites.captions import canonical, caption, parse, vocabulary
from datasets.sprites.motions import KNOWN, NOVEL
from datasets.sprites.render import render_clip
from datasets.sprites.track import track
from datasets.sprites.wander import agreement
from datasets.sprites.world import Background, Scene, Sprite, sample_scene
from motiondirector.study.plan import HELD_OUT
from training.pretraining.tokenizer import OTHER_WORDS, write_tokenizer

TOKENIZER = Path(__file__).parents[3] / "assets" / "foundation" / "tokenizer" / "tokenizer.json"
SINCE = ("whirl", "double-orbit", "lunge", "meander", "wave", "pendulum")  # added after pretraining


def path(name, frames=8):
    t = np.linspace(0, 1, frames)
    shown = (KNOWN | NOVEL)[name].path(t)
    return np.stack([shown.get("x", 0 * t), shown.get("y", 0 * t)], axis=1)


def test_there_are_at_least_twelve_motions_to_report_on():
    assert len(HELD_OUT) >= 13
    assert set(SINCE) <= set(HELD_OUT)


@pytest.mark.parametrize("name", SINCE)
def test_a_new_motion_is_like_no_other(name):
    others = [n for n in (KNOWN | NOVEL) if n != name and np.ptp(path(n)) > 0 and n != "wander"]
    alike = {other: abs(agreement(path(name), path(other))) for other in others}
    assert max(alike.values()) < 0.8, max(alike, key=lambda other: alike[other])


@pytest.mark.parametrize("name", SINCE)
def test_pretraining_hardly_ever_drew_a_new_motion(name):
    """Wandering paths were never kept apart from it, so it must be one that they do not take by chance."""
    t, rng = np.linspace(0, 1, 8), np.random.default_rng(0)
    drawn = [KNOWN["wander"].drawn(rng)(t) for _ in range(1000)]
    alike = [agreement(path(name), np.stack([p["x"], p["y"]], axis=1)) for p in drawn]
    assert np.mean(np.array(alike) > 0.85) <= 0.003


def test_some_of_them_are_small_some_fast_and_some_reverse():
    steps = {n: np.linalg.norm(np.diff(path(n), axis=0), axis=1) for n in SINCE}
    assert np.ptp(path("whirl"), axis=0).max() < 0.25
    assert steps["double-orbit"].min() > 0.2  # of the frame's width, from frame to frame
    for name in ("lunge", "pendulum", "wave", "whirl"):
        turns = np.diff(path(name), axis=0)
        cosines = (turns[1:] * turns[:-1]).sum(1) / (steps[name][1:] * steps[name][:-1])
        assert cosines.min() < 0, name


@pytest.mark.parametrize("name", SINCE)
@pytest.mark.parametrize("sprite", [Sprite("star", "red"), Sprite("ring", "white", "dotted", "small")])
def test_the_tracker_measures_a_new_motion(name, sprite):
    seen = track(render_clip(Scene(sprite, Background("navy", "gradient")), NOVEL[name], seed=3))
    assert seen.present
    assert agreement(np.stack([seen.x, seen.y], axis=1), path(name)) > 0.97


@pytest.mark.parametrize("name", NOVEL)
def test_the_words_of_a_novel_motion_are_read_as_that_motion(name):
    scene, rng = Scene(Sprite("star", "red"), Background("navy")), np.random.default_rng(0)
    assert parse(canonical(scene, NOVEL[name])).motion == name
    two = sample_scene(rng, second=1.0)
    assert parse(caption(two, NOVEL[name], rng)).motion == name


def test_no_two_motions_share_their_words():
    phrases = [phrase for motion in (KNOWN | NOVEL).values() for phrase in motion.phrases]
    assert len(set(phrases)) == len(phrases)
    assert not any(set(KNOWN[a].phrases) & set(NOVEL[b].phrases) for a in KNOWN for b in NOVEL)
    assert all(a != b for a, b in combinations((m.phrases[0] for m in NOVEL.values()), 2))


def test_novel_words_are_words_that_pretraining_never_trained():
    known = {word for motion in KNOWN.values() for phrase in motion.phrases for word in phrase.split()}
    for name in SINCE:
        [phrase] = NOVEL[name].phrases
        assert set(phrase.split()) & known <= {"and"}, name


def test_the_vocabulary_is_the_one_of_the_shipped_tokenizer(tmp_path):
    """Other words would give it other tokens, and every embedding of the shipped text encoder another meaning."""
    write_tokenizer(tmp_path)
    made = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    shipped = json.loads(TOKENIZER.read_text())["model"]["vocab"]
    assert made == shipped
    assert {f"{word}</w>" for word in (*vocabulary(), *OTHER_WORDS)} <= set(shipped)


def test_wandering_paths_are_those_that_the_foundation_was_trained_on():
    """Of this seed the first path drawn is like a lunge, which pretraining did not know of: it must be kept."""
    t = np.linspace(0, 1, 8)
    drawn = KNOWN["wander"].drawn(np.random.default_rng(664))(t)
    x = [-0.055, 0.028, 0.112, 0.154, 0.176, 0.136, -0.027, -0.191]
    y = [-0.187, -0.027, 0.134, 0.136, 0.059, -0.014, -0.079, -0.145]
    np.testing.assert_allclose(np.stack([drawn["x"], drawn["y"]]), [x, y], atol=6e-4)
    assert any(agreement(np.stack([x, y], axis=1), path(name)) > 0.8 for name in SINCE)


# (scene's seed, motion) -> mean red, green, blue and the deviation of all, as drawn when the foundation was trained
DRAWN = {
    "right": (193.807, 170.181, 196.321, 52.628),
    "wander": (139.8, 189.854, 204.481, 55.879),
    "zoom-in": (155.463, 199.712, 174.12, 58.397),
    "orbit": (195.864, 191.292, 153.982, 51.264),
    "corkscrew": (105.671, 113.022, 35.0, 42.671),
}


def test_clips_are_drawn_as_they_were_when_the_foundation_was_trained():
    rng = np.random.default_rng(11)
    for name, expected in DRAWN.items():
        clip = render_clip(sample_scene(rng, second=0.5), (KNOWN | NOVEL)[name], seed=5)
        np.testing.assert_allclose([*clip.mean((0, 1, 2)), clip.std()], expected, atol=0.01, err_msg=name)
