"""`motiondirector clips`: lists a clip set, corrects captions, removes clips."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.errors import NotFound, UserError
from motiondirector.commands.concepts import AsJson
from motiondirector.exits import NOT_DONE
from motiondirector.output import print_json

Set = Annotated[str, typer.Argument(metavar="SET", help="The clip set: a folder or s3://bucket/prefix.")]
Foundation = Annotated[
    str | None, typer.Option(help="Warn about captions that are too long for this model's text encoder.")
]

clips = typer.Typer(
    help="A clip set: list its clips, correct captions, remove clips.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(clips, name="clips")


@clips.command("list")
def list_clips(
    uri: Set,
    concept: Annotated[str | None, typer.Option(help="Only the clips of this concept.")] = None,
    foundation: Foundation = None,
    as_json: AsJson = False,
) -> None:
    """List every clip: id, concept, size, mask, caption, source and variant, and words of captions that a model does not read.

    Example: motiondirector clips list data --concept car-turn
    """
    from datasets.clip_sets.clips import read_facts
    from models.locating import text_limit

    found = read_facts(uri)
    if concept is not None and concept not in found:
        raise NotFound(
            f"no clips of concept {concept!r} at {uri}; concepts there: {', '.join(found) or 'none'}.",
            code="concept_not_found",
        )
    limit = text_limit(foundation)
    every = [clip for name, group in found.items() if concept in (None, name) for clip in group]
    if as_json:
        rows = [
            {
                **asdict(clip),
                "mask": None if clip.mask is None else str(clip.mask),
                "warning": limit.warning(clip.caption),
            }
            for clip in every
        ]
        print_json(rows)
        return
    table = Table(show_edge=False, pad_edge=False)
    for name in ("clip", "concept", "size", "caption", "source"):
        table.add_column(name, no_wrap=name in ("clip", "size"))
    for clip in every:
        warning = limit.warning(clip.caption)
        said = escape(clip.caption) + (f"\n[yellow]warning:[/] {escape(warning)}" if warning else "")
        size = f"{clip.num_frames}x{clip.height}x{clip.width} at {clip.fps:.4g} fps"
        size += f"\n{escape(clip.variant)} of {(clip.variant_of or '')[:12]}" if clip.variant else ""
        size += "" if clip.mask is None else f"\nmask {clip.mask}"
        table.add_row(clip.clip_id[:12], clip.concept, size, said, escape(clip.source_uri))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)
    console.print(f"{len(every)} clip{'s' if len(every) != 1 else ''} in {escape(uri)}", soft_wrap=True)


@clips.command("edit")
def edit(
    uri: Set,
    clip: Annotated[
        str | None, typer.Argument(metavar="[CLIP]", help="The clip's id, or its first digits.")
    ] = None,
    caption: Annotated[str | None, typer.Option(help="What the clip shows.")] = None,
    captions: Annotated[
        str | None,
        typer.Option(help="A .csv, .tsv or .jsonl file with `clip` and `caption`, for several clips."),
    ] = None,
    foundation: Foundation = None,
    as_json: AsJson = False,
) -> None:
    """Change captions of clips, all or none. Versions that were trained before keep the captions they had.

    Examples:

      motiondirector clips edit data 3fa2c81b --caption "a red fox is running through the snow"

      motiondirector clips edit data --captions corrected.csv
    """
    from datasets.clip_sets.amend import amend, find
    from datasets.ingest.sources import read_clip_captions
    from infra.storage import open_storage
    from models.locating import text_limit

    if (clip is None) != (caption is None) or (caption is None) == (captions is None):
        raise UserError(
            "clips edit: expected CLIP and --caption TEXT, or --captions FILE.", code="invalid_selection"
        )
    given = {clip: caption} if clip is not None else read_clip_captions(captions or "")
    found = find(uri, (name for name in given if name is not None))
    if len(found) < len(given):
        raise UserError(
            f"--captions {captions}: two rows name the same clip; keep one.", code="invalid_manifest"
        )
    changes = dict(zip((one.clip_id for one in found), given.values(), strict=True))
    before = amend(open_storage(uri), changes)
    limit = text_limit(foundation)
    changed: list[dict[str, Any]] = [
        {
            "clip_id": one.clip_id,
            "concept": one.concept,
            "before": one.caption,
            "caption": " ".join((changes[one.clip_id] or "").split()),
            "warning": limit.warning(changes[one.clip_id] or ""),
        }
        for one in before
    ]
    if as_json:
        print_json(changed)
        return
    console = Console(highlight=False, soft_wrap=True)
    for row in changed:
        same = row["before"] == row["caption"]
        was = "unchanged" if same else f"was {row['before']!r}"
        console.print(f"{row['clip_id'][:12]} {row['concept']}: {escape(row['caption'])} ({escape(was)})")
        if row["warning"]:
            console.print(f"[yellow]warning:[/] {escape(row['warning'])}")


@clips.command("rm")
def remove(
    uri: Set,
    clip: Annotated[
        list[str] | None, typer.Argument(metavar="[CLIP...]", help="Ids, or their first digits.")
    ] = None,
    concept: Annotated[str | None, typer.Option(help="Every clip of this concept.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove clips from a set. Their files stay under .staging for a day, their latents under .latents.

    Examples:

      motiondirector clips rm data 3fa2c81b 90be2277

      motiondirector clips rm data --concept car-turn
    """
    from datasets.clip_sets.amend import amend, find
    from datasets.clip_sets.clips import read_facts
    from infra.storage import open_storage

    if bool(clip) == (concept is not None):
        raise UserError("clips rm: expected CLIP..., or --concept NAME.", code="invalid_selection")
    if concept is not None:
        found = read_facts(uri).get(concept, [])
        if not found:
            raise NotFound(f"no clips of concept {concept!r} at {uri}.", code="concept_not_found")
    else:
        found = find(uri, clip or ())
    names = ", ".join(f"{one.clip_id[:12]} ({one.concept})" for one in found[:8])
    names += f" and {len(found) - 8} more" if len(found) > 8 else ""
    if not yes and not typer.confirm(f"Remove {names} from {uri}?", err=True):
        raise typer.Exit(NOT_DONE)
    removed = amend(open_storage(uri), {one.clip_id: None for one in found})
    if as_json:
        print_json({"removed": [one.clip_id for one in removed]})
    else:
        Console(highlight=False, soft_wrap=True).print(f"removed {escape(names)} from {escape(uri)}")
