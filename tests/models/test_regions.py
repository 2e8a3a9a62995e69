"""Regions: what one may be, and how much of each pixel it covers, against closed forms."""

from __future__ import annotations

import base64
import io
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from infra.errors import InvalidInput
from models.foundations.shared.layout import TokenLayout, steps
from models.generation import AdapterSettings
from models.regions.coverage import coverage
from models.regions.masks import MAX_BASE64, MAX_SIDE, decode_masks, encode_masks
from models.regions.region import Region
from models.sizes import Bucket

BUCKET = Bucket(4, 32, 48)
ROOT = Path(__file__).resolve().parents[2]


def picture(values, kind="PNG", mode=None):
    """Pixels as a file in base64."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(values), mode).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def overlaps(low, high, length):
    """How much of each pixel of a row lies between two positions."""
    return (torch.arange(1.0, length + 1).clamp(max=high) - torch.arange(0.0, length).clamp(min=low)).clamp(
        min=0
    )


# --- coverage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "box", [(0, 0, 48, 32), (24, 0, 48, 32), (3.25, 4.5, 17.75, 21.125), (10, 10, 10.5, 31)]
)
def test_a_box_without_feather_covers_what_lies_inside(box):
    left, top, right, bottom = box
    found = coverage(Region(box=box, unit="pixels", feather=0), BUCKET)
    expected = overlaps(top, bottom, 32)[:, None] * overlaps(left, right, 48)
    torch.testing.assert_close(found, expected.expand(4, -1, -1), atol=1e-6, rtol=0)
    fractions = (left / 48, top / 32, right / 48, bottom / 32)
    torch.testing.assert_close(coverage(Region(box=fractions, feather=0), BUCKET), found)


def test_the_feather_falls_linearly_over_its_width_and_is_centred_on_the_edge():
    found = coverage(Region(box=(20, 0, 48, 32), unit="pixels", feather=8), BUCKET)[0]
    centres = torch.arange(48) + 0.5
    ramp = ((centres - 16) / 8).clamp(
        0, 1
    )  # from 16 to 24 around the edge at 20, and none at the frame's border
    torch.testing.assert_close(found, ramp.expand(32, -1), atol=1e-6, rtol=0)
    assert not found[:, :16].any()
    assert (found[:, 24:] == 1).all()


def test_the_feather_of_a_corner_is_the_product_of_both_edges():
    found = coverage(Region(box=(20, 10, 48, 32), unit="pixels", feather=8), BUCKET)[0]
    across = ((torch.arange(48) + 0.5 - 16) / 8).clamp(0, 1)
    down = ((torch.arange(32) + 0.5 - 6) / 8).clamp(0, 1)
    torch.testing.assert_close(found, down[:, None] * across, atol=1e-6, rtol=0)


def test_two_regions_with_a_common_edge_add_up_to_one():
    left, right = (coverage(Region(box=box), BUCKET) for box in ((0, 0, 0.4, 1), (0.4, 0, 1, 1)))
    torch.testing.assert_close(left + right, torch.ones(4, 32, 48))
    assert 0 < left[0, 0, 19] < 1, "the default edge is soft"


@pytest.mark.parametrize("corners", [[(2, 3), (45, 8), (20, 30)], [(20, 30), (45, 8), (2, 3)]])
def test_a_triangle_covers_its_area_whatever_the_order_of_its_corners(corners):
    found = coverage(Region(polygon=corners, unit="pixels", feather=0), BUCKET)[0]
    area = abs(sum(x * v - u * y for (x, y), (u, v) in itertools.pairwise([*corners, corners[0]]))) / 2
    assert float(found.sum()) == pytest.approx(area, rel=1e-3)
    assert found[12, 20] == 1
    assert not found[:3].any()
    assert not found[:, :2].any()


def test_a_polygon_with_a_notch_leaves_the_notch_out():
    corners = [(4, 4), (44, 4), (44, 28), (24, 8), (4, 28)]
    found = coverage(Region(polygon=corners, unit="pixels", feather=0), BUCKET)[0]
    assert found[6, 24] == 1
    assert found[20, 24] == 0
    assert found[20, 6] == 1


def test_keyframes_are_interpolated_linearly_and_hold_before_and_after():
    bucket = Bucket(6, 8, 40)
    keyframes = [{"frame": 1, "box": (0, 0, 10, 8)}, {"frame": 4, "box": (30, 0, 40, 8)}]
    found = coverage(Region(keyframes=keyframes, unit="pixels", feather=0), bucket)
    for frame, left in enumerate([0, 0, 10, 20, 30, 30]):
        assert torch.equal(found[frame], overlaps(left, left + 10, 40).expand(8, -1)), frame


def test_one_keyframe_for_each_frame_is_that_frames_shape():
    bucket = Bucket(3, 8, 8)
    boxes = [(0, 0, 1, 1), (2, 2, 5, 7), (6, 0, 8, 8)]
    keyframes = [{"frame": frame, "box": box} for frame, box in enumerate(boxes)]
    found = coverage(Region(keyframes=keyframes, unit="pixels", feather=0), bucket)
    for frame, box in enumerate(boxes):
        alone = coverage(Region(box=box, unit="pixels", feather=0), bucket)[0]
        assert torch.equal(found[frame], alone)


def test_a_mask_is_scaled_to_the_video_and_has_no_feather_of_its_own():
    half = np.zeros((4, 6), np.uint8)
    half[:, 3:] = 255
    found = coverage(Region(mask=picture(half)), BUCKET)
    assert found.shape == (4, 32, 48)
    assert not found[..., :18].any(), "beyond a pixel of the mask from the edge"
    assert (found[..., 30:] == 1).all()
    exact = coverage(Region(mask=picture(np.repeat(np.repeat(half, 8, 0), 8, 1))), BUCKET)
    assert torch.equal(exact[0, 0], (torch.arange(48) >= 24).float())
    larger = coverage(Region(mask=picture(np.repeat(np.repeat(half, 40, 0), 40, 1))), BUCKET)
    assert not larger[..., :23].any(), "a larger mask is averaged"
    grey = coverage(Region(mask=picture(np.full((4, 6), 51, np.uint8))), BUCKET)
    torch.testing.assert_close(grey, torch.full_like(grey, 0.2))


def test_a_mask_may_differ_from_frame_to_frame_as_images_or_as_an_animation():
    frames = np.zeros((4, 32, 48), np.uint8)
    for frame in range(4):
        frames[frame, :, 12 * frame : 12 * frame + 12] = 255
    found = coverage(Region(mask=[picture(frame) for frame in frames]), BUCKET)
    assert torch.equal(found, torch.from_numpy(frames / 255).float())
    buffer = io.BytesIO()
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:])
    animation = base64.b64encode(buffer.getvalue()).decode()
    assert torch.equal(coverage(Region(mask=animation), BUCKET), found)


def test_transparent_pixels_of_a_mask_are_outside():
    values = np.full((32, 48, 4), 255, np.uint8)
    values[:, :24, 3] = 0
    found = coverage(Region(mask=picture(values)), BUCKET)
    assert torch.equal(found[0, 0], (torch.arange(48) >= 24).float())


@pytest.mark.parametrize("feather", [0, 0.05, 0.3])
def test_on_a_coarser_grid_the_mean_of_a_latents_cell_is_that_of_its_pixels(feather):
    layout = TokenLayout("of the video", steps(4, 1, 1), steps(4, 1, 8), steps(6, 1, 8))
    for region in (
        Region(box=(0.31, 0.2, 0.9, 0.77), feather=feather),
        Region(polygon=[(0.1, 0), (1, 0.4), (0.2, 1)], feather=feather),
    ):
        fine, coarse = (layout.means(coverage(region, BUCKET, grid)) for grid in (None, (16, 24)))
        assert fine.shape == (4 * 4 * 6,)
        torch.testing.assert_close(coarse, fine, atol=0.02, rtol=0)


def test_masks_that_do_not_fit_are_encoded_smaller():
    noise = np.random.default_rng(0).integers(0, 256, (8, 256, 256), np.uint8)
    images = encode_masks(noise)
    assert len(images) == 8
    assert sum(map(len, images)) <= MAX_BASE64
    small = decode_masks(images)
    assert small.shape[1] == small.shape[2] < 256
    assert small.mean() == pytest.approx(noise.mean(), abs=2)
    plain = encode_masks(np.zeros((2, 60, 104), np.uint8))
    assert decode_masks(plain).shape == (2, 60, 104)


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "exactly one of `box`, `polygon`, `mask` and `keyframes`"),
        ({"box": (0, 0, 1, 1), "polygon": [(0, 0), (1, 0), (1, 1)]}, "exactly one of"),
        ({"box": (0, 0, 1)}, r"expected \[left, top, right, bottom\]"),
        ({"box": (0.5, 0, 0.5, 1)}, "left below right"),
        ({"box": (0.5, 0, 1.5, 1)}, 'fractions from 0 to 1; for pixels give `unit: "pixels"`'),
        ({"box": (-0.5, 0, 1, 1)}, "greater than or equal to 0"),
        ({"box": (0, 0, float("nan"), 1)}, "finite number"),
        ({"box": ("0", 0, 1, 1)}, "valid number"),
        ({"box": (0, 0, 1, 1), "feather": 3}, "fractions from 0 to 1"),
        ({"box": (0, 0, 1, 1), "feather": -0.1}, "greater than or equal to 0"),
        ({"box": (0, 0, 1, 1), "unit": "metres"}, "'fraction' or 'pixels'"),
        ({"box": (0, 0, 1, 1), "file": "mask.png"}, "Extra inputs are not permitted"),
        ({"polygon": [(0, 0), (1, 1)]}, "at least 3 items"),
        ({"polygon": [(0, 0), (1, 1, 1), (1, 0)]}, r"expected a corner \[x, y\]"),
        ({"polygon": [(0, 0)] * 65}, "at most 64 items"),
        ({"keyframes": []}, "at least 1 item"),
        ({"keyframes": [{"frame": 0}]}, "`frame` and one of `box` and `polygon`"),
        (
            {"keyframes": [{"frame": 2, "box": (0, 0, 1, 1)}, {"frame": 1, "box": (0, 0, 1, 1)}]},
            "frames in increasing order",
        ),
        (
            {
                "keyframes": [
                    {"frame": 0, "box": (0, 0, 1, 1)},
                    {"frame": 1, "polygon": [(0, 0), (1, 0), (1, 1), (0, 1)]},
                ]
            },
            "boxes only, or polygons with the same number of corners",
        ),
        (
            {"keyframes": [{"frame": n, "polygon": [(0, 0), (1, 0), (1, 1)] * 20} for n in range(80)]},
            "at most 4096 corners together",
        ),
        ({"mask": "no base64!"}, "PNG or GIF in base64"),
        ({"mask": ["aaaa"] * 1025}, "at most 1024 items"),
        ({"mask": "a" * (MAX_BASE64 + 4)}, "at most 43692 characters"),
        ({"mask": ["a" * (MAX_BASE64 // 8 * 4)] * 3}, "at most 43692 characters"),
    ],
)
def test_a_region_that_cannot_be_is_refused_in_one_sentence(fields, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Region(**fields)


WHITE = np.full((8, 8), 255, np.uint8)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"box": (0, 0, 49, 10), "unit": "pixels"}, r"corner \(49, 0\) is outside the frame of 48x32"),
        ({"polygon": [(0, 0), (1, 1), (1, 0), (0, 1)]}, "crosses itself .* corners 1 and 3"),
        ({"polygon": [(0, 0), (0.5, 0.5), (1, 1)]}, "is empty"),
        (
            {"keyframes": [{"frame": 0, "box": (0, 0, 1, 1)}, {"frame": 4, "box": (0, 0, 1, 1)}]},
            "keyframe at frame 4, and the video's frames are 0 to 3",
        ),
        ({"mask": [picture(WHITE)] * 3}, "the mask has 3 frames and the video 4"),
        ({"mask": [picture(WHITE), picture(WHITE[:4])] * 2}, "are 8x8 and 8x4 pixels; give one size"),
        ({"mask": picture(np.zeros((8, 8), np.uint8))}, "black everywhere"),
        ({"mask": picture(np.full((8, 8), 60000, np.uint16))}, "16 bits"),
        (
            {"mask": picture(np.zeros((1, MAX_SIDE + 1), np.uint8))},
            f"1 frames of {MAX_SIDE + 1}x1 pixels; give at most",
        ),
        ({"mask": picture(WHITE, "BMP")}, "no intact PNG or GIF"),
        ({"mask": picture(np.arange(64, dtype=np.uint8).reshape(8, 8))[:60]}, "no intact PNG or GIF"),
        ({"mask": base64.b64encode(b"http://127.0.0.1/x").decode()}, "no intact PNG or GIF"),
        ({"mask": "sha256:" + "0" * 64}, "given by its hash"),
    ],
)
def test_a_region_that_does_not_suit_the_video_is_refused_in_one_sentence(fields, sentence):
    with pytest.raises(InvalidInput, match=f"the region of orbit: .*{sentence}") as caught:
        Region(**fields).check(BUCKET, "the region of orbit")
    assert caught.value.code == "invalid_region"


def test_a_note_says_that_a_mask_was_scaled():
    assert Region(mask=picture(WHITE)).check(BUCKET, "the region of orbit") == [
        "the region of orbit: the mask of 8x8 was scaled to the video's 48x32."
    ]
    assert Region(mask=picture(np.full((32, 48), 255, np.uint8))).check(BUCKET) == []
    assert Region(box=(0, 0, 1, 1)).check(BUCKET) == []


def test_an_answer_shows_a_hash_in_place_of_a_mask():
    region = Region(mask=picture(WHITE), feather=0.1)
    [digest] = region.shown.mask
    assert digest.startswith("sha256:")
    assert region.shown.shown == region.shown
    assert Region.model_validate(region.shown.model_dump(mode="json")) == region.shown
    assert region.shown.feather == 0.1
    box = Region(box=(0, 0, 1, 1))
    assert box.shown == box


def test_a_region_comes_back_from_json_as_it_was():
    for region in (
        Region(polygon=[(0, 0), (1, 0.25), (0.5, 1)], feather=0),
        Region(keyframes=[{"frame": 0, "box": (0, 0, 1, 1)}, {"frame": 3, "box": (0, 0, 0.5, 1)}]),
        Region(mask=[picture(WHITE)]),
    ):
        assert Region.model_validate_json(region.model_dump_json()) == region


# --- scales and steps -----------------------------------------------------------------------------------------


def scales(count, **settings):
    acts = AdapterSettings(**settings)
    return [acts.scale_at(step / count) for step in range(count)]


def test_scales_divide_the_window_into_equal_phases():
    assert scales(4) == [1.0] * 4
    assert scales(4, scale=[1, 0.5]) == [1, 1, 0.5, 0.5]
    assert scales(5, scale=(1, 0.5)) == [1, 1, 1, 0.5, 0.5], "step 2 of 5 begins at 0.4, in the first half"
    assert scales(6, scale=[3, 2, 1], steps=[0.5, 1]) == [0, 0, 0, 3, 2, 1]
    assert scales(10, scale=[1, 2, 3, 4], steps=(0.1, 0.9)) == [0, 1, 1, 2, 2, 3, 3, 4, 4, 0]
    assert scales(2, scale=[1, 2, 3]) == [1, 2], "the third phase begins at 2/3, and no step does"


def test_until_is_read_as_a_window_and_never_written():
    acts = AdapterSettings.model_validate({"scale": 0.5, "until": 0.4})
    assert acts == AdapterSettings(scale=0.5, steps=(0, 0.4))
    assert acts.model_dump(mode="json") == {"scale": 0.5, "steps": [0.0, 0.4]}
    assert AdapterSettings(until=1.0).model_dump(mode="json") == {"scale": 1.0, "steps": [0.0, 1.0]}
    assert AdapterSettings().model_dump(mode="json") == {"scale": 1.0}
    assert AdapterSettings.model_validate(acts.settings) == acts
    with pytest.raises(ValidationError, match="`steps` or `until`, not both"):
        AdapterSettings(until=0.5, steps=(0.2, 1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale", 4.5),
        ("scale", [1, -5]),
        ("scale", []),
        ("scale", [1] * 101),
        ("scale", [float("nan")]),
        ("scale", float("inf")),
        ("scale", "much"),
        ("scale", True),
        ("steps", [0.5]),
        ("steps", [0.5, 0.5]),
        ("steps", [0.6, 0.5]),
        ("steps", [-0.1, 0.5]),
        ("steps", [0, 1.1]),
        ("steps", [0, float("nan")]),
        ("steps", 3),
        ("until", 0),
        ("until", 1.5),
    ],
)
def test_scales_and_windows_out_of_bounds_are_refused(field, value):
    with pytest.raises(ValidationError) as caught:
        AdapterSettings(**{field: value})
    [error] = caught.value.errors()
    assert error["loc"] == (field,)


def test_the_description_of_a_region_needs_no_torch():
    code = (
        "import sys; from models.regions.region import Region; import models.generation; "
        "Region(box=(0, 0, 1, 1)); print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
