"""`motiondirector sprites`: renders and measures clips of the sprite world, and trains and tests its foundation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.errors import UserError
from infra.setting import configured
from motiondirector.cli import ConfigFile
from motiondirector.commands.concepts import DEFAULT_REGISTRY, RegistryUri
from motiondirector.options import add_command
from motiondirector.sprites.config import PretrainConfig, RenderConfig, TraceConfig
from motiondirector.sprites.style import in_words

sprites = typer.Typer(
    help="A rendered world where motion and appearance are known exactly; the embedded foundation was trained on it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
# Units of errors that are not in pixels, by the beginnings of their names.
UNITS = {"grain": "grey levels", "tint": "of the tint's colour", "drift": "frame widths"}


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(sprites, name="sprites")


@sprites.command("list")
def list_world() -> None:
    """List shapes, colours, backgrounds, and known and novel motions with their words."""
    from datasets.sprites import camera, motions, world

    console = Console()
    appearance = Table(title="Appearance", show_header=False)
    for name, words in (
        ("shapes", world.SHAPES),
        ("colours", world.COLOURS),
        ("textures", world.TEXTURES),
        ("sizes", world.SIZES),
        ("background colours", world.BACKGROUND_COLOURS),
        ("background kinds", world.BACKGROUND_KINDS),
    ):
        appearance.add_row(name, ", ".join(words))
    console.print(appearance)
    table = Table(
        "set", "motion", "words", title="Motions (the foundation was trained only on the known ones)"
    )
    groups = (("known", motions.KNOWN), ("novel", motions.NOVEL), ("camera", camera.CAMERA))
    for label, group in groups:
        for motion in group.values():
            table.add_row(label, motion.name, ", ".join(motion.phrases[:3]))
    console.print(table)


def render(
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The clip: an .mp4 file.")] = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder for a set of clips and the captions.csv that `ingest` takes.")
    ] = None,
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """Draw reference clips of a motion: one clip, or one motion in several appearances.

    A trajectory file contains points in frame widths, with (0, 0) the top left corner; t may have any range.

      motiondirector sprites render --trajectory wave.json --prompt "a red star on a navy gradient" -o wave.mp4

      motiondirector sprites render --motion orbit --appearances 6 --to clips/orbit

      motiondirector sprites render --motion orbit --appearances 6 --second "a small blue circle" --second-motion right --to two

      motiondirector ingest clips/orbit --captions clips/orbit/captions.csv --concept orbit --to data

    The style options draw looks that captions have no word for and that are hard to separate from the motion; `sprites
    measure` detects them.

      motiondirector sprites render --motion orbit --outline --tint warm --grain 20 --clutter 12 -o styled.mp4
    """
    chosen = configured(RenderConfig, settings)
    from motiondirector.sprites.render import render as rendered

    console = Console()
    for clip in rendered(to, chosen, out=out):
        console.print(
            f"[green]{escape(clip.path.name)}[/]  {escape(clip.caption)}", soft_wrap=True, highlight=False
        )


def trace(
    clip: Annotated[Path, typer.Argument(help="A real clip: any video file that can be decoded.")],
    to: Annotated[
        Path,
        typer.Option(
            help="Folder for NAME.json, the reference clips, captions.csv and trace.png. Created if missing."
        ),
    ],
    registry: RegistryUri = DEFAULT_REGISTRY,
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """Make sprite references that move like a point of a real clip.

    The path is centred in the frame and scaled to half of its width. If the camera follows the object, the background
    is what moves: choose a point on the object with --point.

      motiondirector sprites trace assets/clips/fox_running.mp4 --to fox --words "runs"

      motiondirector ingest fox --captions fox/captions.csv --concept fox --to data

      motiondirector train --concept fox --data data

      motiondirector sprites trace assets/clips/fox_running.mp4 --to fox --words "runs" --concept fox

    `sprites render --trajectory fox/fox_running.json` draws the same path in any other appearance.
    """
    chosen = configured(TraceConfig, settings)
    from motiondirector.sprites.trace import trace as traced

    found = traced(clip, to, chosen, registry=registry)
    table = Table("clip", "what", "fidelity to the path", title=escape(f"{clip}: {found}"))
    for name, said, fidelity in found.rows:
        table.add_row(escape(name), escape(said), f"{fidelity:.3f}")
    console = Console()
    console.print(table)
    console.print(
        f"path: {escape(str(found.trajectory))}, picture: {escape(str(found.picture))}", highlight=False
    )


@sprites.command()
def measure(
    clips: Annotated[list[Path] | None, typer.Argument(help="Videos to measure, one table each.")] = None,
    count: Annotated[
        int, typer.Option(help="Without clips: number of rendered clips to test the tracker on.", min=1)
    ] = 200,
    blur: Annotated[
        float, typer.Option(help="Blur (pixels) and noise of the test clips.", min=0, max=3)
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Random seed of the test clips.")] = 0,
    styles: Annotated[
        int | None,
        typer.Option(
            help="Draw the test clips in styles with this number of parts (outline, tint, grain, clutter, drift, an idle "
            "object), and test how accurately each part is measured.",
            min=0,
            max=6,
        ),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Measure sprites in clips from pixels alone; without clips, test the accuracy of the measurement itself.

    A table's title says what the clip shows, including its style: outline, tint, grain, clutter, a second object, the
    camera's drift.

    motiondirector sprites measure clips/orbit-000.mp4

    motiondirector sprites measure --count 500 --blur 0.7

    motiondirector sprites measure --count 500 --styles 2
    """
    console = Console()
    if not clips:
        from evaluation.tracker_accuracy import looks_accuracy, tracker_accuracy

        drawn = "" if styles is None else f", styles of {styles} parts"
        table = Table(
            "measured", "correct", title=f"Tracker on {count} rendered clips{drawn}, blur {blur:g} px"
        )
        found = (
            tracker_accuracy(count, blur=blur, seed=seed)
            if styles is None
            else looks_accuracy(count, blur=blur, seed=seed, parts=styles)
        )
        for name, value in found.items():
            unit = next((u for start, u in UNITS.items() if name.startswith(start)), "px")
            table.add_row(name, f"{value:.2f} {unit}" if "error" in name else f"{value:.1%}")
        console.print(table)
        return
    from datasets.sprites.looks import looks_of
    from datasets.video.decode import decode
    from evaluation.metrics.sprite_tracking import at_side, tracked

    for path in clips:
        frames_FHWC = decode(path).frames_FHWC
        try:
            seen = tracked(frames_FHWC)
        except UserError as error:
            raise UserError(f"{path}: {error.message}") from None
        title = f"{path}: {seen.most('colour')} {seen.most('texture')} {seen.most('shape')} on {seen.most('background')}"
        title += f" ({in_words(looks_of(at_side(frames_FHWC)))})"
        table = Table("frame", "x", "y", "radius", "object", "background", "confidence", title=escape(title))
        for i, s in enumerate(seen.detections):
            what = f"{s.colour} {s.texture} {s.shape}" if s.found else "none"
            place = [f"{v:.3f}" for v in (s.x, s.y, s.radius)] if s.found else ["-"] * 3
            table.add_row(str(i), *place, what, f"{s.background} {s.background_kind}", f"{s.confidence:.2f}")
        console.print(table)


def pretrain(
    out: Annotated[
        Path, typer.Option(help="Folder of the run: states to resume from, log.jsonl, pipeline/.")
    ],
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """Train the sprite foundation from scratch (or from --init), on sprites rendered on the fly.

    You can stop it at any time: the same command continues from the last state. The result is a stock
    TextToVideoSDPipeline in OUT/pipeline.

      motiondirector sprites pretrain --out runs/foundation

      motiondirector sprites pretrain --out runs/more --stage unet --init assets/foundation --steps 5000
    """
    chosen = configured(PretrainConfig, settings)
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from motiondirector.sprites.pretrain import pretrain as pretrained

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn()) as bar:

        def follow(total: int) -> Callable[[int, Mapping[str, Any]], None]:
            task = bar.add_task(chosen.stage, total=total)

            def report(step: int, record: Mapping[str, Any]) -> None:
                what, loss = record["stage"], record["loss"]
                bar.update(task, completed=step, description=f"{what} loss {loss:.4f}")
                bar.console.print(f"{what} step {step}: loss {loss:.4f}", highlight=False)

            return report

        pretrained(out, chosen, follow)
    Console().print(f"[green]done[/]: {escape(str(out))}")


@sprites.command()
def quality(
    foundation: Annotated[str | None, typer.Option(help="Folder or id. Default: the embedded model.")] = None,
    prompts: Annotated[int, typer.Option(help="Number of prompts.", min=1)] = 320,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps. Default: the foundation's.", min=1)
    ] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Default: the foundation's.")] = None,
    device: Annotated[str | None, typer.Option(help="Default: cuda if available.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of prompts and noise.")] = 1,
    to: Annotated[Path | None, typer.Option(help="Folder for quality.json and contact sheets.")] = None,
    config: ConfigFile = None,
) -> None:
    """Measure how well a foundation follows prompts of the sprite world, with the exact tracker.

    motiondirector sprites quality --prompts 320 --to runs/quality
    """
    from rich.progress import track as follow

    from evaluation.foundation_quality import TARGETS, measure_quality, write_report
    from models.load import load_foundation

    model = load_foundation(foundation, device=device)
    result = measure_quality(
        model,
        prompts,
        seed=seed,
        steps=steps,
        guidance_scale=guidance_scale,
        follow=lambda batches: follow(batches, description="sampling"),
    )
    table = Table(
        "measured",
        "correct",
        "prompts",
        "target",
        title=escape(f"{model.name}, {prompts} prompts"),
    )
    for name, score in result.scores.items():
        target = f"{TARGETS[name]:.0%}" if name in TARGETS else ""
        table.add_row(name, f"{score.share:.1%}", str(score.count), target)
    Console().print(table)
    if to is not None:
        write_report(result, model, to)


add_command(sprites, "render", render, RenderConfig)
add_command(sprites, "trace", trace, TraceConfig)
add_command(sprites, "pretrain", pretrain, PretrainConfig)
