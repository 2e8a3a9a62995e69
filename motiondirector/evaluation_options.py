"""Options of every command that measures videos: `evaluate`, `benchmark`, `train-batch`."""

from __future__ import annotations

from typing import Annotated

import typer

ClipWeights = Annotated[
    str | None,
    typer.Option("--clip", help="CLIP weights (folder or hub id); adds text alignment and more by CLIP."),
]
PickWeights = Annotated[
    str | None, typer.Option("--pickscore", help="PickScore weights (folder or hub id); adds PickScore.")
]
Against = Annotated[
    str,
    typer.Option(
        help="Contenders beside ours, separated by commas: base (no adapter), and the baselines coupled, no-debias and "
        "full (temporal layers fine-tuned), which are trained here on the same clips.",
    ),
]
Seeds = Annotated[int, typer.Option(help="Videos of each prompt, from the seeds 1, 2, ...", min=1)]
Steps = Annotated[int | None, typer.Option(help="Denoising steps. Absent: the foundation's.", min=1)]
Scale = Annotated[float, typer.Option(help="How much of the adapters: 1 as trained.")]
Guidance = Annotated[float | None, typer.Option(help="Absent: the foundation's.")]
Batch = Annotated[int, typer.Option(help="Videos made at once.", min=1)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda ... Absent: a GPU if there is one.")]
