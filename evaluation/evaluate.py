"""Compares contenders on the same prompts and seeds with the same metrics.

    report = evaluate(foundation, [Contender("ours", "orbit@3", adapters), Contender("base", "no adapter")],
                      prompts, seeds=[1, 2], references=references, metrics=metrics)
    report.score("motion_fidelity", "ours")

All videos are made by `models.denoise.sample`, as in `generate` and the service. A contender's adapters
are a plain {path: {layer: (A, B)}}; the front door supplies them (from the registry or from a baseline
trained for the comparison). Runs on one machine; the same inputs give the same report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from datasets.clip_sets.clips import Clip
from datasets.clip_sets.latents import pixels
from datasets.clip_sets.parts import Pace, all_parts
from evaluation.metric import Case, Comparison, Metric, Reference, Score
from evaluation.metrics.catalogue import OpenMetrics
from evaluation.metrics.trajectories import AGREEMENTS, reference_ceiling
from evaluation.prompts import prompts_sha256
from evaluation.store import Adapters, Store, adapters_sha256, key_of
from infra.errors import UserError
from models.denoise import install, sample
from models.foundations.base import Bucket, Foundation
from models.generation import AdapterSettings, AdapterUse, GenerationParams, GenerationSettings, filled

ADAPTER = "adapter_"  # in the facts of videos, before the names of how adapters act


@dataclass(frozen=True)
class Contender:
    """A named set of adapters. Without adapters it is the base model."""

    name: str  # "ours", "base", "coupled"
    title: str  # description for people: "orbit@3", "base model, no adapter"
    adapters: Adapters = field(default_factory=dict, repr=False)
    # In which part of the denoising steps its adapters act, if the generation's settings do not say. None: all.
    steps: tuple[float, float] | None = None


@dataclass(frozen=True)
class Generation:
    """The settings with which every video is made."""

    settings: GenerationSettings = field(default_factory=GenerationSettings)
    adapters: AdapterSettings = field(default_factory=AdapterSettings)
    bucket: Bucket | None = None  # None: the foundation's
    batch_size: int = 4

    def resolved(self, foundation: Foundation) -> Generation:
        """These settings with the foundation's defaults in place of None."""
        usual = foundation.defaults
        settings = GenerationSettings(**filled(self.settings.settings, usual.settings))
        return replace(self, settings=settings, bucket=self.bucket or usual.bucket)

    def params(self, prompt: str, seed: int, uses: tuple[AdapterUse, ...]) -> GenerationParams:
        """The parameters of one video."""
        size = asdict(self.bucket) if self.bucket is not None else {}
        return GenerationParams(**self.settings.settings, **size, prompt=prompt, seed=seed, adapters=uses)

    def facts(self) -> dict[str, Any]:
        """The settings that determine the frames, as JSON; not the batch size, which only affects rounding.

        Stored videos are found by these facts. Settings beyond the first five are included only if they
        differ from the default, so that videos stored before a setting existed are still found.
        """
        given = self.settings.settings
        first = {
            "num_inference_steps": given.pop("steps"),
            "guidance_scale": given.pop("guidance_scale"),
            "scale": self.adapters.scale,
            "size": str(self.bucket),
            "negative_prompt": given.pop("negative_prompt"),
        }
        usual = GenerationSettings().settings
        later = {name: value for name, value in given.items() if value != usual[name]}
        acts = self.adapters.shown.model_dump(mode="json", exclude_defaults=True, exclude={"scale"})
        return first | later | {f"{ADAPTER}{name}": value for name, value in acts.items()}


@dataclass(frozen=True)
class OpenSet:
    """Prompts that name only the subject's class (`open_prompts`), and the measures of their videos."""

    prompts: tuple[str, ...]
    measures: OpenMetrics


@dataclass(frozen=True)
class Measured:
    """A metric's name and bounds, and its scores for each contender (in the order of the report's cases).

    For open prompts (`open`) the name is `open_<metric>` and the order is that of the report's open cases.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    range: tuple[float, float]
    scores: dict[str, Score]
    ceiling: float | None = None  # the references' score against one another, if there are two
    open: bool = False


@dataclass(frozen=True)
class Report:
    """What was generated and measured. `cases` are ordered by prompt, then by seed."""

    foundation: str
    fingerprint: str
    contenders: tuple[Contender, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    generation: Generation
    references: tuple[Reference, ...] = field(repr=False)
    cases: dict[str, tuple[Case, ...]] = field(repr=False)
    measured: tuple[Measured, ...] = ()
    open_prompts: tuple[str, ...] = ()
    open_cases: dict[str, tuple[Case, ...]] = field(default_factory=dict, repr=False)

    def asked(self, measured: Measured) -> tuple[str, ...]:
        """The prompts that a metric's values belong to."""
        return self.open_prompts if measured.open else self.prompts

    @property
    def prompts_sha256(self) -> str:
        return prompts_sha256(self.prompts)

    def score(self, metric: str, contender: str) -> Score:
        """A metric's score of a contender. Raises KeyError if a name is not in the report."""
        return next(m for m in self.measured if m.name == metric).scores[contender]


def references_of(clips: Sequence[Clip], bucket: Bucket, pace: Pace) -> list[Reference]:
    """Clips as training sees them: the parts to learn, scaled and cropped to the bucket.

    Raises:
        UserError: a clip is too small, too short or too slow for the bucket and pace.
    """
    return [Reference(pixels(part, bucket), part.caption) for part in all_parts(clips, bucket, pace)]


Progress = Callable[[str, int, int], None]  # (what, done, total)


def evaluate(
    foundation: Foundation,
    contenders: Sequence[Contender],
    prompts: Sequence[str],
    seeds: Sequence[int],
    references: Sequence[Reference],
    metrics: Sequence[Metric],
    *,
    generation: Generation | None = None,
    store: Store | None = None,
    opened: OpenSet | None = None,
    base_store: Store | None = None,
    on_progress: Progress = lambda what, done, total: None,
) -> Report:
    """Generate the videos and measure them.

    Args:
        seeds: used for every prompt and contender, so that all start from the same noise.
        references: clips that the motion was learned from, for the metrics to compare with.
        generation: settings of every video.
        store: keeps the videos; stored ones are not made again, so an interrupted run can continue.
        opened: open prompts, for every contender and the base model, which they are compared with; same
            seeds.
        base_store: keeps the base model's videos of open prompts, if not `store`.
        on_progress: called with the current item (a contender's name or a metric's title), done and total.

    Raises:
        UserError: nothing to do, two contenders with the same name, or a metric that cannot work.
    """
    names = [contender.name for contender in contenders]
    if not names or not prompts or not seeds:
        raise UserError("an evaluation needs at least one contender, one prompt and one seed.")
    if len(set(names)) < len(names):
        raise UserError(f"contenders {', '.join(names)}: each may be named once.")
    chosen = (generation or Generation()).resolved(foundation)

    def cases_of(asked: Sequence[str], contender: Contender, kept: Store | None = store) -> tuple[Case, ...]:
        videos = videos_of(foundation, contender, asked, seeds, chosen, kept, on_progress)
        order = [(prompt, seed) for prompt in asked for seed in seeds]
        return tuple(
            Case(video, prompt, seed, tuple(references))
            for video, (prompt, seed) in zip(videos, order, strict=True)
        )

    cases = {contender.name: cases_of(prompts, contender) for contender in contenders}
    measured = [_measured(metric, cases, references, on_progress) for metric in metrics]
    open_cases: dict[str, tuple[Case, ...]] = {}
    if opened is not None and opened.prompts:
        open_cases = {
            contender.name: cases_of(
                opened.prompts, replace(contender, name=f"{contender.name}, open prompts")
            )
            for contender in contenders
        }
        bare = next((contender.name for contender in contenders if not contender.adapters), None)
        base = (
            open_cases[bare]
            if bare is not None
            else cases_of(opened.prompts, Contender("base, open prompts", "no adapter"), base_store or store)
        )
        measured += _measured_open(opened.measures, open_cases, base)
    return Report(
        foundation=foundation.name,
        fingerprint=foundation.fingerprint,
        contenders=tuple(contenders),
        prompts=tuple(prompts),
        seeds=tuple(seeds),
        generation=chosen,
        references=tuple(references),
        cases=cases,
        measured=tuple(measured),
        open_prompts=opened.prompts if opened is not None else (),
        open_cases=open_cases,
    )


def _measured(
    metric: Metric,
    cases: dict[str, tuple[Case, ...]],
    references: Sequence[Reference],
    on_progress: Progress,
) -> Measured:
    """What a metric finds for every contender."""
    scores = {}
    for done, name in enumerate(cases):
        on_progress(metric.title, done, len(cases))
        scores[name] = metric(cases[name])
    on_progress(metric.title, len(cases), len(cases))
    ceiling = reference_ceiling(references, metric) if metric.name in AGREEMENTS else None
    return Measured(metric.name, metric.title, metric.better, metric.range, scores, ceiling)


def _measured_open(
    measures: OpenMetrics, cases: dict[str, tuple[Case, ...]], base: tuple[Case, ...]
) -> list[Measured]:
    """Measure the videos of open prompts, alone and against the base's."""
    found: list[tuple[Metric | Comparison, dict[str, Score]]] = [
        (metric, {name: metric(of) for name, of in cases.items()}) for metric in measures.metrics
    ]
    found += [(one, {name: one(of, base) for name, of in cases.items()}) for one in measures.comparisons]
    return [
        Measured(f"open_{m.name}", f"open prompts: {m.title}", m.better, m.range, scores, open=True)
        for m, scores in found
    ]


def videos_of(
    foundation: Foundation,
    contender: Contender,
    prompts: Sequence[str],
    seeds: Sequence[int],
    generation: Generation,
    store: Store | None = None,
    on_progress: Progress = lambda what, done, total: None,
) -> list[np.ndarray]:
    """A contender's videos, uint8 [F, H, W, 3] each, ordered by prompt, then by seed."""
    if contender.adapters and generation.adapters.steps is None and contender.steps is not None:
        acts = generation.adapters.model_copy(update={"steps": contender.steps})
        generation = replace(generation, adapters=acts)
    uses = install(foundation, contender.adapters, generation.adapters)
    requests = [generation.params(prompt, seed, uses) for prompt in prompts for seed in seeds]
    facts = {
        "foundation": foundation.fingerprint,
        "dtype": str(foundation.dtype),
        "adapters": adapters_sha256(contender.adapters),
        **generation.facts(),
    }
    if not contender.adapters:  # adapter settings do not affect the base
        facts = {name: value for name, value in facts.items() if not name.startswith((ADAPTER, "outside"))}
        facts["scale"] = None
    keys = [key_of(prompt=request.prompt, seed=request.seed, **facts) for request in requests]
    found = [store.video(key) if store else None for key in keys]
    missing = [index for index, video in enumerate(found) if video is None]
    size, done = generation.batch_size, len(requests) - len(missing)
    on_progress(contender.name, done, len(requests))
    for first in range(0, len(missing), size):
        batch = missing[first : first + size]
        for index, video in zip(
            batch, sample(foundation, [requests[i] for i in batch], batch_size=size), strict=True
        ):
            found[index] = video
            if store:
                store.put_video(keys[index], video)
        done += len(batch)
        on_progress(contender.name, done, len(requests))
    return [video for video in found if video is not None]
