"""`motiondirector train-batch`: a manifest's concepts become motions in the registry, several in one forward."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.errors import UserError
from motiondirector.batch_plan import show_plan
from motiondirector.batch_screen import BatchScreen
from motiondirector.commands.concepts import DEFAULT_REGISTRY, RegistryUri
from motiondirector.evaluation_options import ClipWeights, PickWeights
from motiondirector.exits import NOT_DONE

if TYPE_CHECKING:
    from infra.storage import Storage
    from training.batch.profile import Profile
    from training.batch.record import Record
    from training.batch.watcher import Watcher


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train-batch")(train_batch)


def train_batch(
    manifest: Annotated[
        str,
        typer.Argument(
            help="A .yaml, .jsonl, .csv or .tsv file, or a clip set: every concept in it.", metavar="MANIFEST"
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="Clip set of entries that name none.", show_default=False)
    ] = None,
    foundation: Annotated[
        str | None,
        typer.Option(help="Model of entries that name none.", show_default="the embedded sprite model"),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE of a training setting, for entries that do not say (repeat)."),
    ] = None,
    registry: RegistryUri = DEFAULT_REGISTRY,
    name: Annotated[
        str | None,
        typer.Option(help="The batch's name; one that was begun goes on.", show_default="the manifest's"),
    ] = None,
    pack: Annotated[
        str | None,
        typer.Option(
            help="Concepts in one forward, 1 to 64, or `auto`: what the device was measured to do best. On Ray the first lane of "
            "each kind of device measures it, in a minute for each group of settings, and the registry keeps that. Never "
            "more than a lane's share.",
            metavar="N|auto",
            show_default="the profile's best, else 8",
        ),
    ] = None,
    lanes: Annotated[
        str | None,
        typer.Option(
            help="Lanes at once, each with the model; auto: as many as the cluster has room for, as it grows and shrinks.",
            metavar="N|auto",
            show_default="auto with --address, else 1: this process",
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster for the lanes (auto, host:port, ray://...).", show_default=False),
    ] = None,
    cpus_per_lane: Annotated[
        float | None,
        typer.Option(
            help="CPUs that a lane on Ray takes of a node.",
            min=0.1,
            show_default="1 beside a GPU, else 4 or what a node has",
        ),
    ] = None,
    encoder_gpus: Annotated[
        float | None,
        typer.Option(
            help="Part of a GPU for encoding clips ahead of lanes that train on GPUs; 0: a CPU. Until all are encoded no "
            "lane has that GPU.",
            min=0.0,
            max=1.0,
            show_default="0.5 where a GPU is free that no lane will want, else 0",
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="What the device was measured to do, for times and memory: a file, or `auto` to measure this one, once, in "
            "at most a minute for each group of settings."
        ),
    ] = None,
    evaluate: Annotated[
        bool, typer.Option(help="Score each published version and keep sample videos, beside the training.")
    ] = True,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="What to evaluate with, as in `evaluate`; rows may name their `concept`.",
            show_default="4 held-out appearances; captions, if the clips are no sprites",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Videos of each prompt, from the seeds 1, 2, ...", min=1)] = 1,
    evaluate_steps: Annotated[
        int | None, typer.Option(help="Denoising steps of these videos. Absent: the foundation's.", min=1)
    ] = None,
    clip: ClipWeights = None,
    pickscore: PickWeights = None,
    exit_zero: Annotated[
        bool,
        typer.Option(
            "--exit-zero",
            help="Exit with 0 though concepts failed, which the table tells: for jobs that are started again after any other code.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
) -> None:
    """Train many concepts on one resident model, several in one forward, and publish each as it ends.

    [bold]Examples[/]

      motiondirector train-batch batch.yaml --dry-run

      motiondirector train-batch s3://bucket/clips --registry s3://bucket/registry --setting steps=200

      motiondirector train-batch concepts.jsonl --registry s3://bucket/registry --address auto

    Each adapter is the one that `motiondirector train` gives with the same settings. Concepts that fail stop nobody else; where
    some have, the exit code is 1 in the end (not with --exit-zero).
    Stopped, the same command goes on; given in several terminals or machines, they share the work. A changed manifest adds to
    the batch. What failed or was cancelled stays so until `motiondirector runs retry`; `runs` shows, cancels and has the logs, too.

    With --address lanes run on a Ray cluster's nodes, one a GPU, and this command starts them again when one dies; all that
    lasts is in the registry's storage, which every node must reach.

    What is published is evaluated by a process of its own at a low priority, on the machine of this command (it holds the
    foundation once more: on a GPU that has no room for two give --no-evaluate). Scores and samples lie with the version:
    `concepts show`, `concepts pull --samples`. A version that cannot be evaluated is published all the same.
    """
    from evaluation.prompts import read_prompts
    from infra.registry import open_registry
    from motiondirector.batch_validation import Evaluation
    from motiondirector.progress import Bars, Warnings
    from motiondirector.settings import parse_settings
    from training.batch.manifest import read_entries
    from training.batch.measure import device_profile
    from training.batch.plan import make_plan
    from training.batch.profile import Profile
    from training.batch.resolving import Sources
    from training.batch.run import enter
    from training.batch.run import train_batch as run
    from training.batch.sizing import room_check
    from training.batch.state import open_batch
    from training.batch.validation import validations

    defaults: dict[str, Any] = {"data": data, "foundation": foundation}
    defaults = {key: value for key, value in defaults.items() if value is not None}
    texts = () if prompts is None else tuple(read_prompts(prompts))
    entries, mistakes = read_entries(manifest, {**parse_settings(setting or []), **defaults})
    members, count = pack_size(pack), lane_count(lanes, address)
    batch_id = name or batch_name(manifest)
    if cpus_per_lane is not None and address is None and count == 1:
        raise UserError(
            f"--cpus-per-lane {cpus_per_lane:g}: the one lane is this process, which takes what the machine has; give it "
            "with --address or --lanes, for lanes on Ray."
        )
    if encoder_gpus is not None and address is None and count == 1:
        raise UserError(
            f"--encoder-gpus {encoder_gpus:g}: the one lane is this process, which encodes where it trains; give it with "
            "--address or --lanes, for lanes on Ray."
        )
    console = Console()
    known = {name for entry in entries for name in (entry.concept, entry.name)}
    strangers = sorted({text.concept for text in texts if text.concept is not None} - known)
    if strangers:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[yellow]warning:[/] {escape(str(prompts))} has prompts for concepts that the batch has not: "
            f"{escape(', '.join(strangers[:8]))}{', ...' if len(strangers) > 8 else ''}"
        )
    with ExitStack() as stack:
        nodes: list[dict[str, float]] = []
        if count != 1 or address is not None:
            count, nodes = stack.enter_context(cluster(address, count, cpus_per_lane, dry_run))
        on_ray = address is not None or count > 1
        if on_ray and profile == "auto":
            raise UserError(
                "--profile auto measures the device of this process, and the lanes are others; give --pack auto, which has "
                "lanes measure theirs, or a profile file."
            )
        if pack == "auto" and profile is None and not on_ray:
            profile = "auto"
        opened, sources = open_registry(registry), Sources()
        batch = open_batch(opened.storage, batch_id)
        planned: dict[str, Any] = {"lanes": count, "pack": members, "sources": sources}
        planned |= {"workers": None if on_ray else 1, "records": batch.records(), "mistakes": mistakes}
        lane_cpus = cpus_per_lane or shared_cpus(address, count) if on_ray else None
        if on_ray:
            from training.batch.ray_lanes import check_encoder

            planned["check"] = room_check(nodes, lane_cpus)
            check_encoder(encoder_gpus, nodes)
        measured: Profile | None = None
        if profile == "auto":
            unmeasured = make_plan(entries, manifest, opened, **planned)
            with Bars() as bars:
                bars.say("measuring this device where it was not measured before")
                measured = device_profile(unmeasured.works, on_progress=bars)
        elif profile is not None:
            measured = Profile.parse(read_text(Path(profile)), profile)
        measure = pack == "auto" and measured is None
        shown = only_kind(opened.storage) if measure else measured
        plan = make_plan(entries, manifest, opened, profile=shown, **planned)
        show_plan(console, plan, batch_id)
        show_remarks(console, sources.remarks)
        if dry_run:
            return
        enter(batch, plan, {"manifest": manifest, "registry": opened.uri}, opened)
        validate = (
            Evaluation(opened.uri, texts, seeds, steps=evaluate_steps, clip=clip, pickscore=pickscore)
            if evaluate
            else None
        )

        def line(text: str) -> None:
            console.print(text, highlight=False, markup=False, soft_wrap=True)

        work: dict[str, Any] = {"pack": members, "profile": measured, "validate": validate}
        with BatchScreen(console) as screen, Warnings(line):
            if on_ray:
                from training.batch.ray_lanes import train_on_ray

                limit = None if lanes in (None, "auto") else count
                work |= {"limit": limit, "cpus": lane_cpus, "works": plan.works}
                work |= {"measure": measure, "encoder_gpus": encoder_gpus}
                records = train_on_ray(batch, opened, batch_id, on_look=screen, **work)
            else:
                records = run(batch, opened, watcher=loading_said(line), on_look=screen, **work)
    show_records(console, records, validations(batch, records))
    if not on_ray and (left := [record.name for record in records if not record.ended]):
        console.print(
            f"{', '.join(left)}: not ended; lanes on Ray (--address) train what asks for several workers",
            highlight=False,
        )
    if not exit_zero and any(record.status == "failed" for record in records):
        raise typer.Exit(NOT_DONE)


def show_remarks(console: Console, remarks: dict[str, list[str]], most: int = 12) -> None:
    """What of clips, captions and prompts is not learned: the first sentences, and how many more there are."""
    lines = [f"{name}: {text}" for name, told in remarks.items() for text in told]
    for line in lines[:most]:
        console.print(f"[yellow]note:[/] {escape(line)}", highlight=False, soft_wrap=True)
    if len(lines) > most:
        console.print(f"[yellow]note:[/] and {len(lines) - most} more like these", highlight=False)


def pack_size(given: str | None) -> int | None:
    """Members of a pack; None: what suits. Raises UserError."""
    return None if given is None else number_or_auto("--pack", given, 64)


def number_or_auto(option: str, text: str, most: int) -> int | None:
    """A number from 1 to `most`; None for "auto". Raises UserError."""
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise UserError(f"{option} {text}: expected a number from 1 to {most}, or auto.")
    return int(text)


def lane_count(lanes: str | None, address: str | None) -> int | None:
    """How many lanes were asked for; None: as many as there is room for."""
    if lanes is None:
        return None if address is not None else 1
    return number_or_auto("--lanes", lanes, 1024)


def shared_cpus(address: str | None, lanes: int) -> float | None:
    """CPUs of a lane where the lanes share this machine."""
    return None if address is not None else max(1.0, (os.cpu_count() or 1) // lanes)


@contextmanager
def cluster(
    address: str | None, lanes: int | None, cpus: float | None, dry_run: bool
) -> Iterator[tuple[int, list[dict[str, float]]]]:
    """A Ray session for so many lanes; gives how many to plan for, and the resources of the nodes there are for them.

    Without an address it is a cluster on this machine, with a CPU for each lane even where it has fewer. A dry run
    with a number of lanes needs no such cluster, as what it would have is known.
    """
    from infra.cluster import ray_session, reachable_nodes
    from training.batch.sizing import lane_need, places

    options: dict[str, Any] = {}
    if address is None and lanes is not None:
        options["num_cpus"] = max(lanes, os.cpu_count() or 1)
        if dry_run and not os.environ.get("RAY_ADDRESS"):
            import torch

            yield lanes, [{"CPU": options["num_cpus"], "GPU": torch.cuda.device_count()}]
            return
    with ray_session(address, **options):
        nodes = reachable_nodes()
        yield lanes or max(1, places(nodes, lane_need(nodes, cpus))), nodes


def read_text(path: Path) -> str:
    """A local text file. Raises UserError."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); give a profile file, or `auto` to measure this device."
        ) from None


def only_kind(storage: Storage) -> Profile | None:
    """What lanes measured of their device, for a plan; None where nobody did, or of several kinds: who trains what is not known."""
    from training.batch.measuring import kept_profiles

    kept = kept_profiles(storage)
    return kept[0] if len(kept) == 1 else None


def batch_name(manifest: str) -> str:
    """From the manifest's name. Raises UserError when that gives none."""
    stem = PurePosixPath(manifest.rstrip("/")).name.rsplit(".", 1)[0].lower()
    name = re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-_")[:64]
    if not name:
        raise UserError(f"no name for the batch can be made of {manifest!r}; give --name.")
    return name


def loading_said(say: Callable[[str], None]) -> Watcher:
    """A line when a lane of this process loads a foundation: the table stands still meanwhile."""
    from training.batch.watcher import Watcher

    class Said(Watcher):
        def loading(self, foundation: str | None) -> None:
            say(f"loading {foundation or 'the embedded foundation'}")

    return Said()


def show_records(console: Console, records: list[Record], validated: dict[str, dict[str, Any]]) -> None:
    """One row a concept. `validated` is `training.batch.validation.validations` of them."""
    columns = (
        "concept",
        "state",
        "step",
        "loss",
        "version or reason",
        *(["evaluation"] if validated else []),
    )
    table = Table(*columns)
    for record in records:
        state = f"{record.status} (cancelling)" if record.cancelling else record.status
        loss = "" if record.loss is None else f"{record.loss:.4f}"
        said = record.version or record.reason or ""
        scores = [escape(scored(validated.get(record.name)))] if validated else []
        table.add_row(record.name, state, f"{record.step}/{record.steps}", loss, escape(said), *scores)
    console.print(table)


def scored(validation: dict[str, Any] | None) -> str:
    """What says most of a validation, or why there is none; `concepts show` has all."""
    from training.batch.validation import headline

    if validation is None:
        return ""
    if validation["error"] is not None:
        return f"failed: {validation['error']}"
    return headline(validation["scores"])
