"""What the user pointed at, as a list of videos: files, folders, globs, `s3://` prefixes, manifests.

Everything found is listed, also what cannot be used: `Source.problem` then says why, and ends up in the table that
`ingest` prints. A manifest is a .csv or .jsonl file given as a source; its rows name the videos:

    file,caption,concept,start            {"file": "fox.mp4", "caption": "a fox is running"}
    clips/fox.mp4,a fox is running,,

`file` is relative to the manifest, absolute, or s3://. The others are optional and win over the command line.
`--captions` takes the same two formats and gives captions (and nothing else) to sources found elsewhere.
"""

from __future__ import annotations

import fnmatch
import glob
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from datasets.select import MAX_START
from infra.errors import UserError
from infra.rows import WrongRow, csv_rows, jsonl_rows
from infra.storage import bucket_and_key

VIDEO_SUFFIXES = {".mp4", ".m4v", ".webm", ".mov", ".avi", ".mkv", ".gif", ".webp"}
MANIFEST_SUFFIXES = {".csv", ".jsonl"}


@dataclass(frozen=True)
class Source:
    """One input: a local path (absolute: workers stand elsewhere) or an s3:// URI, and what a manifest says about it."""

    uri: str
    caption: str | None = None
    concept: str | None = None
    start: float | None = None
    problem: str | None = None  # why it cannot be used
    ignored: bool = False  # found in a folder, and not a video by its name


def expand(given: Iterable[str]) -> list[Source]:
    """The videos behind the command line's SOURCE arguments, in their order, folders and prefixes sorted.

    Raises:
        UserError: a manifest that cannot be read, or S3 that refuses.
    """
    found: list[Source] = []
    for text in given:
        if PurePosixPath(text).suffix.lower() in MANIFEST_SUFFIXES:
            found += read_manifest_file(text)
        elif text.startswith("s3://"):
            found += expand_s3(text)
        else:
            found += expand_local(text)
    return found


def expand_local(text: str) -> list[Source]:
    path = Path(unquote(text.removeprefix("file://")) if text.startswith("file://") else text).expanduser()
    if "://" in text and not text.startswith("file://"):
        return [
            Source(
                text, problem=f"{text.split('://')[0]}:// is not read here; give a path or s3://bucket/key"
            )
        ]
    if path.is_dir():
        files = sorted(p for p in path.absolute().rglob("*") if p.is_file())
        return [_by_name(str(p)) for p in files] or [Source(text, problem="the folder holds no file")]
    if path.exists():
        return [Source(str(path.absolute()))]
    if glob.has_magic(text):
        matches = [p for p in sorted(glob.glob(str(path), recursive=True)) if Path(p).is_file()]
        return [_by_name(str(Path(p).absolute())) for p in matches] or [
            Source(text, problem="the pattern matches no file")
        ]
    return [Source(text, problem="does not exist; check the path")]


def expand_s3(text: str) -> list[Source]:
    """An object, a pattern (* and ? match within the whole key), or everything below a prefix."""
    storage, key = bucket_and_key(text)
    if key and not key.endswith("/") and storage.exists(key):
        return [Source(text)]
    if glob.has_magic(key):
        fixed = key[: min(key.find(mark) for mark in "*?[" if mark in key)]
        keys = [info.key for info in storage.list(fixed) if fnmatch.fnmatchcase(info.key, key)]
        none = "the pattern matches no object"
    else:
        prefix = key if not key or key.endswith("/") else f"{key}/"
        keys = [info.key for info in storage.list(prefix)]
        none = "no object there; check bucket and prefix"
    return [_by_name(f"{storage.uri}/{key}") for key in keys if not key.endswith("/")] or [
        Source(text, problem=none)
    ]


def _by_name(uri: str) -> Source:
    """Something found, not named by the user: only what is a video by its name is opened."""
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return Source(uri)
    return Source(uri, problem=f"not a video by its name ({suffix or 'no suffix'})", ignored=True)


def read_rows(uri: str) -> list[tuple[int, dict[str, str]]]:
    """(line, row) of a .csv (with a header) or .jsonl file, local or on S3, values as stripped text.

    Raises:
        UserError: unreadable, not UTF-8, no column `file`.
    """
    if uri.startswith("s3://"):
        storage, key = bucket_and_key(uri)
        data = storage.get(key)
    else:
        try:
            data = Path(uri).expanduser().read_bytes()
        except OSError as error:
            raise UserError(
                f"{uri} cannot be read ({error.strerror}); give a .csv or .jsonl file.",
                code="invalid_manifest",
            ) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{uri}: byte {error.start} is not UTF-8; save it as UTF-8 text.", code="invalid_manifest"
        ) from None
    jsonl = PurePosixPath(uri).suffix.lower() == ".jsonl"
    try:
        found = jsonl_rows(text, "file") if jsonl else csv_rows(text, "file")
        if not found:
            raise WrongRow(
                1, "no row", 'a header `file,caption` and rows (.csv), or {"file": ...} a line (.jsonl)'
            )
        return [(line, _cells(line, row)) for line, row in found]
    except WrongRow as error:
        raise UserError(f"{uri}, {error}.", code="invalid_manifest") from None


def _cells(line: int, row: Any) -> dict[str, str]:
    """A row's values as stripped text. Raises WrongRow for one that names no file."""
    if not isinstance(row, dict):
        raise WrongRow(line, f"{json.dumps(row)[:60]} is no object", 'one such as {"file": "..."}')
    cells = {str(key).strip().lower(): str(value).strip() for key, value in row.items() if value is not None}
    if not cells.get("file"):
        raise WrongRow(line, "no `file`", "the path of a video")
    return cells


def read_manifest_file(uri: str) -> list[Source]:
    """The sources a manifest names. Raises UserError (see `read_rows`)."""
    found: list[Source] = []
    for line, row in read_rows(uri):
        file, problem, start = row["file"], None, None
        if not file.startswith("s3://") and uri.startswith("s3://"):
            file = f"{uri.rpartition('/')[0]}/{file}"
        elif not file.startswith("s3://"):
            file = str((Path(uri).expanduser().parent / file).absolute())
        if row.get("start"):
            try:
                start = float(row["start"])
            except ValueError:
                start = math.nan
            if not 0 <= start < MAX_START:
                problem = f"start {row['start']!r} in line {line} of {uri}: expected seconds from 0 on"
                start = None
        if problem is None and not file.startswith("s3://") and not Path(file).is_file():
            problem = "does not exist; check the manifest"
        found.append(Source(file, row.get("caption") or None, row.get("concept") or None, start, problem))
    return found


class Captions:
    """Captions by file, of `--captions FILE`: by the path as found, its end, or the name alone."""

    def __init__(self, uri: str) -> None:
        if PurePosixPath(uri).suffix.lower() not in MANIFEST_SUFFIXES:
            raise UserError(f"--captions {uri}: expected a .csv or .jsonl file.", code="invalid_manifest")
        self.uri = uri
        self.by_parts: dict[tuple[str, ...], str] = {}
        for line, row in read_rows(uri):
            parts = self._parts(row["file"])
            caption = row.get("caption", "")
            if self.by_parts.setdefault(parts, caption) != caption:
                raise UserError(
                    f"{uri}, line {line}: {row['file']} has another caption before; keep one.",
                    code="invalid_manifest",
                )

    @staticmethod
    def _parts(uri: str) -> tuple[str, ...]:
        return tuple(p for p in PurePosixPath(uri.replace("\\", "/")).parts if p not in (".", "/"))

    def get(self, uri: str) -> str | None:
        """The caption of the longest entry that the source's path ends with; None when there is none."""
        parts = self._parts(uri)
        for start in range(len(parts)):
            if parts[start:] in self.by_parts:
                return self.by_parts[parts[start:]]
        return None

    def unused(self, sources: Iterable[Source]) -> list[str]:
        """Entries that no source asks for."""
        ends = {
            parts[start:] for parts in (self._parts(s.uri) for s in sources) for start in range(len(parts))
        }
        return ["/".join(parts) for parts in self.by_parts if parts not in ends]
