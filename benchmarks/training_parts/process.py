"""One side in a separate process: `python -m benchmarks.training_parts.process JSON` (a `Job`) prints a JSON line.

It does everything from imports to the adapters' files: the foundation, latents, steps. Other parts start and time it, and
read the process's peak memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Job:
    """The work of a process: concepts of a clip set, the side and the settings."""

    side: str  # published, published-whole, peft, loop, pack
    data: str
    out: str
    concepts: list[str]
    foundation: str | None = None
    device: str | None = None
    threads: int | None = None
    pack: int = 1
    settings: dict[str, Any] = field(default_factory=dict)


def run(job: Job) -> dict[str, float]:
    """Run the job here. Returns seconds until the first step and of training, and memory in bytes before and at the peak."""
    began = time.perf_counter()
    import torch

    from benchmarks.training_parts import tasks
    from benchmarks.training_parts.ours import train_all
    from benchmarks.training_parts.peft_loop import PeftLoop
    from benchmarks.training_parts.published import Published
    from datasets.clip_sets.clips import read_clips
    from models.load import load_foundation
    from training.adapters import PathTensors, describe, write_adapters
    from training.batch.profile.measure import process_peak_bytes
    from training.runs.local import train_local

    if job.threads:
        torch.set_num_threads(job.threads)
    dtype = torch.float32 if (job.device or "cpu") == "cpu" else None
    foundation = load_foundation(job.foundation, device=job.device, dtype=dtype)
    config = tasks.settings(foundation, **job.settings)
    work = []
    for concept in job.concepts:
        clips = [tasks.cached(clip, foundation) for clip in read_clips(job.data, concept)]
        work.append(tasks.Task(concept, clips, config))
    started, before = time.perf_counter(), process_peak_bytes()

    def trained() -> Iterator[tuple[str, PathTensors]]:
        if job.side == "pack":
            yield from ((ended.name, ended.tensors) for ended in train_all(foundation, work, job.pack))
        for task in work if job.side != "pack" else ():
            if job.side == "loop":
                yield task.concept, train_local(foundation, task.concept, task.clips, config)
                continue
            if job.side == "peft":
                side: Any = PeftLoop(foundation, task)
            else:
                side = Published(foundation, task, checkpointing=job.side == "published")
            for number in range(config.steps):
                side.step(number)
            yield task.concept, side.tensors()
            if job.side == "peft":
                side.close()

    by_name = {task.concept: task for task in work}
    for name, tensors in trained():
        described = describe(config, name, by_name[name].clips)
        write_adapters(Path(job.out) / name, foundation, {"temporal": tensors["temporal"]}, described)
    ended = time.perf_counter()
    return {
        "start": started - began,
        "train": ended - started,
        "before_bytes": before,
        "peak_bytes": process_peak_bytes(),
    }


def spawn(jobs: Sequence[Job]) -> list[dict[str, float]]:
    """Run each job in a process, all at once. Returns their outputs with `wall`, the seconds until the last one ended."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.training_parts.process"]
    running = [
        subprocess.Popen(
            [*command, json.dumps(asdict(job))], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        for job in jobs
    ]
    outputs = [process.communicate()[0] for process in running]
    wall = time.perf_counter() - began
    for process in running:
        if process.returncode:
            raise SystemExit(
                f"the process of a side ended with code {process.returncode}; see its error above."
            )
    return [{**json.loads(text.strip().splitlines()[-1]), "wall": wall} for text in outputs]


if __name__ == "__main__":
    print(json.dumps(run(Job(**json.loads(sys.argv[1])))))
