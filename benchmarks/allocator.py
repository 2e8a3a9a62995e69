"""Training and generation on a CPU, with default malloc and with malloc that keeps freed memory (infra/allocator.py).

    python benchmarks/allocator.py                # a quarter of an hour on two cores
    python benchmarks/allocator.py --rounds 21

Each side is a process with the embedded foundation; the sides take turns, step by step. Training: a step of one concept of
one clip, and of a pack of eight. Generation: one video. The thread matters to malloc, so each runs in the main thread and in
another one, as in Ray's workers, with one torch thread and with all. Losses (of one concept) and pixels must be equal.
Prints seconds, the ratio, and each side's peak memory.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import multiprocessing
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # otherwise `training` would be this script

# As in the project's commands; set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SIDES = ("as it comes", "kept")
WARM_UP = 2  # rounds that are not counted
WORK = ("train 1", "train 8", "generate 1")


def clips_of(foundation: Any, seed: int) -> list[Any]:
    """One rendered clip, encoded."""
    from motiondirector.study.looks import reference_clips
    from motiondirector.study.trial import encode

    return encode(reference_clips("orbit", 1, seed, "full"), foundation)


def config_of(foundation: Any) -> Any:
    """The recommended settings, with more steps than are run here."""
    from benchmarks.training_parts.tasks import settings

    return settings(foundation, steps=5000, dtype="fp32")


def training_alone(foundation: Any, held: ExitStack) -> Iterator[float]:
    """Runs one training step at a time and yields its loss."""
    from training.loop.member import Member
    from training.loop.pack_of_one import PackOfOne

    member = Member("orbit", "orbit", config_of(foundation), clips_of(foundation, 0))
    for report in held.enter_context(PackOfOne(foundation, member)).train():
        yield report.loss


def training_packed(foundation: Any, held: ExitStack) -> Iterator[float]:
    """Runs one step of eight concepts at a time; yields 0, as their losses are not compared."""
    from training.loop.group import group_key
    from training.loop.member import Member, bank_slots
    from training.loop.pack import Capacity, Pack

    config = config_of(foundation)
    spatial = 8 * bank_slots(config, 1)["spatial"]
    pack = held.enter_context(
        Pack(foundation, group_key(foundation.fingerprint, config), Capacity(8, spatial))
    )
    for number in range(8):
        pack.admit(Member(str(number), str(number), config, clips_of(foundation, number)))
    while True:
        pack.step()
        yield 0.0


def generating(foundation: Any, held: ExitStack) -> Iterator[float]:
    """Makes one video at a time and yields a number that depends on every pixel."""
    from models.denoise import sample
    from models.generation import GenerationParams

    while True:
        (video,) = sample(foundation, [GenerationParams(prompt="a red star", seed=0)])
        yield float(int.from_bytes(hashlib.sha256(video.tobytes()).digest()[:6], "big"))


def side(name: str, parent: Connection, threads: int, threaded: bool) -> None:
    """The process of one side: answers each kind of work with (seconds, result), and "end" with its peak bytes."""
    from infra.allocator import keep_freed_memory

    if name == "kept" and not keep_freed_memory():
        raise SystemExit("this benchmark needs glibc's malloc, which this system does not use")

    def answer() -> None:
        import torch

        from models.load import load_foundation
        from training.batch.profile.measure import process_peak_bytes

        torch.set_num_threads(threads)
        foundation = load_foundation(dtype="fp32")
        kinds: dict[str, Callable[..., Iterator[float]]] = dict(
            zip(WORK, (training_alone, training_packed, generating), strict=True)
        )
        running: dict[str, Iterator[float]] = {}
        with ExitStack() as held:
            while (work := parent.recv()) != "end":
                if work not in running:
                    held.close()  # one kind after another
                    running = {work: kinds[work](foundation, held)}
                grad = torch.enable_grad() if work.startswith("train") else torch.no_grad()
                began = time.perf_counter()
                with grad:
                    result = next(running[work])
                parent.send((time.perf_counter() - began, result))
        parent.send(process_peak_bytes())

    if not threaded:
        return answer()
    thread = threading.Thread(target=answer)
    thread.start()
    thread.join()


def main() -> None:
    """Run and print both sides."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print("torch's threads, run in    what         as it comes       kept   ratio of each pair")
    for threads, threaded in itertools.product(sorted({1, os.cpu_count() or 1}), (False, True)):
        compare(threads, threaded, options.rounds)
    print(
        f"{os.cpu_count()} CPU cores ({platform.machine()}), float32, torch {metadata.version('torch')}, "
        f"{' '.join(platform.libc_ver())}, {options.rounds} rounds, {datetime.now(UTC):%Y-%m-%d}"
    )


def compare(threads: int, threaded: bool, rounds: int) -> None:
    """Print the rows of both sides for this thread setting."""
    context = multiprocessing.get_context("spawn")
    where = f"{threads}, {'another' if threaded else 'main thread'}"
    pipes = {}
    for name in SIDES:
        pipes[name], theirs = context.Pipe()
        context.Process(target=side, args=(name, theirs, threads, threaded), daemon=True).start()
    for work in WORK:
        seconds: dict[str, list[float]] = {name: [] for name in SIDES}
        for number in range(WARM_UP + rounds):
            results = {}
            for name in SIDES:
                pipes[name].send(work)
                took, results[name] = pipes[name].recv()
                if number >= WARM_UP:
                    seconds[name].append(took)
            assert len(set(results.values())) == 1, f"the sides' results differ: {results}"
        before, kept = (seconds[name] for name in SIDES)
        ratios = sorted(a / b for a, b in zip(before, kept, strict=True))
        print(
            f"{where:25}  {work:11}  {statistics.median(before):9.2f} s  {statistics.median(kept):7.2f} s"
            f"   {statistics.median(ratios):.2f} x ({ratios[0]:.2f}-{ratios[-1]:.2f})",
            flush=True,
        )
    for name in SIDES:
        pipes[name].send("end")
        print(f"{'':25}  peak memory, {name}: {pipes[name].recv() / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
