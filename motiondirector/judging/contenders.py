"""Where contenders come from: a version in the registry, and baselines trained here with the version's own settings.

`evaluate` and `benchmark` bring evaluation and training together through this module; neither room knows the other.
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
from training.adapters import data_sha256
from training.config import LATER, TrainConfig, fixed_settings, make_config, suited_to
from training.runs.inputs import check_captions, pace_of

if TYPE_CHECKING:
    from datasets.clip_sets.clips import Clip
    from models.foundations.base import Foundation

BASE, OURS = "base", "ours"
METHODS: tuple[str, ...] = get_args(TrainConfig.model_fields["method"].annotation)
BASELINES = tuple(method for method in METHODS if method != "dual")
TITLES = {
    "dual": "temporal LoRA of the dual path, debiased",
    "motiondirector": "the paper's own setting",
    "no-debias": "the dual path without debiasing",
    "coupled": "one LoRA pair on whole clips",
    "full": "temporal layers fine-tuned",
    BASE: "no adapter",
}


def parse_against(text: str) -> list[str]:
    """`base,coupled` -> the contenders beside ours, each once; an empty text names none. Raises UserError."""
    names = [name for part in text.split(",") if (name := part.strip())]
    unknown = [name for name in names if name not in (BASE, *BASELINES)]
    if unknown:
        raise UserError(
            f"--against {unknown[0]!r} is no contender; choose among {', '.join((BASE, *BASELINES))}, separated by commas."
        )
    return list(dict.fromkeys(names))


def check_trains(dtype: str | None) -> None:
    """Raises UserError for a precision of the foundation (`--dtype`) in which nothing is trained here."""
    if dtype is not None and parse_dtype(dtype) not in TRAINED:
        raise UserError(
            f"--dtype {dtype}: adapters are trained here, which is done in {' or '.join(TRAINED)}; give one of these."
        )


@dataclass(frozen=True)
class _Said:
    """What a config.yaml may say besides the settings."""

    concept: ConceptName | None = None
    data: str | None = None
    foundation: str | None = None


@dataclass(frozen=True)
class Origin:
    """How a version was trained: what its config.yaml, or else its metadata, says."""

    concept: str
    data: str | None
    foundation: str | None
    settings: dict[str, Any] | None = field(repr=False)

    @classmethod
    def of(cls, registry: Registry, version: Version) -> Origin:
        """Raises UserError when config.yaml is there and not what `train` writes."""
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
        if (
            settings
        ):  # before there were these settings, the first frames of each clip were learned, at any speed
            settings = {"fps": 0.0, "windows": 1} | settings
        return cls(
            concept=str(said.get("concept") or version.metadata.get("concept") or version.concept),
            data=said.get("data"),
            foundation=said.get("foundation"),
            settings=settings or version.metadata.get("config"),
        )


def bucket_of(origin: Origin, foundation: Foundation) -> Bucket:
    """The size the version was trained at, else the foundation's. Raises UserError when it cannot do that size."""
    own, said = foundation.defaults.bucket, origin.settings or {}
    bucket = Bucket(*(said.get(side) or getattr(own, side) for side in ("frames", "height", "width")))
    foundation.check_bucket(bucket)
    return bucket


def other_data(version: Version, source: str, parts: Sequence[Part]) -> list[str]:
    """A note when the clips are not those that the version was trained on: comparisons are then not on equal terms."""
    trained_on = version.metadata.get("data_sha256")
    if trained_on in (None, data_sha256(parts)):
        return []
    return [
        f"the clips at {source} are not those that {version.ref} was trained on (clips or captions changed since, or "
        "another --data): references and baselines are of these."
    ]


def pace_of_origin(origin: Origin, foundation: Foundation) -> Pace:
    """How much of longer and faster clips a version learned. Raises UserError for settings that are none."""
    said = origin.settings or {}
    return pace_of(make_config({name: said[name] for name in LATER if name in said}), foundation)


def read_version_adapters(registry: Registry, version: Version, foundation: Foundation) -> Adapters:
    """The adapters that a version is used with, checked against the foundation. Raises UserError."""
    from models.adapters.versions import read_own

    return {path: adapter.tensors for path, adapter in read_own(registry, version, foundation).items()}


def local_config(settings: dict[str, Any], method: str, foundation: Foundation) -> TrainConfig:
    """The settings of a run, for one process and another method, with as many samples a step.

    Several workers become as many accumulated forwards; what a method has no use for (skip_spatial) is left out; the
    precision is the foundation's, which is loaded.
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
    """A concept trained in this process by `config.method`, or what the store has of it.

    Args:
        source: URI of the clips' set, where their latents are cached.
        on_progress: called with (what, done, total, note); of the training not at all when the store has it.
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
    """The model as it is."""
    return Contender(BASE, TITLES[BASE])


def trained(name: str, adapters: Adapters, config: TrainConfig) -> Contender:
    """A contender trained here, called by its method and steps."""
    steps = f"{config.steps} step{'s' if config.steps > 1 else ''}"
    return Contender(name, f"{TITLES[config.method]}, {steps}", adapters, config.adapter_steps)
