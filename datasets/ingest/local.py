"""Turns videos into rows of a clip set and reports the outcome of every input.

    report = ingest(expand(["clips/"]), Selection(16, 256, 256, fps=8), open_storage("s3://bucket/clips"),
                    concept="car-turn", caption="a car turns at a crossing")

`process` handles one source and is a plain function without shared state. `ingest` maps it over the
sources; `datasets/ingest/cluster.py` maps the same function with Ray Data. `datasets/clip_sets/parquet.py` decides
from the results, in the order of the sources, what to store and in which shards. So both ways give the
same rows.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.clip_sets.amend import MAX_CAPTION
from datasets.clip_sets.clips import clip_id, make_clip, read_manifest
from datasets.clip_sets.parquet import (
    Pending,
    WriteShards,
    append,
    settle,
    spool_here,
    stored_clips,
    write_shards_here,
)
from datasets.clip_sets.select import Selection, Unsuitable, Window, cut, scene_cuts, windows
from datasets.ingest.completing import Incomplete, completer
from datasets.ingest.sources import VIDEO_SUFFIXES, Captions, Source
from datasets.video.decode import UnreadableVideo, VideoFile, open_video
from infra.errors import UserError
from infra.registry import check_concept_name
from infra.rows import FORBIDDEN
from infra.storage import ObjectError, Storage, bucket_and_key, open_storage
from infra.storage.objects import sha256_file

# duplicate: already in the set (not an error); ignored: a file in a folder whose name is not a video's
STATUSES = ACCEPTED, DUPLICATE, REFUSED, IGNORED = "accepted", "duplicate", "refused", "ignored"


@dataclass
class Outcome:
    """The result for one clip of an input, or for the whole input."""

    source: str
    status: str  # one of STATUSES
    reason: str = ""  # why it was not accepted
    warnings: list[str] = field(default_factory=list)
    concept: str = ""
    caption: str = ""
    completed_from: str = ""  # the original caption, if it was completed from the clip
    clip_id: str = ""  # id in the set; empty if refused or ignored
    start: float = 0.0  # second of the input at which the clip begins
    end: float = 0.0
    length: float | None = None  # seconds of the whole input; None: not all of it was scanned
    fps: float = 0.0
    size: str = ""  # frames x height x width


@dataclass(frozen=True)
class Job:
    """One source with everything that `process` needs."""

    source: Source
    selection: Selection
    concept: str
    caption: str
    ingested_at: datetime
    complete: str | None = None  # completes the caption (`datasets.ingest.completing.completer`)


Result = tuple[list[Outcome], list[Pending]]
# (jobs, spool, captions of the set's clips by clip_id) -> a result for each job
RunJobs = Callable[[list[Job], Storage, dict[str, str]], Iterable[Result]]


@dataclass
class Report:
    """The outcome of an ingest."""

    to: str
    outcomes: list[Outcome]
    warnings: list[str] = field(default_factory=list)

    def count(self, status: str) -> int:
        return sum(outcome.status == status for outcome in self.outcomes)

    def as_json(self) -> dict[str, Any]:
        counts = {status: self.count(status) for status in STATUSES}
        return {
            "to": self.to,
            **counts,
            "warnings": self.warnings,
            "inputs": [asdict(outcome) for outcome in self.outcomes],
        }


def ingest(
    sources: Sequence[Source],
    selection: Selection,
    target: Storage,
    *,
    concept: str | None = None,
    caption: str | None = None,
    captions: Captions | None = None,
    strict: bool = False,
    warn: Callable[[str], str | None] = lambda caption: None,
    complete: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    run_jobs: RunJobs | None = None,
    write_shards: WriteShards = write_shards_here,
    spool: Storage | None = None,
) -> Report:
    """Read every source and add the accepted clips to the clip set at `target`, in one commit.

    Args:
        concept, caption: for clips whose manifest row or `captions` entry gives none.
        strict: store nothing if any input is refused (duplicates are not).
        warn: returns a warning about a caption that is still used.
        complete: completes captions from the clips: "sprites", or a captioner's folder
            (datasets/ingest/completing.py).
        on_progress: called with (inputs done, total inputs).
        run_jobs, write_shards, spool: replacements to do the work elsewhere (Ray Data).

    Returns the report; nothing was stored if none of its outcomes is "accepted".

    Raises:
        UserError: an invalid concept name, or the storage refuses.
    """
    now = datetime.now(UTC)
    outcomes: list[list[Outcome]] = []
    jobs: list[tuple[int, Job]] = []
    for source in sources:
        entry = _entry(source, concept, caption, captions)
        outcomes.append([entry])
        if not entry.reason:
            own = selection if source.start is None else replace(selection, start=source.start)
            jobs.append((len(outcomes) - 1, Job(source, own, entry.concept, entry.caption, now, complete)))
    report = Report(target.uri, [], captions_unused(captions, sources))
    with _spool(spool) as clips:
        pending: list[Pending] = []
        manifest = read_manifest(target) if jobs else None
        stored = stored_clips(target, manifest, {job.concept for _, job in jobs})
        known = {clip.clip_id: clip.caption for clip in stored}
        results = (run_jobs or run_jobs_here)([job for _, job in jobs], clips, known)
        for done, ((place, _), (of_source, ready)) in enumerate(zip(jobs, results, strict=True), 1):
            outcomes[place] = of_source
            pending += ready
            if on_progress:
                on_progress(len(sources) - len(jobs) + done, len(sources))
        report.outcomes = [outcome for group in outcomes for outcome in group]
        _warn_of_captions(report.outcomes, warn)
        if strict and report.count(REFUSED):
            for outcome in report.outcomes:
                if outcome.status == ACCEPTED:
                    outcome.status, outcome.reason = REFUSED, "usable, but --strict stores all inputs or none"
            return report
        if pending:
            twins = append(target, pending, clips, write_shards=write_shards)
            accepted = [outcome for outcome in report.outcomes if outcome.status == ACCEPTED]
            for outcome, item, twin in zip(accepted, pending, twins, strict=True):
                assert outcome.clip_id == item.clip.clip_id
                if twin is not None:
                    mark_duplicate(outcome, twin.clip_id, twin.caption)
        elif manifest is not None:
            settle(target)  # for an earlier run of the same command that was killed between commit and move
    return report


def _entry(source: Source, concept: str | None, caption: str | None, captions: Captions | None) -> Outcome:
    """The outcome of a source before it is read, with a reason if it cannot be used. Raises InvalidInput for a concept name."""
    name = source.concept or concept
    text = source.caption or (captions.get(source.uri) if captions else None) or caption or ""
    entry = Outcome(source.uri, REFUSED, concept=name or "", caption=" ".join(text.split()))
    if source.problem:
        entry.status, entry.reason = (IGNORED if source.ignored else REFUSED), source.problem
    elif name is None:
        entry.reason = "no concept: give --concept or a `concept` in the manifest"
    elif not entry.caption:
        entry.reason = "empty caption: give --caption, --captions or a `caption` in the manifest"
    elif FORBIDDEN.search(entry.caption):
        entry.reason = "the caption contains a control character or an incomplete Unicode character"
    elif len(entry.caption) > MAX_CAPTION:
        entry.reason = f"the caption has {len(entry.caption)} characters, at most {MAX_CAPTION} are allowed"
    else:
        check_concept_name(name)
    return entry


def _warn_of_captions(outcomes: Iterable[Outcome], warn: Callable[[str], str | None]) -> None:
    """Add the warnings of `warn` to the clips that are in the set; calls it once per caption."""
    said: dict[str, str | None] = {}
    for outcome in outcomes:
        if outcome.status in (ACCEPTED, DUPLICATE):
            if outcome.caption not in said:
                said[outcome.caption] = warn(outcome.caption)
            if (text := said[outcome.caption]) is not None:
                outcome.warnings.append(text)


def mark_duplicate(outcome: Outcome, clip_id: str, caption: str) -> None:
    """Mark the outcome as a duplicate of the set's clip with this id."""
    outcome.status, outcome.clip_id = DUPLICATE, clip_id
    outcome.reason = f"the set has it as clip {clip_id[:12]}"
    if caption != outcome.caption:
        outcome.reason += f" with the caption {caption!r}; `motiondirector clips edit` can correct it"


@contextmanager
def _spool(given: Storage | None) -> Iterator[Storage]:
    if given is not None:
        yield given
        return
    with spool_here() as folder:
        yield open_storage(folder)


def captions_unused(captions: Captions | None, sources: Sequence[Source]) -> list[str]:
    """Warnings about captions for videos that are not among the sources."""
    return (
        [
            f"{captions.uri} has a caption for {name}, which is not an input"
            for name in captions.unused(sources)
        ]
        if captions
        else []
    )


def run_jobs_here(jobs: list[Job], spool: Storage, known: dict[str, str]) -> Iterator[Result]:
    """Run the jobs one after another in this process."""
    for job in jobs:
        yield process(job, spool, known)


def process(job: Job, spool: Storage, known: dict[str, str]) -> Result:
    """Process one source and put its clips into the spool.

    Returns as many accepted outcomes as pending clips, in the same order.

    Args:
        known: clips that need not be cut again, clip_id -> caption.

    Raises:
        UserError: the spool or S3 refuses. Bad input does not raise; it is an outcome.
    """
    try:
        with local_copy(job.source.uri) as path:
            video = open_video(path, name=PurePosixPath(job.source.uri).name)
            found = windows(video, job.selection)
            source_sha256 = sha256_file(path)
            pairs = [_one(job, video, window, source_sha256, spool, known) for window in found]
    except (UnreadableVideo, Unsuitable, Unfetched) as error:  # not errors of the spool or of S3 as a whole
        refused = Outcome(job.source.uri, REFUSED, error.message, concept=job.concept, caption=job.caption)
        return [refused], []
    return [outcome for outcome, _ in pairs], [item for _, item in pairs if item]


def _one(
    job: Job, video: VideoFile, window: Window, source_sha256: str, spool: Storage, known: dict[str, str]
) -> tuple[Outcome, Pending | None]:
    chosen = job.selection
    length = video.duration if video.complete else None  # finding it would decode all of a long video
    end = window.start + chosen.frames / window.fps
    outcome = Outcome(
        job.source.uri,
        ACCEPTED,
        concept=job.concept,
        caption=job.caption,
        start=window.start,
        end=end if length is None else min(end, length),
        length=length,
        fps=window.fps,
        size=f"{chosen.frames}x{chosen.height}x{chosen.width}",
    )
    name = clip_id(job.concept, source_sha256, window.identity(chosen))
    if name in known:
        mark_duplicate(outcome, name, known[name])
        return outcome, None
    try:
        frames_FHWC = cut(video, window, chosen)
    except (UnreadableVideo, Unsuitable) as error:  # damage in one window does not affect the others
        outcome.status, outcome.reason = REFUSED, error.message
        return outcome, None
    outcome.warnings += video.notes
    repeats = len(window.indices) - len(set(window.indices))
    if repeats:
        outcome.warnings.append(
            f"{repeats} of {chosen.frames} frames repeat: the source has {video.fps:.4g} fps, but {window.fps:.4g} are requested"
        )
    cuts = scene_cuts(frames_FHWC)
    if cuts:
        seconds = ", ".join(f"{window.start + i / window.fps:.1f} s" for i in cuts)
        outcome.warnings.append(f"scene cut inside the clip at {seconds}")
    if job.complete is not None:
        try:
            outcome.caption = completer(job.complete)(job.caption, frames_FHWC)
            outcome.completed_from = job.caption
        except Incomplete as error:
            outcome.warnings.append(f"the caption was not completed: {error.message.rstrip('.')}")
    clip = make_clip(
        concept=job.concept,
        caption=outcome.caption,
        frames_FHWC=frames_FHWC,
        fps=window.fps,
        source_uri=job.source.uri,
        source_sha256=source_sha256,
        selection=window.identity(chosen),
        ingested_at=job.ingested_at,
    )
    outcome.clip_id = clip.clip_id
    return outcome, Pending.spooled(clip, spool)


class Unfetched(UserError):
    """A single source that cannot be fetched: it vanished, or access is denied."""


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """The source as a local file; an S3 object is downloaded to a temporary file.

    Raises:
        Unfetched: this one source cannot be read.
        UserError: the storage is unavailable, or refuses the credentials.
    """
    if not uri.startswith("s3://"):
        try:
            Path(uri).open("rb").close()
        except OSError as error:
            raise Unfetched(f"{PurePosixPath(uri).name} cannot be read ({error.strerror}).") from None
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="motiondirector-source-") as folder:
        suffix = PurePosixPath(uri).suffix.lower()
        path = Path(folder) / f"source{suffix if suffix in VIDEO_SUFFIXES else ''}"
        try:
            storage, key = bucket_and_key(uri)
            storage.get_file(key, path)
        except ObjectError as error:
            raise Unfetched(error.message) from None
        yield path


def summary(report: Report) -> str:
    """One sentence with the main reason for refusals, for when nothing was accepted."""
    refused = [outcome for outcome in report.outcomes if outcome.status == REFUSED]
    if not refused:
        return "there is no video among the inputs"
    if len(refused) == 1:
        return f"{refused[0].source}: {refused[0].reason}"
    reasons = Counter(outcome.reason.replace(PurePosixPath(outcome.source).name, "it") for outcome in refused)
    reason, times = reasons.most_common(1)[0]
    return f"{len(refused)} inputs were refused, {times} of them because: {reason}"
