"""Compares a version with the base model and baselines: `motiondirector evaluate` as a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.prompts import prompts_for, read_prompts
from evaluation.report import FILES, kept_files, published_scores
from evaluation.store import Store
from infra.errors import UserError
from infra.registry import DEFAULT_REGISTRY, Version, open_registry
from motiondirector.judging.config import EvaluationConfig
from motiondirector.judging.contenders import (
    BASE,
    OURS,
    Origin,
    base,
    check_trains,
    local_config,
    parse_against,
    train_from_clips,
    trained,
)
from motiondirector.judging.judge import OPEN, PAGE, judge_of
from motiondirector.judging.subject import Subject
from motiondirector.progress import Bars, no_bars

if TYPE_CHECKING:
    from evaluation.evaluate import Contender


@dataclass(frozen=True)
class Evaluated:
    """The result of an evaluation.

    Args:
        report: the content of report.json: contenders, prompts, metrics with a score per contender.
        folder: of the page, the report, the videos and the baselines.
    """

    version: Version
    report: dict[str, Any]
    folder: Path

    @property
    def page(self) -> Path:
        """The page with the videos side by side."""
        return self.folder / PAGE

    def mean(self, metric: str, contender: str = OURS) -> float | None:
        """The mean of a metric, such as "motion_fidelity"; None if it could not be measured."""
        mean: float | None = self.report["metrics"][metric]["scores"][contender]["mean"]
        return mean


def evaluate(
    concept: str,
    config: EvaluationConfig | None = None,
    *,
    registry: str = DEFAULT_REGISTRY,
    bars: Bars | None = None,
) -> Evaluated:
    """Measure a learned motion, with the same prompts and seeds for it, the base model and any baselines.

    Videos and baselines are kept in the results folder; a repeated call makes only the missing ones.

    Args:
        concept: NAME (its latest version) or NAME@VERSION.
        config: prompts, contenders, videos and metrics; the command's options.
        registry: folder or s3:// URI.
        bars: shows progress and notes; None shows nothing.

    Returns:
        The scores, and the folder of page, report and videos. With `config.publish`, the version's metrics also get the
        scores.

    Raises:
        UserError: no such version, clips or prompts, the foundation does not suit, or weights cannot be loaded.
    """
    from infra.allocator import keep_freed_memory
    from models.load import load_foundation

    config, bars = config or EvaluationConfig(), bars or no_bars()
    names = parse_against(config.against)
    if any(name != BASE for name in names):
        check_trains(config.dtype)
        keep_freed_memory()  # baselines train here
    asked = {"--prompts": config.prompts, "--open-prompts": config.open_prompts}
    read = {option: read_prompts(path, option) for option, path in asked.items() if path is not None}
    opened = open_registry(registry)
    version = opened.resolve(concept)
    origin = Origin.of(opened, version)
    texts = {option: prompts_for(given, origin.concept, version.concept) for option, given in read.items()}
    for option in texts:
        if not texts[option]:
            raise UserError(
                f"{option} {asked[option]}: all prompts are for concepts other than {version.concept}; set their `concept` to "
                "it, or leave `concept` empty for prompts of every concept."
            )
    subject = Subject.of(
        opened,
        version,
        origin,
        lambda own: load_foundation(config.foundation or own, device=config.device, dtype=config.dtype),
        config.data,
    )
    folder = config.out or Path("runs/evaluate") / f"{version.concept}-{version.number}"
    judge = judge_of(config, subject.foundation, subject.bucket, opened=OPEN)
    exam = judge.prepare(subject.clips, texts.get("--prompts"), subject.pace, texts.get("--open-prompts"))
    store, facts = Store(folder), subject.facts(exam.notes)
    for note in facts["notes"]:
        bars.say(f"note: {note}")
    contenders = [subject.ours, *beside(subject, names, store, bars)]
    report = judge(f"{version.ref} evaluated", exam, contenders, folder, store, bars, **facts)
    if config.publish:
        kept = kept_files(opened.resolve(version.ref))  # `train-batch` may have added some meanwhile
        scores = {**published_scores(report), **({FILES: kept} if kept else {})}
        opened.add_metrics(version, {"evaluation": scores})
    return Evaluated(version, report, folder)


def beside(subject: Subject, names: Sequence[str], store: Store, bars: Bars) -> list[Contender]:
    """The contenders beside a version: the base model, and baselines with its settings, trained now or stored."""
    origin = subject.origin
    contenders = []
    for name in names:
        if name == BASE:
            contenders.append(base())
            continue
        if origin.settings is None:
            raise UserError(
                f"{subject.version.ref} does not record how it was trained, so {name} cannot be trained with its settings; use "
                "--against base, or publish an adapter that `motiondirector train` wrote."
            )
        config = local_config(origin.settings, name, subject.foundation)
        adapters = train_from_clips(
            subject.foundation,
            origin.concept,
            subject.clips,
            subject.source,
            subject.bucket,
            config,
            store,
            bars,
        )
        contenders.append(trained(name, adapters, config))
    return contenders
