"""A version's adapters: which files they are in, and which of them the version is used with.

`generate`, the service, evaluations, exports and samples all ask `own_paths`, so a version is the same motion everywhere.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import InvalidInput, UserError
from infra.registry import ADAPTER_FILE, FileEntry, Registry, Version
from models.adapter_config import CONFIG_FILE, check_expressible, is_plain, parse_config

if TYPE_CHECKING:  # the service's ingress asks what a version has, and its process loads no torch
    from models.adapter import Adapter
    from models.foundation import Foundation
    from models.routing import Path as AdapterPath

# The motion is the file that stock tools look for.
ADAPTER_FILES: dict[AdapterPath, str] = {"temporal": ADAPTER_FILE, "spatial": f"spatial/{ADAPTER_FILE}"}
# Methods whose temporal adapter was trained to work without the spatial one, as metadata calls them.
STANDS_ALONE = ("dual", "motiondirector", "no-debias")

_plain: set[str] = set()  # hashes of adapter_config.json that were looked at and leave nothing to fold in


def held(version: Version) -> dict[AdapterPath, FileEntry]:
    """The adapter files of a version, the temporal one first."""
    return {path: version.files[name] for path, name in ADAPTER_FILES.items() if name in version.files}


def own_paths(version: Version) -> tuple[AdapterPath, ...]:
    """The paths whose adapters a version is used with unless a request says otherwise: those it was trained to have.

    All it holds (method coupled has both), but of the dual methods the temporal one alone, which is their point.
    """
    if version.metadata.get("method") in STANDS_ALONE:
        return ("temporal",)
    return tuple(held(version))


def read_own(registry: Registry, version: Version, foundation: Foundation) -> dict[AdapterPath, Adapter]:
    """A version's own adapters, checked against the foundation, PEFT's settings folded in. Raises UserError."""
    from models.adapter import read_adapter

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


def check_path(ref: str, path: AdapterPath, adapter: Adapter) -> None:
    """Raises InvalidInput when the file of one path holds an adapter of the other."""
    if adapter.path != path:
        raise InvalidInput(
            f"{ref}: its file for the {path} path holds a {adapter.path} adapter; publish it again.",
            code="invalid_adapter",
        )


def check_folded(registry: Registry, version: Version, path: AdapterPath) -> None:
    """Raises InvalidInput for a version whose adapter_config.json says something that its file alone does not.

    `concepts publish` folds such settings in; versions from before it did may have them. Who serves reads the file alone.
    Each adapter_config.json is read once.
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
