"""`motiondirector foundations`: which models can be customized, what one is, and how AnimateDiff's is made."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from motiondirector.output import print_json

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

foundations = typer.Typer(
    help="The models: list the families, show one checkpoint and the memory it takes, combine AnimateDiff's parts.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


def register(app: typer.Typer) -> None:
    app.add_typer(foundations, name="foundations")


@foundations.command("list")
def list_families(as_json: AsJson = False) -> None:
    """List the model families and the diffusers pipelines that they are.

    Example: motiondirector foundations list
    """
    from models import families as families  # registers them
    from models.family import FAMILIES

    if as_json:
        print_json(
            [
                {"family": one.name, "models": one.title, "pipeline": one.pipeline_class}
                for one in FAMILIES.values()
            ]
        )
        return
    table = Table("family", "models", "pipeline")
    for one in sorted(FAMILIES.values(), key=lambda one: one.name):
        table.add_row(one.name, one.title, one.pipeline_class)
    Console().print(table)


@foundations.command("show")
def show(
    source: Annotated[
        str | None,
        typer.Argument(metavar="FOUNDATION", help="Folder, hub id or name. Absent: the embedded one."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a foundation is: its sizes, latents, schedulers, and the layers that adapters change.

    Reads configurations alone, no weights.

    Example: motiondirector foundations show tiny-random:cogvideox
    """
    from motiondirector.api.foundations import describe

    facts = describe(source)
    if as_json:
        print_json(asdict(facts))
        return
    spatial, temporal = facts.targets["spatial"], facts.targets["temporal"]
    rows = {
        "family": f"{facts.family} ({facts.title})",
        "classes": f"{facts.pipeline}, {facts.denoiser}",
        "denoiser": f"{facts.parameters:,} parameters",
        "frames": facts.frames,
        "height, width": f"multiples of {facts.multiples[0]}, {facts.multiples[1]}",
        "default size": f"{facts.default_size}, latents {'x'.join(map(str, facts.latent_shape))}",
        "predicts": facts.predicts,
        "schedulers": ", ".join(facts.schedulers),
        "prompt": f"{facts.text_tokens} tokens",
        "adapted layers": f"{spatial} spatial, {temporal} temporal"
        + (" (the same)" if facts.same_layers else ""),
        "a LoRA of rank 1": f"{facts.adapter_parameters['temporal']:,} parameters (temporal)",
        "stock loader": facts.loaded_by,
    }
    table = Table(show_header=False, title=escape(facts.name))
    for name, value in rows.items():
        table.add_row(name, escape(value))
    Console().print(table)


@foundations.command("memory")
def memory(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="FOUNDATION",
            help="Folder, hub id, or published:NAME of docs/memory.md. Absent: the embedded one.",
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="FRAMESxHEIGHTxWIDTH of the clips. Absent: the model's default.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Precision of the model: fp32, bf16 or fp16.")] = "bf16",
    rank: Annotated[int, typer.Option(help="Rank of the adapters.", min=1, max=1024)] = 32,
    as_json: AsJson = False,
) -> None:
    """Show what training and serving a model takes, and which GPU has room for it.

    Computed from its configurations; no weights are read.

    Example: motiondirector foundations memory published:wan-2.1-14b --size 81x480x832
    """
    from motiondirector.api.memory import memory as needs

    found = needs(source, size, dtype=dtype, rank=rank)
    if as_json:
        print_json(asdict(found))
        return
    about = f"{found.name}, {found.size}, {found.dtype}, rank {found.rank}"
    parts = Table("", "GiB", title=escape(about))
    for kind in ("weights", "activations", "training", "serving"):
        for name, value in getattr(found, kind).items():
            parts.add_row(f"{kind}: {name}", f"{value:.1f}")
    fits = Table("GPU", "trains", "serves")
    for gpu, trains in found.trains_on.items():
        fits.add_row(f"{gpu} GB", trains or "no", found.serves_on[gpu] or "no")
    Console().print(parts, fits)


@foundations.command("memory-page", hidden=True)
def memory_page() -> None:
    """Print docs/memory.md."""
    from motiondirector.api.memory import page as text

    typer.echo(text(), nl=False)


@foundations.command("combine")
def combine(
    base: Annotated[
        str, typer.Argument(metavar="STABLE_DIFFUSION", help="Stable Diffusion 1.5, or a fine-tune of it.")
    ],
    motion: Annotated[
        str, typer.Argument(metavar="MOTION_ADAPTER", help="A motion adapter in diffusers' format.")
    ],
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where to write the foundation.")],
    dtype: Annotated[
        str, typer.Option(help="Precision of the weights written: fp32, bf16 or fp16.")
    ] = "fp32",
) -> None:
    """Write an AnimateDiff foundation from a Stable Diffusion 1.5 and a motion adapter: folders or hub ids.

    Example: motiondirector foundations combine /models/epicrealism guoyww/animatediff-motion-adapter-v1-5-3 /models/animatediff
    """
    from motiondirector.api.foundations import combine as write

    written = write(base, motion, folder, dtype=dtype)
    typer.echo(f"wrote {written}; use it with --foundation {written}")


@foundations.command("page", hidden=True)
def page() -> None:
    """Print docs/foundations.md."""
    from motiondirector.api.foundations import page as text

    typer.echo(text(), nl=False)
