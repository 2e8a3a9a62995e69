"""`motiondirector concepts`: lists the registry; publishes, imports, downloads, removes and exports versions."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.errors import Conflict, InvalidInput, NotFound, UserError
from infra.registry import DEFAULT_REGISTRY
from motiondirector.exits import NOT_DONE
from motiondirector.output import print_json

if TYPE_CHECKING:
    from infra.registry import Registry, Version
    from models.adapters.file import Adapter

RegistryUri = Annotated[
    str,
    typer.Option(
        "--registry",
        envvar="MOTIONDIRECTOR_REGISTRY",
        help="Folder or s3://bucket/prefix of the registry.",
        show_default=True,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Reference = Annotated[
    str, typer.Argument(metavar="CONCEPT[@VERSION]", help="car-turn (the latest) or car-turn@3.")
]
# Metadata of an adapter that is stored as JSON, because safetensors stores only strings.
STRUCTURED = ("rank", "steps", "targets", "captions", "config")


class ExportFormat(StrEnum):
    MERGED = "merged"
    DIFFUSERS = "diffusers"
    COMFYUI = "comfyui"


concepts = typer.Typer(
    help="The concept registry: list, show, publish, import, pull, rm, export.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


def register(app: typer.Typer) -> None:
    app.add_typer(concepts, name="concepts")


@concepts.command("list")
def list_concepts(registry: RegistryUri = DEFAULT_REGISTRY, as_json: AsJson = False) -> None:
    """List every concept with its latest version.

    Example: motiondirector concepts list --registry s3://bucket/registry
    """
    found = open_it(registry).concepts()
    if as_json:
        print_json(
            [
                {
                    "name": info.name,
                    "versions": info.versions,
                    "latest": info.latest,
                    "updated_at": info.updated_at,
                }
                for info in found
            ]
        )
        return
    table = Table(
        "concept", "versions", "latest", "published", title=escape(f"{len(found)} concepts in {registry}")
    )
    for info in found:
        table.add_row(
            info.name,
            str(info.versions),
            f"{info.name}@{info.latest}",
            f"{info.updated_at:%Y-%m-%d %H:%M} UTC",
        )
    Console().print(table)


@concepts.command("show")
def show(ref: Reference, registry: RegistryUri = DEFAULT_REGISTRY, as_json: AsJson = False) -> None:
    """Show one version: metadata, metrics, files (including sample videos), and the concept's other versions.

    Example: motiondirector concepts show car-turn@2
    """
    from models.adapters.versions import gives

    opened = open_it(registry)
    version = opened.resolve(ref)
    others = opened.versions(version.concept)
    if as_json:
        print_json({**plain(version), "versions": [other.number for other in others]})
        return
    console = Console()
    facts = Table(title=version.ref, show_header=False)
    facts.add_row("gives", " and ".join(gives(version)))
    facts.add_row("published", f"{version.created_at:%Y-%m-%d %H:%M:%S} UTC")
    facts.add_row("adapter sha256", version.adapter_sha256)
    facts.add_row("versions", ", ".join(other.ref for other in others))
    for name, value in sorted(version.metadata.items()):
        facts.add_row(escape(name), escape(shorten(value)))
    console.print(facts)
    measured = dict(version.metrics)
    evaluated = measured.pop("evaluation", None)
    if measured:
        metrics = Table("metric", "value", title="metrics")
        for name, value in sorted(measured.items()):
            metrics.add_row(escape(name), escape(shorten(value)))
        console.print(metrics)
    if evaluated is not None:
        show_evaluation(console, evaluated)
    files = Table("file", "bytes", "sha256", title="files")
    for name, entry in sorted(version.files.items()):
        files.add_row(escape(name), f"{entry.size:,}", entry.sha256[:16])
    console.print(files)


def show_evaluation(console: Console, evaluated: Any) -> None:
    """Print the scores that `motiondirector evaluate` published as a table; print anything else unchanged."""
    from motiondirector.judging.judge import score_table

    try:
        table = score_table(evaluated, "evaluation")
        about = (
            f"{evaluated['prompts']} prompts, seeds {', '.join(map(str, evaluated['seeds']))}, measured "
            f"{evaluated['measured_at']}; mean ± {evaluated['interval']}"
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        console.print(f"evaluation: {escape(shorten(evaluated))}")
        return
    console.print(table)
    console.print(escape(about), style="dim", highlight=False)
    if evaluated.get("files"):
        console.print(
            f"{len(evaluated['files'])} files of the batch's evaluation (page, report, videos): concepts pull --samples",
            style="dim",
        )
    for note in evaluated.get("notes") or []:
        console.print(f"note: {escape(note)}", style="dim", highlight=False)


@concepts.command("publish")
def publish(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder with adapter_model.safetensors and adapter_config.json, there (motion) or in spatial/ (appearance)."
        ),
    ],
    concept: Annotated[str, typer.Option("--concept", help="The concept's name: a-z, 0-9, '.', '_', '-'.")],
    foundation: Annotated[
        str | None,
        typer.Option(
            help="Also check the adapter against this foundation (fingerprint, layers, shapes). Required if the adapter does "
            "not name its foundation, as those of stock PEFT."
        ),
    ] = None,
    metrics: Annotated[Path | None, typer.Option(help="JSON file of metrics to publish with it.")] = None,
    registry: RegistryUri = DEFAULT_REGISTRY,
    as_json: AsJson = False,
) -> None:
    """Publish a trained adapter as the next version of a concept. An invalid one is refused before anything is written.

    All files in the folder are published (sample videos, the run's configuration), except dot files. A motion, an
    appearance (`spatial/`) or both make a version. Adapters of other
    tools work, too: lora_alpha, rsLoRA, rank_pattern and alpha_pattern are folded into the weights, settings that a LoRA
    here cannot express are refused, and --foundation records the model that the adapter is for.

    Example: motiondirector concepts publish runs/car/adapter --concept car-turn --registry s3://bucket/registry
    """
    from infra.registry import check_concept_name
    from models.adapters.publishing import ready_to_publish

    check_concept_name(concept)
    measured = read_metrics(metrics)
    loaded = None
    if foundation is not None:
        from models.load import load_foundation

        loaded = load_foundation(foundation, device="cpu", parts=("denoiser",))
    with ready_to_publish(folder, loaded, concept) as (ready, adapter):
        version = open_it(registry).publish(concept, ready, metadata=describe(adapter), metrics=measured)
    if ready != folder and not as_json:
        Console().print(
            "its settings (such as lora_alpha) were folded into its weights, and its foundation was recorded",
            style="dim",
        )
    if as_json:
        print_json(plain(version))
    else:
        Console().print(
            f"published [bold]{version.ref}[/] in {escape(registry)} ({version.adapter_sha256[:16]})"
        )


@concepts.command("import")
def import_command(
    concept: Annotated[str, typer.Option("--concept", help="The concept's name: a-z, 0-9, '.', '_', '-'.")],
    foundation: Annotated[str, typer.Option(help="Model that it was made for: a folder or hub id.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE...",
            help="LoRA of another tool (.safetensors). Of Wan 2.2 two, told apart by high and low in their names.",
        ),
    ] = None,
    high_noise: Annotated[
        Path | None, typer.Option(help="Wan 2.2: the high-noise expert's file, if its name does not say so.")
    ] = None,
    low_noise: Annotated[Path | None, typer.Option(help="Wan 2.2: the low-noise expert's file.")] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Import it although some of its keys cannot be.")
    ] = False,
    registry: RegistryUri = DEFAULT_REGISTRY,
    as_json: AsJson = False,
) -> None:
    """Publish a LoRA of another tool as the next version of a concept.

    Knows the keys of diffusers and PEFT, ComfyUI, ai-toolkit, diffusion-pipe, musubi-tuner (kohya), Wan-Fun and DiffSynth, and
    takes their alpha into account. Keys that it cannot use are listed. A LoRA that changes more layers than those trained here
    is used with --adapter-layers all.

    Example: motiondirector concepts import orbit.safetensors --concept orbit --foundation /models/Wan2.1-T2V-1.3B
    """
    from models.adapters.importing import import_files
    from models.adapters.publishing import publish_made
    from models.load import load_foundation

    loaded = load_foundation(foundation, device="cpu", parts=("denoiser",))
    made = import_files(files or [], loaded, high_noise=high_noise, low_noise=low_noise, partial=partial)
    opened = open_it(registry)
    with publish_made(made.adapters, loaded, concept) as (ready, adapter):
        version = opened.publish(concept, ready, metadata=describe(adapter))
    if as_json:
        read = {
            name: {"layout": one.layout, "layers": len(one.tensors), "unmatched": list(one.unmatched)}
            for name, one in made.files.items()
        }
        print_json({**plain(version), "imported": read})
        return
    for name, one in made.files.items():
        Console().print(escape(f"{name}: {one.layout}, {len(one.tensors)} layers"), highlight=False)
        for key in one.unmatched:
            Console().print(escape(f"  not imported: {key}"), style="dim", highlight=False)
    Console().print(f"published [bold]{version.ref}[/] in {escape(registry)} ({version.adapter_sha256[:16]})")


@concepts.command("pull")
def pull(
    ref: Reference,
    to: Annotated[
        Path | None, typer.Option("--to", "-o", help="Folder to create; ./CONCEPT-VERSION by default.")
    ] = None,
    samples: Annotated[
        bool,
        typer.Option(
            "--samples",
            help="Also download page, report and videos of the batch's evaluation, to evaluation/.",
        ),
    ] = False,
    registry: RegistryUri = DEFAULT_REGISTRY,
    as_json: AsJson = False,
) -> None:
    """Download a version's files, all or none, each checked against its hash.

    The folder loads with stock PEFT: PeftModel.from_pretrained(pipeline.unet, folder); an appearance is in folder/spatial.

    Example: motiondirector concepts pull car-turn@2 --to car-turn
    """
    from evaluation.report import kept_files
    from infra.storage.objects import get_files

    opened = open_it(registry)
    version = opened.resolve(ref)
    evaluated = kept_files(version)
    if samples and not evaluated:
        raise NotFound(
            f"{version.ref} has no samples in {registry}; `train-batch` keeps samples of versions that it evaluates, and "
            "`motiondirector evaluate` writes them to a folder.",
            code="file_not_found",
        )
    folder = opened.pull(version, to or Path(f"{version.concept}-{version.number}"))
    if samples:
        get_files(opened.storage, evaluated, folder / "evaluation")
    if as_json:
        print_json({**plain(version), "folder": str(folder)})
    else:
        Console().print(f"pulled [bold]{version.ref}[/] to {escape(str(folder))}", soft_wrap=True)


@concepts.command("rm")
def remove(
    ref: Reference,
    every: Annotated[bool, typer.Option("--all", help="Remove every version of the concept.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    registry: RegistryUri = DEFAULT_REGISTRY,
    as_json: AsJson = False,
) -> None:
    """Remove a version from the registry. Its number is never used again; its files stay in the object store.

    Example: motiondirector concepts rm car-turn@2
    """
    from infra.registry import parse_ref

    name, number = parse_ref(ref)
    if (number is None) != every:
        raise InvalidInput(
            f"concepts rm {ref}: say which versions to remove; {name}@3 is the third, {name} --all is every version.",
            code="invalid_version",
        )
    opened = open_it(registry)
    opened.find(ref)  # raise NotFound before asking for confirmation
    kept = opened.numbers(name, "versions") - opened.numbers(name, "removed")
    refs = [f"{name}@{one}" for one in sorted(kept)] if every else [ref]
    if not yes and not typer.confirm(f"Remove {', '.join(refs)} from {registry}?", err=True):
        raise typer.Exit(NOT_DONE)
    for one in refs:
        opened.remove(one)
    if as_json:
        print_json({"removed": refs})
    else:
        Console().print(f"removed {', '.join(refs)}")


@concepts.command("export")
def export(
    ref: Reference,
    to: Annotated[Path, typer.Option("--to", "-o", help="Folder to create.")],
    foundation: Annotated[
        str | None, typer.Option(help="Foundation to merge into; the one it was trained on by default.")
    ] = None,
    scale: Annotated[float, typer.Option(help="Strength of the adapter.")] = 1.0,
    form: Annotated[
        ExportFormat,
        typer.Option(
            "--format", help="merged: the denoiser with the adapters in it; diffusers, comfyui: a LoRA file."
        ),
    ] = ExportFormat.MERGED,
    registry: RegistryUri = DEFAULT_REGISTRY,
    as_json: AsJson = False,
) -> None:
    """Write a version for other tools: merged into the foundation's denoiser, or as a LoRA file.

    merged: the folder loads with the class's stock from_pretrained and replaces the `unet` (or `transformer`) of a pipeline. Its
    weights are float32.
    diffusers: a file for `load_lora_weights`. comfyui: a file for the node editor (Wan, LTX-Video).
    Of Wan 2.2, files for both experts: _high_noise, and _low_noise (in diffusers: load_into_transformer_2=True).
    To get the files as they are in the registry, use `concepts pull`.

    Example: motiondirector concepts export car-turn@2 --to car-turn --format comfyui
    """
    opened = open_it(registry)
    version = opened.resolve(ref)
    to = Path(os.path.abspath(to))
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise Conflict(f"{to} exists and is not empty; remove it or choose another.", code="folder_not_empty")
    from infra.files import TEMPORARY, explained_os_errors
    from models.adapters.export import export_files, export_merged
    from models.adapters.versions import read_own
    from models.load import load_foundation

    with explained_os_errors(f"writing {to}"):
        to.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=to.parent, prefix=TEMPORARY))
        try:
            source = foundation or source_of(opened, version)
            # In half precision the sum would lose small changes. Merging needs no GPU.
            loaded = load_foundation(source, device="cpu", dtype="float32", parts=("denoiser",))
            loaded.widen()
            adapters = read_own(opened, version, loaded).values()
            if form is ExportFormat.MERGED:
                export_merged(loaded, adapters, work / "made", scale)
            else:
                export_files(loaded, adapters, work / "made", version.concept, form.value, scale)
            (work / "made").rename(to)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    if as_json:
        print_json({**plain(version), "folder": str(to), "foundation": source, "scale": scale})
    else:
        Console().print(
            f"merged [bold]{version.ref}[/] into {escape(str(source))}: {escape(str(to))}"
            if form is ExportFormat.MERGED
            else f"wrote [bold]{version.ref}[/] for {form.value}: {escape(str(to))}",
            soft_wrap=True,
        )


def source_of(registry: Registry, version: Version) -> str:
    """The folder or id of the foundation that a version was trained on. Raises InvalidInput if it is not recorded."""
    from models.adapters.config import parse_config
    from models.adapters.versions import first_config

    source = parse_config(version.ref, registry.read(version, first_config(version))).get(
        "base_model_name_or_path"
    )
    if not isinstance(source, str) or not source:
        raise InvalidInput(
            f"{version.ref} does not record its foundation; give --foundation.",
            code="foundation_unknown",
        )
    return source


def open_it(uri: str) -> Registry:
    """Open the registry; imported late to keep `--help` fast."""
    from infra.registry import open_registry

    return open_registry(uri)


def read_metrics(path: Path | None) -> dict[str, Any]:
    """The mapping in a JSON file, or {} for None."""
    if path is None:
        return {}
    try:
        loaded = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"--metrics {path}: not readable as JSON ({error}); give a file like {{'fidelity': 0.9}}."
        ) from None
    if not isinstance(loaded, dict):
        raise UserError(
            f"--metrics {path} contains a {type(loaded).__name__}; expected a mapping of names to numbers."
        )
    return loaded


def describe(adapter: Adapter) -> dict[str, Any]:
    """An adapter's metadata with numbers and lists in place of the strings that safetensors keeps."""
    metadata: dict[str, Any] = dict(adapter.metadata)
    for name in STRUCTURED:
        try:
            metadata[name] = json.loads(metadata[name])
        except (KeyError, ValueError):
            continue
    return metadata


def plain(version: Version) -> dict[str, Any]:
    """A version as JSON."""
    from models.adapters.versions import gives

    return {
        "ref": version.ref,
        "concept": version.concept,
        "number": version.number,
        "gives": list(gives(version)),
        "created_at": version.created_at,
        "adapter_sha256": version.adapter_sha256,
        "files": {
            name: {"sha256": entry.sha256, "size": entry.size} for name, entry in version.files.items()
        },
        "metadata": version.metadata,
        "metrics": version.metrics,
    }


def shorten(value: Any) -> str:
    """A value for a table cell."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}... ({len(text)} characters; --json shows all)"
