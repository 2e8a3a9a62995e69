"""Expands the user's inputs to a list of videos: files, folders, globs, `s3://` prefixes, manifests.

Everything found is listed, including unusable inputs: `Source.problem` gives the reason, which appears
in the table that `ingest` prints. A manifest is a table (.csv, .tsv, .jsonl, .ndjson) given as a
source; its rows name the videos:

    file,caption,concept,start            {"file": "fox.mp4", "caption": "a fox is running"}
    clips/fox.mp4,a fox is running,,

`file` is relative to the manifest, absolute, or s3://. The others are optional and override the command line.
`--captions` takes a table of `file` and `caption` for sources found elsewhere. Both are read strictly
(infra/rows.py).
"""

from __future__ import annotations

import fnmatch
import glob
import math
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from datasets.clip_sets.select import MAX_START
from datasets.ingest.names import ByFile
from infra.errors import UserError
from infra.paths import as_written, expanded, lexists
from infra.registry import check_concept_name
from infra.rows import TABLE_SUFFIXES, Column, Row, decoded, is_table, read_strictly
from infra.storage import ObjectError, ObjectNotFound, Storage, bucket_and_key

VIDEO_SUFFIXES = {".mp4", ".m4v", ".webm", ".mov", ".avi", ".mkv", ".gif", ".webp"}
TABLES = ", ".join(TABLE_SUFFIXES)
# Common lists that are not supported: when given as a source, they are not reported as broken videos.
OTHER_LISTS = {".json", ".txt", ".xlsx", ".xls", ".ods", ".parquet", ".yaml", ".yml"}

FILE = Column(
    "file",
    (
        "path",
        "video",
        "filename",
        "file_name",
        "filepath",
        "file_path",
        "video_path",
        "clip",
        "media",
        "source",
    ),
    required=True,
    what="the path of a video",
)
CAPTION = Column(
    "caption", ("text", "prompt", "description", "captions", "sentence"), what="what the video shows"
)
CONCEPT = Column("concept", ("name", "motion", "class", "action", "label"), what="the motion's name")
START = Column(
    "start", ("start_time", "begin", "from", "offset", "start_seconds"), what="seconds", text=False
)
MANIFEST_COLUMNS = (FILE, CAPTION, CONCEPT, START)
CAPTION_COLUMNS = (FILE, replace(CAPTION, required=True))


@dataclass(frozen=True)
class Source:
    """One input: a local path (absolute, for workers elsewhere) or an s3:// URI, and its manifest values."""

    uri: str
    caption: str | None = None
    concept: str | None = None
    start: float | None = None
    problem: str | None = None  # why it cannot be used
    ignored: bool = False  # found in a folder, without a video's suffix


def expand(given: Iterable[str]) -> list[Source]:
    """The videos of the command line's SOURCE arguments, in order; folders and prefixes are sorted.

    Raises:
        UserError: a manifest that cannot be read, or S3 refuses.
    """
    found: list[Source] = []
    for text in given:
        if is_table(text):
            found += read_manifest_file(text)
        elif text.startswith("s3://"):
            found += expand_s3(text)
        else:
            found += expand_local(text)
    return found


# ------------------------------------------------------------------------------ local files
def local_path(text: str) -> Path:
    """The path of a `file://` URI, or of a path as a person wrote it."""
    return as_written(expanded(unquote(text.removeprefix("file://")) if text.startswith("file://") else text))


def shown(path: str | Path) -> str:
    """The path as printable text: bytes that are not UTF-8 are escaped, as terminals reject them."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def expand_local(text: str) -> list[Source]:
    """A file, everything below a folder, or the matches of a pattern; at least one source."""
    if "://" in text and not text.startswith("file://"):
        return [
            Source(
                text, problem=f"{text.split('://')[0]}:// is not supported; give a path or s3://bucket/key"
            )
        ]
    path = local_path(text)
    if lexists(path):
        return list(expand_path(path.absolute()))
    if glob.has_magic(text):
        matches = sorted(glob.glob(str(expanded(text)), recursive=True))
        return [
            source for match in matches for source in expand_path(Path(match).absolute(), found=True)
        ] or [Source(shown(text), problem="the pattern matches no file")]
    return [Source(shown(text), problem="does not exist; check the path")]


def expand_path(path: Path, *, found: bool = False) -> Iterator[Source]:
    """A file as a source, or each entry below a folder. `found`: by a pattern, not named by the user."""
    if not os.path.isdir(path):
        yield _local(path, found)
        return
    empty = True
    for source in _below(path, {_identity(path)}):
        empty = False
        yield source
    if empty:
        yield Source(shown(path), problem="the folder contains no file", ignored=found)


def _below(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Source]:
    """Every entry below a folder, ordered by path. Links to folders are followed, each folder once."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        yield Source(shown(folder), problem=f"the folder cannot be read ({error.strerror})")
        return
    for entry in entries:
        if not os.path.isdir(entry):
            yield _local(entry, True)
        elif _identity(entry) in seen:
            real = shown(os.path.realpath(entry))
            problem = (
                f"a link to {real}, which is already read"
                if entry.is_symlink()
                else "already read through a link"
            )
            yield Source(shown(entry), problem=problem, ignored=True)
        else:
            seen.add(_identity(entry))
            yield from _below(entry, seen)


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _local(path: Path, found: bool) -> Source:
    """The source of an entry that is no folder; gives the reason if it is not a regular file."""
    uri = shown(path)
    if uri != str(path):
        return Source(uri, problem="its name is not UTF-8; rename it")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not path.is_symlink():
            return Source(uri, problem="no longer exists")
        target = shown(os.readlink(path))
        return Source(uri, problem=f"a link to {target}, which does not exist; fix or remove it")
    except OSError as error:
        return Source(uri, problem=f"cannot be read ({error.strerror})")
    source = _by_name(uri) if found else _given(uri)
    if stat.S_ISREG(mode) or source.problem:
        return source
    what = "a folder, not a video" if stat.S_ISDIR(mode) else "not a regular file"
    return Source(uri, problem=what, ignored=found)


def _by_name(uri: str) -> Source:
    """The source of a file that was found, not named by the user: only video suffixes are opened."""
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return Source(uri)
    return Source(uri, problem=f"not a video, by its suffix ({suffix or 'none'})", ignored=True)


def _given(uri: str) -> Source:
    """The source of a file that the user named: it is opened unless its suffix is an unsupported list's."""
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix in OTHER_LISTS:
        return Source(uri, problem=f"{suffix} is not a video; give a list of videos as one of {TABLES}")
    return Source(uri)


# ------------------------------------------------------------------------------ S3
def expand_s3(text: str) -> list[Source]:
    """An object, a pattern (* and ? match within the whole key), or everything below a prefix."""
    storage, key = bucket_and_key(text)
    if key and not key.endswith("/"):
        written = key_as_written(storage, key)
        if written is not None:
            return [_given(f"{storage.uri}/{written}")]
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


def key_as_written(storage: Storage, key: str) -> str | None:
    """The existing key for a key as a person wrote it (see `infra.paths.as_written`), or None."""
    spellings = [key, key.replace("\\", "/")]
    spellings += [unicodedata.normalize(form, spelling) for form in ("NFC", "NFD") for spelling in spellings]
    return next((spelling for spelling in dict.fromkeys(spellings) if storage.exists(spelling)), None)


# ------------------------------------------------------------------------------ tables
def read_rows(uri: str, columns: tuple[Column, ...]) -> list[Row]:
    """The rows of a table, local or on S3.

    Raises:
        UserError: unreadable, not UTF-8, or not a table with these columns ("invalid_manifest").
    """
    code = "invalid_manifest"
    if uri.startswith("s3://"):
        storage, key = bucket_and_key(uri)
        try:
            data = storage.get(key)
        except ObjectNotFound as error:
            raise UserError(error.message, code=code) from None
    else:
        try:
            data = local_path(uri).read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{uri} cannot be read ({reason}); give one of {TABLES}.", code=code) from None
    kind = PurePosixPath(uri).suffix.lower()
    rows = read_strictly(uri, decoded(data, uri, code), kind, columns, code=code)
    if not rows:
        raise UserError(
            f'{uri}, line 1: no rows; expected a header `file,caption` and rows (.csv, .tsv), or one {{"file": ...}} per '
            "line (.jsonl, .ndjson).",
            code=code,
        )
    return rows


def read_manifest_file(uri: str) -> list[Source]:
    """The sources that a manifest names. Raises UserError (see `read_rows`)."""
    return [_listed(uri, row) for row in read_rows(uri, MANIFEST_COLUMNS)]


def _listed(uri: str, row: Row) -> Source:
    """The source of one row; an invalid value or a missing file is a problem of this row only."""
    values, problem, start = row.values, None, None
    written = values["file"]
    if written.startswith("s3://") or uri.startswith("s3://"):
        file = written if written.startswith("s3://") else f"{uri.rpartition('/')[0]}/{written}"
        if "\\" in written or not written.isascii():  # other keys have one spelling and need no request
            try:
                storage, key = bucket_and_key(file)
                found = key_as_written(storage, key)
                file = file if found is None else f"{storage.uri}/{found}"
            except ObjectError as error:
                problem = error.message.rstrip(".")
    else:
        path = as_written((local_path(uri).parent / expanded(written)).absolute())
        source = _local(path, False) if lexists(path) else Source(str(path), problem="does not exist")
        file = source.uri
        problem = f"{source.problem}; check line {row.line} of {uri}" if source.problem else None
    if "start" in values:
        try:
            start = float(values["start"])
        except (TypeError, ValueError):
            start = math.nan
        if not 0 <= start < MAX_START:
            problem = (
                f"start {values['start']!r} in line {row.line} of {uri}: expected seconds, at least 0 and "
                f"below {MAX_START:.0f}"
            )
            start = None
    concept = values.get("concept")
    if concept is not None:
        try:
            check_concept_name(concept)
        except UserError as error:
            problem = f"line {row.line} of {uri}: {error.message.rstrip('.')}"
    return Source(file, values.get("caption"), concept, start, problem)


class Captions(ByFile[str]):
    """Captions of `--captions FILE` by file."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        if not is_table(uri):
            raise UserError(f"--captions {uri}: expected one of {TABLES}.", code="invalid_manifest")
        self.uri = uri
        for row in read_rows(uri, CAPTION_COLUMNS):
            caption = row.values["caption"]
            if self.add(row.values["file"], caption) != caption:
                raise UserError(
                    f"{uri}, line {row.line}: {row.values['file']} has a different caption in an earlier line; keep one.",
                    code="invalid_manifest",
                )


def read_clip_captions(uri: str) -> dict[str, str]:
    """Captions by clip, from a table with the columns `clip` and `caption`. Raises UserError."""
    if not is_table(uri):
        raise UserError(f"--captions {uri}: expected one of {TABLES}.", code="invalid_manifest")
    clip = Column("clip", ("clip_id", "id"), required=True, what="the id of a clip")
    found: dict[str, str] = {}
    for row in read_rows(uri, (clip, replace(CAPTION, required=True))):
        name = row.values["clip"]
        if name in found:
            raise UserError(
                f"{uri}, line {row.line}: {name} has a caption in an earlier line; keep one.",
                code="invalid_manifest",
            )
        found[name] = row.values["caption"]
    return found
