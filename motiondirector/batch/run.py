"""Trains, publishes and evaluates a manifest's concepts: `motiondirector train-batch` as a function."""

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
    """Receives a batch's events. This base class ignores them; the command line's subclass shows them."""

    def warned(self, text: str) -> None:
        """A warning about the inputs."""

    @contextmanager
    def measuring_here(self) -> Iterator[Bars]:
        """This device is measured during the block; yields bars for the progress."""
        yield no_bars()

    def planned(self, plan: Plan, name: str, remarks: Mapping[str, Sequence[str]]) -> None:
        """The plan of the batch with this name. Remarks, by concept: parts of clips and captions that are not learned."""

    @contextmanager
    def working(self) -> Iterator[None]:
        """Concepts are trained during the block."""
        yield

    def updated(self, records: Sequence[Record], lanes: Sequence[LaneState]) -> None:
        """The state of the batch, about every second; called from another thread."""


@dataclass(frozen=True)
class BatchResult:
    """The result of a batch.

    Args:
        name: the batch's name for `motiondirector runs`.
        records: one per concept; empty for a dry run.
        evaluations: by concept {"version", "scores": {title: mean}, "error": None or why, "seconds"}.
    """

    name: str
    plan: Plan
    records: Sequence[Record] = ()
    evaluations: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    on_ray: bool = False

    @property
    def published(self) -> dict[str, str]:
        """The version of each published concept, such as "orbit@1"."""
        return {record.name: record.version for record in self.records if record.version}

    @property
    def failed(self) -> dict[str, str]:
        """The reason of each concept that failed."""
        return {record.name: record.reason or "" for record in self.records if record.status == "failed"}

    @property
    def not_ended(self) -> list[str]:
        """Concepts that were not trained: they ask for several workers, and the only lane is this process."""
        return [record.name for record in self.records if not record.ended]


def train_batch(
    manifest: str,
    config: BatchConfig | None = None,
    *,
    registry: str = DEFAULT_REGISTRY,
    dry_run: bool = False,
    observer: BatchObserver | None = None,
) -> BatchResult:
    """Train many concepts on one resident model, several in one forward, and publish each when it ends.

    Called again, it continues where it was stopped. Several processes or machines can call it at once and share the work.

    Args:
        manifest: a .yaml, .jsonl, .csv or .tsv file, or a clip set: every concept in it.
        config: settings of all concepts, lanes, evaluation; the command's options.
        registry: folder or s3:// URI; the state of the batch is in the same storage.
        dry_run: make the plan and stop.
        observer: receives progress callbacks.

    Returns:
        The plan and the result of each concept. A concept that failed is in `failed` and does not stop the others.

    Raises:
        UserError: all mistakes in the manifest or the options, in one message, before anything is written; or the storage
            stays unavailable.
    """
    config, observer = config or BatchConfig(), observer or BatchObserver()
    prompts = () if config.prompts is None else tuple(read_prompts(config.prompts))
    entries, mistakes = read_entries(manifest, config.defaults)
    if unknown := unknown_concepts(prompts, entries):
        observer.warned(f"{config.prompts} has prompts for concepts that are not in the batch: {unknown}")
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
                    watcher=observer, show_batch=observer.updated,
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
    """Train on lanes on the cluster of the current session."""
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
        show_batch=observer.updated,
    )


def evaluation(config: BatchConfig, registry: Registry, prompts: tuple[Prompt, ...]) -> Evaluation:
    """The evaluation of each published version."""
    return Evaluation(
        registry.uri,
        prompts,
        config.seeds,
        steps=config.evaluate_steps,
        clip=config.clip,
        pickscore=config.pickscore,
    )


def unknown_concepts(prompts: Sequence[Prompt], entries: Sequence[Entry], most: int = 8) -> str:
    """The prompts' concepts that are in no entry, as text; "" for none."""
    known = {name for entry in entries for name in (entry.concept, entry.name)}
    found = sorted({prompt.concept for prompt in prompts if prompt.concept is not None} - known)
    return ", ".join(found[:most]) + (", ..." if len(found) > most else "")


def batch_name(manifest: str) -> str:
    """The batch's name, made from the manifest's. Raises UserError if that is not possible."""
    stem = PurePosixPath(manifest.rstrip("/")).name.rsplit(".", 1)[0].lower()
    name = re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-_")[:64]
    if not name:
        raise UserError(f"a name for the batch cannot be made from {manifest!r}; give --name.")
    return name
