"""An image as a clip set: every frame is the image, to the last value; the set holds nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.clip_sets.clips import read_clips
from datasets.clip_sets.select import cover
from datasets.ingest.image import store_image
from datasets.video.still import UnreadableImage
from infra.errors import Conflict, InvalidInput
from infra.storage import Storage, open_storage
from models.sizes import Bucket

BUCKET = Bucket(4, 32, 32)


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)


@pytest.fixture
def file(tmp_path: Path, picture: np.ndarray) -> Path:
    Image.fromarray(picture).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


@pytest.fixture
def target(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "set")


def test_the_frames_are_the_image_and_its_mirror(
    tmp_path: Path, file: Path, picture: np.ndarray, target: Storage
):
    assert store_image(file, target, "cat", " a grey  cat ", BUCKET, 8, flip=True) == ()
    clips = {clip.clip_id: clip for clip in read_clips(target.uri)}
    assert {(clip.concept, clip.caption, clip.fps) for clip in clips.values()} == {("cat", "a grey cat", 8.0)}
    assert {clip.source_uri for clip in clips.values()} == {str(file)}
    shown = cover(picture, 32, 32)
    stored = [clip.frames_FHWC() for clip in clips.values()]
    assert [frames.shape for frames in stored] == [(4, 32, 32, 3)] * 2
    expected = [np.repeat(one[None], 4, axis=0) for one in (shown, shown[:, ::-1])]
    assert all(any(np.array_equal(frames, one) for frames in stored) for one in expected)

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*") if path.is_file()}
    store_image(file, target, "cat", "a grey cat", BUCKET, 8, flip=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(read_clips(target.uri)) == 2


def test_a_symmetric_image_has_no_second_clip_and_is_found_again(
    tmp_path: Path, picture: np.ndarray, target: Storage
):
    Image.fromarray(np.concatenate([picture, picture[:, ::-1]], axis=1)[:40]).save(tmp_path / "even.png")
    for _ in range(2):
        store_image(tmp_path / "even.png", target, "even", "a pattern", Bucket(4, 40, 80), 8, flip=True)
    assert len(read_clips(target.uri)) == 1


def test_another_image_in_the_same_set_is_a_conflict_and_changes_nothing(
    tmp_path: Path, file: Path, picture: np.ndarray, target: Storage
):
    store_image(file, target, "cat", "a cat", BUCKET, 8)
    before = [clip.sha256 for clip in read_clips(target.uri)]
    other = tmp_path / "other.png"
    Image.fromarray(picture[::-1]).save(other)
    for given in (
        (other, target, "cat", "a cat", BUCKET, 8),
        (file, target, "cat", "a dog", BUCKET, 8),
        (file, target, "dog", "a cat", BUCKET, 8),
        (file, target, "cat", "a cat", Bucket(4, 24, 32), 8),
    ):
        with pytest.raises(Conflict, match="holds another image than"):
            store_image(*given)
    with pytest.raises(Conflict, match="--flip"):
        store_image(file, target, "cat", "a cat", BUCKET, 8, flip=True)
    assert [clip.sha256 for clip in read_clips(target.uri)] == before


@pytest.mark.parametrize(
    ("size", "caption", "concept", "said"),
    [
        ((1, 1), "a cat", "cat", "too small: 1x1 pixels do not cover 32x32; give a larger image"),
        ((32, 31), "a cat", "cat", "too small: 31x32"),
        ((32, 32), " ", "cat", "it is empty"),
        ((32, 32), "a" * 3000, "cat", "3000 characters"),
        ((32, 32), "a\x00b", "cat", "control character"),
        ((32, 32), "a cat", "../up", "concept name"),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_is_stored(
    tmp_path: Path, target: Storage, size: tuple[int, int], caption: str, concept: str, said: str
):
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InvalidInput, match=said):
        store_image(tmp_path / "a.png", target, concept, caption, BUCKET, 8)
    with pytest.raises(UnreadableImage):
        store_image(tmp_path / "none.png", target, "cat", "a cat", BUCKET, 8)
    assert not (tmp_path / "set").exists()
