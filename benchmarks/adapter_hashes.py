"""Hashes of trained adapters: one sha256 per method, entry point and concept.

    python benchmarks/adapter_hashes.py > before.txt        # one thread; on the CPU
    python benchmarks/adapter_hashes.py > after.txt         # after a change
    diff before.txt after.txt

If a change of the training stack keeps its results, it prints the same lines on the same machine. At every entry point that
trains one concept alone, a method makes the same adapter. Packs of several concepts round differently, but repeatably.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # otherwise `training` would be this script

import numpy as np
import torch

from datasets.clip_sets.clips import make_clip
from datasets.clip_sets.latents import LatentCache, prepare
from datasets.clip_sets.parquet import Pending, append
from infra.ray.cluster import ray_session
from infra.registry import Registry, open_registry
from infra.storage import open_storage
from models.adapters.file import read_adapter
from models.adapters.versions import ADAPTER_FILES
from models.foundations.base import Bucket
from models.load import load_foundation
from training.batch.lane.lane import Lane
from training.batch.manifest.entries import Entry
from training.batch.manifest.plan import make_plan
from training.batch.run import enter
from training.batch.state.state import open_batch
from training.config import TrainConfig
from training.loop.group import group_key
from training.loop.member import Member
from training.loop.pack import Capacity, Ended, Failed, Pack
from training.recommended import resolve
from training.runs.inputs import read_concept
from training.runs.job import Job
from training.runs.local import train_local
from training.runs.run import run_job

SIZES = {"unet3d": Bucket(4, 32, 32), "wan": Bucket(5, 32, 32)}
COMMON = {"steps": 10, "rank": 4, "learning_rate": 1e-2, "fps": 0, "checkpoint_interval": 4}
CASES: dict[str, dict[str, Any]] = {
    "dual": {},
    "motiondirector": {"method": "motiondirector"},
    "no-debias": {"method": "no-debias"},
    "coupled": {"method": "coupled"},
    "full": {"method": "full"},
    "appearance": {"method": "appearance"},
    "tokens": {"appearance_tokens": 4, "appearance_share": 0.4, "appearance_frames": 2},
    "preserving": {"appearance_preservation": 1.0, "batch_size": 2},
    "schedule": {
        "schedule": "cosine",
        "warmup_steps": 3,
        "skip_spatial": 0.3,
        "gradient_checkpointing": True,
    },
    "accumulation": {"gradient_accumulation": 2, "beta": 0.5, "single_spatial": True},
}
CONCEPTS = {"one": 1, "two": 2, "three": 3}  # and how many clips each has
ENTRIES = {  # a method of `Trainings`, and the concepts
    "local": ("local", ["two"]),
    "ray": ("ray", ["two"]),
    "pack1": ("pack", ["two"]),
    "pack3": ("pack", list(CONCEPTS)),
    "lane1": ("lane", ["two"]),
    "lane3": ("lane", list(CONCEPTS)),
}


def write_clips(folder: Path) -> str:
    """A clip set of sliding noise."""
    rng = np.random.default_rng(0)
    spool, made = open_storage(folder / "spool"), []
    for concept, count in CONCEPTS.items():
        for number in range(count):
            picture = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            clip = make_clip(
                concept=concept,
                caption=f"a texture slides, number {number}",
                frames_FHWC=np.stack([np.roll(picture, 3 * i, 1) for i in range(5)]),
                fps=8,
                source_uri=f"{concept}-{number}.mp4",
                source_sha256=f"{concept}-{number}",
            )
            made.append(Pending.spooled(clip, spool))
    append(open_storage(folder / "clips"), made, spool)
    return str(folder / "clips")


def digest(tensors: Mapping[Any, Mapping[str, tuple[torch.Tensor, torch.Tensor]]]) -> str:
    """The sha256 of an adapter's tensors, independent of their file."""
    total = hashlib.sha256()
    for path in sorted(tensors):
        for layer in sorted(tensors[path]):
            for half in tensors[path][layer]:
                total.update(f"{path} {layer} {tuple(half.shape)}".encode())
                total.update(half.detach().contiguous().numpy().tobytes())
    return total.hexdigest()


class Trainings:
    """Every entry point, on one foundation and one set of clips."""

    def __init__(self, family: str, folder: Path, address: str | None) -> None:
        self.source, self.folder, self.address = f"tiny-random:{family}", folder, address
        self.data, self.bucket = write_clips(folder), SIZES[family]
        self.foundation = load_foundation(self.source, device="cpu", dtype="float32")

    def settings(self, case: str) -> dict[str, Any]:
        size = self.bucket
        return {**COMMON, "frames": size.frames, "height": size.height, "width": size.width, **CASES[case]}

    def member(self, case: str, concept: str) -> Member:
        clips = read_concept(self.job(case, concept))
        config: TrainConfig = resolve(self.settings(case), self.foundation.recommended, len(clips))
        cache = LatentCache(open_storage(self.data))
        cached = prepare(clips, self.foundation, self.bucket, cache, looks=config.looks)
        return Member(concept, concept, config, cached)

    def job(self, case: str, concept: str) -> Job:
        runs = str(self.folder / f"{case}-{concept}")
        registry = str(self.folder / f"{case}-registry")
        return Job(concept, self.data, runs, registry, self.source, self.address)

    def local(self, case: str, concept: str) -> Iterator[tuple[str, str]]:
        one = self.member(case, concept)
        yield concept, digest(train_local(self.foundation, concept, one.clips, one.config))

    def ray(self, case: str, concept: str) -> Iterator[tuple[str, str]]:
        job = self.job(case, concept)
        run_job(job, self.settings(case))
        yield concept, self.published(open_registry(job.registry), concept)

    def pack(self, case: str, *concepts: str) -> Iterator[tuple[str, str]]:
        members = [self.member(case, concept) for concept in concepts]
        key = group_key(self.foundation.fingerprint, members[0].config)
        with Pack(self.foundation, key, Capacity(len(members), 6)) as pack:
            for one in members:
                pack.admit(one)
            while pack.members:
                for event in pack.step():
                    if isinstance(event, Failed):
                        raise event.error
                    if isinstance(event, Ended):
                        yield event.name, digest(event.tensors)

    def lane(self, case: str, *concepts: str) -> Iterator[tuple[str, str]]:
        name = f"{case}-lane-{len(concepts)}"
        registry = open_registry(str(self.folder / name))
        batch = open_batch(registry.storage, "b")
        entries = [Entry(c, self.data, self.source, settings=self.settings(case)) for c in concepts]
        enter(batch, make_plan(entries, "m", registry), {"manifest": "m"})
        Lane(batch, registry, device="cpu", pack=len(concepts), prepare_ahead=False).run()
        for concept in concepts:
            yield concept, self.published(registry, concept)

    def published(self, registry: Registry, concept: str) -> str:
        folder = registry.pull(
            registry.resolve(f"{concept}@1"), self.folder / "pulled" / registry.uri[1:] / concept
        )
        places = {path: folder / file for path, file in ADAPTER_FILES.items()}
        return digest(
            {
                path: read_adapter(file.parent, self.foundation).tensors
                for path, file in places.items()
                if file.is_file()
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=sorted(SIZES), default="unet3d")
    parser.add_argument("--case", choices=sorted(CASES), action="append", help="default: all")
    parser.add_argument("--entry", choices=ENTRIES, action="append", help="default: all")
    given = parser.parse_args()
    torch.set_num_threads(1)
    entries = given.entry or ENTRIES
    with tempfile.TemporaryDirectory(prefix="motiondirector-hashes-") as folder:
        if "ray" in entries:
            with ray_session("local", num_cpus=2) as cluster:
                print_all(Trainings(given.family, Path(folder), cluster.address), entries, given.case)
        else:
            print_all(Trainings(given.family, Path(folder), None), entries, given.case)


def print_all(trainings: Trainings, entries: Any, cases: Any) -> None:
    for entry in entries:
        for case in cases or CASES:
            kind, concepts = ENTRIES[entry]
            for concept, sha256 in getattr(trainings, kind)(case, *concepts):
                print(f"{entry:6} {case:14} {concept:6} {sha256[:32]}", flush=True)


if __name__ == "__main__":
    main()
