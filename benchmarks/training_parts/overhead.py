"""Part `orchestration`: a batch on a lane against the same concepts on a bare pack, alternating in this process.

Both start with a foundation in memory, read and encode the clips, train, and write adapter files. The lane also claims and
renews leases, stores the latents, monitors, and publishes to a registry.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.training_parts import tasks
from benchmarks.training_parts.ours import train_all
from datasets.clip_sets.clips import read_clips
from infra.registry import open_registry
from models.foundations.base import Foundation
from training.adapters import describe, write_adapters
from training.batch.manifest.entries import Entry
from training.batch.manifest.plan import make_plan
from training.batch.run import enter, train_batch
from training.batch.state.state import open_batch
from training.batch.watch.watcher import Watcher


class _FirstConcept(Watcher):
    """Records when the lane has loaded its foundation and starts on its first concept."""

    began: float | None = None

    def preparing(self, name: str) -> None:
        self.began = self.began or time.perf_counter()


def orchestration(
    foundation: Foundation,
    source: str | None,
    folder: Path,
    concepts: int,
    pack: int,
    repeats: int,
    say: Callable[[str], None],
    **settings: Any,
) -> dict[str, list[float]]:
    """Seconds of the bare pack and of the lane in each repeat."""
    seconds: dict[str, list[float]] = {"bare pack": [], "lane": []}
    for number in range(repeats):
        say(f"orchestration: {number + 1} of {repeats}")
        at = folder / str(number)
        tasks.write_clip_set(str(at / "clips"), foundation.defaults.bucket, concepts)
        seconds["bare pack"].append(_bare(foundation, at, concepts, pack, settings))
        seconds["lane"].append(_lane(foundation, source, at, concepts, pack, settings))
    return seconds


def _bare(foundation: Foundation, at: Path, concepts: int, pack: int, settings: dict[str, Any]) -> float:
    began = time.perf_counter()
    config = tasks.settings(foundation, **settings)
    work = {
        name: tasks.Task(
            name, [tasks.cached(c, foundation) for c in read_clips(str(at / "clips"), name)], config
        )
        for name in map(tasks.concept_name, range(concepts))
    }
    for ended in train_all(foundation, list(work.values()), pack):
        clips = work[ended.name].clips
        tensors = {"temporal": ended.tensors["temporal"]}
        write_adapters(at / "bare" / ended.name, foundation, tensors, describe(config, ended.name, clips))
    return time.perf_counter() - began


def _lane(
    foundation: Foundation, source: str | None, at: Path, concepts: int, pack: int, settings: dict[str, Any]
) -> float:
    registry = open_registry(str(at / "registry"))
    names = map(tasks.concept_name, range(concepts))
    entries = [Entry(name, str(at / "clips"), source, settings=settings) for name in names]
    plan = make_plan(entries, "benchmark", registry, pack=pack)
    batch = open_batch(registry.storage, "benchmark")
    enter(batch, plan, {"manifest": "benchmark"})
    watcher = _FirstConcept()
    records = train_batch(batch, registry, pack=pack, device=str(foundation.device), watcher=watcher)
    ended = time.perf_counter()
    assert watcher.began is not None
    failed = [record.reason for record in records if record.status != "published"]
    assert not failed, f"the lane failed: {failed}"
    return ended - watcher.began
