"""`ingest --masks`: boxes from a JSON file, mask videos and pictures from a folder; each clip gets its own part."""

import json

import numpy as np
import pytest
from dataset_commands import command
from PIL import Image
from sample_videos import moving_picture, write_video

import motiondirector.commands.clips
import motiondirector.commands.ingest
from datasets.clip_sets.clips import read_clips
from datasets.clip_sets.select import Selection
from datasets.clip_sets.variants import variants
from datasets.ingest import masks
from datasets.ingest.local import ingest
from datasets.ingest.masks import Masks
from datasets.ingest.sources import expand
from infra.errors import InvalidInput, UserError
from infra.storage import open_storage
from models.foundations.base import Bucket
from models.regions.coverage import coverage

SELECTION = Selection(
    frames=8, height=64, width=96, fps=6
)  # of 180x320, 25 pixels left and right are cut off
BUCKET = Bucket(8, 64, 96)


@pytest.fixture
def video(make_video):
    """36 frames at 6 fps."""
    return make_video("in/a.mp4", num_frames=36, fps=6)


@pytest.fixture
def boxes(tmp_path):
    def write(content):
        path = tmp_path / "boxes.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


@pytest.fixture
def into(tmp_path):
    def run(sources, given, selection=SELECTION, **options):
        options = {"concept": "slide", "caption": "a texture slides", "masks": Masks(str(given))} | options
        return ingest(expand([str(s) for s in sources]), selection, open_storage(tmp_path / "set"), **options)

    return run


def found(tmp_path):
    """The masks by variant."""
    return {clip.variant or "": clip.mask for clip in read_clips(tmp_path / "set")}


def in_clip(x):
    """A column of the source as a fraction of the clip's width."""
    return (x - 25) / 270


def test_a_box_in_pixels_of_the_source_becomes_one_of_the_clip(into, boxes, video, tmp_path):
    report = into([video], boxes({"a.mp4": {"unit": "pixels", "box": [50, 45, 150, 90]}}))
    (outcome,) = report.outcomes
    assert outcome.status == "accepted"
    assert outcome.mask.startswith("box:")
    mask = found(tmp_path)[""]
    assert mask.box == pytest.approx((in_clip(50), 0.25, in_clip(150), 0.5), abs=1e-3)
    assert mask.feather == 0


def test_keyframes_count_frames_of_the_source_and_every_window_gets_its_own(into, boxes, video, tmp_path):
    keyframes = [{"frame": 0, "box": [0.2, 0, 0.3, 1]}, {"frame": 35, "box": [0.6, 0, 0.7, 1]}]
    windows = Selection(8, 64, 96, fps=6, windows=None)
    report = into([video], boxes({"a.mp4": {"keyframes": keyframes}}), windows)
    assert report.count("accepted") == 4
    for number, outcome in enumerate(report.outcomes):
        (clip,) = (clip for clip in read_clips(tmp_path / "set") if clip.clip_id == outcome.clip_id)
        for place in (0, 7):
            left = 320 * (0.2 + 0.4 * (8 * number + place) / 35)
            assert clip.mask.keyframes[place].box[0] == pytest.approx(in_clip(left), abs=2e-3)


def test_variants_carry_the_region_of_their_own_pictures(into, boxes, video, tmp_path):
    keyframes = [{"frame": 0, "box": [0.2, 0, 0.3, 1]}, {"frame": 35, "box": [0.6, 0, 0.7, 1]}]
    made = variants([0.5, 2], reverse=True, mirror=True)
    into([video], boxes({"a.mp4": {"keyframes": keyframes}}), variants=made)
    lefts = {name: [frame.box[0] for frame in mask.keyframes] for name, mask in found(tmp_path).items()}
    rights = [frame.box[2] for frame in found(tmp_path)[""].keyframes]
    assert lefts["reverse"] == pytest.approx(lefts[""][::-1])
    assert lefts["mirror"] == pytest.approx([1 - right for right in rights], abs=1e-5)
    assert lefts["speed-2"][:4] == pytest.approx(lefts[""][::2], abs=1e-5)
    assert lefts["speed-0.5"][::2] == pytest.approx(lefts[""][:4], abs=1e-5)
    assert lefts["speed-0.5"][1] == lefts["speed-0.5"][0], "the same picture is shown twice"


def test_a_mask_video_is_read_frame_by_frame(into, video, tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    frames = np.zeros((36, 180, 320, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[:, 30 + 6 * number : 90 + 6 * number] = 255
    write_video(folder / "a.mp4", frames, fps=6, options={"crf": "1"})
    report = into([video], folder, variants=variants(reverse=True))
    assert report.outcomes[0].warnings == []
    mask = found(tmp_path)[""]
    assert len(mask.mask) == 8
    covered = coverage(mask, BUCKET)
    columns = (columns_of(covered[k]) for k in range(8))
    for number, (left, right) in enumerate(columns):
        assert left == pytest.approx(96 * in_clip(30 + 6 * number), abs=1)
        assert right == pytest.approx(96 * in_clip(90 + 6 * number), abs=1)
    backwards = coverage(found(tmp_path)["reverse"], BUCKET)
    assert (backwards.flip(0) - covered).abs().max() < 0.05


def columns_of(covered_HW):
    """First and last column of which more than half is covered."""
    inside = (covered_HW[32] > 0.5).nonzero()
    return int(inside[0]), int(inside[-1]) + 1


def test_a_picture_is_a_mask_for_all_frames_and_another_size_is_resampled_and_said(into, video, tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    picture = np.zeros((18, 32), np.uint8)
    picture[:, 16:] = 255
    Image.fromarray(picture).save(folder / "a.png")
    (outcome,) = into([video], folder).outcomes
    assert outcome.warnings == ["the mask a.png of 32x18 pixels is scaled to the video's 320x180"]
    mask = found(tmp_path)[""]
    assert len(mask.mask) == 1
    covered = coverage(mask, BUCKET)[0]
    assert (float(covered[:, :44].max()), float(covered[:, 52:].min())) == (0, 1)


def test_a_clip_without_a_mask_has_none(into, boxes, video, make_video, tmp_path):
    other = make_video("in/b.mp4", num_frames=36, fps=6, seed=1)
    report = into([video, other], boxes({"a.mp4": {"box": [0, 0, 0.5, 1]}}))
    assert [bool(outcome.mask) for outcome in report.outcomes] == [True, False]
    assert sorted(clip.mask is None for clip in read_clips(tmp_path / "set")) == [False, True]


def test_a_clip_that_the_set_has_keeps_its_mask_and_says_so(into, boxes, video, tmp_path):
    into([video], boxes({"a.mp4": {"box": [0.2, 0, 0.5, 1]}}))
    before = found(tmp_path)
    (outcome,) = into([video], boxes({"a.mp4": {"box": [0.5, 0, 0.7, 1]}})).outcomes
    assert outcome.status == "duplicate"
    assert "its mask is as it was: to change it, `motiondirector clips rm` it first" in outcome.reason
    assert found(tmp_path) == before


# ------------------------------------------------------------------------------ bad input
WRONG_FILES = {
    "no JSON": "{",
    "a list": [],
    "nothing": {},
    "another file": {"z.mp4": {"box": [0, 0, 1, 1]}},
    "a key twice": '{"a.mp4": {"box": [0, 0, 1, 1]}, "a.mp4": {"box": [0, 0, 1, 1]}}',
    "a name twice": {"a.mp4": {"box": [0, 0, 1, 1]}, "./a.mp4": {"box": [0, 0, 1, 1]}},
    "beyond fractions": {"a.mp4": {"box": [0, 0, 1.5, 1]}},
    "empty": {"a.mp4": {"box": [0.5, 0, 0.5, 1]}},
    "nothing given": {"a.mp4": {}},
    "two shapes": {"a.mp4": {"box": [0, 0, 1, 1], "polygon": [[0, 0], [1, 0], [1, 1]]}},
    "unknown key": {"a.mp4": {"boxes": [[0, 0, 1, 1]]}},
    "a mask's bytes": {"a.mp4": {"mask": "aGk="}},
    "frames in no order": {
        "a.mp4": {"keyframes": [{"frame": 4, "box": [0, 0, 1, 1]}, {"frame": 1, "box": [0, 0, 1, 1]}]}
    },
    "no number": {"a.mp4": {"box": [0, 0, "x", 1]}},
    "not finite": '{"a.mp4": {"box": [0, 0, NaN, 1]}}',
}
SAYS = {
    "no JSON": "is no JSON",
    "another file": "has a mask for z.mp4, which is not an input",
    "a key twice": "appears twice",
    "a name twice": "appears twice",
    "beyond fractions": "expected fractions from 0 to 1",
    "empty": "left below right",
    "nothing given": "expected exactly one of",
    "two shapes": "expected exactly one of",
    "frames in no order": "increasing order",
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_wrong_file_of_boxes_is_explained_before_anything_is_stored(into, boxes, video, tmp_path, name):
    with pytest.raises(UserError, match=SAYS.get(name, "--masks")) as told:
        into([video], boxes(WRONG_FILES[name]))
    assert "boxes.json" in told.value.message
    assert told.value.message.count(". ") == 0, "one sentence"
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("region", "says"),
    [
        ({"unit": "pixels", "box": [0, 0, 321, 90]}, "outside the frame of 320x180 pixels"),
        (
            {"keyframes": [{"frame": 36, "box": [0, 0, 1, 1]}]},
            "keyframe at frame 36, and the video's frames are 0 to 35",
        ),
        ({"box": [0, 0, 0.05, 1]}, "is empty in the part that this clip shows"),
        ({"polygon": [[0, 0], [1, 1], [1, 0], [0, 1]]}, "crosses itself"),
    ],
)
def test_a_region_that_does_not_suit_its_video_refuses_it(into, boxes, video, tmp_path, region, says):
    report = into([video], boxes({"a.mp4": region}))
    (outcome,) = report.outcomes
    assert (outcome.status, says in outcome.reason) == ("refused", True), outcome.reason
    assert not (tmp_path / "set").exists()


def test_mask_files_that_cannot_be_used_are_explained(into, video, tmp_path, monkeypatch):
    folder = tmp_path / "masks"
    folder.mkdir()
    with pytest.raises(UserError, match="the folder has no masks"):
        into([video], folder)
    with pytest.raises(UserError, match="does not exist; give a JSON file or a folder"):
        into([video], tmp_path / "nowhere")
    with pytest.raises(UserError, match="a JSON file or a folder on this machine"):
        Masks("s3://bucket/masks")

    def refused(path):
        (outcome,) = into([video], folder).outcomes
        path.unlink()
        assert outcome.status == "refused"
        return outcome.reason

    write_video(folder / "a.mp4", moving_picture(20, 180, 320), fps=6)
    assert "the mask a.mp4 has 20 frames and a.mp4 has 36" in refused(folder / "a.mp4")
    (folder / "a.png").write_bytes(b"no picture")
    assert "the mask a.png" in refused(folder / "a.png")
    Image.fromarray(np.zeros((18, 32), np.uint8)).save(folder / "a.png")
    assert "is empty in the part" in refused(folder / "a.png")
    with (folder / "a.mp4").open("wb") as file:
        file.truncate(100 << 20)
    assert "the mask a.mp4 has 100 MB, more than the 64 MB" in refused(folder / "a.mp4")
    Image.fromarray(np.full((18, 32), 255, np.uint8)).save(folder / "b.png")
    with pytest.raises(InvalidInput, match="has a mask for b, which is not an input"):
        into([video], folder)
    (folder / "b.gif").touch()
    with pytest.raises(InvalidInput, match=r"b\.gif and b\.png are masks of the same clip"):
        into([video], folder)
    monkeypatch.setattr(masks, "MAX_JSON", 1 << 20)
    (tmp_path / "large.json").write_text(" " * (3 << 20))
    with pytest.raises(InvalidInput, match="has 3 MB, more than the 1 MB"):
        Masks(str(tmp_path / "large.json"))
    assert not (tmp_path / "set").exists()


# ------------------------------------------------------------------------------ the commands
def test_the_tables_show_masks_and_a_correction_keeps_them(video, boxes, tmp_path):
    file = boxes({"a.mp4": {"box": [0.25, 0, 0.5, 1]}})
    given = (video, "--concept", "slide", "--caption", "it slides", "--to", tmp_path / "set", "--masks", file)
    size = ("--frames", 8, "--height", 64, "--width", 96, "--fps", 6, "--windows", 1)
    code, output = command(motiondirector.commands.ingest, "ingest", *given, *size)
    assert code == 0, output
    assert "mask box:" in output
    (clip,) = read_clips(tmp_path / "set")
    clips = motiondirector.commands.clips
    code, output = command(
        clips, "clips", "edit", tmp_path / "set", clip.clip_id[:8], "--caption", "other words"
    )
    assert code == 0, output
    code, output = command(clips, "clips", "list", tmp_path / "set")
    assert "mask box:" in output
    assert "other words" in output
    assert read_clips(tmp_path / "set")[0].mask == clip.mask


def test_a_refused_mask_is_exit_2_and_leaves_nothing(video, boxes, tmp_path):
    file = boxes({"a.mp4": {"unit": "pixels", "box": [0, 0, 999, 90]}})
    given = (video, "--concept", "slide", "--caption", "it slides", "--to", tmp_path / "set", "--masks", file)
    size = ("--frames", 8, "--height", 64, "--width", 96, "--fps", 6, "--windows", 1)
    code, output = command(motiondirector.commands.ingest, "ingest", *given, *size)
    assert code == 2
    assert "no clip was accepted and nothing was stored" in output
    assert "outside the frame of 320x180" in output
    assert not (tmp_path / "set").exists()
