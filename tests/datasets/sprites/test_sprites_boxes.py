"""The boxes around objects that the renderer knows, against the pixels that it draws."""

import numpy as np
import pytest

from datasets.sprites.motions import KNOWN, NOVEL
from datasets.sprites.render import object_boxes, render_clip, trajectories
from datasets.sprites.world import SHAPES, Background, Scene, Sprite

SIZE = 64


def edges(box):
    """Rows and columns of a box in pixels."""
    left, top, right, bottom = (round(SIZE * number) for number in box)
    return slice(top, bottom), slice(left, right)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_box_holds_every_pixel_of_the_object_and_none_of_its_sides_is_empty(shape):
    scene = Scene(Sprite(shape, "red"), Background("mint", "plain"))
    motion = NOVEL["orbit"]
    clip = render_clip(scene, motion, 6, SIZE, seed=4).astype(int)
    track, _ = trajectories(scene, motion, 6, 4)
    for frame, box in zip(clip, object_boxes(scene.sprite, track, SIZE), strict=True):
        drawn = np.abs(frame - frame[0, 0]).max(-1) > 2
        rows, columns = edges(box)
        inside = drawn[rows, columns]
        assert inside.sum() == drawn.sum() > 50
        assert not drawn[: max(0, rows.start - 1)].any()
        # an outermost pixel may be covered by less than a grey level
        assert inside[:2].any()
        assert inside[-2:].any()
        assert inside[:, :2].any()
        assert inside[:, -2:].any()


def test_two_objects_have_boxes_of_their_own():
    scene = Scene(Sprite("star", "red", size="small"), Background(), Sprite("circle", "blue", size="small"))
    one, other = trajectories(scene, KNOWN["right"], 4, 1, second_motion=KNOWN["up"])
    first, second = (object_boxes(s, t, SIZE) for s, t in ((scene.sprite, one), (scene.second, other)))
    assert first[0][0] < first[-1][0]
    assert second[0][1] > second[-1][1]
    assert trajectories(Scene(), KNOWN["right"], 4, 1)[1] is None


def test_an_object_outside_the_picture_has_no_box():
    from dataclasses import replace

    scene = Scene()
    track, _ = trajectories(scene, KNOWN["still"], 3, 0)
    away = replace(track, x=track.x + np.array([0.0, 0.5, 3.0]))
    boxes = object_boxes(scene.sprite, away, SIZE)
    assert boxes[2] is None
    assert boxes[1] is None or boxes[1][2] == 1.0
