"""The results of a study, compact: one file a table, `trials/<captions>.jsonl`, one line a trial.

A line is appended whole, under a lock: several processes, also of several commands, may write into one folder. A process
that is killed while it writes leaves a line without its end, which counts as none and is cut off by the next one to append.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra.errors import UserError
from infra.files import explained_os_errors
from motiondirector.study.plan import Trial

CLAIMS = ".claims"
Record = dict[str, Any]  # key, trial, settings, foundation, generation, values, seconds (trial.py)


def file_of(out: Path, captions: str) -> Path:
    """Where the trials of a table are."""
    return out / "trials" / f"{captions}.jsonl"


def tables_in(out: Path) -> list[str]:
    """The captions of which there are trials."""
    return sorted(path.stem for path in (out / "trials").glob("*.jsonl"))


def read(out: Path, captions: str) -> dict[str, Record]:
    """The records of a table by key; of one key the first, as it was written.

    Raises:
        UserError: a line that is no record, with its number.
    """
    path = file_of(out, captions)
    if not path.is_file():
        return {}
    with explained_os_errors(f"reading {path}"):
        data = path.read_bytes()
    found: dict[str, Record] = {}
    lines = data.split(b"\n")
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line's end was never finished
        try:
            record = json.loads(line)
            found.setdefault(record["key"], record)
            trial_of(record)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}, line {number} is no result of a trial ({type(error).__name__}: {error}); remove that line, and its "
                "trial is run again."
            ) from None
    return found


def trial_of(record: Record) -> Trial:
    """Whose record it is."""
    return Trial(**record["trial"])


def append(out: Path, records: Iterable[Record]) -> None:
    """Add records to their tables, each whole or not at all, and on the disk when this returns."""
    for record in records:
        assert set(asdict(trial_of(record))) == set(record["trial"])
        line = json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        path = file_of(out, record["trial"]["captions"])
        with explained_os_errors(f"writing {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
                _cut_unfinished(file.fileno())
                view = memoryview(line)
                while view:
                    view = view[os.write(file.fileno(), view) :]
                os.fsync(file.fileno())


@contextmanager
def claimed(out: Path, keys: Iterable[str], wait: bool) -> Iterator[bool]:
    """Whether this process has the trials of these keys to itself for the length of the block; with `wait` once it has.

    A process that dies has its claim no longer. It is a lock on one byte of a file that all claims share.
    """
    place = int.from_bytes(hashlib.sha256(" ".join(keys).encode()).digest()[:6], "big")
    path = out / "trials" / CLAIMS
    with explained_os_errors(f"locking {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
        except (BlockingIOError, PermissionError):  # as the system has it
            yield False
        else:
            yield True


def _cut_unfinished(descriptor: int) -> None:
    """Remove what stands behind the last end of a line."""
    end = size = os.fstat(descriptor).st_size
    step = 1 << 16
    while end > 0:
        first = max(0, end - step)
        at = os.pread(descriptor, end - first, first).rfind(b"\n")
        if at >= 0:
            end = first + at + 1
            break
        end = first
    if end < size:
        os.ftruncate(descriptor, end)
