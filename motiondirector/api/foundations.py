"""What foundations there are, what one is, and docs/foundations.md, which is written from that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader

if TYPE_CHECKING:
    from models.foundations.facts import FoundationFacts

TEMPLATES = Path(__file__).resolve().parent


def describe(source: str | None = None) -> FoundationFacts:
    """What a foundation is. Reads its configurations, no weights. Raises UserError as `load_foundation` does."""
    from models.foundations.facts import facts_of
    from models.load import load_foundation

    return facts_of(load_foundation(source, parts=(), device="cpu"))


def combine(base: str, motion: str, folder: str | Path, *, dtype: str = "fp32") -> Path:
    """Write an AnimateDiff foundation from a Stable Diffusion 1.5 checkpoint and a motion adapter.

    Args:
        base, motion: folders in diffusers' format, or hub ids.
        dtype: of the weights written.

    Raises:
        UserError: a folder of another kind, parts that do not fit each other, or a place that is taken.
    """
    from infra.paths import expanded
    from models.foundations.unets.combine import combine as write
    from models.load import torch_dtype
    from models.locating import locate

    return write(locate(base), locate(motion), expanded(str(folder)), torch_dtype(dtype))


def page() -> str:
    """docs/foundations.md."""
    from models.family import FAMILIES
    from models.locating import family_of, locate
    from models.tiny import RECIPES

    tiny: dict[str, list[str]] = {}
    for name in RECIPES:
        family = family_of(locate(f"tiny-random:{name}"), name).name
        tiny.setdefault(family, []).append(f"tiny-random:{name}")
    families: list[dict[str, Any]] = []
    for spec in sorted(FAMILIES.values(), key=lambda spec: spec.name):
        facts = describe(tiny[spec.name][0])
        families.append({"spec": spec, "facts": facts, "tiny": tiny[spec.name], "layers": _layers(facts)})
    templates = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True)
    return templates.get_template("foundations.j2").render(families=families).rstrip() + "\n"


def _layers(facts: FoundationFacts) -> str:
    spatial, temporal = (
        ", ".join(f"`{name}`" for name in facts.layers[path]) for path in ("spatial", "temporal")
    )
    if facts.same_layers:
        return (
            f"the same layers on both paths, which differ in what they learn from: {spatial} of every block"
        )
    return f"separate layers: of pictures {spatial}, over time {temporal}"
