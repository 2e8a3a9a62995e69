"""`motiondirector evaluate`: how good a version's motion is, beside the base model and baselines, as numbers and a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from infra.errors import UserError
from motiondirector.cli import ConfigFile
from motiondirector.commands.concepts import DEFAULT_REGISTRY, AsJson, RegistryUri
from motiondirector.evaluation_options import (
    Against,
    Batch,
    ClipWeights,
    Device,
    Guidance,
    PickWeights,
    Scale,
    Seeds,
    Steps,
)
from motiondirector.output import print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets.clips import Clip
    from evaluation.evaluate import Contender
    from evaluation.store import Store
    from infra.registry import Version
    from models.foundation import Bucket, Foundation
    from motiondirector.contenders import Origin
    from motiondirector.progress import Bars


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate")(evaluate_command)


def evaluate_command(
    concept: Annotated[str, typer.Option(help="NAME (its latest version) or NAME@VERSION.")],
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A prompt a line, or .yaml, .jsonl, .csv, .tsv with `prompt` and, where it is for one alone, `concept`. Name "
            "appearances, not the motion: it should come from the adapter. Absent: held-out appearances, if the clips are sprites.",
            show_default=False,
        ),
    ] = None,
    open_prompts: Annotated[
        Path | None,
        typer.Option(
            help="Prompts that name the subject's class alone, in such a file: what looks the adapter adds by itself is measured of "
            "them, against the base model. Absent: the classes that the clips' captions name.",
            show_default=False,
        ),
    ] = None,
    seeds: Seeds = 2,
    against: Against = "base",
    registry: RegistryUri = DEFAULT_REGISTRY,
    data: Annotated[
        str | None,
        typer.Option(
            help="The clip set: references to compare with, and what baselines are trained on. Absent: what the "
            "version was trained on.",
            show_default=False,
        ),
    ] = None,
    foundation: Annotated[
        str | None, typer.Option(help="Folder or hub id. Absent: the version's own.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of page, report, videos and baselines.", show_default="runs/evaluate/NAME-N"
        ),
    ] = None,
    clip: ClipWeights = None,
    pickscore: PickWeights = None,
    scale: Scale = 1.0,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    batch: Batch = 4,
    device: Device = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="fp32|bf16|fp16",
            help="Precision of the model; fp16 only where no baseline is trained. Absent: bf16 on a GPU, fp32 on a CPU.",
        ),
    ] = None,
    publish: Annotated[
        bool, typer.Option(help="Add the scores to the version in the registry; `concepts show` prints them.")
    ] = True,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Measure a learned motion: the same prompts and seeds for it, the base model and any baselines.

    Beside them it asks open prompts, which name the subject's class alone ("a heart"): how much more often than the base model does it
    show the clips' looks there, and how much of the base's variety is left?

    Ends with a table (mean and 95 % interval of every metric), OUT/report.json, and OUT/index.html: one page with the
    videos side by side that needs no network. Baselines are trained with the version's own settings on the same clips.

    Videos and baselines are kept in OUT under a hash of all that made them: interrupted, the same command goes on, and
    a second run with more prompts makes only what is new.

      motiondirector evaluate --concept orbit

      motiondirector evaluate --concept orbit@2 --against base,coupled,no-debias,full --seeds 4

      motiondirector evaluate --concept car-turn --prompts prompts.txt --clip openai/clip-vit-large-patch14
    """
    from datasets.clips import read_clips
    from datasets.parts import all_parts
    from evaluation.evaluate import Contender, Generation
    from evaluation.prompts import prompts_for, read_prompts
    from evaluation.report import published_scores
    from evaluation.store import Store
    from infra.allocator import keep_freed_memory
    from infra.registry import open_registry
    from models.generation import AdapterSettings, GenerationSettings
    from models.load import load_foundation
    from motiondirector.batch_validation import FILES, kept_files
    from motiondirector.contenders import (
        BASE,
        OURS,
        Origin,
        bucket_of,
        check_trains,
        other_data,
        pace_of_origin,
        parse_against,
        read_version_adapters,
    )
    from motiondirector.judging import OPEN, PAGE, Judge, score_table
    from motiondirector.progress import Bars
    from training.adapters import data_sha256

    names = parse_against(against)
    if any(name != BASE for name in names):
        check_trains(dtype)
        keep_freed_memory()  # baselines train here
    read = None if prompts is None else read_prompts(prompts)
    read_open = None if open_prompts is None else read_prompts(open_prompts, "--open-prompts")
    opened = open_registry(registry)
    version = opened.resolve(concept)
    origin = Origin.of(opened, version)
    texts, open_texts = (
        None if of is None else prompts_for(of, origin.concept, version.concept) for of in (read, read_open)
    )
    for option, path, found in (("--prompts", prompts, texts), ("--open-prompts", open_prompts, open_texts)):
        if found == []:
            raise UserError(
                f"{option} {path}: all its prompts are for other concepts than {version.concept}; name it in `concept`, or "
                "leave that empty in prompts for every concept."
            )
    source = data or origin.data
    if source is None:
        raise UserError(
            f"{version.ref} does not say what it was trained on (it has no config.yaml); give --data, the clip set."
        )
    clips = read_clips(source, origin.concept)
    model = load_foundation(foundation or origin.foundation, device=device, dtype=dtype)
    ours = Contender(OURS, version.ref, read_version_adapters(opened, version, model))
    bucket, pace = bucket_of(origin, model), pace_of_origin(origin, model)
    parts = all_parts(clips, bucket, pace)
    folder = out or Path("runs/evaluate") / f"{version.concept}-{version.number}"
    store = Store(folder)
    judge = Judge(
        model,
        Generation(
            GenerationSettings(steps=steps, guidance_scale=guidance_scale),
            AdapterSettings(scale=scale),
            bucket,
            batch,
        ),
        tuple(range(1, seeds + 1)),
        clip=clip,
        pickscore=pickscore,
        opened=OPEN,
    )
    facts: dict[str, Any] = {
        "concept": version.ref,
        "adapter_sha256": version.adapter_sha256,
        "data": source,
        "data_sha256": data_sha256(parts),
    }
    with Bars() as bars:
        exam = judge.prepare(clips, texts, pace, open_texts)
        facts["notes"] = [*other_data(version, source, parts), *exam.notes]
        for note in facts["notes"]:
            bars.say(f"note: {note}")
        others = beside(version, origin, names, model, clips, source, bucket, store, bars)
        told = judge(f"{version.ref} evaluated", exam, [ours, *others], folder, store, bars, **facts)
    if publish:
        kept = kept_files(opened.resolve(version.ref))  # `train-batch` may have added some meanwhile
        opened.add_metrics(
            version, {"evaluation": {**published_scores(told), **({FILES: kept} if kept else {})}}
        )
    if as_json:
        print_json({**told, "page": str(folder / PAGE)})
        return
    console = Console()
    many = f"{len(told['prompts'])} prompts, {seeds} seed{'s' if seeds > 1 else ''} each"
    console.print(score_table(told, f"{version.ref}: {many}"))
    console.print(f"mean ± {told['interval']}; the best is bold", style="dim", highlight=False)
    published = f"; published with {version.ref}" if publish else ""
    console.print(
        f"look at [bold]{escape(str(folder / PAGE))}[/]{published}", highlight=False, soft_wrap=True
    )


def beside(
    version: Version,
    origin: Origin,
    names: Sequence[str],
    foundation: Foundation,
    clips: Sequence[Clip],
    source: str,
    bucket: Bucket,
    store: Store,
    bars: Bars,
) -> list[Contender]:
    """The contenders beside a version: the base, and baselines trained like it, or found in the store."""
    from motiondirector.contenders import BASE, base, local_config, train_from_clips, trained

    contenders = []
    for name in names:
        if name == BASE:
            contenders.append(base())
            continue
        if origin.settings is None:
            raise UserError(
                f"{version.ref} does not say how it was trained, so {name} cannot be trained like it; compare with "
                "--against base, or publish what `motiondirector train` wrote."
            )
        config = local_config(origin.settings, name, foundation)
        adapters = train_from_clips(foundation, origin.concept, clips, source, bucket, config, store, bars)
        contenders.append(trained(name, adapters, config))
    return contenders
