"""Ingests files of strangers in a child process with bounds, so that a hostile one can end only the child.

    found = ingest_confined([StrangeFile("0/a.mp4", "a.mp4")], selection, folder, concept="orbit", caption="a car turns")

The child (`confined_child.py`) unpacks zips, decodes and cuts the clips into `folder/clips`, and writes a report. It has no
environment but what Python needs (no credentials), bounds on memory, CPU time and sizes of files, and ends with its
parent. This process never opens a file of the stranger; it reads the report and the clip set that the child wrote. It
is no sandbox against code that a decoder might be made to run: give the server a container of its own.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets.clip_sets.select import Selection
from infra.errors import ConceptError, InvalidInput, SystemFailure
from infra.paths import ROOT
from infra.storage.stored import Damaged, parse

log = logging.getLogger(__name__)
JOB, REPORT, DOING, FILES, CLIPS, OUTPUT = "job.json", "report.json", "doing", "files", "clips", "output"
BEAT = 0.2  # seconds between looks at the child
KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "TMPDIR")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
MAX_REPORT = 8 << 20  # bytes
OUT_OF_MEMORY = 77  # the child's exit code
FILES_OPEN = 256
INGEST = "datasets.ingest.confined_child"  # the child that cuts clips


@dataclass(frozen=True)
class Bounds:
    """What one ingest may use. Each clip has the ordinary bounds on pixels, sides and time as well.

    Args:
        seconds: of the clock, for all files.
        cpu_seconds: of all threads.
        memory: bytes of private memory.
        files: number of videos and other entries.
        unpacked: bytes of all entries of a zip.
        written: bytes of a file that the child writes.
    """

    seconds: float = 900.0
    cpu_seconds: int = 900
    memory: int = 4 << 30
    files: int = 500
    unpacked: int = 8 << 30
    written: int = 8 << 30


@dataclass(frozen=True)
class StrangeFile:
    """A file to ingest: a video, or a zip of videos.

    Args:
        path: below `folder/files`.
        name: how errors call it.
        start: second at which the clip begins.
    """

    path: str
    name: str
    caption: str | None = None
    start: float | None = None


@dataclass(frozen=True)
class Job:
    """What the child is to do."""

    files: tuple[StrangeFile, ...]
    selection: dict[str, Any]
    concept: str
    caption: str | None
    bounds: Bounds


@dataclass(frozen=True)
class Found:
    """What the child reports: the number of clips in `folder/clips`, or why the files cannot be used."""

    clips: int = 0
    warnings: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    code: str | None = None


class Confined(ConceptError):
    """A file needs more than it may use, or ends the process that reads it."""

    default_code = "unreadable_video"


def ingest_confined(
    files: Sequence[StrangeFile],
    selection: Selection,
    folder: Path,
    *,
    concept: str,
    caption: str | None = None,
    bounds: Bounds | None = None,
    beat: Callable[[], None] = lambda: None,
) -> Found:
    """Cut the clips of all files into the clip set `folder/clips`: of all, or none.

    Args:
        folder: local; holds the files below `files/`.
        beat: called while the child works; what it raises ends it.

    Raises:
        InvalidInput: names the files that cannot be used, in the ingest's own sentences.
        Confined: a file exceeds the bounds or ended the child.
        SystemFailure: the child cannot work here.
    """
    bounds = bounds or Bounds()
    job = Job(tuple(files), asdict(selection), concept, caption, bounds)
    (folder / JOB).write_text(json.dumps(asdict(job)))
    code = run_child(folder, bounds.seconds, beat)
    if code != 0:
        raise ended(folder, code, bounds)
    report = folder / REPORT
    if report.stat().st_size > MAX_REPORT:
        raise Confined("the files give too many remarks; send fewer of them.")
    try:
        found = parse(Found, report.read_bytes())
    except Damaged as error:
        raise SystemFailure(f"the report of an ingest is damaged ({error}).") from None
    if found.refused:
        raise InvalidInput(sentence(found.refused), code=found.code or "unusable_files")
    return found


def run_child(folder: Path, seconds: float, beat: Callable[[], None], module: str = INGEST) -> int:
    """Run a child to its end; returns its exit code, negative for a signal. What `beat` raises kills it."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    path = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    end = time.monotonic() + seconds
    with (folder / OUTPUT).open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(folder)],
            stdin=subprocess.PIPE,  # its end tells the child that this process is gone
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**environment, **ONE_THREAD, "PYTHONPATH": path},
            start_new_session=True,
        )
    try:
        while True:
            try:
                return child.wait(BEAT)
            except subprocess.TimeoutExpired:
                beat()
            if time.monotonic() > end:
                return -signal.SIGXCPU
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        assert child.stdin is not None
        child.stdin.close()


def ended(folder: Path, code: int, bounds: Bounds) -> Exception:
    """The error for a child that did not end by itself. It was at the file that `folder/doing` names."""
    doing = folder / DOING
    tail = " ".join((folder / OUTPUT).read_bytes()[-2000:].decode(errors="replace").split())
    log.warning("the process that reads files of a stranger ended with %d: %s", code, tail)
    name = doing.read_bytes()[:300].decode(errors="replace") if doing.exists() else ""
    late = code in (-signal.SIGXCPU, -signal.SIGALRM)
    if not name and not late:  # it ended before it opened any file
        tail = (folder / OUTPUT).read_bytes()[-500:].decode(errors="replace")
        return SystemFailure(f"files cannot be validated here: the process ended with {code}: {tail[-300:]}")
    if late:
        return Confined(
            f"{name or 'the first file'} takes too long to read (all files of a training together may take {bounds.cpu_seconds} s); cut out the "
            "part you need, or scale it down."
        )
    if code == OUT_OF_MEMORY:
        return Confined(
            f"{name} needs more than {bounds.memory >> 20} MiB of memory to read; cut out the part you need, or scale it down."
        )
    return Confined(f"{name} ends the program that reads it; convert it to an ordinary mp4.")


def sentence(refused: Sequence[str], most: int = 5) -> str:
    """The first refusals as one text."""
    more = [f"and {len(refused) - most} more files"] if len(refused) > most else []
    return "; ".join([*(text.rstrip(".") for text in refused[:most]), *more]) + "."


# --- in the child --------------------------------------------------------------------------------------


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that there is no memory."""
    if error is None:
        return False
    missing = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    return missing or is_out_of_memory(error.__cause__ or error.__context__)


def end_with_parent() -> None:
    """End this process when the other end of its standard input closes."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)  # not `sys.stdin.read`, whose lock Python needs at its end
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def bound(bounds: Bounds) -> None:
    """Bound what this process may use, for good."""
    limits = {
        resource.RLIMIT_DATA: bounds.memory,
        resource.RLIMIT_CPU: bounds.cpu_seconds,
        resource.RLIMIT_FSIZE: bounds.written,
        resource.RLIMIT_NOFILE: FILES_OPEN,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
