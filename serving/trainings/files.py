"""The files of a training as local files: a video, a zip of videos, or the videos that the rows of a JSONL name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import Field

from infra.errors import InvalidInput, NotFound
from infra.storage.stored import Damaged, parse
from serving.files.store import FileStore
from serving.jobs.training_tables import StoredFile
from serving.schemas import Strict
from serving.trainings.trainer import Clips

TABLES = (".jsonl", ".ndjson")
MAX_TABLE = 4 << 20  # bytes of a JSONL file
MAX_ROWS = 500


class Row(Strict):
    """One line of a JSONL file."""

    file_id: Annotated[str, Field(max_length=80)]
    caption: str | None = None
    start: Annotated[
        float | int | None, Field(ge=0, lt=1e6, description="second at which the clip begins")
    ] = None


def fetch_clips(
    store: FileStore,
    tenant: str,
    file_id: str,
    folder: Path,
    beat: Callable[[], None],
    *,
    image: bool = False,
) -> list[Clips]:
    """Copy a training file, and those that its rows name, below a folder.

    Args:
        beat: called before each copy; what it raises ends the work.
        image: the file is an image, whatever it is called.

    Raises:
        NotFound: the file was deleted.
        InvalidInput: a row is wrong, or names a file that is not the tenant's; says which one.
    """
    file = store.get(file_id, tenant)
    if image or PurePosixPath(file.filename).suffix.lower() not in TABLES:
        beat()
        return [Clips(fetched(store, file, folder), file.filename)]
    if file.size > MAX_TABLE:
        raise InvalidInput(
            f"{file.filename} has {file.size} bytes; a list of files may have {MAX_TABLE}.",
            code="invalid_training_file",
        )
    text = fetched(store, file, folder).read_bytes()
    clips = []
    for number, row in rows_of(text, file.filename):
        beat()
        where = f"{file.filename}, row {number}"
        try:
            named = store.get(row.file_id, tenant)
            path = fetched(store, named, folder)
        except NotFound as error:
            raise InvalidInput(f"{where}: {error.message}", code="invalid_training_file") from None
        if PurePosixPath(named.filename).suffix.lower() in TABLES:
            raise InvalidInput(
                f"{where}: {named.filename} is a list itself; name videos.", code="invalid_training_file"
            )
        clips.append(Clips(path, f"{where} ({named.filename})", row.caption, row.start))
    return clips


def rows_of(text: bytes, name: str) -> Iterator[tuple[int, Row]]:
    """(number from 1, row) of each line that is not empty. Raises InvalidInput with the row's number."""
    lines = [(number, line) for number, line in enumerate(text.split(b"\n"), 1) if line.strip()]
    if not 1 <= len(lines) <= MAX_ROWS:
        raise InvalidInput(
            f"{name} has {len(lines)} rows; expected 1 to {MAX_ROWS} like "
            '{"file_id": "file-...", "caption": "a car turns"}.',
            code="invalid_training_file",
        )
    for number, line in lines:
        try:
            yield number, parse(Row, line)
        except Damaged as error:
            raise InvalidInput(
                f"{name}, row {number}: {error}; expected an object with file_id and caption.",
                code="invalid_training_file",
            ) from None


def fetched(store: FileStore, file: StoredFile, folder: Path) -> Path:
    """A local copy of a file; made once."""
    path = folder / file.id / file.filename
    if not path.exists():
        store.fetch(file, path)
    return path
