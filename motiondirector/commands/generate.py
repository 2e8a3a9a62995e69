"""`motiondirector generate`: one video, in this process or from a server; the same frames either way."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motiondirector.cli import ConfigFile
from motiondirector.options import option_for
from serving.config import ServeConfig, make_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving.schemas import CreateVideo


def generate(
    prompt: Annotated[str, typer.Option(help="What to show.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The mp4 to write.")] = Path("out.mp4"),
    concept: Annotated[
        str | None, typer.Option(help="Motion to use: NAME (its latest version) or NAME@VERSION.")
    ] = None,
    scale: Annotated[float, typer.Option(help="How much of the motion: 1 as trained, 0 none.")] = 1.0,
    until: Annotated[
        float,
        typer.Option(
            help="The motion acts in this first part of the denoising steps: 0.5 the first half, 1 all."
        ),
    ] = 1.0,
    appearance: Annotated[
        str | None, typer.Option(help="Appearance to use: NAME or NAME@VERSION (its spatial adapter).")
    ] = None,
    appearance_scale: Annotated[float, typer.Option(help="How much of the appearance.")] = 1.0,
    appearance_until: Annotated[
        float, typer.Option(help="The appearance acts in this first part of the denoising steps.")
    ] = 1.0,
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same video. Absent: drawn and printed.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. Absent: the model's default.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="How closely to follow the prompt.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to stay away from.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels.")] = None,
    frames: Annotated[int | None, typer.Option(help="Length in frames.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="For example ddim, dpm++ or flow-euler.")] = None,
    server: Annotated[str | None, typer.Option(help="URL of a running `motiondirector serve`.")] = None,
    registry: Annotated[
        str,
        typer.Option(help="Registry of the concepts (without --server).", envvar="MOTIONDIRECTOR_REGISTRY"),
    ] = "runs/registry",
    foundation: Annotated[
        str | None, typer.Option(help="Model folder or hub id (without --server). Absent: the embedded one.")
    ] = None,
    device: Annotated[str | None, option_for(ServeConfig, "device", panel=False)] = None,
    dtype: Annotated[str | None, option_for(ServeConfig, "dtype", panel=False)] = None,
    config: ConfigFile = None,
) -> None:
    """Make one video from a prompt, with a learned motion.

    [bold]Examples[/]

    motiondirector generate --prompt "a blue triangle on a beige background" --concept orbit --seed 7 -o orbit.mp4

    motiondirector generate --prompt "a bear" --concept orbit@2 --scale 0.8 --server http://127.0.0.1:8000

    motiondirector generate --prompt "a bear" --concept orbit --until 0.5

    The mp4's metadata says what made it (`ffprobe -show_format out.mp4`). With a server that has API keys, set
    MOTIONDIRECTOR_API_KEY.
    """
    from infra.errors import UserError
    from infra.storage import atomic_file

    if output.is_dir():
        raise UserError(f"-o {output} is a folder; give a file name, such as {output / 'out.mp4'}.")
    motion: dict[str, Any] = {"scale": scale, "until": until}
    as_trained = scale == until == 1.0
    look = {"scale": appearance_scale, "until": appearance_until, "path": "spatial"}
    body = read_body(
        model=f"foundation:{concept}" if concept and as_trained else "foundation",
        prompt=prompt,
        seed=seed,
        steps=steps,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        size=size,
        frames=frames,
        scheduler=scheduler,
        lora=[
            *([{"name": concept, **motion}] if concept and not as_trained else []),
            *([{"name": appearance, **look}] if appearance else []),
        ],
    )
    started = time.monotonic()
    if server:
        mp4, made, warnings = from_server(body, server)
    else:
        mp4, made, warnings = in_process(
            body, registry=registry, foundation=foundation, device=device, dtype=dtype
        )
    with atomic_file(output) as temporary:
        temporary.write_bytes(mp4)
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{output}: {made}, {len(mp4) / 1024:.0f} KiB, {time.monotonic() - started:.1f} s")


def read_body(**fields: Any) -> CreateVideo:
    """The request, checked as a server would. Raises UserError."""
    from pydantic import ValidationError

    from infra.errors import InvalidInput
    from serving.schemas import CreateVideo

    try:
        return CreateVideo(**{name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        option = option_of(first["loc"], fields["lora"])
        reason = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"{option}: {reason}.") from None


def option_of(field: tuple[int | str, ...], lora: list[dict[str, Any]]) -> str:
    """The option that a field of the request comes from; an entry of `lora` is the motion or the appearance."""
    if not field:  # what is wrong is no field's alone
        return "the request"
    if field[0] != "lora":
        return "--" + "-".join(str(part) for part in field).replace("_", "-")
    _, number, name = field
    whose = "appearance" if lora[int(number)].get("path") == "spatial" else "concept"
    if name == "name":
        return f"--{whose}"
    return f"--{name}" if whose == "concept" else f"--appearance-{name}"


def from_server(body: CreateVideo, url: str) -> tuple[bytes, str, list[str]]:
    """Through the API; Ctrl-C cancels the job."""
    from serving.client import Client
    from serving.keys import API_KEY_VARIABLE

    with Client(url, api_key=os.environ.get(API_KEY_VARIABLE)) as client:
        job = client.create(body)
        try:
            with bar("waiting") as update:
                video = client.wait(
                    job.id, lambda video: update(video.progress, 100, video.status.replace("_", " "))
                )
        except KeyboardInterrupt:
            client.cancel(job.id)
            raise
        mp4 = client.content(video.id)
    made = f"{video.model}, seed {video.seed}, {video.steps} steps, {video.size}, {video.frames} frames"
    return mp4, made, video.warnings


def in_process(body: CreateVideo, **settings: Any) -> tuple[bytes, str, list[str]]:
    """With the model loaded here."""
    from infra.files import cache_folder
    from serving.local import generate as make
    from serving.requests import names_of

    config = make_config(data_dir=str(cache_folder()), max_batch=1, **settings)
    with bar("loading the model") as update:
        mp4, request = make(body, config, lambda step, steps: update(step, steps, "denoising"))
    used = " + ".join(names_of(request.adapters)) or "foundation"
    size = f"{request.width}x{request.height}, {request.frames} frames"
    return mp4, f"{used}, seed {request.seed}, {request.steps} steps, {size}", list(request.warnings)


class bar:
    """A progress bar on stderr: `with bar("loading") as update: update(done, total, what)`."""

    def __init__(self, what: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(what, total=None)

    def __enter__(self) -> Callable[[float, float, str], None]:
        self._progress.start()
        return self._update

    def _update(self, done: float, total: float, what: str) -> None:
        self._progress.update(self._task, completed=done, total=total, description=what)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def register(app: typer.Typer) -> None:
    """Add `generate` to the command line."""
    app.command()(generate)
