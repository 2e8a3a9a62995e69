"""Reads the adapters of `motiondirector generate --lora`, each an entry of `lora` as over HTTP.

orbit@2:scale=0.8,steps=0-0.5,region=0.5,0,1,1     # NAME:KEY=VALUE,...; a box of fractions
orbit:scale=1,0.5,region=mask.mp4                  # a scale per phase; a mask, or a YAML file with keyframes
{"name": "orbit", "region": {"box": [0.5, 0, 1, 1]}}   # the entry itself, in Python or a file of --config
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator

from infra.errors import InvalidInput
from infra.paths import as_written, expanded
from infra.rows import NOT_YAML

KEYS = ("scale", "steps", "path", "region", "feather", "unit")
EXAMPLE = "orbit:scale=0.8,steps=0-0.5,region=0.5,0,1,1"
TABLES = (".yaml", ".yml", ".json")
MAX_TABLE = 1 << 20  # bytes of such a file


def parse_lora(given: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Texts and entries as entries. A file that `region` names is read later (`with_region`). Raises UserError."""
    several = [given] if isinstance(given, str | Mapping) else given
    return [parse_text(one) if isinstance(one, str) else dict(one) for one in several]


def parse_text(text: str, option: str = "--lora") -> dict[str, Any]:
    """`NAME:KEY=VALUE,...`, or the JSON of an entry; `option` is named in errors. Raises UserError."""
    said = f"{option} {text!r}"
    if text.lstrip().startswith("{"):
        try:
            return dict(json.loads(text))
        except ValueError:
            raise InvalidInput(f"{said} is no JSON; write it as in {EXAMPLE}.") from None
    name, _, rest = text.partition(":")
    entry: dict[str, Any] = {"name": name.strip()}
    values: dict[str, str] = {}
    for part in rest.split(",") if rest else ():
        key, equals, value = part.partition("=")
        if equals and key.strip() not in KEYS:
            raise InvalidInput(
                f"{said}: {key.strip()!r} is none of {', '.join(KEYS)}; write it as in {EXAMPLE}."
            )
        if equals:
            last = key.strip()
            values[last] = value
        elif values:
            values[last] += f",{part}"  # a further number of a list
        else:
            raise InvalidInput(f"{said}: {part!r} is not KEY=VALUE; write it as in {EXAMPLE}.")
    if "scale" in values:
        scales = numbers(values["scale"], ",", said)
        entry["scale"] = scales[0] if len(scales) == 1 else scales
    if "steps" in values:
        entry["steps"] = numbers(values["steps"], "-", said)
    if "path" in values:
        entry["path"] = values["path"].strip()
    if "region" in values:
        entry["region"] = region_of(values["region"])
    edge: dict[str, Any] = {}
    if "feather" in values:
        widths = numbers(values["feather"], ",", said)
        edge["feather"] = (
            widths[0] if len(widths) == 1 else widths
        )  # several are refused with the rest of the region
    if "unit" in values:
        edge["unit"] = values["unit"].strip()
    if edge and "region" not in entry:
        raise InvalidInput(f"{said}: {' and '.join(edge)} needs a region; write it as in {EXAMPLE}.")
    if edge:
        shape = entry["region"] if isinstance(entry["region"], dict) else {"file": entry["region"]}
        entry["region"] = {**shape, **edge}
    return entry


def numbers(text: str, separator: str, said: str) -> list[float]:
    """The numbers of a value; `said` is what errors begin with. Raises UserError."""
    try:
        return [float(part) for part in text.split(separator)]
    except ValueError:
        raise InvalidInput(f"{said}: {text!r} is not made of numbers; write it as in {EXAMPLE}.") from None


def region_of(value: str) -> dict[str, Any] | str:
    """Four numbers as a box, more as corners of a polygon; else the name of a file."""
    try:
        given = [float(part) for part in value.split(",")]
    except ValueError:
        return value.strip()
    if len(given) <= 4:
        return {"box": given}
    return {"polygon": [given[at : at + 2] for at in range(0, len(given), 2)]}


Lora = Annotated[list[dict[str, Any]], BeforeValidator(parse_lora)]


def with_region(entry: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """An entry whose region's file has been read, and notes about it. Raises UserError."""
    region = entry.get("region")
    if isinstance(region, str):
        region = {"file": region}
    if not isinstance(region, Mapping) or "file" not in region:
        return entry, []
    rest = {key: value for key, value in region.items() if key != "file"}
    shape, notes = read_region(as_written(expanded(str(region["file"]))))
    return {**entry, "region": {**shape, **rest}}, notes


def read_region(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A region's fields from a YAML or JSON file, or a mask from a picture or video; and notes. Raises UserError."""
    if path.suffix.lower() not in TABLES:
        return read_mask(path)
    try:
        if (size := path.stat().st_size) > MAX_TABLE:
            raise InvalidInput(
                f"region {path} has {size >> 20} MB, more than the {MAX_TABLE >> 20} MB that a file of a region may have; give box, "
                "polygon or keyframes alone."
            )
        loaded = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InvalidInput(f"region {path}: cannot be read ({error.strerror}); give a file.") from None
    except (UnicodeDecodeError, *NOT_YAML) as error:
        raise InvalidInput(f"region {path} is no YAML: {' '.join(str(error).split())[:200]}.") from None
    if not isinstance(loaded, dict):
        raise InvalidInput(f"region {path} holds no fields; expected box, polygon or keyframes.")
    return loaded, []


def read_mask(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A picture or video as a mask (white is inside), made smaller if a request cannot hold it; and notes."""
    import numpy as np
    from PIL import Image

    from datasets.ingest.masks import open_mask
    from models.regions.masks import MAX_FRAMES, Unusable, decode_masks, encode_masks, fits, greys

    video = open_mask(path, f"region {path}")
    if video.num_frames > MAX_FRAMES:
        raise InvalidInput(
            f"region {path}: the mask has {video.num_frames} frames; give one picture, or one frame for each of the video."
        )
    width, height = video.width, video.height
    while not fits(video.num_frames, height, width):  # frames of a large video are made smaller one by one
        width, height = width // 2, height // 2
    grey_FHW = np.stack(
        [
            np.asarray(Image.fromarray(greys(frame_HWC)).resize((width, height), Image.Resampling.BOX))
            for frame_HWC in video.frames(range(video.num_frames))
        ]
    )
    try:
        images = encode_masks(grey_FHW)
    except Unusable as error:
        raise InvalidInput(f"region {path}: {error}.") from None
    _, h, w = decode_masks(images[:1]).shape
    small = [
        f"region {path}: the mask was reduced from {video.width}x{video.height} to {w}x{h} to fit into a request."
    ]
    return {"mask": images}, small if (h, w) != (video.height, video.width) else []
