"""Variants of a clip: which there are, their words and their frames."""

import numpy as np
import pytest
from sample_videos import moving_picture

from datasets.clip_sets.variants import AS_IT_IS, variants


def test_the_usual_words_and_a_users_own():
    made = variants([0.5, 2.0, 1.25], reverse=True, mirror=True, words={"speed-2": " at  double speed "})
    assert {one.name: one.words for one in made} == {
        "speed-0.5": "slowly",
        "speed-2": "at double speed",
        "speed-1.25": "fast",
        "reverse": "in reverse",
        "mirror": "mirrored",
    }
    assert made[0].caption("a car turns.") == "a car turns slowly"
    assert AS_IT_IS.caption("a car turns.") == "a car turns."
    assert variants() == ()


@pytest.mark.parametrize("speed", [0.49, 2.01, 1, 0, -1, float("nan"), float("inf")])
def test_a_speed_out_of_bounds_is_refused(speed):
    with pytest.raises(ValueError, match=r"expected a speed from 0\.5 to 2 other than 1"):
        variants([speed])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"speeds": [0.5, 0.5]}, "speed-0.5 is given twice"),
        ({"reverse": True, "words": {"mirror": "x"}}, "words for 'mirror', and the variants are reverse"),
        ({"words": {"reverse": "x"}}, "the variants are none"),
        ({"reverse": True, "words": {"reverse": "  "}}, "expected 1 to 200 printable characters"),
        ({"reverse": True, "words": {"reverse": "a\x07b"}}, "expected 1 to 200 printable characters"),
        ({"reverse": True, "words": {"reverse": "x" * 201}}, "expected 1 to 200 printable characters"),
    ],
)
def test_other_mistakes_are_explained(given, says):
    with pytest.raises(ValueError, match=says):
        variants(**given)


def test_a_reversed_clip_shows_the_same_pictures_the_other_way_round_and_a_mirrored_one_its_left_on_the_right():
    frames = moving_picture(5, 16, 24)
    reverse, mirror = variants(reverse=True, mirror=True)
    backwards = reverse.frames(frames)
    assert all(np.array_equal(backwards[k], frames[4 - k]) for k in range(5))
    assert np.array_equal(mirror.frames(frames)[:, :, 0], frames[:, :, -1])
    assert np.array_equal(mirror.frames(mirror.frames(frames)), frames)
