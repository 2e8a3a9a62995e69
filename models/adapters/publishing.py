"""Prepares any tool's adapter folder for publishing: validates it, folds settings in, adds the foundation.

Servers read a version's weights file alone: they see neither adapter_config.json nor the tool that wrote it.
So before publishing, the settings must be in the weights and the foundation must be in the header.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import InvalidInput
from infra.registry import collect
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
    """The folder to publish and its temporal adapter: the given folder if nothing has to change, else a copy.

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
            check_fits(adapter, foundation, str(folder / ADAPTER_FILES[path]))
    if not unassigned and all(adapter.canonical for adapter in read.values()):
        yield folder, read["temporal"]
        return
    with tempfile.TemporaryDirectory(prefix="motiondirector-publish-") as temporary:
        copy = Path(temporary) / "adapter"
        shutil.copytree(folder, copy)
        if unassigned:
            assert foundation is not None
            written = {
                path: save_adapter(
                    (copy / ADAPTER_FILES[path]).parent, adapter, foundation, metadata={"concept": concept}
                )
                for path, adapter in adopt(read["temporal"], foundation, str(folder)).items()
            }
        else:
            written = {
                path: rewrite((folder / ADAPTER_FILES[path]).parent, (copy / ADAPTER_FILES[path]).parent)
                for path in read
            }
        yield copy, written["temporal"]


def read_all(folder: Path) -> dict[LoraPath, Adapter]:
    """Read every adapter of a folder, validated as far as possible without a foundation.

    Raises NotFound or InvalidInput.
    """
    collect(folder)  # raises unless the folder has a temporal adapter
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
            check_path(str(folder), path, read[path])
    return read
