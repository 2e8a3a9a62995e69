"""How well the uses of a motion work: strength, remix and noise prior, on motions and looks that nothing was tuned on.

    python benchmarks/uses.py                                  # about an hour on one core; continues where it stopped
    python benchmarks/uses.py --use strength --motion square --seeds 1
    python benchmarks/uses.py --quick                          # a few training steps: checks that it runs, no figures

Each motion is learned from one clip, whose caption names the object's class alone, with the model's recommended settings.
Prints, for each value, the mean over motions (each the mean of its seeds) with a 95 % interval over the motions, and the
worst motion and seed; then hardware, dtype and versions. `--json FILE` keeps every value.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `training` would be the script here

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.uses_parts import noise_prior, remix, strength
from benchmarks.uses_parts.concepts import installed, learned
from evaluation.report import half_width
from models.load import load_foundation
from motiondirector.study.plan import HELD_OUT

USES: dict[str, ModuleType] = {"strength": strength, "remix": remix, "noise-prior": noise_prior}
MOTIONS = ("square", "meander", "hook", "arc", "spiral", "wave")
QUICK = {"steps": 4}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--use", action="append", choices=USES, help="only these (repeat)")
    parser.add_argument(
        "--motion", action="append", choices=HELD_OUT, help=f"repeat; default: {', '.join(MOTIONS)}"
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one motion, one seed, a few training steps")
    parser.add_argument("--foundation", help="folder or hub id; default: the embedded model")
    parser.add_argument("--device", default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/uses"), help="keeps trained adapters")
    parser.add_argument("--json", type=Path, help="file for every value")
    given = parser.parse_args()
    console = Console()
    motions, seeds = tuple(given.motion or MOTIONS), range(given.seeds)
    if given.quick:
        motions, seeds = motions[:1], range(1)
    foundation = load_foundation(given.foundation, device=given.device, dtype=torch.float32)
    with console.status("training ..."):
        concepts = learned(
            foundation, motions, seeds, given.out, QUICK if given.quick else {}, lambda *_: None
        )
    rows = []
    with installed(foundation, concepts) as slots:
        for use in given.use or USES:
            for concept in concepts:
                with console.status(f"{use}: {concept.motion}, seed {concept.seed}"):
                    values = USES[use].measure(foundation, concept, slots[concept.motion, concept.seed])
                rows.append({"use": use, "motion": concept.motion, "seed": concept.seed, "values": values})
            console.print(table_of(use, [row for row in rows if row["use"] == use]))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    console.print(
        f"{len(motions)} motions, {len(seeds)} seeds, {foundation.name} {foundation.fingerprint[:12]}, fp32, {foundation.device}, "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
        soft_wrap=True,
    )


def table_of(use: str, rows: list[dict]) -> Table:
    """Means over motions with intervals, and the worst (lowest) motion and seed."""
    table = Table("", "mean", "worst motion and seed", "wanted", title=use)
    targets = USES[use].TARGETS
    for name in rows[0]["values"]:
        known = [row for row in rows if np.isfinite(row["values"][name])]
        by_motion: dict[str, list[float]] = {}
        for row in known:
            by_motion.setdefault(row["motion"], []).append(row["values"][name])
        means = [float(np.mean(values)) for values in by_motion.values()]
        worst = min(known, key=lambda row: row["values"][name])
        table.add_row(
            name,
            f"{np.mean(means):.2f}" + ("" if (half := half_width(means)) is None else f" ± {half:.2f}"),
            f"{worst['values'][name]:.2f} ({worst['motion']}, {worst['seed']})",
            f"{targets[name]:g}" if name in targets else "",
        )
    return table


if __name__ == "__main__":
    main()
