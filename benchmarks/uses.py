"""How well the uses of a motion work, on motions and looks that nothing was tuned on.

    python benchmarks/uses.py                                  # hours on one core; continues where it stopped
    python benchmarks/uses.py --use mix --motion arc --motion square --motion wave --seeds 1
    python benchmarks/uses.py --use region --minutes 10        # what fits in ten minutes; the same command continues
    python benchmarks/uses.py --quick                          # a few steps of everything: checks that it runs, no figures

Each motion is learned from one clip, whose caption names the object's class alone, with the model's recommended settings.
Prints, for each value, the mean over motions (each the mean of its seeds) with a 95 % interval over the motions, and the
worst motion and seed; then hardware, dtype and versions. `--json FILE` keeps every value. The modules in uses_parts/ say
what the values are.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `training` would be the script here

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.uses_parts.animate import Animate
from benchmarks.uses_parts.blend import Blend
from benchmarks.uses_parts.lab import PACK, Lab
from benchmarks.uses_parts.mix import Mix
from benchmarks.uses_parts.noise_prior import NoisePrior
from benchmarks.uses_parts.references import References
from benchmarks.uses_parts.region import RegionUse
from benchmarks.uses_parts.remix import Remix
from benchmarks.uses_parts.strength import Strength
from benchmarks.uses_parts.use import Target, Unit, Use, Values
from evaluation.report import half_width
from evaluation.store import key_of
from infra.files import atomic_file
from models.load import load_foundation
from motiondirector.study.plan import HELD_OUT

USES: dict[str, Use] = {
    "strength": Strength(),
    "remix": Remix(),
    "noise-prior": NoisePrior(),
    "mix": Mix(),
    "blend": Blend(),
    "animate": Animate(),
    "region": RegionUse(),
    "references": References(),
    "references-as-recommended": References(recommended=True),
}
BY_DEFAULT = tuple(name for name in USES if name != "references-as-recommended")
MOTIONS = ("square", "meander", "hook", "arc", "spiral", "wave")
QUICK, QUICK_STEPS = {"steps": 2}, 2  # of training, and of denoising
Row = tuple[Unit, Values]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--use", action="append", choices=USES, help=f"only these (repeat); default: {', '.join(BY_DEFAULT)}"
    )
    parser.add_argument(
        "--motion", action="append", choices=HELD_OUT, help=f"repeat; default: {', '.join(MOTIONS)}"
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, help="begin nothing new after this time")
    parser.add_argument("--quick", action="store_true", help="one motion, one seed, a few steps")
    parser.add_argument("--foundation", help="folder or hub id; default: the embedded model")
    parser.add_argument("--device", default=None)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/uses"), help="keeps adapters, videos and values"
    )
    parser.add_argument("--json", type=Path, help="file for every value")
    given = parser.parse_args(arguments)
    end = None if given.minutes is None else time.monotonic() + 60 * given.minutes
    motions, seeds = tuple(dict.fromkeys(given.motion or MOTIONS)), range(given.seeds)
    if given.quick:
        motions, seeds = motions[:1], range(1)
    console = Console()
    if not console.is_terminal:
        console.width = 140  # so that names of values stay whole in a file
    foundation = load_foundation(given.foundation, device=given.device, dtype=torch.float32)
    with console.status("") as status:
        lab = Lab(
            foundation,
            given.out,
            QUICK if given.quick else {},
            status.update,
            QUICK_STEPS if given.quick else None,
        )
        rows = {}
        for name in given.use or BY_DEFAULT:
            units = USES[name].units(motions, seeds)
            if given.quick:
                units = units[:1]
            rows[name] = list(measured(name, units, lab, given.out, end))
            console.print(table_of(name, USES[name], rows[name]))
            if len(rows[name]) < len(units):
                console.print(
                    f"{len(rows[name])} of {len(units)} measured; run the same command again to continue."
                )
    if given.json:
        told = [
            {"use": name, "motions": unit.motions, "seed": unit.seed, "values": finite(values)}
            for name, found in rows.items()
            for unit, values in found
        ]
        given.json.write_text(json.dumps(told, indent=1) + "\n")
    console.print(
        f"{len(motions)} motions, {len(seeds)} seeds, {foundation.name} {foundation.fingerprint[:12]}, fp32, {foundation.device}, "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
        soft_wrap=True,
    )


def measured(name: str, units: Sequence[Unit], lab: Lab, out: Path, end: float | None) -> Iterator[Row]:
    """The values of each unit: those kept in the folder, or measured now and kept. Begins none after `end`.

    Units that need few trainings are learned together, because concepts in one pack share most of its cost.
    """
    use = USES[name]
    missing = []
    for unit in units:
        file = file_of(name, unit, lab, out)
        if file.exists():
            yield unit, {key: known(value) for key, value in json.loads(file.read_text()).items()}
        else:
            missing.append(unit)
    count = max(1, PACK // use.trainings)
    for together in (missing[first : first + count] for first in range(0, len(missing), count)):
        if late(end):
            return
        needed = [use.recipes(unit) for unit in together]
        with lab.with_concepts([recipe for of in needed for recipe in of]) as concepts:
            learned = iter(concepts)
            for number, (unit, recipes) in enumerate(zip(together, needed, strict=True)):
                if number and late(end):
                    return
                lab.say(f"{name}: {unit.title}, seed {unit.seed}")
                values = use.measure(lab, unit, [next(learned) for _ in recipes])
                with atomic_file(file_of(name, unit, lab, out)) as temporary:
                    temporary.write_text(json.dumps(finite(values), indent=1) + "\n")
                yield unit, values


def late(end: float | None) -> bool:
    return end is not None and time.monotonic() >= end


def file_of(name: str, unit: Unit, lab: Lab, out: Path) -> Path:
    """Where a unit's values are kept: under a hash of what they depend on."""
    key = key_of(
        use=name,
        edition=USES[name].edition,
        motions=unit.motions,
        seed=unit.seed,
        concepts=[lab.key(recipe) for recipe in USES[name].recipes(unit)],
        steps=lab.steps,
    )
    return out / "values" / f"{name}-{'-'.join(unit.motions)}-{unit.seed}-{key[:12]}.json"


def finite(values: Values) -> dict[str, float | None]:
    """Values as JSON has them: what could not be measured is null."""
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def known(value: float | None) -> float:
    return float("nan") if value is None else value


def table_of(name: str, use: Use, rows: Sequence[Row]) -> Table:
    """Means over motions with intervals, and the worst motion and seed."""
    table = Table("", "mean", "worst motion and seed", "wanted", title=name)
    for value in rows[0][1] if rows else ():
        target = use.targets.get(value)
        found = [(unit, values[value]) for unit, values in rows if np.isfinite(values[value])]
        by_motion: dict[str, list[float]] = {}
        for unit, one in found:
            by_motion.setdefault(unit.title, []).append(one)
        means = [float(np.mean(values)) for values in by_motion.values()]
        table.add_row(value, cell(means), worst(found, target), wanted(target))
    return table


def cell(means: Sequence[float]) -> str:
    if not means:
        return "–"
    half = half_width(list(means))
    return f"{np.mean(means):.2f}" + ("" if half is None else f" ± {half:.2f}")


def worst(found: Sequence[tuple[Unit, float]], target: Target | None) -> str:
    """The lowest value, or the highest where lower is better, and where it was."""
    if not found:
        return "–"
    choose = max if target is not None and target.better == "lower" else min
    unit, value = choose(found, key=lambda one: one[1])
    return f"{value:.2f} ({unit.title}, {unit.seed})"


def wanted(target: Target | None) -> str:
    if target is None:
        return ""
    return f"{'at most' if target.better == 'lower' else 'at least'} {target.value:g}"


if __name__ == "__main__":
    main()
