"""The mask of a clip: where a region of a picture is in a clip cut out of it, and how a set stores it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from clip_sets import sliding_clips, write_set

from datasets.clip_sets.amend import amend
from datasets.clip_sets.clips import MANIFEST, clips_to_table, read_clips, read_facts
from datasets.clip_sets.latents import LatentCache, prepare
from datasets.clip_sets.masks import View, from_pictures, mask_id, mask_text, placed
from datasets.clip_sets.parts import Pace, all_parts
from infra.errors import InvalidInput, UserError
from infra.storage import open_storage
from infra.storage.objects import sha256_file
from models.foundations.base import Bucket
from models.load import load_foundation
from models.regions.coverage import coverage
from models.regions.region import Region
from training.described import data_sha256

WHOLE = View(40, 80, 40, 80)
MIDDLE = View(40, 80, 20, 20)  # shows x from 0.25 to 0.75
EARLIER = Path(__file__).resolve().parents[2] / "training" / "earlier" / "clips"
BOX = Region(box=(0.0, 0.0, 0.5, 1.0), feather=0.0)


def moving(start, end, frames=5):
    return Region(keyframes=[{"frame": 0, "box": start}, {"frame": frames - 1, "box": end}])


def test_a_box_of_the_whole_picture_stays_as_it_is():
    region = placed(Region(box=(0.1, 0.2, 0.5, 0.6)), WHOLE, range(4))
    assert region == Region(box=(0.1, 0.2, 0.5, 0.6), feather=0.0)
    assert placed(Region(box=(8, 8, 40, 24), unit="pixels"), WHOLE, range(4)) == region


def test_a_crop_moves_a_box_and_cuts_off_what_it_does_not_show():
    assert placed(Region(box=(0.25, 0.5, 0.5, 1.0)), MIDDLE, [0]).box == (0.0, 0.5, 0.5, 1.0)
    assert placed(Region(box=(0.0, 0.0, 0.5, 1.0)), MIDDLE, [0]).box == (0.0, 0.0, 0.5, 1.0)
    assert placed(Region(box=(0.0, 0.0, 0.2, 1.0)), MIDDLE, [0]) is None


def test_pixels_that_are_not_square_are_counted_as_they_are_shown():
    view = View(40, 40, 20, 20, pixel_aspect=2.0)  # shown as 80x40, so its middle half is used
    assert placed(Region(box=(0.25, 0.0, 0.5, 1.0)), view, [0]).box == (0.0, 0.0, 0.5, 1.0)


def test_keyframes_are_taken_at_the_frames_that_the_clip_shows():
    region = moving((0, 0, 0.2, 1), (0.8, 0, 1, 1))
    shown = placed(region, WHOLE, [4, 2, 2])
    assert [frame.frame for frame in shown.keyframes] == [0, 1, 2]
    assert [frame.box for frame in shown.keyframes] == [(0.8, 0, 1, 1), (0.4, 0, 0.6, 1), (0.4, 0, 0.6, 1)]
    assert placed(region, WHOLE, [2, 2]).box == (0.4, 0.0, 0.6, 1.0), "it rests"


def test_a_mirrored_clip_has_its_region_on_the_other_side():
    mirror = replace(WHOLE, mirror=True)
    assert placed(Region(box=(0.1, 0.2, 0.3, 0.6)), mirror, [0]).box == (0.7, 0.2, 0.9, 0.6)
    triangle = Region(polygon=[(0, 0), (0.5, 0), (0, 1)])
    assert placed(triangle, mirror, [0]).polygon == ((1, 0), (0.5, 0), (1, 1))
    picture = np.zeros((1, 4, 8), np.uint8)
    picture[..., :2] = 255
    assert mirror.pictures(picture)[0, 0, -1] == 255
    assert mirror.pictures(picture)[0, 0, 0] == 0


def test_a_box_that_leaves_the_picture_and_a_polygon_that_is_cut_become_masks():
    left = placed(moving((0, 0, 0.2, 1), (0.8, 0, 1, 1)), MIDDLE, range(5))  # outside at both ends
    assert left.mask is not None
    covered = coverage(left, Bucket(5, 20, 20))
    assert covered.mean((1, 2)).tolist() == pytest.approx([0, 0.3, 0.4, 0.3, 0], abs=0.02)
    cut = placed(Region(polygon=[(0, 0), (0.5, 0), (0.5, 1), (0, 1)]), MIDDLE, range(2))
    assert len(cut.mask) == 1, "one picture for all frames"
    assert coverage(cut, Bucket(2, 20, 20)).mean().item() == pytest.approx(0.5)


def test_a_soft_edge_keeps_its_width_in_the_picture():
    assert placed(Region(box=(0.25, 0, 0.5, 1), feather=0.1), MIDDLE, [0]).feather == pytest.approx(0.1)
    assert placed(Region(box=(0, 0, 9, 9), unit="pixels", feather=4.0), WHOLE, [0]).feather == 0.1


def test_pictures_are_stored_small_and_black_ones_are_none():
    detailed = np.random.default_rng(0).integers(0, 255, (16, 256, 256), dtype=np.uint8)
    assert len(mask_text(from_pictures(detailed))) < 45_000
    assert from_pictures(np.zeros((3, 8, 8), np.uint8)) is None
    assert len(from_pictures(np.full((3, 8, 8), 255, np.uint8)).mask) == 1


# ------------------------------------------------------------------------------ in a set
@pytest.fixture
def uri(tmp_path):
    """A clip with a mask and one without."""
    first, second = sliding_clips("slide")
    return write_set(tmp_path / "set", replace(first, mask=BOX), second)


def masks_of(uri, read=read_clips):
    return [clip.mask for clip in (read(uri) if read is read_clips else read(uri)["slide"])]


def test_a_mask_is_read_as_it_was_written_and_a_new_caption_keeps_it(uri):
    assert sorted(map(str, masks_of(uri))) == sorted(map(str, masks_of(uri, read_facts)))
    (clip,) = (clip for clip in read_clips(uri) if clip.mask)
    assert clip.mask == BOX
    amend(open_storage(uri), {clip.clip_id: "other words"})
    (again,) = (found for found in read_clips(uri) if found.mask)
    assert (again.mask, again.caption) == (BOX, "other words")


@pytest.mark.parametrize("text", ["no JSON", "{}", '{"box": [0, 0, 2, 1]}', '{"file": "/etc/passwd"}'])
def test_a_mask_that_no_ingest_wrote_is_refused(uri, text):
    table = clips_to_table(read_clips(uri))
    at = table.schema.get_field_index("mask")
    table = table.set_column(at, table.schema.field(at), pa.array([text] * 2, pa.string()))
    folder = Path(uri)
    pq.write_table(table, folder / "shard")
    name = sha256_file(folder / "shard")
    (folder / "shard").rename(folder / f"clips-{name}.parquet")
    entry = {"sha256": name, "size": 1, "concepts": {"slide": 2}}
    (folder / MANIFEST).write_text(json.dumps({"schema_version": 1, "shards": [entry]}))
    for read in (read_clips, read_facts):
        with pytest.raises(UserError, match=r"has a row that is not a clip \(mask"):
            read(uri)


def test_a_set_of_an_earlier_version_is_read_corrected_and_added_to(tmp_path):
    shutil.copytree(EARLIER, tmp_path / "set")
    before = read_clips(tmp_path / "set")
    (shard,) = (tmp_path / "set").glob("*.parquet")
    assert "mask" not in pq.read_schema(shard).names
    assert {(clip.mask, clip.variant, clip.variant_of) for clip in before} == {(None, None, None)}
    amend(open_storage(tmp_path / "set"), {before[0].clip_id: "other words"})
    after = read_clips(tmp_path / "set")
    assert [clip.video for clip in after] == [clip.video for clip in before]
    assert "other words" in {clip.caption for clip in after}
    write_set(tmp_path / "set", replace(sliding_clips("more", 1)[0], mask=BOX, variant="mirror"))
    assert len(read_facts(tmp_path / "set")) == 2
    assert read_clips(tmp_path / "set", "more")[0].mask == BOX


def test_the_hash_of_the_data_tells_a_mask_and_stays_without_one():
    (plain,) = sliding_clips("slide", 1)
    parts = {
        name: all_parts([clip], Bucket(5, 32, 32), Pace(8))
        for name, clip in (("plain", plain), ("masked", replace(plain, mask=BOX)))
    }
    assert data_sha256(parts["plain"]) != data_sha256(parts["masked"])
    assert mask_id(None) == parts["plain"][0].mask_id == ""


# ------------------------------------------------------------------------------ in training
@pytest.mark.parametrize("family", ["unet3d", "wan"])
def test_prepared_clips_know_how_much_of_each_latent_is_covered(family, tmp_path):
    foundation = load_foundation(f"tiny-random:{family}", device="cpu", dtype="float32")
    bucket = Bucket(5, 32, 32)
    half = Region(box=(0.0, 0.0, 0.5, 1.0), feather=0.0)
    plain, other = sliding_clips("slide", side=64)
    wide = replace(plain, mask=half)
    cache = LatentCache(open_storage(tmp_path))
    first, second = prepare([wide, other], foundation, bucket, cache)
    _, frames, height, width = foundation.latent_shape(bucket)
    expected = torch.zeros(height, width)
    expected[:, : width // 2] = 1
    assert torch.equal(first.coverage.latents_fhw, expected.expand(frames, -1, -1))
    assert torch.equal(first.coverage.frames_Fhw, expected.expand(bucket.frames, -1, -1))
    assert (second.coverage, second.mask_id) == (None, "")
    assert data_sha256([first]) == data_sha256(all_parts([wide], bucket, Pace(8)))
    # the latents are those of the clip without a mask
    assert torch.equal(prepare([plain], foundation, bucket, cache)[0].latents_CFHW, first.latents_CFHW)


def test_a_mask_with_another_number_of_frames_is_explained(tmp_path):
    foundation = load_foundation("tiny-random:unet3d", device="cpu", dtype="float32")
    (clip,) = sliding_clips("slide", 1)
    pictures = np.zeros((3, 8, 8), np.uint8)
    pictures[0] = 255
    wrong = replace(clip, mask=from_pictures(pictures))
    with pytest.raises(InvalidInput, match=r"the mask of clip .* has 3 frames and the video 5"):
        prepare([wrong], foundation, Bucket(4, 32, 32), LatentCache(open_storage(tmp_path)))
