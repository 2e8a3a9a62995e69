"""Provides contenders: a version in the registry, and baselines trained here with the version's own settings.

`evaluate` and `benchmark` connect evaluation and training through this module; these packages do not import each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import yaml

from datasets.clip_sets.parts import Pace, Part, all_parts
from evaluation.evaluate import Contender
from evaluation.store import Adapters, Store, key_of
from infra.errors import UserError
from infra.registry import Registry, Version
from infra.rows import NOT_YAML
from infra.storage.stored import ConceptName, convert
from models.dtypes import TRAINED, parse_dtype, short_dtype
from models.sizes import Bucket
from training.config import LATER, TrainConfig, fixed_settings, make_config
from training.described import data_sha256
from training.methods import WITHOUT_TEMPORAL_PASS, suited_to
from training.runs.inputs import check_captions, pace_of

if TYPE_CHECKING:
    from datasets.clip_sets.clips import Clip
    from models.foundations.base import Foundation

BASE, OURS = "base", "ours"
METHODS: tuple[str, ...] = get_args(TrainConfig.model_fields["method"].annotation)
# Methods to compare a motion with: they learn one, too.
BASELINES = tuple(method for method in METHODS if method not in ("dual", *WITHOUT_TEMPORAL_PASS))
TITLES = {
    "dual": "temporal LoRA of the dual path, debiased",
    "motiondirector": "the paper's own setting",
    "no-debias": "the dual path without debiasing",
    "coupled": "one LoRA pair on whole clips",
    "full": "temporal layers fine-tuned",
    BASE: "no adapter",
}


def parse_against(text: str) -> list[str]:
    """`base,coupled` -> the contenders beside ours, without duplicates; "" gives none. Raises UserError."""
    names = [name for part in text.split(",") if (name := part.strip())]
    unknown = [name for name in names if name not in (BASE, *BASELINES)]
    if unknown:
        raise UserError(
            f"--against {unknown[0]!r} is not a contender; choose from {', '.join((BASE, *BASELINES))}, separated by commas."
        )
    return list(dict.fromkeys(names))


def check_trains(dtype: str | None) -> None:
    """Raises UserError for a precision of the foundation (`--dtype`) that cannot be used for training."""
    if dtype is not None and parse_dtype(dtype) not in TRAINED:
        raise UserError(
            f"--dtype {dtype}: adapters are trained here, which needs {' or '.join(TRAINED)}; use one of these."
        )


@dataclass(frozen=True)
class _Said:
    """The fields of a config.yaml besides the settings."""

    concept: ConceptName | None = None
    data: str | None = None
    foundation: str | None = None


@dataclass(frozen=True)
class Origin:
    """How a version was trained, from its config.yaml or else its metadata."""

    concept: str
    data: str | None
    foundation: str | None
    settings: dict[str, Any] | None = field(repr=False)

    @classmethod
    def of(cls, registry: Registry, version: Version) -> Origin:
        """Read the origin of a version. Raises UserError if its config.yaml is not one that `train` writes."""
        said: dict[str, Any] = {}
        if "config.yaml" in version.files:
            try:
                loaded = yaml.safe_load(registry.read(version, "config.yaml"))
                convert(_Said, loaded)
            except NOT_YAML as error:  # Damaged among them
                reason = " ".join(str(error).split())[:200]
                raise UserError(
                    f"config.yaml of {version.ref} is not what `train` writes ({reason}); publish the version again."
                ) from None
            said = loaded
        settings = {key: value for key, value in said.items() if key in TrainConfig.model_fields}
        if settings:
            # Before these settings existed, the first frames of each clip were learned, at any speed.
            settings = {"fps": 0.0, "windows": 1} | settings
        return cls(
            concept=str(said.get("concept") or version.metadata.get("concept") or version.concept),
            data=said.get("data"),
            foundation=said.get("foundation"),
            settings=settings or version.metadata.get("config"),
        )


def bucket_of(origin: Origin, foundation: Foundation) -> Bucket:
    """The size that the version was trained at, else the foundation's. Raises UserError if it is not supported."""
    own, said = foundation.defaults.bucket, origin.settings or {}
    bucket = Bucket(*(said.get(side) or getattr(own, side) for side in ("frames", "height", "width")))
    foundation.check_bucket(bucket)
    return bucket


def other_data(version: Version, source: str, parts: Sequence[Part]) -> list[str]:
    """A note if the clips differ from those that the version was trained on, because comparisons are then not fair."""
    trained_on = version.metadata.get("data_sha256")
    if trained_on in (None, data_sha256(parts)):
        return []
    return [
        f"the clips at {source} are not those that {version.ref} was trained on (clips or captions have changed, or "
        "--data names another set); references and baselines use the clips that are there now."
    ]


def pace_of_origin(origin: Origin, foundation: Foundation) -> Pace:
    """The frame rate and number of windows that a version was trained with. Raises UserError for invalid settings."""
    said = origin.settings or {}
    return pace_of(make_config({name: said[name] for name in LATER if name in said}), foundation)


def read_version_adapters(registry: Registry, version: Version, foundation: Foundation) -> Adapters:
    """A version's adapters for generation, checked against the foundation. Raises UserError."""
    from models.adapters.versions import read_own

    return {path: adapter.tensors for path, adapter in read_own(registry, version, foundation).items()}


def local_config(settings: dict[str, Any], method: str, foundation: Foundation) -> TrainConfig:
    """A run's settings for one process and another method, with the same number of samples per step.

    Several workers become the same number of accumulated forwards. Settings without meaning for the method (such as
    skip_spatial) are left out. The precision is that of the loaded foundation.
    """
    config = make_config(settings)
    workers = config.worker_range[0]
    own = short_dtype(str(foundation.dtype))
    changed: dict[str, Any] = {
        "method": method,
        "workers": 1,
        "zero": 0,
        "gradient_accumulation": config.gradient_accumulation * workers,
        "dtype": own if own in TRAINED else config.dtype,
    }
    return make_config({**suited_to(method, config.model_dump()), **changed})


def train_from_clips(
    foundation: Foundation,
    concept: str,
    clips: Sequence[Clip],
    source: str,
    bucket: Bucket,
    config: TrainConfig,
    store: Store,
    on_progress: Callable[..., None],
) -> Adapters:
    """Train a concept in this process with `config.method`, or return its adapters from the store.

    Args:
        source: URI of the clip set, where latents are cached.
        on_progress: called with (what, done, total, note); not called for adapters from the store.
    """
    from datasets.clip_sets.latents import LatentCache, prepare
    from infra.storage import open_storage
    from training.runs.local import train_local

    pace = pace_of(config, foundation)
    key = key_of(
        concept=concept,  # its name is part of every draw
        data=data_sha256(all_parts(clips, bucket, pace)),
        bucket=str(bucket),
        settings=fixed_settings(config),
        foundation=foundation.fingerprint,
    )
    found = store.adapters(key)
    if found is not None:
        return found
    check_captions(clips)
    cache = LatentCache(open_storage(source))
    cached = prepare(
        clips,
        foundation,
        bucket,
        cache,
        pace=pace,
        looks=config.looks,
        on_progress=lambda done, total: on_progress("latents", done, total),
    )
    adapters = train_local(
        foundation,
        concept,
        cached,
        config,
        on_step=lambda report: on_progress(
            f"training {config.method}", report.step, report.steps, f"loss {report.loss:.3f}"
        ),
    )
    store.put_adapters(key, adapters)
    return adapters


def base() -> Contender:
    """The model without adapters."""
    return Contender(BASE, TITLES[BASE])


def trained(name: str, adapters: Adapters, config: TrainConfig) -> Contender:
    """A contender trained here, titled by its method and steps."""
    steps = f"{config.steps} step{'s' if config.steps > 1 else ''}"
    return Contender(name, f"{TITLES[config.method]}, {steps}", adapters, config.adapter_steps)
