"""The paper's published code against ours, on the same clips in one run: seconds per step and motion fidelity.

    git clone https://github.com/showlab/MotionDirector published
    python benchmarks/published_code.py published                  # one clip, then four: most of an hour on a core
    python benchmarks/published_code.py published --clips 1 --rounds 40 --appearances 0          # speed only

This repository contains none of that code. Its `main` runs in a process with the published settings (config_single_video.yaml,
config_multi_videos.yaml), except for those that must equal ours: the foundation, the size of the clips, rank, learning rate,
steps, no previews, no checkpoints before the end. Sides:

  published, as it is        gradient checkpointing on, default malloc; on a GPU in float16
  published, like for like   no checkpointing, malloc as in our commands (infra/allocator.py), float32
  ours                       `--method motiondirector` with the same rank, learning rate, steps, captions and latents

The processes take turns step by step. The CPU time of each process is measured (on a GPU: seconds), so other load on the
machine matters little. Each uses one thread unless `--threads` says otherwise. On both sides one random step in five has no
spatial pass, so both kinds of steps are timed separately and weighted 0.8 and 0.2. The study's tracker then scores both
temporal LoRAs on the same prompts and noise.

The published code needs these replacements for older libraries; none changes the computation:
- empty modules for omegaconf, torchvision and imageio if missing; they are imported but never called here;
- diffusers' `models.transformer_2d` and `models.transformer_temporal` under their old names;
- the number of groups of the temporal layers' GroupNorm (formerly 32) from the foundation's configuration;
- the old arguments of a text encoder's `_set_gradient_checkpointing`; a frozen one in eval mode never checkpoints;
- latents in the form of its cache (`cached_latent_dir`), because it would scale them by 0.18215 for any VAE;
- without a GPU, "cuda" means the CPU and float16 means float32;
- without checkpointing, in float32: AdamW does not change version counters. Its spatial optimizer steps between two backward
  passes through the same LoRA, which autograd would refuse.
The outputs of both UNets for one input are compared before timing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # otherwise `training` would be this script

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # as in the project's commands; set before torch is loaded

from infra.errors import UserError

SPATIAL_SHARE = 0.8  # share of steps with a spatial pass, on both sides (training.methods.AS_PUBLISHED)
SAME = 1e-3  # largest difference of the two UNets' outputs, which are of order 1


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, nargs="?", help="folder of the published code")
    parser.add_argument("--foundation", default=None, help="path or id (default: the embedded foundation)")
    parser.add_argument("--device", default=None)
    parser.add_argument("--clips", default="1,4", help="numbers of clips, separated by commas")
    parser.add_argument("--motion", default="orbit", help="one of the study's novel motions")
    parser.add_argument("--captions", default="class", choices=("class", "full", "word", "motion"))
    parser.add_argument(
        "--steps", type=int, default=None, help="training steps (default: the foundation's recommendation)"
    )
    parser.add_argument("--rounds", type=int, default=40, help="timed steps of each side")
    parser.add_argument(
        "--appearances", type=int, default=8, help="unseen appearances to evaluate; 0: only speed"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each process")
    parser.add_argument("--json", type=Path, default=None, help="file for all figures")
    options = parser.parse_args(given)
    try:
        options.clips = tuple(int(count) for count in options.clips.split(","))
    except ValueError:
        parser.error(f"--clips {options.clips}: expected numbers separated by commas, such as 1,4.")
    if options.rounds < 1 or not all(1 <= count <= 6 for count in options.clips):
        parser.error("--clips expects numbers from 1 to 6, and --rounds at least 1.")
    return options


def settings(foundation: Any, clips: int, options: argparse.Namespace) -> Any:
    """Settings of our side; the published side takes those that it has."""
    from training.recommended import resolve

    own: dict[str, Any] = {"method": "motiondirector", "seed": options.seed, "spatial_learning_rate": None}
    if options.steps:
        own["steps"] = options.steps
    config = resolve(own, foundation.recommended, clips)
    if config.steps <= options.rounds:
        raise UserError(
            f"{options.rounds} rounds and one warm-up step need more than {config.steps} training steps; use fewer --rounds "
            "or more --steps."
        )
    return config


def compare(foundation: Any, clips: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run all sides on this number of clips."""
    from benchmarks.published_parts import sides
    from motiondirector.study.looks import reference_clips

    references = reference_clips(options.motion, clips, options.seed, options.captions)
    config = settings(foundation, clips, options)
    work = sides.Work(foundation, options.foundation, references, config, folder, options.threads)
    work.write()
    as_it_is = work.published(options.checkout, like_for_like=False)
    like, ours = work.published(options.checkout, like_for_like=True), work.ours()
    every = (as_it_is, like, ours)
    try:
        for side in every:
            say(f"{clips} clips: starting {side.name}")
            side.start()
        differs = as_it_is.messages["differs"]
        if differs > SAME:
            raise UserError(
                f"the output of the published UNet differs by {differs:g} from ours; expected at most {SAME:g}. The published "
                "code does not compute the same as this foundation; choose another --foundation."
            )
        for number in range(options.rounds):
            for side in every:
                side.step()
            if (number + 1) % 5 == 0:
                means = ", ".join(f"{statistics.mean(took.cpu for took in side.steps):.3f}" for side in every)
                say(f"{clips} clips: round {number + 1} of {options.rounds}; CPU seconds per step: {means}")
        like.end()
        found: dict[str, Any] = {
            "clips": clips,
            "rank": config.rank,
            "learning_rate": config.learning_rate,
            "steps": config.steps,
            "unets_differ": differs,
            "versions": as_it_is.messages["versions"],
            "stand_ins": as_it_is.messages["missing"],
            "took": {side.name: [took._asdict() for took in side.steps] for side in every},
        }
        if options.appearances:
            say(f"{clips} clips: remaining steps")
            for side in (as_it_is, ours):
                side.start_remaining()
            files = {side.name: side.finish() for side in (as_it_is, ours)}
            say(f"{clips} clips: videos")
            loras = {
                as_it_is.name: published_lora(files[as_it_is.name], as_it_is.messages["temporal"]),
                ours.name: load(files[ours.name]),
            }
            found["fidelity"] = judge(foundation, references, loras, clips, options)
    finally:
        for side in every:
            side.end()
    return found


def load(file: Path) -> Any:
    import torch

    return torch.load(file, map_location="cpu", weights_only=True)


def published_lora(file: Path, names: Sequence[str]) -> dict[str, Any]:
    """Convert the published code's file (up and down per layer, in its layer order) to {layer: (A, B)} for a bank."""
    tensors = [tensor.detach() for tensor in load(file)]
    if len(tensors) != 2 * len(names):
        raise UserError(f"{file} has {len(tensors)} tensors; expected two for each of {len(names)} layers.")
    return {name: (tensors[2 * n + 1], tensors[2 * n]) for n, name in enumerate(names)}


def judge(
    foundation: Any, references: Sequence[Any], loras: dict[str, Any], clips: int, options: argparse.Namespace
) -> dict[str, list[float | None]]:
    """Motion fidelity of the videos of each side and of the base model, for appearances that no clip shows."""
    from evaluation.metric import Case
    from motiondirector.study.looks import full_prompts
    from motiondirector.study.trial import measure
    from motiondirector.study.videos import Order, generate

    prompts = full_prompts(options.motion, clips, options.seed, options.captions, options.appearances)
    orders = {"base model": Order(prompts)} | {
        name: Order(prompts, {"temporal": lora}) for name, lora in loras.items()
    }
    videos = generate(foundation, list(orders.values()))
    found = {}
    for name, of in zip(orders, videos, strict=True):
        cases = [
            Case(video, one.prompt, one.seed, tuple(references))
            for video, one in zip(of, prompts, strict=True)
        ]
        found[name] = measure(cases, [], [])["motion_fidelity"]
    return found


def step_seconds(took: Sequence[dict[str, Any]], clock: str) -> float:
    """Seconds of a step: the weighted medians of steps with and without a spatial pass."""
    kinds = [[one[clock] for one in took if one["spatial"] == spatial] for spatial in (True, False)]
    if not all(kinds):
        return statistics.median(one[clock] for one in took)
    both, temporal = map(statistics.median, kinds)
    return SPATIAL_SHARE * both + (1 - SPATIAL_SHARE) * temporal


def paired(theirs: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]], clock: str) -> list[float]:
    """Sorted ratios of rounds in which both sides had the same kind of step."""
    pairs = zip(theirs, ours, strict=True)
    return sorted(a[clock] / b[clock] for a, b in pairs if a["spatial"] == b["spatial"])


def report(found: dict[str, Any], clock: str) -> None:
    """Print the tables for one number of clips."""
    from benchmarks.published_parts.sides import OURS

    print(
        f"\n{found['clips']} clip(s): rank {found['rank']}, learning rate {found['learning_rate']:g}, {found['steps']} steps; "
        f"the UNets' outputs differ by {found['unets_differ']:.1e}"
    )
    took, fidelity = found["took"], found.get("fidelity", {})
    print(f"{'side':26}{'s per step':>10}{'wall':>8}   of ours (of each pair)      motion fidelity")
    for name in ("base model", *took):
        row = f"{name:26}"
        if name in took:
            of = took[name]
            row += f"{step_seconds(of, clock):10.3f}{step_seconds(of, 'wall'):8.3f}"
            ratio = step_seconds(of, clock) / step_seconds(took[OURS], clock)
            pairs = paired(of, took[OURS], clock)
            spread = (
                f"{statistics.median(pairs):.2f}: {pairs[0]:.2f}-{pairs[-1]:.2f}" if pairs else "no pairs"
            )
            row += f"   {ratio:.2f} x ({spread})"
        values = [value for value in fidelity.get(name, ()) if value is not None]
        mean = f"{statistics.mean(values):.2f} of {len(values)} videos" if values else ""
        if name in took or mean:
            print(f"{row:75}{mean}".rstrip())


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(given: Sequence[str] | None = None) -> int:
    """Run and print everything; returns the exit code."""
    options = arguments(given)
    try:
        run(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace) -> None:
    from benchmarks.published_parts.sides import checkout_at

    options.checkout = checkout_at(options.checkout)
    import torch

    from models.load import load_foundation

    torch.set_num_threads(options.threads)
    foundation = load_foundation(options.foundation, device=options.device, dtype="fp32")
    if foundation.family != "unet3d":
        raise UserError(
            f"foundation {foundation.name} is of family {foundation.family}, but the published code supports only unet3d; "
            "choose another --foundation."
        )
    gpu = foundation.device.type == "cuda"
    clock, results = "wall" if gpu else "cpu", []
    for clips in options.clips:
        with tempfile.TemporaryDirectory() as folder:
            results.append(compare(foundation, clips, options, Path(folder)))
        report(results[-1], clock)
    about = {
        "hardware": torch.cuda.get_device_name()
        if gpu
        else f"{os.cpu_count()} CPU cores ({platform.machine()})",
        "seconds": "wall clock" if gpu else "CPU time of a process",
        "threads": options.threads,
        "dtype": "float16 autocast for published as it is, otherwise float32" if gpu else "float32",
        "foundation": foundation.name,
        "motion": options.motion,
        **results[0]["versions"],
        "stand-ins": " ".join(results[0]["stand_ins"]) or "none",
        "rounds": options.rounds,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    print("\n" + ", ".join(f"{what} {value}" for what, value in about.items()))
    if options.json:
        options.json.write_text(json.dumps({"about": about, "results": results}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
