"""Time to plan a batch: `python benchmarks/batch_plan.py [CONCEPTS]` (default: 1,000).

Makes a clip set of that many concepts in a temporary folder and a manifest with mixed settings, publishes some concepts,
then times reading, checking, looking up finished work, and assigning to four lanes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # otherwise `training` would be this script

import numpy as np

from datasets.clip_sets.clips import make_clip
from datasets.clip_sets.parquet import Pending, append
from infra.registry import open_registry
from infra.storage import open_storage
from training.batch.manifest.entries import read_manifest
from training.batch.manifest.plan import make_plan
from training.batch.manifest.resolving import Sources
from training.batch.state.work import Work

PUBLISHED = 10  # one concept in this many is already in the registry
FOUNDATION = "tiny-random:unet3d"


def write_clips(uri: Path, concepts: int) -> None:
    """A clip set of tiny clips, one or two per concept."""
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        spool = open_storage(folder)
        pending = [
            Pending.spooled(
                make_clip(
                    concept=f"concept-{number:05d}",
                    caption=f"a thing moves, number {number}",
                    frames_FHWC=frames,
                    fps=8,
                    source_uri=f"{number}-{clip}.mp4",
                    source_sha256=f"{number}-{clip}",
                ),
                spool,
            )
            for number in range(concepts)
            for clip in range(1 + number % 2)
        ]
        append(open_storage(uri), pending, spool)


def write_manifest(path: Path, clips: Path, concepts: int) -> None:
    """A JSONL manifest with four ranks, steps of all lengths and three priorities."""
    rows = (
        {
            "concept": f"concept-{number:05d}",
            "data": str(clips),
            "foundation": FOUNDATION,
            "frames": 4,
            "height": 32,
            "width": 32,
            "rank": (8, 16, 32, 64)[number % 4],
            "steps": 100 + number % 400,
            "learning_rate": 1e-4 * (1 + number % 7),
            "priority": number % 3,
        }
        for number in range(concepts)
    )
    path.write_text("\n".join(json.dumps(row) for row in rows))


def publish(registry_uri: Path, works: list[Work], scratch: Path) -> None:
    """Publish versions as training does; the file's content does not matter here."""
    registry = open_registry(registry_uri)
    scratch.mkdir()
    (scratch / "adapter_model.safetensors").write_bytes(b"adapter")
    for work in works:
        metadata = {
            "concept": work.concept,
            "foundation_fingerprint": work.fingerprint,
            "data_sha256": work.data_sha256,
            "config": work.config.model_dump(mode="json"),
        }
        registry.publish(work.name, scratch, metadata=metadata)


def main() -> None:
    """Print the seconds of each stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("concepts", type=int, nargs="?", default=1000)
    concepts = parser.parse_args().concepts
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_clips(folder / "clips", concepts)
        write_manifest(folder / "batch.jsonl", folder / "clips", concepts)
        source = str(folder / "batch.jsonl")
        registry = open_registry(folder / "registry")
        before = make_plan(read_manifest(source), source, registry)
        publish(folder / "registry", list(before.works[::PUBLISHED]), folder / "scratch")

        began = time.perf_counter()
        entries = read_manifest(source)
        read = time.perf_counter()
        plan = make_plan(entries, source, registry, lanes=4, pack=8, sources=Sources())
        planned = time.perf_counter()
        print(
            f"{concepts} concepts: manifest read and checked in {read - began:.2f} s, planned in {planned - read:.2f} s"
        )
        print(
            f"{len(plan.works)} to train in {len(plan.packs)} packs on {plan.lanes} lanes, {len(plan.done)} already done"
        )


if __name__ == "__main__":
    main()
