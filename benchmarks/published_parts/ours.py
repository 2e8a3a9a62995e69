"""A process that runs our training on the same clips: `python -m benchmarks.published_parts.ours FD JOB`.

JOB is a JSON file: {"foundation", "device", "clips", "settings", "out"}. `clips` is the file that `Work.write` wrote. The steps
are bit-identical to a run of `motiondirector train` with one worker (training/runs/local.py).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.published_parts.turns import Turns


def main(fd: int, job: dict[str, Any]) -> None:
    turns = Turns(fd)
    from infra.allocator import keep_freed_memory

    keep_freed_memory()  # as in the commands that train
    import torch

    from datasets.clip_sets.latents import CachedClip
    from models.load import load_foundation
    from training.config import make_config
    from training.runs.local import train_local

    foundation = load_foundation(job["foundation"], device=job["device"], dtype="fp32")
    clips = [
        CachedClip.of(str(number), "", clip["caption"], clip["visual"], clip["text"], clip["empty_text"])
        for number, clip in enumerate(torch.load(job["clips"]))
    ]
    tensors = train_local(
        foundation,
        "concept",
        clips,
        make_config(job["settings"]),
        on_step=lambda report: turns.done(spatial=report.spatial_loss > 0),
    )
    torch.save(tensors["temporal"], job["out"])
    turns.send({"file": job["out"]})


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
