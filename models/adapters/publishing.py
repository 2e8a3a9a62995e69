"""Prepares any tool's adapter folder for publishing: validates it, folds settings in, adds the foundation.

Servers read a version's weights file alone: they see neither adapter_config.json nor the tool that wrote it.
So before publishing, the settings must be in the weights and the foundation must be in the header.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from infra.errors import InvalidInput
from infra.registry import ADAPTER_FILE, SPATIAL_FILE, collect
from models.adapters.config import CONFIG_FILE, refuse
from models.adapters.file import (
    NO_FOUNDATION,
    Adapter,
    adopt,
    check_fits,
    read_adapter,
    rewrite,
    save_adapter,
)
from models.adapters.versions import ADAPTER_FILES, check_path
from models.foundations.base import Foundation
from models.lora.routing import LoraPath


@contextmanager
def ready_to_publish(
    folder: Path, foundation: Foundation | None, concept: str
) -> Iterator[tuple[Path, Adapter]]:
    """The folder to publish and its temporal adapter, or its spatial one if that is all: the given folder, or a copy.

    It is a copy if something has to change. A folder whose one adapter is spatial, such as `spatial/` of a pulled
    version, becomes a version with that adapter in `spatial/`.

    Args:
        foundation: the model (at least its denoiser) that the adapters must fit; assigned to adapters
            that name none.
        concept: recorded in adapters that name no foundation.

    Raises:
        NotFound, InvalidInput: no adapter, an invalid one, or one without a fingerprint and no
            foundation given.
    """
    read = read_all(folder)
    unassigned = [
        path for path, adapter in read.items() if not adapter.metadata.get("foundation_fingerprint")
    ]
    if unassigned and foundation is None:
        raise refuse(str(folder), NO_FOUNDATION, "foundation_unknown")
    if unassigned and len(read) > 1:
        raise refuse(
            str(folder),
            f"its {unassigned[0]} adapter names no foundation; give a folder with one adapter, whose layers are then "
            "assigned to the paths.",
        )
    prints = {adapter.metadata.get("foundation_fingerprint") for adapter in read.values()}
    if len(prints) > 1:
        raise refuse(
            str(folder), "its two adapters were made for different foundations.", "foundation_mismatch"
        )
    if foundation is not None and not unassigned:
        for path, adapter in read.items():
            check_fits(adapter, foundation, str(folder / ADAPTER_FILES[path]), wide=True)
    moved = set(read) == {"spatial"} and not (folder / SPATIAL_FILE).is_file()
    if not unassigned and not moved and all(adapter.canonical for adapter in read.values()):
        yield folder, first_of(read)
        return
    with tempfile.TemporaryDirectory(prefix="motiondirector-publish-") as temporary:
        copy = Path(temporary) / "adapter"
        shutil.copytree(folder, copy)
        sources = {path: folder if moved else (folder / ADAPTER_FILES[path]).parent for path in read}
        for source in sources.values():  # the adapters are written anew, possibly elsewhere
            for name in (ADAPTER_FILE, CONFIG_FILE):
                (copy / source.relative_to(folder) / name).unlink(missing_ok=True)
        if unassigned:
            assert foundation is not None
            written = {
                path: save_adapter(
                    (copy / ADAPTER_FILES[path]).parent, adapter, foundation, metadata={"concept": concept}
                )
                for path, adapter in adopt(
                    first_of(read), foundation, str(folder), prefer=next(iter(read))
                ).items()
            }
        else:
            written = {
                path: rewrite(source, (copy / ADAPTER_FILES[path]).parent) for path, source in sources.items()
            }
        yield copy, first_of(written)


@contextmanager
def publish_made(
    adapters: Mapping[LoraPath, Adapter], foundation: Foundation, concept: str
) -> Iterator[tuple[Path, Adapter]]:
    """A temporary folder to publish with these adapters of a foundation, and the first of them."""
    with tempfile.TemporaryDirectory(prefix="motiondirector-publish-") as temporary:
        written = {
            path: save_adapter(
                (Path(temporary) / ADAPTER_FILES[path]).parent,
                adapter,
                foundation,
                metadata={"concept": concept},
            )
            for path, adapter in adapters.items()
        }
        yield Path(temporary), first_of(written)


def first_of(adapters: Mapping[LoraPath, Adapter]) -> Adapter:
    """The temporal adapter, or the spatial one if there is no temporal one."""
    return adapters["temporal"] if "temporal" in adapters else adapters["spatial"]


def read_all(folder: Path) -> dict[LoraPath, Adapter]:
    """Read every adapter of a folder, validated as far as possible without a foundation.

    A single adapter in the folder itself may be of either path. Raises NotFound or InvalidInput.
    """
    collect(folder)  # raises unless the folder has an adapter
    read: dict[LoraPath, Adapter] = {}
    for path, name in ADAPTER_FILES.items():
        place = (folder / name).parent
        if not (folder / name).is_file():
            continue
        read[path] = read_adapter(place)
        if not (place / CONFIG_FILE).is_file():
            raise InvalidInput(
                f"{place} has no {CONFIG_FILE}, which stock PEFT needs; give the folder that `motiondirector train` or "
                "PEFT wrote.",
                code="adapter_config_missing",
            )
        if read[path].metadata.get("foundation_fingerprint"):
            if path == "temporal" and not (folder / SPATIAL_FILE).is_file():
                return {read[path].path: read[path]}
            check_path(str(folder), path, read[path])
    return read
