"""Makes the library of this folder: draws one clip of each motion, trains them as a batch, measures and shrinks them.

    python assets/library/make_library.py        # about an hour on one core; continues where it stopped

Needs the project's environment. Work files are in runs/library. The registry is replaced at the end. Each motion is learned
from one clip whose caption names the object alone ("a star"), with the embedded model's recommended settings, as a user would.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads cost much on busy cores

from safetensors import safe_open
from safetensors.torch import load_file, save_file

import motiondirector as md
from datasets.sprites.captions import parse
from infra.registry import ADAPTER_FILE
from models.adapters.config import CONFIG_FILE

HERE = Path(__file__).resolve().parent
WORK = Path("runs/library")
# motion: (look of its clip, what moves)
CONCEPTS = {
    "orbit": ("a red star on a navy background", "The object runs once around a circle."),
    "zigzag": ("a yellow square on a teal background", "The object crosses the frame in a zigzag."),
    "bounce": ("a green circle on a gray background", "The object bounces across the frame like a ball."),
    "spiral": ("an orange ring on a navy background", "The object winds inwards on a spiral."),
    "figure-eight": ("a cyan heart on a maroon background", "The object flies a figure of eight."),
    "swing": ("a purple triangle on a beige background", "The object swings to both sides like a bell."),
    "square": ("a blue cross on a beige background", "The object patrols along a square."),
    "boomerang": ("a pink moon on a teal background", "The object flies out and comes back in an arc."),
    "arc": ("a white star on a maroon background", "The object leaps over the frame."),
    "corkscrew": ("a red cross on a teal background", "The object drills upwards, turning and growing."),
    "tilt": ("a green triangle on a navy checkerboard", "Camera: tilts up."),
    "camera-orbit": ("an orange star on a teal checkerboard", "Camera: moves around a circle."),
}
# Looks that no clip above has, to measure with.
PROMPTS = (
    "a black heart on a sky background",
    "a pink square on a mint background",
    "a small purple star on an olive background",
    "a large green ring on a lavender background",
    "a blue striped circle on a brown background",
    "an orange dotted cross on a gray gradient",
)
CLASSES = ("a moon", "a triangle")


def halve(source: Path, target: Path) -> None:
    """Copy an adapter in half precision, which halves the file."""
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    save_file({name: tensor.half() for name, tensor in load_file(source).items()}, target, metadata)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--concept", action="append", choices=list(CONCEPTS), help="only these (repeat)")
    options.add_argument("--steps", type=int, help="fewer steps, to try this script")
    given = options.parse_args()
    names = given.concept or list(CONCEPTS)
    for name in names:
        look, _ = CONCEPTS[name]
        drawing = md.RenderConfig(motion=name, prompt=look)
        md.render(WORK / "clips" / name, drawing)
        shape = parse(look).sprite.shape
        caption = f"{'an' if shape[0] in 'aeiou' else 'a'} {shape}"
        md.ingest(
            str(WORK / "clips" / name),
            str(WORK / "data" / name),
            md.IngestConfig(concept=name, caption=caption),
        )
    manifest = WORK / "library.json"
    settings = {} if given.steps is None else {"steps": given.steps}
    entries = [{"concept": name, "data": str(WORK / "data" / name)} for name in names]
    manifest.write_text(json.dumps({"defaults": settings, "concepts": entries}))  # JSON is YAML
    batch = md.train_batch(
        str(manifest.rename(manifest.with_suffix(".yaml"))),
        md.BatchConfig(evaluate=False),
        registry=str(WORK / "registry"),
    )
    if batch.failed:
        raise SystemExit(f"not trained: {batch.failed}")
    for file, lines in (("prompts.txt", PROMPTS), ("classes.txt", CLASSES)):
        (WORK / file).write_text("\n".join(lines) + "\n")
    measuring = md.EvaluationConfig(
        prompts=str(WORK / "prompts.txt"), open_prompts=str(WORK / "classes.txt"), seeds=1, batch=16
    )
    trained = md.open_registry(WORK / "registry")
    fresh = WORK / "shipped"
    shutil.rmtree(fresh, ignore_errors=True)
    shipped = md.open_registry(fresh)
    for name in names:
        found = md.evaluate(name, measuring, registry=str(WORK / "registry"))
        print(f"{name}: motion fidelity {found.mean('motion_fidelity'):.2f}", flush=True)
        version = trained.resolve(name)
        folder = trained.pull(version, WORK / "pulled" / version.ref)
        kept = WORK / "kept" / name
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        halve(folder / ADAPTER_FILE, kept / ADAPTER_FILE)
        shutil.copy(folder / CONFIG_FILE, kept / CONFIG_FILE)
        prompt = CONCEPTS[names[(names.index(name) + 3) % len(names)]][0]  # the look of another clip
        md.generate(prompt, md.GenerateConfig(concept=name, seed=1), registry=str(WORK / "registry")).save(
            kept / "preview.mp4"
        )
        shipped.publish(name, kept, metadata=version.metadata, metrics=version.metrics)
    shutil.rmtree(HERE / "registry", ignore_errors=True)
    shutil.copytree(fresh, HERE / "registry")
    about = {name: CONCEPTS[name][1] for name in names}
    (HERE / "about.json").write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
