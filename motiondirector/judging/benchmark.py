"""Runs the paper's benchmark sets: ingests every concept, trains it with each method, judges it, and makes one table.

One folder has all results of the run. Results that exist are not made again:

    clips/<size and rate>/          the set as a Parquet clip set, cut for the model
    concepts/<name>/report.json     a finished concept, with index.html and its adapter as stock files
    adapters/, videos/              trained adapters and generated videos, under hashes of all their inputs
    report.json, index.html         the table over all concepts
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.clip_sets.parts import Pace
from evaluation.paper_sets import PaperSet, SetConcept
from evaluation.report import as_summary, write_json
from evaluation.store import Store, key_of
from infra.errors import ConceptError, UserError
from motiondirector.judging.config import BenchmarkConfig
from motiondirector.judging.contenders import (
    BASE,
    OURS,
    base,
    check_trains,
    local_config,
    parse_against,
    train_from_clips,
    trained,
)
from motiondirector.judging.judge import PAGE, REPORT, Judge, judge_of
from motiondirector.progress import Bars, no_bars
from training.config import fixed_settings
from training.described import data_sha256
from training.recommended import resolve

if TYPE_CHECKING:
    from datasets.clip_sets.clips import Clip
    from evaluation.evaluate import Contender
    from models.foundations.base import Bucket


def benchmark(
    name: str, data: Path, config: BenchmarkConfig | None = None, *, bars: Bars | None = None
) -> tuple[dict[str, Any], Path]:
    """Run one of the paper's sets: "ucf-sports" or "loveu-tgve".

    Args:
        data: the folder that the set was unpacked to.
        bars: shows progress and notes; None shows nothing.

    Returns the content of report.json, and the folder of the results. Raises UserError as `Benchmark.run` does.
    """
    from evaluation.paper_sets import SETS
    from evaluation.prompts import read_prompts
    from models.load import load_foundation

    config, bars = config or BenchmarkConfig(), bars or no_bars()
    names = parse_against(config.against)
    check_trains(config.dtype)
    if "method" in config.settings:
        raise UserError("--setting method=...: choose methods with --against; ours is always included.")
    steps = {} if config.train_steps is None else {"steps": config.train_steps}
    paper_set = SETS[name](data, read_prompts(config.prompts) if config.prompts else None, config.only)
    foundation = load_foundation(config.foundation, device=config.device, dtype=config.dtype)
    foundation.check_bucket(config.size or foundation.defaults.bucket)
    fps = float(foundation.defaults.fps) if config.fps is None else config.fps or None
    judge, out = judge_of(config, foundation, config.size), config.out or Path("runs/benchmark") / name
    return Benchmark(paper_set, judge, names, {**steps, **config.settings}, out, fps).run(bars), out


@dataclass
class Benchmark:
    """A run over one set.

    Args:
        against: contenders beside ours (`motiondirector.judging.contenders.parse_against`).
        settings: of the trainings; they override the foundation's recommendation.
        fps: frames per second of the clips that are cut; None: the source's own.
    """

    paper_set: PaperSet
    judge: Judge
    against: Sequence[str]
    settings: dict[str, Any]
    out: Path
    fps: float | None
    problems: list[str] = field(default_factory=list)

    def run(self, bars: Bars) -> dict[str, Any]:
        """Run every concept in turn, then make the table. Returns the content of report.json.

        A concept whose clips or training fail (for example, no clip is long enough) is left out and named in `problems`.

        Raises:
            UserError: wrong settings or weights, an error of the machine or a storage, or no concept could be finished.
        """
        resolve(self.settings, self.judge.foundation.recommended)  # report wrong settings first
        self.judge.metrics(False)  # and wrong weights of metrics
        store = Store(self.out)
        self.problems = list(self.paper_set.problems)
        for problem in self.problems:
            bars.say(f"note: {problem}")
        done: dict[str, dict[str, Any]] = {}
        concepts = self.paper_set.concepts
        for number, concept in enumerate(concepts):
            bars.clear()
            bars(self.paper_set.title, number, len(concepts), concept.title)
            try:
                done[concept.name] = self.one(concept, store, bars)
            except ConceptError as error:  # other errors would affect the next concepts, too
                self.note(f"{concept.title} was left out: {error.message}", bars)
        bars.clear()
        if not done:
            raise UserError(f"no concept of {self.paper_set.title} could be finished; {self.problems[-1]}")
        content = as_summary(
            done,
            title=f"{self.paper_set.title}, {len(done)} of {len(concepts)} concepts",
            set=self.paper_set.name,
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
            settings=self.settings,
            notes=self.problems,
        )
        write_summary_page(content, self.out / PAGE)
        write_json(content, self.out / REPORT)
        return content

    def note(self, problem: str, bars: Bars) -> None:
        self.problems.append(problem)
        bars.say(f"note: {problem}")

    def one(self, concept: SetConcept, store: Store, bars: Bars) -> dict[str, Any]:
        """A concept's report: an existing one, or made now."""
        foundation = self.judge.foundation
        clips = self.ingested(concept, bars)
        folder = self.out / "concepts" / concept.name
        exam = self.judge.prepare(
            clips, concept.prompts, Pace(0)
        )  # the clips already have the right size and rate
        unread = [*self.judge.unread("caption", [clip.caption for clip in clips]), *exam.notes]
        for note in unread:
            self.note(f"{concept.title}: {note}", bars)
        configs = {
            name: local_config(self.config_values(len(clips)), "dual" if name == OURS else name, foundation)
            for name in (OURS, *self.against)
            if name != BASE
        }
        key = key_of(
            data=data_sha256(clips),
            prompts=list(exam.prompts),
            metrics=[metric.name for metric in exam.metrics],
            seeds=list(self.judge.seeds),
            generation=self.judge.generation.resolved(foundation).facts(),
            foundation=foundation.fingerprint,
            trained={name: fixed_settings(config) for name, config in configs.items()},
            against=list(self.against),
            weights=[self.judge.clip, self.judge.pickscore],
        )
        before = read_report(folder / REPORT)
        if before is not None and before.get("key") == key:
            return before
        contenders: list[Contender] = []
        for name in (OURS, *self.against):
            if name == BASE:
                contenders.append(base())
                continue
            config = configs[name]
            adapters = train_from_clips(
                foundation, concept.name, clips, str(self.clip_set), self.bucket, config, store, bars
            )
            contenders.append(trained(name, adapters, config))
            if name == OURS:
                write_stock_adapter(folder / "adapter", self.judge, adapters, config, concept.name, clips)
        return self.judge(
            f"{self.paper_set.title}: {concept.title}",
            exam,
            contenders,
            folder,
            store,
            bars,
            key=key,
            concept=concept.name,
            of_the_set=concept.title,
            data_sha256=data_sha256(clips),
            clips=[clip.source_uri for clip in clips],
            notes=unread,
        )

    @property
    def bucket(self) -> Bucket:
        """The size of clips, trainings and videos."""
        bucket = self.judge.generation.resolved(self.judge.foundation).bucket
        assert bucket is not None
        return bucket

    def config_values(self, clips: int) -> dict[str, Any]:
        """The settings of a training on this number of clips: given, else recommended, else the defaults."""
        own = self.fps == self.judge.foundation.defaults.fps
        # Clips of another rate are learned as they were cut.
        settings = {**({} if own else {"fps": 0.0}), **self.settings}
        return resolve(settings, self.judge.foundation.recommended, clips).model_dump(mode="json")

    @property
    def clip_set(self) -> Path:
        """The folder of the clips of this size and rate."""
        rate = "own-rate" if self.fps is None else f"{self.fps:g}fps"
        return self.out / "clips" / f"{self.bucket}-{rate}"

    def ingested(self, concept: SetConcept, bars: Bars) -> list[Clip]:
        """The concept's clips, cut to size from its current sources. Notes refused ones.

        The clip set in --out only grows: clips that another run added are ignored if their source is gone or their
        caption was corrected since.

        Raises:
            UserError: all clips were refused ("clips_refused"), or the storage refuses.
        """
        from datasets.clip_sets.clips import read_clips
        from datasets.clip_sets.select import Selection
        from datasets.ingest.local import ingest
        from datasets.ingest.process import REFUSED
        from datasets.ingest.sources import Source
        from infra.storage import open_storage

        sources = [Source(str(path.resolve()), concept.caption, concept.name) for path in concept.sources]
        report = ingest(
            sources,
            Selection(self.bucket.frames, self.bucket.height, self.bucket.width, fps=self.fps),
            open_storage(self.clip_set),
            on_progress=lambda done, total: bars("reading clips", done, total),
        )
        refused = [outcome for outcome in report.outcomes if outcome.status == REFUSED]
        if len(refused) == len(report.outcomes):
            raise ConceptError(refused[0].reason, code="clips_refused")
        for outcome in refused:
            self.note(f"{outcome.source} was left out: {outcome.reason}", bars)
        wanted = {
            outcome.clip_id: outcome.caption for outcome in report.outcomes if outcome.status != REFUSED
        }
        clips = [clip for clip in read_clips(self.clip_set, concept.name) if clip.clip_id in wanted]
        return [replace(clip, caption=wanted[clip.clip_id]) for clip in clips]


def read_report(path: Path) -> dict[str, Any] | None:
    """An existing report; None if there is none or it is damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_stock_adapter(
    folder: Path, judge: Judge, adapters: Any, config: Any, concept: str, clips: Sequence[Clip]
) -> None:
    """Write our adapter in the form that `motiondirector concepts publish` expects."""
    from training.adapters import describe, write_adapters

    write_adapters(folder, judge.foundation, adapters, describe(config, concept, clips))


def write_summary_page(content: Mapping[str, Any], path: Path) -> None:
    """Write the table over all concepts, with links to their pages."""
    from evaluation.page import environment
    from evaluation.report import remarks, rows
    from infra.files import atomic_file

    text = (
        environment()
        .get_template("summary.html.j2")
        .render(
            report=content,
            rows=[row for row in rows(content) if row.measured],
            remarks=remarks(content),
            page=PAGE,
        )
    )
    with atomic_file(path) as temporary:
        temporary.write_text(text)
