"""Files of strangers are ingested in a child with bounds: what is wrong is named, and only the child can end."""

from __future__ import annotations

import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from sample_videos import moving_picture, write_video

from datasets.clip_sets.clips import read_clips
from datasets.clip_sets.select import Selection
from datasets.ingest import confined
from datasets.ingest.archive import UnusableArchive, unpack
from datasets.ingest.confined import Bounds, Confined, StrangeFile, ingest_confined
from infra.errors import InvalidInput

SELECTION = Selection(5, 32, 32, fps=8.0)
ROOM = {"files": 5, "size": 1 << 20}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    return write_video(path, moving_picture(12, 48, 64), fps=8).read_bytes()


def placed(folder: Path, name: str, content: bytes, shown: str = "", **fields) -> StrangeFile:
    path = folder / "files" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return StrangeFile(name, shown or path.name, **fields)


def packed(path: Path, entries: dict[str, bytes], *extra: zipfile.ZipInfo) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        for entry in extra:
            archive.writestr(entry, b"x")
    return path


def test_a_zip_with_captions_and_a_video_become_clips(tmp_path: Path, video: bytes):
    table = b"file,caption\na.mp4,a texture slides\n"
    archive = packed(tmp_path / "x.zip", {"in/a.mp4": video, "in/captions.csv": table, "__MACOSX/a": b"x"})
    other = write_video(tmp_path / "b.mp4", moving_picture(12, 48, 64, seed=3), fps=8)
    files = [
        placed(tmp_path, "0/clips.zip", archive.read_bytes()),
        placed(tmp_path, "1/b.mp4", other.read_bytes(), caption="another slides", start=0.25),
    ]
    found = ingest_confined(files, SELECTION, tmp_path, concept="slide", caption="anything")
    clips = read_clips(tmp_path / "clips")
    assert found.clips == len(clips) == 2
    assert {clip.source_uri: clip.caption for clip in clips} == {
        "0/unpacked/in/a.mp4": "a texture slides",
        "1/b.mp4": "another slides",
    }


def test_every_file_that_is_refused_is_named_and_nothing_is_kept(tmp_path: Path, video: bytes):
    files = [
        placed(tmp_path, "0/a.mp4", video, "rows.jsonl, row 1 (a.mp4)"),
        placed(tmp_path, "1/cut.mp4", video[: len(video) // 2], "rows.jsonl, row 2 (cut.mp4)", caption="x"),
        placed(tmp_path, "2/no.mp4", b"not a video at all", "rows.jsonl, row 3 (no.mp4)", caption="x"),
        placed(tmp_path, "3/a.mp4", video, "rows.jsonl, row 4 (a.mp4)", caption="x" * 100_000),
    ]
    with pytest.raises(InvalidInput) as caught:
        ingest_confined(files, SELECTION, tmp_path, concept="slide")
    said = caught.value.message.split("; rows")
    assert said[0].startswith("rows.jsonl, row 1 (a.mp4): no caption: give `caption`")
    assert "row 2 (cut.mp4) is " in said[1]
    assert "row 3 (no.mp4) is not a readable video" in said[2]
    assert said[3].endswith("row 4 (a.mp4): the caption has 100000 characters, at most 2000 are allowed.")
    assert str(tmp_path) not in caught.value.message


def test_a_file_that_kills_its_reader_is_named_and_kills_nothing_else(
    tmp_path: Path, video: bytes, monkeypatch: pytest.MonkeyPatch
):
    files = [placed(tmp_path, "0/evil.mp4", video, caption="x")]
    with pytest.raises(Confined, match="the first file takes too long"):
        ingest_confined(files, SELECTION, tmp_path, concept="slide", bounds=Bounds(seconds=0.0))

    popen = subprocess.Popen
    code = (
        "import os, signal; open('doing', 'w').write('evil.mp4')\n"
        "data = []\n"
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (1 << 28, 1 << 28))\n"
        "{}"
    )

    def instead(last: str):
        def start(command, **options):
            assert "AWS_SECRET_ACCESS_KEY" not in options["env"]
            return popen([sys.executable, "-c", code.format(last)], **options)

        monkeypatch.setattr(confined.subprocess, "Popen", start)

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    instead("os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(Confined, match=r"evil\.mp4 ends the program that reads it"):
        ingest_confined(files, SELECTION, tmp_path, concept="slide")
    instead(f"os._exit({confined.OUT_OF_MEMORY})")
    with pytest.raises(Confined, match=r"evil\.mp4 needs more than 4096 MiB"):
        ingest_confined(files, SELECTION, tmp_path, concept="slide")
    instead("import time; time.sleep(600)")

    def stop() -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError):  # what the caller raises ends the child at once
        ingest_confined(files, SELECTION, tmp_path, concept="slide", beat=stop)


def test_too_little_memory_is_said(tmp_path: Path, video: bytes):
    files = [placed(tmp_path, "0/big.mp4", video, caption="x")]
    with pytest.raises(Confined, match=r"big\.mp4 (needs more than 16 MiB|ends the program)"):
        ingest_confined(files, SELECTION, tmp_path, concept="slide", bounds=Bounds(memory=16 << 20))


def link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("link.mp4")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("entries", "extra", "said"),
    [
        ({"../a.mp4": b"x"}, [], "'../a.mp4' leads out of the archive"),
        ({"a/../../b.mp4": b"x"}, [], "leads out of the archive"),
        ({"/etc/a.mp4": b"x"}, [], "leads out of the archive"),
        ({"C:\\a.mp4": b"x"}, [], "leads out of the archive"),
        ({"inner.zip": b"PK\x03\x04"}, [], "'inner.zip' is an archive inside the archive"),
        ({"zeros.mp4": bytes(1 << 21)}, [], "2097152 bytes unpacked; at most 1048576"),
        ({f"{n}.mp4": b"x" for n in range(6)}, [], "has 6 files; at most 5"),
        ({"a.mp4": b"x", "A.mp4": b"y"}, [], "is in it twice"),
        ({"notes.txt": b"x"}, [], "has no video in it"),
        ({}, [link()], "'link.mp4' is not a plain file"),
    ],
)
def test_archives_that_are_traps_are_refused(tmp_path: Path, entries, extra, said: str):
    archive = packed(tmp_path / "x.zip", entries, *extra)
    with pytest.raises(UnusableArchive) as caught:
        unpack(archive, "x.zip", tmp_path / "out", **ROOM)
    assert said in caught.value.message
    assert caught.value.message.startswith("x.zip")
    assert not (tmp_path / "b.mp4").exists()


def test_a_bomb_that_lies_about_its_size_is_stopped(tmp_path: Path):
    archive = packed(tmp_path / "x.zip", {"bomb.mp4": bytes(3 << 20)})
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(signature) + offset
        data[at : at + 4] = (1000).to_bytes(4, "little")
    archive.write_bytes(data)
    with pytest.raises(UnusableArchive):
        unpack(archive, "x.zip", tmp_path / "out", **ROOM)
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*")) <= ROOM["size"]


def test_what_shrinks_too_well_is_refused(tmp_path: Path):
    archive = packed(tmp_path / "x.zip", {"zeros.mp4": bytes(3 << 20)})
    with pytest.raises(UnusableArchive, match="unpacks to more than 100 times its size"):
        unpack(archive, "x.zip", tmp_path / "out", files=5, size=1 << 30)
