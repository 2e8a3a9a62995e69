"""Combines what several concepts learned in one video: motions, appearances, or both; with the code of `generate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from infra.errors import InvalidInput
from infra.registry import DEFAULT_REGISTRY
from infra.setting import setting
from motiondirector.api.generate import generate
from motiondirector.api.lora import parse_text
from motiondirector.api.video import MOTION, Progress, Video, VideoConfig

if TYPE_CHECKING:
    from models.generation import LoraPath

OPTIONS: dict[LoraPath, str] = {"temporal": "--motion", "spatial": "--appearance"}


def parse(
    path: LoraPath, given: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Entries of the request's `lora`, each with this path. Raises UserError.

    Args:
        given: NAME, NAME@VERSION or NAME:SCALE; what `--lora` takes (motiondirector/api/lora.py) works as well.
    """
    several = [given] if isinstance(given, str | Mapping) else given
    return [of_path(path, one) for one in several]


def of_path(path: LoraPath, one: str | Mapping[str, Any]) -> dict[str, Any]:
    """One adapter as an entry. Raises InvalidInput if it names another path."""
    entry = dict(one) if isinstance(one, Mapping) else parse_text(with_key(one), OPTIONS[path])
    if entry.get("path", path) != path:
        other = next((option for of, option in OPTIONS.items() if of == entry["path"]), "another option")
        raise InvalidInput(
            f"{OPTIONS[path]} {entry.get('name')}: it takes the {path} adapter, not path {entry['path']!r}; leave path out, or "
            f"use {other}."
        )
    return {**entry, "path": path}


def with_key(text: str) -> str:
    """`NAME:0.6` as `NAME:scale=0.6`; any other text unchanged."""
    name, colon, rest = text.partition(":")
    plain = colon and "=" not in text and not text.lstrip().startswith("{")
    return f"{name}:scale={rest}" if plain else text


class MixConfig(VideoConfig):
    """What is mixed, and how the video is made: the options of `motiondirector mix`. None: the model's default."""

    motion: Annotated[list[dict[str, Any]], BeforeValidator(partial(parse, "temporal"))] = setting(
        [],
        MOTION,
        "A concept whose motion is used: NAME, NAME@VERSION or NAME:SCALE, such as orbit:0.6; repeatable.",
    )
    appearance: Annotated[list[dict[str, Any]], BeforeValidator(partial(parse, "spatial"))] = setting(
        [],
        MOTION,
        "A concept whose appearance is used, written like a motion; repeatable. Its scale is 0.5 unless given: at 1 it would hold "
        "the object in its place, whatever the motion. `motiondirector train --method appearance` makes one.",
    )

    @property
    def adapters(self) -> list[tuple[dict[str, Any], str]]:
        from models.generation import APPEARANCE_SCALE

        usual = {"scale": APPEARANCE_SCALE} if self.motion else {}
        return [
            (entry, f"{OPTIONS[entry['path']]} {entry.get('name')}: ")
            for entry in (*self.motion, *({**usual, **one} for one in self.appearance))
        ]

    @property
    def whose_noise(self) -> str | None:
        return self.prior_concept or (self.motion[0].get("name") if self.motion else None)


def check_count(config: MixConfig) -> None:
    """Raise InvalidInput unless two or more are mixed, and no more than a video can use."""
    from serving.schemas import MAX_LORA

    count = len(config.motion) + len(config.appearance)
    if count < 2:
        raise InvalidInput(
            f"a mix needs two concepts or more, and {count} is given; give --motion and --appearance, each repeatable, or use "
            "`motiondirector generate` for one."
        )
    if count > MAX_LORA:
        raise InvalidInput(
            f"{count} of --motion and --appearance are given, but a video uses at most {MAX_LORA}; leave some out."
        )


def mix(
    prompt: str,
    config: MixConfig,
    *,
    registry: str = DEFAULT_REGISTRY,
    server: str | None = None,
    on_progress: Progress = lambda what, done, total, note: None,
) -> Video:
    """Make one video that combines the motions and appearances of several concepts.

        mix("a red bus", MixConfig(appearance="bus", motion=["orbit", "swing:0.6"], seed=7))

    Args:
        prompt: what the video shows.
        config: motions, appearances, seed, size, model and more; the command's options.
        registry, server, on_progress: as in `motiondirector.generate`.

    Raises:
        UserError: as `generate`, for fewer than two of them, and for a concept without an adapter of that path.
    """
    check_count(config)
    return generate(prompt, config, registry=registry, server=server, on_progress=on_progress)
