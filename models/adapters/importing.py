"""Makes adapters for a foundation out of other tools' files, of which a model of two experts has two."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from infra.errors import InvalidInput
from models.adapters.file import Adapter, adopt, largest_rank
from models.adapters.layouts import Foreign, read_foreign, wrong_keys
from models.foundations.base import Foundation
from models.lora.routing import LoraPath


@dataclass(frozen=True)
class Imported:
    """Adapters made of other tools' files."""

    adapters: dict[LoraPath, Adapter]
    files: dict[str, Foreign]  # what was read, by file name


def import_files(
    files: Sequence[Path],
    foundation: Foundation,
    *,
    high_noise: Path | None = None,
    low_noise: Path | None = None,
    partial: bool = False,
) -> Imported:
    """Read files of any known layout (layouts.py) as adapters of this foundation.

    Args:
        files: one, or two of a model of two experts, told apart by `high` and `low` in their names.
        high_noise, low_noise: the files of the experts, where the names do not say it. One alone leaves the other expert as
            it is.
        partial: import what can be, though some keys cannot.

    Raises:
        NotFound, InvalidInput: see `read_foreign`; keys that match nothing, unless `partial`.
    """
    given = _by_part(files, high_noise, low_noise, foundation)
    read: dict[str, Foreign] = {}
    tensors: dict[str, tuple[Tensor, Tensor]] = {}
    for part, file in given.items():
        found = read_foreign(file, foundation, part)
        if found.unmatched and not partial:
            raise wrong_keys(file, found.unmatched)
        read[file.name] = found
        tensors.update(found.tensors)
    layouts = " and ".join(sorted({one.layout for one in read.values()}))
    about = {"method": "imported", "layout": layouts, "source": ", ".join(read)}
    adapter = Adapter("temporal", largest_rank(tensors), tensors, about)
    return Imported(adopt(adapter, foundation, ", ".join(read)), read)


def _by_part(
    files: Sequence[Path], high_noise: Path | None, low_noise: Path | None, foundation: Foundation
) -> Mapping[str, Path]:
    """The file of each denoiser."""
    experts = {
        name: file
        for name, file in zip(foundation.experts, (high_noise, low_noise), strict=False)
        if file is not None
    }
    if not foundation.experts:
        if high_noise or low_noise or len(files) != 1:
            raise InvalidInput(
                f"{foundation.name} has one denoiser, so its adapter is one file; give one FILE, without --high-noise and "
                "--low-noise.",
                code="invalid_adapter",
            )
        return {"": files[0]}
    for file in files:
        said = re.findall(r"high|low", file.name, re.IGNORECASE)
        name = f"{said[0].lower()}_noise" if len(set(map(str.lower, said))) == 1 else ""
        if not name or name in experts:
            raise InvalidInput(
                f"{foundation.name} has two experts, and it is not clear which of them {file.name} is for; give it as --high-noise or "
                "--low-noise.",
                code="invalid_adapter",
            )
        experts[name] = file
    if not experts:
        raise InvalidInput("no file was given; give one, or one for each expert.", code="invalid_adapter")
    return {f"{name}.": file for name, file in experts.items()}
