"""Finds a foundation's checkpoint and its family without loading it. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infra.errors import UserError
from infra.paths import ROOT, expanded
from models import families as families  # registers them
from models.family import FAMILIES, FamilySpec
from models.scale.published import PREFIX, published_folder
from models.sizes import Sizes
from models.text import TextLimit

EMBEDDED = ROOT / "assets" / "foundation"


def foundation_name(source: str | Path | None) -> str:
    """The short name for requests: the last part of the path or hub id ("sprites" for the embedded model)."""
    if source is None or str(source) == "sprites":
        return "sprites"
    return str(source).rstrip("/").rsplit("/", 1)[-1].replace(":", "-").lower()


def locate(source: str | Path | None) -> Path:
    """The local folder of a checkpoint: as given, from the hub (or its cache), newly written tiny weights, or
    configurations of a published one without weights (`published:NAME`).

    Raises UserError if there is none.
    """
    if source is None or str(source) == "sprites":
        if not (EMBEDDED / "model_index.json").is_file():
            raise UserError(
                f"the embedded foundation is missing at {EMBEDDED}; check out the whole repository, or give "
                "--foundation PATH_OR_ID."
            )
        return EMBEDDED
    text = str(source)
    if text.startswith("tiny-random:"):
        from models.tiny import tiny_checkpoint

        return tiny_checkpoint(text.removeprefix("tiny-random:"))
    if text.startswith(PREFIX):
        return published_folder(text.removeprefix(PREFIX))
    folder = expanded(text)
    if folder.exists():
        return folder
    if text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise UserError(f"foundation {text!r} is neither a folder here nor a hub id (`owner/name`).")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.yaml"]
    try:
        return Path(snapshot_download(text, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"foundation {text!r} is not on this machine and could not be downloaded from the hub: {reason}"
        ) from None


def family_of(folder: Path, source: str) -> FamilySpec:
    """The family of a checkpoint. Raises UserError if the folder has no pipeline or the family is unknown."""
    index = folder / "model_index.json"
    try:
        class_name = str(json.loads(index.read_text())["_class_name"])
    except (OSError, ValueError, KeyError):
        raise UserError(
            f"{source} is not a diffusers pipeline: its {index.name} is missing or unreadable; give a folder in "
            "diffusers' format."
        ) from None
    if class_name not in FAMILIES:
        raise UserError(
            f"{source} is a {class_name}, which is not supported; expected one of {', '.join(FAMILIES)}.",
            code="unsupported_foundation",
        )
    return FAMILIES[class_name]


def read_recommended(folder: Path) -> dict[str, Any]:
    """The family's recommended settings, and over them the sections of `recommended.yaml` next to the weights.

    The sections are "training", "training_several_clips", "training_appearance" and "generation".
    """
    path = folder / "recommended.yaml"
    own = yaml.safe_load(path.read_text()) or {} if path.is_file() else {}
    return {**family_of(folder, str(folder)).recommended, **own}


def foundation_sizes(source: str | None = None) -> Sizes:
    """The sizes of a foundation, without loading it. Raises UserError if it is not found."""
    folder = locate(source)
    family = family_of(folder, str(source or "the embedded foundation"))
    return family.sizes(folder, foundation_name(source), read_recommended(folder))


def text_limit(source: str | None = None) -> TextLimit:
    """How much of a prompt a foundation reads, without loading it. Raises UserError if it is not found."""
    folder = locate(source)
    family = family_of(folder, str(source or "the embedded foundation"))
    return family.text_limit(folder, foundation_name(source))


@dataclass(frozen=True)
class FoundationFacts:
    """What the settings of a training depend on, without the model. The same names as in `Foundation`."""

    sizes: Sizes
    recommended: dict[str, Any]
    text_limit: TextLimit
    fingerprint: str


def foundation_facts(source: str | None, fingerprint: str) -> FoundationFacts:
    """The facts of a foundation whose fingerprint is known. Raises UserError if it is not found."""
    folder = locate(source)
    return FoundationFacts(
        foundation_sizes(source), read_recommended(folder), text_limit(source), fingerprint
    )
