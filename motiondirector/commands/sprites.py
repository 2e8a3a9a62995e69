"""`motiondirector sprites`: the rendered world: draw clips of a motion, measure clips, train and judge the foundation."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.errors import UserError
from motiondirector.cli import ConfigFile
from motiondirector.commands.sprites_trace import trace
from motiondirector.sprites.style import in_words, style_given

if TYPE_CHECKING:
    from datasets.sprites.motions import Motion
    from datasets.sprites.world import Sprite

sprites = typer.Typer(
    help="A rendered world where motion and appearance are known exactly; it made the embedded foundation.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
STYLE = "Style: looks that captions have no word for"
# of the errors that are not in pixels, by how their names begin
UNITS = {"grain": "grey levels", "tint": "of the tint's colour", "drift": "frame widths"}
Frames = Annotated[int, typer.Option(help="Frames of a clip.", min=2, max=256)]
Size = Annotated[int, typer.Option(help="Side of the square frame in pixels, even.", min=16, max=1024)]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    sprites.command()(trace)
    app.add_typer(sprites, name="sprites")


@sprites.command("list")
def list_world() -> None:
    """What exists: shapes, colours, backgrounds, known and novel motions with their words."""
    from datasets.sprites import motions, world

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
        "set", "motion", "words", title="Motions (the foundation was trained on the known ones only)"
    )
    for label, group in (("known", motions.KNOWN), ("novel", motions.NOVEL)):
        for motion in group.values():
            table.add_row(label, motion.name, ", ".join(motion.phrases[:3]))
    console.print(table)


@sprites.command()
def render(
    trajectory: Annotated[
        Path | None,
        typer.Option(help=r"JSON file: a list of \[t, x, y], \[t, x, y, scale] or \[t, x, y, scale, angle]."),
    ] = None,
    motion: Annotated[str | None, typer.Option(help="A motion by name: `sprites list` names them.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help='The appearance, such as "a red striped star on a navy gradient".')
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The clip: an .mp4 file.")] = None,
    appearances: Annotated[
        int, typer.Option(help="With --to: so many clips, each of another appearance.", min=1, max=1000)
    ] = 1,
    to: Annotated[
        Path | None, typer.Option(help="Folder for a set of clips and the captions.csv that `ingest` takes.")
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(
            help="Words for the motion in captions; with --prompt its object, these words, its background. Default: the "
            "motion's own, or the prompt as it is."
        ),
    ] = None,
    second: Annotated[
        str | None,
        typer.Option(help='Another object beside it, such as "a small blue circle"; give its motion, too.'),
    ] = None,
    second_motion: Annotated[str | None, typer.Option(help="The other object's motion by name.")] = None,
    second_trajectory: Annotated[
        Path | None, typer.Option(help="The other object's motion as a JSON file.")
    ] = None,
    frames: Frames = 8,
    size: Size = 64,
    fps: Annotated[float, typer.Option(help="Frames a second.", min=1, max=120)] = 8,
    seed: Annotated[
        int,
        typer.Option(help="Decides appearances, where a named motion takes place, and clutter and grain."),
    ] = 0,
    outline: Annotated[
        bool, typer.Option("--outline", help="A dark line along the object's rim.", rich_help_panel=STYLE)
    ] = False,
    tint: Annotated[
        str | None,
        typer.Option(
            help="A colour cast: warm, cold, rose or leafy, as strong as 0.28 or as said: warm:0.4.",
            rich_help_panel=STYLE,
        ),
    ] = None,
    grain: Annotated[
        float,
        typer.Option(
            help="Noise in grey levels, new in each frame; 20 is plain to see.",
            min=0,
            max=60,
            rich_help_panel=STYLE,
        ),
    ] = 0.0,
    clutter: Annotated[
        int,
        typer.Option(
            help="So many small things lie on the background; 12 is plain to see.",
            min=0,
            max=40,
            rich_help_panel=STYLE,
        ),
    ] = 0,
    drift: Annotated[
        str | None,
        typer.Option(
            help="Way of the camera over the clip in frame widths, x or x,y: everything goes the other way. Without "
            "--clutter or a checkerboard only the object shows it.",
            rich_help_panel=STYLE,
        ),
    ] = None,
    idle: Annotated[
        str | None,
        typer.Option(
            help='An object that only stands there, such as "a blue circle"; captions do not name it.',
            rich_help_panel=STYLE,
        ),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Draw reference clips of a motion: one clip, or one motion in several appearances.

    A trajectory file holds points in frame widths, (0, 0) the top left corner; t may have any range.

      motiondirector sprites render --trajectory wave.json --prompt "a red star on a navy gradient" -o wave.mp4

      motiondirector sprites render --motion orbit --appearances 6 --to clips/orbit

      motiondirector sprites render --motion orbit --appearances 6 --second "a small blue circle" --second-motion right --to two

      motiondirector ingest clips/orbit --captions clips/orbit/captions.csv --concept orbit --to data

    The style options draw what captions have no word for, which makes looks hard to keep apart from the motion; `sprites measure` reads them back.

      motiondirector sprites render --motion orbit --outline --tint warm --grain 20 --clutter 12 -o styled.mp4
    """
    from dataclasses import replace

    from datasets.sprites.captions import canonical, drawable
    from datasets.sprites.render import render_clip
    from datasets.sprites.world import appearances as draw_appearances
    from datasets.video import encode_mp4

    if (trajectory is None) == (motion is None):
        raise UserError(
            "give one motion: --trajectory FILE.json or --motion NAME (`sprites list` names them)."
        )
    if (out is None) == (to is None):
        raise UserError(
            "say where to write: -o CLIP.mp4 for one clip, or --to FOLDER for a set with captions."
        )
    if out is not None and appearances > 1:
        raise UserError(f"-o names one clip, but --appearances asks for {appearances}; use --to FOLDER.")
    if size % 2:
        raise UserError(f"--size {size} is odd; mp4 needs an even side.")
    moving = drawn_or_named(trajectory, motion)
    if words:
        moving = replace(moving, phrases=(words,))
    scenes = draw_appearances(appearances, seed)
    if prompt is not None:
        if appearances > 1:
            raise UserError("--prompt is one appearance; leave it out to draw several with --appearances.")
        scenes = [drawable(prompt)]
        if motion is not None:
            check_motion(prompt, moving)
    beside = second_object(second, second_motion, second_trajectory)
    if beside is not None:
        scenes = [replace(scene, second=beside[0]) for scene in scenes]
    if second is not None and idle is not None:
        raise UserError("--second and --idle are two other objects; one of them is drawn: leave one out.")
    styles = [
        style_given(
            outline=outline, tint=tint, grain=grain, clutter=clutter, drift=drift, idle=idle, seed=seed + i
        )
        for i in range(len(scenes))
    ]
    scenes = [replace(scene, style=style) for scene, style in zip(scenes, styles, strict=True)]
    rows = []
    for i, scene in enumerate(scenes):
        path = out if out is not None else Path(str(to)) / f"{moving.name}-{i:03d}.mp4"
        caption = prompt if prompt is not None and not words and not beside else canonical(scene, moving)
        try:
            clip = render_clip(scene, moving, frames, size, seed + i, second_motion=beside and beside[1])
            encode_mp4(clip, fps, path, metadata={"comment": caption})
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}.") from None
        rows.append((path.name, caption))
    if to is not None:
        with (to / "captions.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("file", "caption"), *rows])
    console = Console()
    for name, caption in rows:
        console.print(f"[green]{escape(name)}[/]  {escape(caption)}", soft_wrap=True, highlight=False)


def second_object(
    said: str | None, name: str | None, trajectory: Path | None
) -> tuple[Sprite, Motion] | None:
    """The other object of a clip, and how it moves. Raises UserError where one is given without the other."""
    from datasets.sprites.captions import drawable, parse

    given = (name is not None) + (trajectory is not None)
    if said is None and not given:
        return None
    if said is None or given != 1:
        raise UserError(
            'another object needs its words and one motion: --second "a small blue circle" and --second-motion NAME or '
            "--second-trajectory FILE.json."
        )
    words = parse(said)
    if words.background or words.motion:
        raise UserError(
            f"--second {said!r} says more than an object; its background is the first one's, and its motion "
            "--second-motion or --second-trajectory."
        )
    return drawable(said).sprite, drawn_or_named(trajectory, name)


def drawn_or_named(trajectory: Path | None, name: str | None) -> Motion:
    """The motion of a file, or else the one of that name. Raises UserError for a bad file and an unknown name."""
    from datasets.sprites.motions import motion_named, read_trajectory

    return read_trajectory(trajectory) if trajectory else motion_named(str(name))


def check_motion(prompt: str, motion: Motion) -> None:
    """Raises UserError when the prompt says another motion, or another speed, than the one that is drawn."""
    from datasets.sprites.captions import parse

    said = parse(prompt)
    if said.motion not in (None, motion.name) or said.adverb:
        other = said.motion if said.motion not in (None, motion.name) else said.adverb
        raise UserError(
            f"--prompt {prompt!r} says {other!r}, but --motion {motion.name} is drawn, at its usual speed; name the "
            "appearance alone in --prompt, and the motion's words in --words."
        )


@sprites.command()
def measure(
    clips: Annotated[list[Path] | None, typer.Argument(help="Videos to measure, one table each.")] = None,
    count: Annotated[
        int, typer.Option(help="Without clips: so many rendered ones to test the tracker on.", min=1)
    ] = 200,
    blur: Annotated[
        float, typer.Option(help="Blur (pixels) and noise of the test clips.", min=0, max=3)
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the test clips.")] = 0,
    styles: Annotated[
        int | None,
        typer.Option(
            help="Draw the test clips in styles of so many parts (outline, tint, grain, clutter, drift, an idle object), "
            "and say how right each is read.",
            min=0,
            max=6,
        ),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Measure sprites in clips from pixels alone; without clips, how right the measurement itself is.

    A clip's title says what it shows, its style included: outline, tint, grain, clutter, a second object, the camera's
    drift.

    motiondirector sprites measure clips/orbit-000.mp4

    motiondirector sprites measure --count 500 --blur 0.7

    motiondirector sprites measure --count 500 --styles 2
    """
    console = Console()
    if not clips:
        from evaluation.tracker_accuracy import looks_accuracy, tracker_accuracy

        drawn = "" if styles is None else f", styles of {styles} parts"
        table = Table(
            "measured", "right", title=f"Tracker on {count} rendered clips{drawn}, blur {blur:g} px"
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
    from datasets.decode import decode
    from datasets.sprites.looks import looks_of
    from evaluation.metrics.sights import at_side, tracked

    for path in clips:
        frames_FHWC = decode(path).frames_FHWC
        try:
            seen = tracked(frames_FHWC)
        except UserError as error:
            raise UserError(f"{path}: {error.message}") from None
        title = f"{path}: {seen.most('colour')} {seen.most('texture')} {seen.most('shape')} on {seen.most('background')}"
        title += f" ({in_words(looks_of(at_side(frames_FHWC)))})"
        table = Table("frame", "x", "y", "radius", "object", "background", "confidence", title=escape(title))
        for i, s in enumerate(seen.sights):
            what = f"{s.colour} {s.texture} {s.shape}" if s.found else "none"
            place = [f"{v:.3f}" for v in (s.x, s.y, s.radius)] if s.found else ["-"] * 3
            table.add_row(str(i), *place, what, f"{s.background} {s.background_kind}", f"{s.confidence:.2f}")
        console.print(table)


@sprites.command()
def pretrain(
    out: Annotated[
        Path, typer.Option(help="Folder of the run: states to resume from, log.jsonl, pipeline/.")
    ],
    stage: Annotated[
        str, typer.Option(help="vae, unet, decoder (sharpens the vae, its latents fixed), or all in turn.")
    ] = "all",
    steps: Annotated[
        int | None, typer.Option(help="Steps of the stage. Default: the released recipe's.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    resume: Annotated[bool, typer.Option(help="Continue the states found in --out.")] = True,
    init: Annotated[
        Path | None, typer.Option(help="Start from a checkpoint's weights, such as assets/foundation.")
    ] = None,
    clips: Annotated[int | None, typer.Option(help="Clips in a batch of the unet stage.", min=1)] = None,
    image_steps: Annotated[
        int | None, typer.Option(help="First steps that see single frames only.", min=0)
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
    every: Annotated[int, typer.Option(help="Steps between states and log lines.", min=1)] = 50,
    seed: Annotated[int, typer.Option(help="Of weights, scenes and noise.")] = 0,
    config: ConfigFile = None,
) -> None:
    """Train the sprite foundation from nothing (or on from --init), on sprites rendered on the fly.

    Stop it when you like: the same command goes on from the last state. The result is a stock
    TextToVideoSDPipeline in OUT/pipeline.

      motiondirector sprites pretrain --out runs/foundation

      motiondirector sprites pretrain --out runs/more --stage unet --init assets/foundation --steps 5000
    """
    from dataclasses import replace

    import torch
    from diffusers import AutoencoderKL
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from infra.allocator import keep_freed_memory
    from training.pretraining.denoiser import Recipe, build_parts, load_parts, save_pipeline, train_unet
    from training.pretraining.vae import DECODER_STEPS, VAE_STEPS, train_vae

    if stage not in ("vae", "unet", "decoder", "all"):
        raise UserError(f"--stage {stage!r} is none of vae, unet, decoder, all.")
    if stage in ("unet", "decoder") and init is None and not (out / "vae").is_dir():
        raise UserError(f"{out}/vae is missing; run --stage vae first, or --stage all.")
    if init is not None and not (init / "model_index.json").is_file():
        raise UserError(f"--init {init} is no pipeline folder: it has no model_index.json.")
    if init is not None and stage == "vae":
        raise UserError(
            "--init keeps the checkpoint's autoencoder; use --stage unet, decoder or all with it."
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if threads:
        torch.set_num_threads(threads)
    if device == "cpu":
        keep_freed_memory()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn()) as bar:

        def follow(total: int):
            task = bar.add_task(stage, total=total)

            def report(step: int, record: dict) -> None:
                bar.update(task, completed=step, description=f"{record['stage']} loss {record['loss']:.4f}")
                bar.console.print(
                    f"{record['stage']} step {step}: loss {record['loss']:.4f}", highlight=False
                )

            return report

        same: dict[str, Any] = {"seed": seed, "device": device, "every": every, "resume": resume}
        if init is not None:
            parts = load_parts(init)
            # Not over what an earlier call of the same command has made of it since
            if not (resume and any((out / f"{name}_state.pt").exists() for name in ("decoder", "unet"))):
                parts.vae.save_pretrained(out / "vae")
        if stage in ("vae", "all") and init is None:
            total = (steps if stage == "vae" else None) or VAE_STEPS
            train_vae(out, steps=total, progress=follow(total), **same)
        if stage in ("decoder", "all"):
            total = (steps if stage == "decoder" else None) or DECODER_STEPS
            train_vae(out, steps=total, decoder_only=True, progress=follow(total), **same)
        if stage in ("unet", "all"):
            given: dict[str, Any] = {"steps": steps, "clips": clips, "image_steps": image_steps, "seed": seed}
            if init is not None and image_steps is None:
                given["image_steps"] = 0  # trained weights know single frames already
            recipe = Recipe(**{key: value for key, value in given.items() if value is not None})
            if init is not None:
                recipe = replace(recipe, lesson=recipe.lesson[-1:])  # nor do they need the simplest of it
            vae = AutoencoderKL.from_pretrained(out / "vae")
            parts = build_parts(out, vae, seed) if init is None else replace(parts, vae=vae)
            del same["seed"]
            train_unet(out, recipe, parts, progress=follow(recipe.steps), **same)
        elif stage == "decoder" and (source := init or out / "pipeline").is_dir():
            vae = AutoencoderKL.from_pretrained(out / "vae")
            save_pipeline(replace(load_parts(source), vae=vae), out / "pipeline")
    Console().print(f"[green]done[/]: {escape(str(out))}")


@sprites.command()
def quality(
    foundation: Annotated[str | None, typer.Option(help="Folder or id. Default: the embedded model.")] = None,
    prompts: Annotated[int, typer.Option(help="How many prompts.", min=1)] = 320,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps. Default: the foundation's.", min=1)
    ] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Default: the foundation's.")] = None,
    device: Annotated[str | None, typer.Option(help="Default: cuda where there is one.")] = None,
    seed: Annotated[int, typer.Option(help="Of prompts and noise.")] = 1,
    to: Annotated[Path | None, typer.Option(help="Folder for quality.json and contact sheets.")] = None,
    config: ConfigFile = None,
) -> None:
    """How well a foundation does what prompts of the sprite world say, by the exact tracker.

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
        "share right",
        "of prompts",
        "to reach",
        title=escape(f"{model.name}, {prompts} prompts"),
    )
    for name, score in result.scores.items():
        target = f"{TARGETS[name]:.0%}" if name in TARGETS else ""
        table.add_row(name, f"{score.share:.1%}", str(score.count), target)
    Console().print(table)
    if to is not None:
        write_report(result, model, to)
