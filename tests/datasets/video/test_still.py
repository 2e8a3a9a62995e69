"""Still images: read as people see them, or refused in one sentence before much is decoded."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.video import still
from datasets.video.still import UnreadableImage, read_still


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "gif", "jpg"])
def test_every_usual_format_is_read(tmp_path: Path, picture: np.ndarray, suffix: str):
    file = tmp_path / f"a.{suffix}"
    grey = np.repeat(picture[..., :1] // 16 * 16, 3, axis=-1)  # few colours: a GIF has 256
    Image.fromarray(grey).save(file, **({"lossless": True} if suffix == "webp" else {"quality": 100}))
    read = read_still(file)
    assert read.notes == ()
    assert read.picture_HWC.dtype == np.uint8
    assert abs(read.picture_HWC.astype(int) - grey).max() <= (4 if suffix == "jpg" else 0)


def test_transparency_is_on_black_and_said(tmp_path: Path, picture: np.ndarray):
    alpha = np.full((24, 40, 1), 255, np.uint8)
    for name, hidden in (("opaque", 255), ("clear", 0)):
        alpha[:12] = hidden
        Image.fromarray(np.concatenate([picture, alpha], axis=-1)).save(tmp_path / f"{name}.png")
    opaque, clear = (read_still(tmp_path / f"{name}.png", name) for name in ("opaque", "clear"))
    assert (opaque.notes, clear.notes) == ((), ("clear is transparent: shown on black",))
    assert np.array_equal(opaque.picture_HWC, picture)
    assert not clear.picture_HWC[:12].any()
    assert np.array_equal(clear.picture_HWC[12:], picture[12:])
    palette = Image.fromarray(picture).quantize(8)
    palette.save(tmp_path / "palette.png", transparency=3)
    read = read_still(tmp_path / "palette.png")
    assert len(read.notes) == 1
    assert not read.picture_HWC[np.asarray(palette) == 3].any()


def test_the_rotation_that_a_camera_noted_is_obeyed(tmp_path: Path, picture: np.ndarray):
    upright = {1: picture, 3: picture[::-1, ::-1], 6: np.rot90(picture, -1), 8: np.rot90(picture)}
    for orientation, expected in upright.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = tmp_path / f"{orientation}.png"
        Image.fromarray(picture).save(file, exif=exif)
        assert np.array_equal(read_still(file).picture_HWC, expected)


def test_deep_and_grey_and_printed_pictures_become_rgb(tmp_path: Path):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    read = read_still(tmp_path / "deep.png").picture_HWC
    assert np.array_equal(read, np.repeat((ramp // 257)[..., None], 3, axis=-1))
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.tiff")
    assert read_still(tmp_path / "red.tiff").picture_HWC[0, 0].tolist() == [255, 0, 0]
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(UnreadableImage, match="numbers of 32 bits"):
        read_still(tmp_path / "float.tiff")


def claimed(width: int, height: int) -> bytes:
    """A PNG whose header claims a size and that holds no picture."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.png", None, "does not exist; give an image file"),
        ("empty.png", b"", "is not an image that can be read here"),
        ("text.png", b"hello, I am a text" * 10, "is not an image that can be read here"),
        ("film.mp4", b"\x00\x00\x00\x20ftypisom" + b"\0" * 64, "a video is learned as a clip"),
        ("program.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "is not an image"),
        ("wide.png", claimed(30_000, 4), "is 30000x4; sides may have at most 8192 pixels"),
        ("huge.png", claimed(30_000, 30_000), "far larger than 8192x8192 pixels|is 30000x30000"),
        ("large.png", claimed(10_000, 10_000), "is 10000x10000; sides may have"),
        ("hollow.png", claimed(8, 8), "is not a readable image"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | None, said: str, recwarn
):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    if name in ("wide.png", "huge.png", "large.png"):
        monkeypatch.setattr(still, "_read", None)  # nothing is decoded
    with pytest.raises(UnreadableImage, match=said) as caught:
        read_still(tmp_path / name)
    assert caught.value.code == "unreadable_image"
    assert len(caught.value.message.splitlines()) == 1
    assert not recwarn.list


def test_a_folder_is_no_image(tmp_path: Path):
    with pytest.raises(UnreadableImage, match="is a folder; give an image file"):
        read_still(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_a_truncated_image_is_refused_wherever_it_ends(tmp_path: Path, picture: np.ndarray, suffix: str):
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(picture).save(whole)
    data = whole.read_bytes()
    for part in (0.1, 0.5, 0.9):
        file = tmp_path / f"part.{suffix}"
        file.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(
            UnreadableImage, match=r"is not (a readable image|an image that can be read here)"
        ):
            read_still(file)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_an_animation_is_refused_with_its_number_of_frames(tmp_path: Path, picture: np.ndarray, suffix: str):
    frames = [Image.fromarray(np.roll(picture, 3 * number, axis=1)) for number in range(5)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], duration=100)
    with pytest.raises(UnreadableImage, match=r"has 5 frames, so it is no still image; save one frame"):
        read_still(tmp_path / f"a.{suffix}")


def test_a_phones_jpeg_with_a_second_picture_is_its_first(tmp_path: Path, picture: np.ndarray):
    picture = np.repeat(picture[..., :1], 3, axis=-1)
    first, second = Image.fromarray(picture), Image.fromarray(picture[::-1])
    first.save(tmp_path / "a.mpo", format="MPO", save_all=True, append_images=[second], quality=95)
    with Image.open(tmp_path / "a.mpo") as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    assert abs(read_still(tmp_path / "a.mpo").picture_HWC.astype(int) - picture).mean() < 5
