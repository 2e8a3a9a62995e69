"""`motiondirector generate`: makes one video, in this process or on a server, with the same frames."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.setting import configured
from motiondirector.api.generate import GenerateConfig
from motiondirector.api.video import Progress, Video
from motiondirector.cli import ConfigFile
from motiondirector.commands.concepts import DEFAULT_REGISTRY, RegistryUri
from motiondirector.options import add_command


def generate(
    prompt: Annotated[str, typer.Option(help="What the video shows.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The mp4 to write.")] = Path("out.mp4"),
    server: Annotated[str | None, typer.Option(help="URL of a running `motiondirector serve`.")] = None,
    registry: RegistryUri = DEFAULT_REGISTRY,
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """Make one video from a prompt, with a learned motion.

    [bold]Examples[/]

    motiondirector generate --prompt "a blue triangle on a beige background" --concept orbit --seed 7 -o orbit.mp4

    motiondirector generate --prompt "a bear" --concept orbit@2 --scale 0.8 --server http://127.0.0.1:8000

    motiondirector generate --prompt "a bear" --concept orbit --until 0.5

    motiondirector generate --prompt "two birds" --lora orbit:region=0,0,0.5,1 --lora swing:region=0.5,0,1,1

    motiondirector generate --prompt "a bear" --concept orbit --noise-prior 0.3 --prior-clip reference.mp4

    The mp4's metadata says how it was made (`ffprobe -show_format out.mp4`). If the server has API keys, set
    MOTIONDIRECTOR_API_KEY.
    """
    from motiondirector.api.generate import generate as generated

    write_video(
        output,
        lambda bars: generated(
            prompt, configured(GenerateConfig, settings), registry=registry, server=server, on_progress=bars
        ),
    )


def write_video(output: Path, make: Callable[[Progress], Video]) -> None:
    """Make a video while progress bars are shown, write it, and print its warnings and facts.

    Args:
        make: gets the bars.

    Raises UserError, before anything is made, if `output` is a folder.
    """
    from infra.errors import UserError
    from motiondirector.progress import terminal_bars

    if output.is_dir():
        raise UserError(f"-o {output} is a folder; give a file name, such as {output / 'out.mp4'}.")
    started = time.monotonic()
    with terminal_bars() as bars:
        video = make(bars)
    video.save(output)
    for warning in video.warnings:
        typer.echo(f"warning: {warning}", err=True)
    size = len(video.mp4) / 1024
    typer.echo(f"{output}: {video}, {size:.0f} KiB, {time.monotonic() - started:.1f} s")


def register(app: typer.Typer) -> None:
    """Add the command, its settings taken from `GenerateConfig`."""
    add_command(app, "generate", generate, GenerateConfig)
