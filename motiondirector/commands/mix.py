"""`motiondirector mix`: one video with the motions and appearances of several concepts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from infra.setting import configured
from motiondirector.api.mix import MixConfig
from motiondirector.cli import ConfigFile
from motiondirector.commands.concepts import DEFAULT_REGISTRY, RegistryUri
from motiondirector.commands.generate import write_video
from motiondirector.options import add_command


def mix(
    prompt: Annotated[str, typer.Option(help="What the video shows.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The mp4 to write.")] = Path("out.mp4"),
    server: Annotated[str | None, typer.Option(help="URL of a running `motiondirector serve`.")] = None,
    registry: RegistryUri = DEFAULT_REGISTRY,
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """Make one video that combines several concepts: the appearance of one with the motion of another, or several motions.

    [bold]Examples[/]

    motiondirector mix --appearance bus --motion orbit --prompt "a bus" --seed 7 -o mixed.mp4

    motiondirector mix --appearance my-cat@2:0.8 --motion orbit --motion swing:0.6 --prompt "a cat"

    It makes the frames that `motiondirector generate` makes with the same adapters.
    """
    from motiondirector.api.mix import mix as mixed

    write_video(
        output,
        lambda bars: mixed(
            prompt, configured(MixConfig, settings), registry=registry, server=server, on_progress=bars
        ),
    )


def register(app: typer.Typer) -> None:
    """Add the command, its settings taken from `MixConfig`."""
    add_command(app, "mix", mix, MixConfig)
