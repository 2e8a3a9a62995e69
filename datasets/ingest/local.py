"""Turns videos into rows of a clip set and reports the outcome of every input.

    report = ingest(expand(["clips/"]), Selection(16, 256, 256, fps=8), open_storage("s3://bucket/clips"),
                    concept="car-turn", caption="a car turns at a crossing")

`datasets/ingest/process.py` handles one source, in a plain function without shared state. `ingest` maps it over the
sources; `datasets/ingest/cluster.py` maps the same function with Ray Data. `datasets/clip_sets/parquet.py` decides
from the results, in the order of the sources, what to store and in which shards. So both ways give the
same rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from datasets.clip_sets.amend import MAX_CAPTION
from datasets.clip_sets.clips import read_manifest
from datasets.clip_sets.parquet import (
    Pending,
    WriteShards,
    append,
    settle,
    spool_here,
    stored_clips,
    write_shards_here,
)
from datasets.clip_sets.select import Selection
from datasets.clip_sets.variants import Variant
from datasets.ingest.masks import Masks
from datasets.ingest.process import (
    ACCEPTED,
    DUPLICATE,
    IGNORED,
    REFUSED,
    STATUSES,
    Job,
    Outcome,
    Result,
    mark_duplicate,
    process,
)
from datasets.ingest.sources import Captions, Source
from infra.registry import check_concept_name
from infra.rows import FORBIDDEN
from infra.storage import Storage, open_storage

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
    variants: tuple[Variant, ...] = (),
    masks: Masks | None = None,
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
        variants: to make beside each clip (datasets/clip_sets/variants.py).
        masks: of the sources (datasets/ingest/masks.py).
        on_progress: called with (inputs done, total inputs).
        run_jobs, write_shards, spool: replacements to do the work elsewhere (Ray Data).

    Returns the report; nothing was stored if none of its outcomes is "accepted".

    Raises:
        UserError: an invalid concept name, masks of files that are no sources, or the storage refuses.
    """
    if masks is not None:
        masks.check(sources)
    now = datetime.now(UTC)
    outcomes: list[list[Outcome]] = []
    jobs: list[tuple[int, Job]] = []
    for source in sources:
        entry = _entry(source, concept, caption, captions)
        outcomes.append([entry])
        if not entry.reason:
            own = selection if source.start is None else replace(selection, start=source.start)
            mask = None if masks is None else masks.get(source.uri)
            job = Job(source, own, entry.concept, entry.caption, now, complete, variants, mask)
            jobs.append((len(outcomes) - 1, job))
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
            repeated: dict[str, str] = {}
            for outcome, item, twin in zip(accepted, pending, twins, strict=True):
                assert outcome.clip_id == item.clip.clip_id
                outcome.variant_of = repeated.get(outcome.variant_of, outcome.variant_of)
                if twin is not None:
                    repeated[outcome.clip_id] = twin.clip_id
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
