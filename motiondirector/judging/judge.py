"""Judges one concept's contenders: chooses references, prompts and metrics, writes report.json and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from datasets.clip_sets.parts import Pace
from evaluation.evaluate import Contender, Generation, OpenSet, Progress, evaluate, references_of
from evaluation.report import as_json, remarks, rows, write_json
from infra.errors import UserError
from models.generation import AdapterSettings, GenerationSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets.clip_sets.clips import Clip
    from evaluation.evaluate import Report
    from evaluation.metric import Metric, Reference
    from evaluation.metrics import OpenMetrics
    from evaluation.store import Store
    from models.foundations.base import Foundation
    from models.sizes import Bucket
    from motiondirector.judging.config import JudgeConfig

REPORT, PAGE, SAMPLES = "report.json", "index.html", "samples"
HELD_OUT = 8  # prompts, if none are given and the references are sprites
OPEN = 8  # open prompts


@dataclass(frozen=True)
class Exam:
    """The prompts, references and metrics for judging a concept's contenders."""

    prompts: tuple[str, ...]
    references: tuple[Reference, ...]
    metrics: tuple[Metric, ...]
    sprites: bool  # whether the references are of the sprite world
    opened: OpenSet | None = None
    notes: tuple[str, ...] = ()  # warnings about prompts longer than the text encoder reads


def judge_of(config: JudgeConfig, foundation: Foundation, bucket: Bucket | None, **more: Any) -> Judge:
    """The judge for a command's options. `more`: other fields of `Judge`."""
    settings = GenerationSettings(steps=config.steps, guidance_scale=config.guidance_scale)
    generation = Generation(settings, AdapterSettings(scale=config.scale), bucket, config.batch)
    seeds = tuple(range(1, config.seeds + 1))
    return Judge(foundation, generation, seeds, clip=config.clip, pickscore=config.pickscore, **more)


@dataclass(frozen=True)
class Judge:
    """How the contenders of every concept are judged.

    Args:
        clip, pickscore: weights (folder or hub id) of the metrics that need them.
        held_out: number of prompts from the sprite world if none are given.
        captions: if no prompts are given and the clips are not sprites, use the clips' captions as prompts.
        opened: number of open prompts, which name only the subject's class; 0: none.
    """

    foundation: Foundation
    generation: Generation
    seeds: tuple[int, ...]
    clip: str | None = None
    pickscore: str | None = None
    held_out: int = HELD_OUT
    captions: bool = False
    opened: int = 0
    # For sprites (True) and other clips: weights are loaded once for all concepts.
    _metrics: dict[bool, tuple[Metric, ...]] = field(default_factory=dict, repr=False, compare=False)

    def prepare(
        self,
        clips: Sequence[Clip],
        prompts: Sequence[str] | None,
        pace: Pace | None = None,
        open_prompts: Sequence[str] | None = None,
    ) -> Exam:
        """Choose references, metrics and prompts. Errors in them are reported before anything is trained.

        References count as sprites if most of them are, because object and background of a single one may be hard to
        distinguish.

        Args:
            prompts: None: held-out appearances of the sprite world (or captions, as above).
            pace: how longer and faster clips were learned; None: the default.
            open_prompts: None: the classes that the captions name (`evaluation.open_prompts`).

        Raises:
            UserError: no prompts for clips that are not sprites, clips smaller than the videos, or weights that cannot be
                loaded.
        """
        from evaluation.metrics import is_sprite_world
        from evaluation.open_prompts import open_prompts as classes

        chosen = self.generation.resolved(self.foundation)
        assert chosen.bucket is not None
        pace = pace or Pace(self.foundation.defaults.fps)
        references = references_of(clips, chosen.bucket, pace)
        sprites = 2 * sum(is_sprite_world(one.video_FHWC) for one in references) > len(references)
        if prompts is None:
            if self.captions and not sprites:
                prompts = list(dict.fromkeys(reference.caption for reference in references))
            else:
                prompts = usual_prompts(references, sprites, self.held_out)
        if open_prompts is None and self.opened:
            open_prompts = classes([reference.caption for reference in references], sprites, self.opened)
        opened = OpenSet(tuple(open_prompts), self.open_metrics(sprites)) if open_prompts else None
        notes = self.unread("prompt", [*prompts, *(open_prompts or ())])
        return Exam(tuple(prompts), tuple(references), self.metrics(sprites), sprites, opened, notes)

    def unread(self, what: str, texts: Sequence[str]) -> tuple[str, ...]:
        """Warnings about texts that are longer than the text encoder reads."""
        limit = self.foundation.text_limit
        found = (limit.warning(text, f"{what} {text[:40]!r}...") for text in dict.fromkeys(texts))
        return tuple(text for text in found if text)

    def open_metrics(self, sprites: bool) -> OpenMetrics:
        """The measures of open prompts, with CLIP if its weights were given."""
        from evaluation.metrics import open_metrics_for
        from evaluation.metrics.clip_scores import ClipDiversity

        scorers = (metric.clip for metric in self.metrics(sprites) if isinstance(metric, ClipDiversity))
        return open_metrics_for(sprites, next(scorers, None))

    def metrics(self, sprites: bool) -> tuple[Metric, ...]:
        """The metrics for sprites or for other clips. Raises UserError for weights that cannot be loaded."""
        from evaluation.metrics import metrics_for

        if sprites not in self._metrics:
            device = str(self.foundation.device)
            self._metrics[sprites] = tuple(metrics_for(sprites, self.clip, self.pickscore, device=device))
        return self._metrics[sprites]

    def __call__(
        self,
        title: str,
        exam: Exam,
        contenders: Sequence[Contender],
        folder: Path,
        store: Store,
        on_progress: Progress,
        *,
        samples: bool = False,
        base_store: Store | None = None,
        **facts: Any,
    ) -> dict[str, Any]:
        """Generate, measure, and write report.json and index.html to `folder`. Returns the content of report.json.

        Args:
            samples: also write the first contender's videos to samples/.
            base_store: keeps the base model's videos of sprites' open prompts, which all concepts share.
            facts: other fields of report.json.
        """
        from evaluation.page import write_page

        report = evaluate(
            self.foundation,
            contenders,
            exam.prompts,
            self.seeds,
            exam.references,
            exam.metrics,
            generation=self.generation,
            store=store,
            opened=exam.opened,
            base_store=base_store if exam.sprites else None,
            on_progress=on_progress,
        )
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        content = as_json(report, title=title, measured_at=moment, **facts)
        write_page(report, content, folder / PAGE, fps=self.foundation.defaults.fps, sprites=exam.sprites)
        if samples:
            write_samples(report, folder / SAMPLES, self.foundation.defaults.fps)
        write_json(content, folder / REPORT)  # last: if it exists, everything else exists
        return content


def write_samples(report: Report, folder: Path, fps: float) -> None:
    """Write the first contender's videos as 001.mp4, ... in the order of its cases, and a contact sheet."""
    from datasets.video.writing import contact_sheet, encode_mp4

    folder.mkdir(parents=True, exist_ok=True)
    contender = report.contenders[0]
    cases = report.cases[contender.name]
    for number, case in enumerate(cases, 1):
        facts = {"prompt": case.prompt, "seed": str(case.seed), "adapters": contender.title}
        encode_mp4(case.video_FHWC, fps, folder / f"{number:03d}.mp4", metadata=facts)
    contact_sheet([(case.prompt, case.video_FHWC) for case in cases]).save(folder / "sheet.png")


def usual_prompts(references: Sequence[Reference], sprites: bool, count: int = HELD_OUT) -> list[str]:
    """Held-out appearances of the sprite world. Raises UserError for references of another world."""
    from evaluation.prompts import held_out_prompts

    if not sprites:
        raise UserError(
            "--prompts is missing, and only the sprite world has built-in prompts; give a file with one prompt per line, "
            "each naming an appearance that no clip shows."
        )
    return held_out_prompts(count, [reference.caption for reference in references])


def score_table(report: Mapping[str, Any], title: str) -> Table:
    """The table of a report, of a published evaluation or of a benchmark, for the terminal."""
    table = Table("metric", title=escape(title), caption=escape(remarks(report)) or None)
    for name in report["contenders"]:
        table.add_column(escape(name), justify="right")
    for row in filter(lambda row: row.measured, rows(report)):
        texts = [f"[bold green]{cell.text}[/]" if cell.best else cell.text for cell in row.cells]
        table.add_row(f"{escape(row.title)} {row.arrow}", *texts)
    return table
