"""The results of a study: one file per table, `trials/<captions>.jsonl`, one line per trial.

Lines are appended whole under a lock, so several processes, also of several commands, may write to one
folder. A process that is killed while writing leaves a line without its end. Readers ignore it, and the
next append removes it.
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
    """The file with a table's trials."""
    return out / "trials" / f"{captions}.jsonl"


def read(out: Path, captions: str) -> dict[str, Record]:
    """The records of a table by key; the first one of each key.

    Raises:
        UserError: a line is not a record; names its number.
    """
    path = file_of(out, captions)
    if not path.is_file():
        return {}
    with explained_os_errors(f"reading {path}"):
        data = path.read_bytes()
    found: dict[str, Record] = {}
    lines = data.split(b"\n")
    for number, line in enumerate(lines[:-1], 1):  # text after the last newline is an unfinished line
        try:
            record = json.loads(line)
            found.setdefault(record["key"], record)
            trial_of(record)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}, line {number} is not a trial's result ({type(error).__name__}: {error}); remove the line to run its "
                "trial again."
            ) from None
    return found


def trial_of(record: Record) -> Trial:
    """The trial of a record."""
    return Trial(**record["trial"])


def append(out: Path, records: Iterable[Record]) -> None:
    """Append records to their tables, each whole or not at all, and flushed to disk on return."""
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
    """Claim the trials with these keys during the block. Yields whether it succeeded; `wait` waits for it.

    A claim is a lock on one byte of a file that all claims share, so a dead process loses its claims.
    """
    place = int.from_bytes(hashlib.sha256(" ".join(keys).encode()).digest()[:6], "big")
    path = out / "trials" / CLAIMS
    with explained_os_errors(f"locking {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
        except (BlockingIOError, PermissionError):  # which one depends on the system
            yield False
        else:
            yield True


def _cut_unfinished(descriptor: int) -> None:
    """Remove an unfinished line after the last newline."""
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
