"""`motiondirector train`: trains a motion, or an appearance, and publishes it. Its options are `TrainConfig`'s fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from infra.errors import UserError
from motiondirector.cli import ConfigFile
from motiondirector.commands.concepts import DEFAULT_REGISTRY, RegistryUri
from motiondirector.options import add_command
from training.config import TrainConfig, make_config
from training.runs.job import Watcher

if TYPE_CHECKING:
    from infra.registry import Version


def train(
    ctx: typer.Context,
    concept: Annotated[
        str | None,
        typer.Option(
            help="The concept to train: a name in the clip set, or for an image.", show_default=False
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="The clip set that `motiondirector ingest` wrote: folder or s3://...", show_default=False
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            help="Learn the appearance of this image instead of clips (method appearance).",
            show_default=False,
        ),
    ] = None,
    caption: Annotated[
        str | None, typer.Option(help="With --image: what the image shows.", show_default=False)
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="With --image: also learn the mirrored image.")
    ] = False,
    foundation: Annotated[
        str | None,
        typer.Option(
            help="Model to teach: a folder or hub id in diffusers' format, tiny-random:unet3d, tiny-random:wan.",
            show_default="the embedded sprite model",
        ),
    ] = None,
    registry: RegistryUri = DEFAULT_REGISTRY,
    publish_as: Annotated[
        str | None,
        typer.Option(
            help="Publish under this name, to compare methods on the same clips.", show_default="CONCEPT"
        ),
    ] = None,
    run_dir: Annotated[
        str | None,
        typer.Option(
            help="The run's folder or s3:// prefix. The same command with the same run continues it; with more --steps, "
            "beyond its end.",
            show_default="runs/CONCEPT, or runs/PUBLISH_AS",
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster to train on, such as ray://head:10001 or auto.",
            show_default="one on this machine",
        ),
    ] = None,
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """Teach a model the motion of a concept's clips, and publish it; or an appearance.

    Two adapters are trained: a spatial one learns what the clips look like, so that the temporal one learns only how
    they move. Only the motion is published. With --method appearance, or an image, the appearance is learned and published
    instead.

    [bold]Examples[/]

      motiondirector train --concept car-turn --data clips

      motiondirector train --concept car-turn --data s3://bucket/clips --workers 4 --zero 3 --address auto

      motiondirector train --concept bus --data clips --method appearance

      motiondirector train --concept my-cat --image cat.jpg --caption "a grey cat" --flip

      motiondirector train --config runs/car-turn/config.yaml --run-dir runs/again      [dim](repeats a run)[/]

    If the run is killed, or stopped with Ctrl-C, the same command continues from its last checkpoint. With more --steps,
    the command continues a finished run and publishes the next version (needs schedule constant, the default). Losses and
    samples: tensorboard --logdir runs/car-turn/tensorboard. If samples fail, the command prints a warning and publishes
    the version without them.
    """
    from motiondirector.api.train import run_of
    from motiondirector.api.train import train as trained

    if not concept or not (data or image):
        missing = "--concept NAME" if not concept else "--data URI"
        raise UserError(
            f"{missing} is missing; for example: motiondirector train --concept car-turn --data clips."
        )
    chosen = make_config(settings)
    run_dir = run_dir or run_of(concept, publish_as)
    console = Console()
    with Screen(console, concept, run_dir) as screen:
        version = trained(
            concept, data, chosen, image=image, caption=caption, flip=flip, foundation=foundation, registry=registry,
            publish_as=publish_as, run_dir=run_dir, address=address, watcher=screen,
        )  # fmt: skip
    conclude(console, version, registry, run_dir)


def conclude(console: Console, version: Version, registry: str, run_dir: str) -> None:
    """Print the published version and a command to try it."""
    from models.adapters.versions import gives

    console.print(
        f"published [bold]{version.ref}[/] in {escape(registry)} (sha256 {version.adapter_sha256[:16]}, "
        f"loss {version.metrics.get('loss', float('nan')):.4f}); samples in {escape(run_dir)}/samples",
        soft_wrap=True,
        highlight=False,
    )
    option = "--concept" if "motion" in gives(version) else "--appearance"
    console.print(
        f'try it: motiondirector generate {option} {version.ref} --prompt "..." -o out.mp4', highlight=False
    )


class Screen(Watcher):
    """Shows one progress bar with the loss and the time left, and a line for each finished part, with its seconds."""

    def __init__(self, console: Console, concept: str, run_dir: str) -> None:
        self.console, self.concept, self.run_dir = console, concept, run_dir
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.task: Any = None
        self.parts: dict[str, Any] = {}  # the running parts, possibly several, with their bars

    def __enter__(self) -> Screen:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.progress.stop()
        if kind is KeyboardInterrupt:
            self.console.print("\nstopped; the same command continues from the last checkpoint")

    def _bar(self, text: str, total: int | None, done: int = 0) -> None:
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.task = self.progress.add_task(text, total=total, completed=done, note="")

    def stage(self, text: str) -> None:
        self.parts[text] = self.progress.add_task(f"{self.concept}: {text}", total=None, note="")

    def passed(self, text: str, seconds: float) -> None:
        shown = self.parts.pop(text, None)
        if shown is not None:
            self.progress.remove_task(shown)
        self.progress.console.print(f"{self.concept}: {text}, {seconds:.1f} s", style="dim", highlight=False)

    def note(self, text: str) -> None:
        self.progress.console.print(f"{self.concept}: [yellow]note:[/] {escape(text)}", highlight=False)

    def prepared(self, done: int, total: int) -> None:
        for shown in self.parts.values():
            self.progress.update(shown, completed=done, total=total)

    def started(self, step: int, steps: int, workers: int, device: str) -> None:
        where = f"{workers} worker{'s' if workers > 1 else ''} on {device}"
        going = f"continuing at step {step} of {steps}" if step else f"{steps} steps"
        for shown in self.parts.values():
            self.progress.remove_task(shown)
        self.parts.clear()
        self.progress.console.print(f"{self.concept}: {going}, {where}", highlight=False)
        self._bar(f"{self.concept}", steps, step)

    def stepped(self, report: Mapping[str, Any]) -> None:
        note = f"step {report['step']}/{report['steps']}, loss {report['loss']:.3f} (spatial {report['spatial_loss']:.3f}, temporal {report['temporal_loss']:.3f})"
        self.progress.update(self.task, completed=report["step"], note=note)

    def sampled(self, step: int, keys: Sequence[str]) -> None:
        self.progress.console.print(
            f"{self.concept}: samples of step {step} in {escape(self.run_dir)}/{keys[-1]}",
            highlight=False,
            soft_wrap=True,
        )


def register(app: typer.Typer) -> None:
    """Add the command, its settings taken from `TrainConfig`."""
    add_command(app, "train", train, TrainConfig)
