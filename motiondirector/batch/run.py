"""A manifest's concepts trained, published and evaluated: `motiondirector train-batch` as a function."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from evaluation.prompts import Prompt, read_prompts
from infra.errors import UserError
from infra.registry import DEFAULT_REGISTRY, Registry, open_registry
from motiondirector.batch.config import BatchConfig
from motiondirector.batch.lanes import Lanes, lanes_for, only_kind, profile_of
from motiondirector.batch.validation import Evaluation
from motiondirector.progress import Bars, no_bars
from training.batch.manifest.entries import Entry, read_entries
from training.batch.manifest.plan import Plan, make_plan
from training.batch.manifest.resolving import Sources
from training.batch.profile.measure import device_profile
from training.batch.run import enter
from training.batch.run import train_batch as train_here
from training.batch.state.state import BatchState, open_batch
from training.batch.watch.validation import Validate, validations
from training.batch.watch.watcher import Watcher

if TYPE_CHECKING:
    from training.batch.profile.profile import Profile
    from training.batch.state.record import Record
    from training.batch.watch.watcher import LaneState


class BatchObserver(Watcher):
    """Is told what a batch does. This one looks away; the command line's shows it."""

    def warned(self, text: str) -> None:
        """Something is odd about what was given."""

    @contextmanager
    def measuring_here(self) -> Iterator[Bars]:
        """This device is measured within the block; the bars say how far that is."""
        yield no_bars()

    def planned(self, plan: Plan, name: str, remarks: Mapping[str, Sequence[str]]) -> None:
        """What the batch of this name comes to. Remarks: what of each concept's clips and captions is not learned."""

    @contextmanager
    def working(self) -> Iterator[None]:
        """Concepts are trained within the block."""
        yield

    def looked(self, records: Sequence[Record], lanes: Sequence[LaneState]) -> None:
        """How the batch stands, every second or so; from another thread."""


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch.

    Args:
        name: under which `motiondirector runs` knows it.
        records: one a concept; none where nothing but the plan was asked for.
        evaluations: by concept {"version", "scores": {title: mean}, "error": None or why, "seconds"}.
    """

    name: str
    plan: Plan
    records: Sequence[Record] = ()
    evaluations: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    on_ray: bool = False

    @property
    def published(self) -> dict[str, str]:
        """The version of each concept that has one, such as "orbit@1"."""
        return {record.name: record.version for record in self.records if record.version}

    @property
    def failed(self) -> dict[str, str]:
        """Why, of each concept that failed."""
        return {record.name: record.reason or "" for record in self.records if record.status == "failed"}

    @property
    def not_ended(self) -> list[str]:
        """What was left: concepts that ask for several workers where the only lane is this process."""
        return [record.name for record in self.records if not record.ended]


def train_batch(
    manifest: str,
    config: BatchConfig | None = None,
    *,
    registry: str = DEFAULT_REGISTRY,
    dry_run: bool = False,
    observer: BatchObserver | None = None,
) -> BatchResult:
    """Train many concepts on one resident model, several in one forward, and publish each as it ends.

    Called again it goes on where it was stopped; from several processes or machines at once, they share the work.

    Args:
        manifest: a .yaml, .jsonl, .csv or .tsv file, or a clip set: every concept in it.
        config: settings of all concepts, lanes, evaluation; the command's options.
        registry: folder or s3:// URI; the state of the batch lies in the same storage.
        dry_run: make the plan and stop.
        observer: is told how it goes.

    Returns:
        The plan, and what became of each concept: one that failed is in `failed`, and stops no other.

    Raises:
        UserError: mistakes in the manifest or the options, all of them in one message, before anything is written; a
            storage that stays away.
    """
    config, observer = config or BatchConfig(), observer or BatchObserver()
    prompts = () if config.prompts is None else tuple(read_prompts(config.prompts))
    entries, mistakes = read_entries(manifest, config.defaults)
    if unknown := strangers(prompts, entries):
        observer.warned(f"{config.prompts} has prompts for concepts that the batch has not: {unknown}")
    name = config.name or batch_name(manifest)
    with lanes_for(config, dry_run) as lanes:
        opened, sources = open_registry(registry), Sources()
        batch = open_batch(opened.storage, name)
        plan_with = functools.partial(
            make_plan, entries, manifest, opened,
            lanes=lanes.count, pack=config.members, sources=sources, workers=None if lanes.on_ray else 1,
            records=batch.records(), mistakes=mistakes, check=lanes.check,
        )  # fmt: skip

        def measure() -> Profile:
            works = plan_with().works
            with observer.measuring_here() as bars:
                return device_profile(works, on_progress=bars)

        profile = profile_of(config, lanes, measure)
        lanes_measure = config.pack == "auto" and profile is None
        plan = plan_with(profile=only_kind(opened.storage) if lanes_measure else profile)
        observer.planned(plan, name, sources.remarks)
        if dry_run:
            return BatchResult(name, plan, on_ray=lanes.on_ray)
        enter(batch, plan, {"manifest": manifest, "registry": opened.uri}, opened)
        with observer.working():
            validate = evaluation(config, opened, prompts) if config.evaluate else None
            if lanes.on_ray:
                records = on_ray(name, config, batch, opened, plan, lanes, profile, validate, observer)
            else:
                records = train_here(
                    batch, opened, pack=config.members, profile=profile, validate=validate,
                    watcher=observer, on_look=observer.looked,
                )  # fmt: skip
    return BatchResult(name, plan, records, validations(batch, records), lanes.on_ray)


def on_ray(
    name: str,
    config: BatchConfig,
    batch: BatchState,
    registry: Registry,
    plan: Plan,
    lanes: Lanes,
    profile: Profile | None,
    validate: Validate | None,
    observer: BatchObserver,
) -> list[Record]:
    """Train on lanes of the cluster of the current session."""
    from training.batch.cluster.ray_lanes import train_on_ray

    return train_on_ray(
        batch,
        registry,
        name,
        works=plan.works,
        validate=validate,
        limit=None if config.lanes in (None, "auto") else lanes.count,
        encoder_gpus=config.encoder_gpus,
        pack=config.members,
        profile=profile,
        measure=config.pack == "auto" and profile is None,
        cpus=lanes.cpus,
        on_look=observer.looked,
    )


def evaluation(config: BatchConfig, registry: Registry, prompts: tuple[Prompt, ...]) -> Evaluation:
    """What each published version is evaluated by."""
    return Evaluation(
        registry.uri,
        prompts,
        config.seeds,
        steps=config.evaluate_steps,
        clip=config.clip,
        pickscore=config.pickscore,
    )


def strangers(prompts: Sequence[Prompt], entries: Sequence[Entry], most: int = 8) -> str:
    """The concepts of prompts that no entry has, as text; "" for none."""
    known = {name for entry in entries for name in (entry.concept, entry.name)}
    found = sorted({prompt.concept for prompt in prompts if prompt.concept is not None} - known)
    return ", ".join(found[:most]) + (", ..." if len(found) > most else "")


def batch_name(manifest: str) -> str:
    """From the manifest's name. Raises UserError when that gives none."""
    stem = PurePosixPath(manifest.rstrip("/")).name.rsplit(".", 1)[0].lower()
    name = re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-_")[:64]
    if not name:
        raise UserError(f"no name for the batch can be made of {manifest!r}; give --name.")
    return name
