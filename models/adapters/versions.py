"""A version's files: which hold its adapters, which of them the version uses, and which hold its noise prior.

`generate`, the service, evaluations, exports and samples all ask `own_paths`, so a version is the same
motion everywhere.
"""

from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from infra.errors import InvalidInput, UserError
from infra.registry import ADAPTER_FILE, SPATIAL_FILE, FileEntry, Registry, Version
from models.adapters.config import CONFIG_FILE, check_expressible, is_plain, parse_config
from models.sizes import Bucket

if TYPE_CHECKING:  # the service's ingress imports this module, and its process loads no torch
    from models.adapters.file import Adapter
    from models.foundations.base import Foundation
    from models.lora.routing import LoraPath

Gives = Literal["motion", "appearance"]
# The temporal (motion) adapter is in the file that stock tools look for.
ADAPTER_FILES: dict[LoraPath, str] = {"temporal": ADAPTER_FILE, "spatial": SPATIAL_FILE}
GIVES: dict[LoraPath, Gives] = {"temporal": "motion", "spatial": "appearance"}
# Methods, as in the metadata, whose temporal adapter was trained to work without the spatial one.
STANDS_ALONE = ("dual", "motiondirector", "no-debias")

NOISE_FILE = re.compile(r"noise_prior/([1-9][0-9]{0,4}x[1-9][0-9]{0,4}x[1-9][0-9]{0,4})\.safetensors")
MAX_ABOUT = 500  # characters
MAX_NOISE_BYTES = 256 << 20

_plain: set[str] = set()  # hashes of each adapter_config.json known to need no folding


def adapter_files(version: Version) -> dict[LoraPath, FileEntry]:
    """The adapter files of a version, the temporal one first."""
    return {path: version.files[name] for path, name in ADAPTER_FILES.items() if name in version.files}


def gives(version: Version) -> tuple[Gives, ...]:
    """What a version gives to a video: motion, appearance, or both, for its adapters in this order."""
    return tuple(GIVES[path] for path in adapter_files(version))


def about(version: Version) -> str | None:
    """A sentence on the concept for people, if its publisher wrote one."""
    said = version.metadata.get("about")
    return said if isinstance(said, str) and len(said) <= MAX_ABOUT else None


def preview_file(version: Version) -> str | None:
    """The name of the sample video that shows the concept best: the last of its training."""
    return max((name for name in version.files if name.endswith(".mp4")), default=None)


def fidelity(version: Version) -> float | None:
    """Motion fidelity in looks that it was not trained on, if it was measured before it was published (at most 1)."""
    found: Any = version.metrics
    for key in ("evaluation", "metrics", "motion_fidelity", "scores", "ours", "mean"):
        found = found.get(key) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) and math.isfinite(found) else None


def first_config(version: Version) -> str:
    """The name of the adapter_config.json of its first adapter."""
    return _config_of(ADAPTER_FILES[next(iter(adapter_files(version)))])


def own_paths(version: Version) -> tuple[LoraPath, ...]:
    """The paths whose adapters a version uses by default: those it was trained to have.

    These are all that it holds: of method appearance the spatial one, of method coupled both. The dual
    methods train the temporal adapter to be used alone, so for them it is the temporal path only.
    """
    files = tuple(adapter_files(version))
    return ("temporal",) if version.metadata.get("method") in STANDS_ALONE and "temporal" in files else files


def own_steps(version: Version, path: LoraPath) -> tuple[float, float] | None:
    """The part of the denoising steps in which a version's adapter acts unless a request says otherwise.

    None: in all. It is the training setting `acts_until`, of the temporal adapter alone. Raises InvalidInput if
    the version's metadata is not as a training writes it.
    """
    config = version.metadata.get("config")
    until = config.get("acts_until") if isinstance(config, dict) and path == "temporal" else None
    if until is None:
        return None
    if isinstance(until, bool) or not isinstance(until, int | float) or not 0 < until <= 1:
        raise InvalidInput(
            f"{version.ref}: its metadata has acts_until {until!r}; expected a number above 0, at most 1. Publish it again.",
            code="invalid_adapter",
        )
    return (0.0, float(until))


def noise_file(bucket: Bucket) -> str:
    """The name of the file with a version's noise prior for this size (models/adapters/noise_prior.py)."""
    return f"noise_prior/{bucket}.safetensors"


def noise_of(version: Version, bucket: Bucket) -> FileEntry:
    """The file with a version's noise prior for videos of this size. Raises InvalidInput if it has none."""
    sizes = [found[1] for name in version.files if (found := NOISE_FILE.fullmatch(name))]
    if not sizes:
        raise InvalidInput(
            f"{version.ref} has no noise prior; name a version that was trained with noise_prior (motiondirector train "
            "--noise-prior), or leave noise_prior out.",
            code="noise_prior_missing",
        )
    entry = version.files.get(noise_file(bucket))
    if entry is None:
        raise InvalidInput(
            f"{version.ref} has a noise prior for {' and '.join(sorted(sizes)[:8])} (frames, height, width), but the video is "
            f"{bucket}; request that size, or leave noise_prior out.",
            code="noise_prior_size",
        )
    if entry.size > MAX_NOISE_BYTES:
        raise InvalidInput(
            f"{version.ref} has a noise prior of {entry.size} bytes, but at most {MAX_NOISE_BYTES} are allowed; train it again "
            "with fewer references.",
            code="noise_prior_too_large",
        )
    return entry


def read_own(registry: Registry, version: Version, foundation: Foundation) -> dict[LoraPath, Adapter]:
    """A version's own adapters, checked against the foundation, with settings folded in. Raises UserError."""
    from models.adapters.file import read_adapter

    found = {}
    with tempfile.TemporaryDirectory(prefix="motiondirector-adapter-") as folder:
        for path in own_paths(version):
            place = Path(folder) / path
            place.mkdir()
            name = ADAPTER_FILES[path]
            (place / ADAPTER_FILE).write_bytes(registry.read(version, name))
            if (config := _config_of(name)) in version.files:
                (place / CONFIG_FILE).write_bytes(registry.read(version, config))
            try:
                adapter = read_adapter(place, foundation)
            except UserError as error:
                raise error.reworded(f"{version.ref}: {error.message}") from None
            check_path(version.ref, path, adapter)
            found[path] = adapter
    return found


def check_path(ref: str, path: LoraPath, adapter: Adapter) -> None:
    """Raise InvalidInput if the file of one path holds an adapter of the other."""
    if adapter.path != path:
        raise InvalidInput(
            f"{ref}: the file of its {path} adapter holds a {adapter.path} adapter; publish it again.",
            code="invalid_adapter",
        )


def check_folded(registry: Registry, version: Version, path: LoraPath) -> None:
    """Raise InvalidInput if a version's adapter_config.json says something that its weights file does not.

    `concepts publish` folds such settings in; older versions may still have them. Servers read the
    weights file alone. Each adapter_config.json is read once.
    """
    entry = version.files.get(_config_of(ADAPTER_FILES[path]))
    if entry is None or entry.sha256 in _plain:
        return
    name = _config_of(ADAPTER_FILES[path])
    config = parse_config(version.ref, registry.read(version, name))
    check_expressible(version.ref, config)
    if not is_plain(config):
        raise InvalidInput(
            f"{version.ref} has an {name} whose settings (such as lora_alpha) are not in its weights; publish it again: "
            f"motiondirector concepts pull {version.ref} --to FOLDER, then motiondirector concepts publish FOLDER "
            f"--concept {version.concept}.",
            code="adapter_not_folded",
        )
    _plain.add(entry.sha256)


def _config_of(weights: str) -> str:
    return weights.removesuffix(ADAPTER_FILE) + CONFIG_FILE
