"""Unpacks a zip from a stranger: only plain files, below one folder, few and small enough. `confined.py` calls it in a child."""

from __future__ import annotations

import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datasets.ingest.sources import VIDEO_SUFFIXES
from infra.errors import InvalidInput
from infra.rows import TABLE_SUFFIXES

PACKED = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".jar", ".cab", ".iso"}
CAPTIONS = "captions"  # a table of this name beside the videos gives their captions
SKIPPED = ("__MACOSX/",)
RATIO = 100  # videos are compressed already; what shrinks more than this is made to fill the disk
SMALL = 1 << 20  # bytes up to which any ratio is allowed: a table of captions repeats itself
PIECE = 1 << 20


class UnusableArchive(InvalidInput):
    """The file is not a zip of videos."""

    default_code = "unusable_archive"


@dataclass(frozen=True)
class Unpacked:
    """The videos of an archive, and the table with their captions."""

    videos: tuple[Path, ...]
    captions: Path | None


def unpack(archive: Path, name: str, to: Path, *, files: int, size: int) -> Unpacked:
    """Unpack the videos and the table of captions below the folder `to`.

    Args:
        name: of the archive, in errors.
        files: largest number of entries.
        size: largest number of bytes of all entries.

    Raises:
        UnusableArchive: names the entry that is not allowed; the folder may then hold a part.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [one for one in opened.infolist() if not one.is_dir() and not is_skipped(one.filename)]
            check_entries(entries, name, files, size)
            left = size
            for entry in entries:
                left -= extract(opened, entry, name, to, left)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UnusableArchive(
            f"{name} is not a zip that can be read ({reason}); pack the videos again."
        ) from None
    paths = sorted(path for path in to.rglob("*") if path.is_file())
    tables = [path for path in paths if path.stem == CAPTIONS and path.suffix.lower() in TABLE_SUFFIXES]
    if len(tables) > 1:
        raise UnusableArchive(f"{name} has {len(tables)} tables of captions; keep one.")
    videos = tuple(path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES)
    if not videos:
        raise UnusableArchive(f"{name} has no video in it; give {', '.join(sorted(VIDEO_SUFFIXES))} files.")
    return Unpacked(videos, tables[0] if tables else None)


def is_skipped(name: str) -> bool:
    """Whether an entry is left out without a word: what file managers add."""
    return name.startswith(SKIPPED) or PurePosixPath(name).name.startswith(".")


def check_entries(entries: list[zipfile.ZipInfo], name: str, files: int, size: int) -> None:
    """Raise UnusableArchive for an entry that is not allowed, by what the archive says of it."""
    if len(entries) > files:
        raise UnusableArchive(f"{name} has {len(entries)} files; at most {files} are allowed.")
    total = sum(entry.file_size for entry in entries)
    if total > size:
        raise UnusableArchive(f"{name} has {total} bytes unpacked; at most {size} are allowed.")
    seen: set[str] = set()
    for entry in entries:
        if problem := problem_of(entry):
            raise UnusableArchive(f"{name}: {entry.filename[:100]!a} {problem}.")
        if entry.filename.lower() in seen:
            raise UnusableArchive(f"{name}: {entry.filename[:100]!a} is in it twice; keep one.")
        seen.add(entry.filename.lower())


def problem_of(entry: zipfile.ZipInfo) -> str | None:
    """Why an entry is not allowed; None if it is."""
    written = entry.orig_filename
    pieces = written.replace("\\", "/").split("/")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if any(piece in ("", ".", "..") for piece in pieces) or ":" in pieces[0]:
        return "leads out of the archive, or its path is not plain; pack the videos again with relative paths"
    if any(not letter.isprintable() for letter in written) or any(len(one.encode()) > 200 for one in pieces):
        return "has a name that cannot be used; rename it"
    if kind not in (0, stat.S_IFREG):
        return "is not a plain file but a link or a device; pack the videos themselves"
    if entry.flag_bits & 0x1:
        return "is encrypted; pack it without a password"
    if PurePosixPath(written).suffix.lower() in PACKED:
        return "is an archive inside the archive; pack the videos themselves"
    if entry.file_size > max(SMALL, RATIO * entry.compress_size):
        return f"unpacks to more than {RATIO} times its size, which no video does"
    return None


def extract(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, to: Path, most: int) -> int:
    """Write one entry, if it is a video or a table, and return its bytes. Trusts no size that the archive says."""
    path = to / entry.filename
    if path.suffix.lower() not in {*VIDEO_SUFFIXES, *TABLE_SUFFIXES}:
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with opened.open(entry) as source, path.open("xb") as target:
        while piece := source.read(PIECE):
            written += len(piece)
            if written > most:
                raise UnusableArchive(f"{name}: {entry.filename[:100]!a} is larger than it says.")
            target.write(piece)
    return written
