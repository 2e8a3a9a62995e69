"""Draws reference clips of a motion: `motiondirector sprites render` as a function."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.sprites.captions import canonical, drawable, parse
from datasets.sprites.motion_sources import motion_named, read_trajectory
from datasets.sprites.render import object_boxes, render_clip, trajectories
from datasets.sprites.world import appearances
from datasets.video.writing import encode_mp4
from infra.errors import UserError
from infra.files import atomic_file, explained_os_errors
from motiondirector.sprites.config import RenderConfig
from motiondirector.sprites.style import style_given

if TYPE_CHECKING:
    from datasets.sprites.motions import Motion
    from datasets.sprites.world import Scene, Sprite


MASKS, MASKS_SECOND = "masks.json", "masks-second.json"


@dataclass(frozen=True)
class Rendered:
    """A rendered clip."""

    path: Path
    caption: str


def render(
    to: str | Path | None = None, config: RenderConfig | None = None, *, out: str | Path | None = None
) -> list[Rendered]:
    """Draw one motion, in one appearance or in several.

        render("clips/orbit", RenderConfig(motion="orbit", appearances=4))

    Args:
        to: folder for a set of clips and the captions.csv that `ingest` takes.
        config: motion, appearances, style and size; the command's options.
        out: the .mp4 file of one clip, instead of `to`.

    Raises:
        UserError: no motion or two motions, words that the world cannot draw, or a file that cannot be written.
    """
    config = config or RenderConfig()
    if (config.trajectory is None) == (config.motion is None):
        raise UserError(
            "give one motion: --trajectory FILE.json or --motion NAME (`sprites list` shows the names)."
        )
    if (out is None) == (to is None):
        raise UserError(
            "say where to write: -o CLIP.mp4 for one clip, or --to FOLDER for a set with captions."
        )
    if out is not None and config.appearances > 1:
        raise UserError(
            f"-o names one clip, but --appearances asks for {config.appearances}; use --to FOLDER."
        )
    if out is not None and config.masks:
        raise UserError(
            "--masks writes a file beside a set of clips, but -o names one clip; use --to FOLDER."
        )
    motion = drawn_or_named(config.trajectory, config.motion)
    if config.words:
        motion = replace(motion, phrases=(config.words,))
    second = second_object(config.second, config.second_motion, config.second_trajectory)
    scenes = scenes_of(config, motion, second and second[0])
    paths = (
        [Path(out)]
        if out is not None
        else [Path(str(to)) / f"{motion.name}-{i:03d}.mp4" for i in range(len(scenes))]
    )
    names = [path.name for path in paths]
    boxes = boxes_of(config, names, scenes, motion, second and second[1]) if config.masks else {}
    rows = []
    for i, (path, scene) in enumerate(zip(paths, scenes, strict=True)):
        as_said = config.prompt if not config.words and not second else None
        caption = as_said or canonical(scene, motion)
        clip = render_clip(
            scene, motion, config.frames, config.size, config.seed + i, second_motion=second and second[1]
        )
        try:
            encode_mp4(clip, config.fps, path, metadata={"comment": caption})
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}.") from None
        rows.append(Rendered(path, caption))
    if to is not None:
        write_captions(Path(to), rows)
        for file, found in boxes.items():
            write_boxes(Path(to) / file, found)
    return rows


def boxes_of(
    config: RenderConfig,
    names: Sequence[str],
    scenes: Sequence[Scene],
    motion: Motion,
    second_motion: Motion | None,
) -> dict[str, dict[str, Any]]:
    """The regions of the objects of each clip, by the file to write and the clip's name. Raises UserError."""
    found: dict[str, dict[str, Any]] = {}
    for i, (name, scene) in enumerate(zip(names, scenes, strict=True)):
        seed = config.seed + i
        track, other = trajectories(scene, motion, config.frames, seed, second_motion=second_motion)
        for file, sprite, path in ((MASKS, scene.sprite, track), (MASKS_SECOND, scene.second, other)):
            if sprite is not None and path is not None:
                boxes = object_boxes(sprite, path, config.size)
                found.setdefault(file, {})[name] = keyframed(name, boxes)
    return found


def keyframed(name: str, boxes: Sequence[tuple[float, float, float, float] | None]) -> dict[str, Any]:
    """The region that `ingest --masks` reads, of a box for each frame. Raises UserError if a frame has none."""
    if None in boxes:
        raise UserError(
            f"--masks: the object of {name} is outside the picture in frame {boxes.index(None)}, where it has no box; leave "
            "--masks out, or draw another motion."
        )
    return {"keyframes": [{"frame": number, "box": box} for number, box in enumerate(boxes)]}


def write_boxes(file: Path, boxes: Mapping[str, Any]) -> None:
    """Write the boxes of each clip, one clip a line."""
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(region)}" for name, region in boxes.items())
    with explained_os_errors(f"writing to {file.parent}"), atomic_file(file) as temporary:
        temporary.write_text(f"{{\n{lines}\n}}\n")


def scenes_of(config: RenderConfig, motion: Motion, second: Sprite | None) -> list[Scene]:
    """The scene of each clip, with its style. Raises UserError."""
    if config.prompt is None:
        scenes = appearances(config.appearances, config.seed)
    elif config.appearances > 1:
        raise UserError("--prompt names one appearance; leave it out to draw several with --appearances.")
    else:
        scenes = [drawable(config.prompt)]
        if config.motion is not None:
            check_motion(config.prompt, motion)
    if second is not None:
        if config.idle is not None:
            raise UserError("--second and --idle cannot be used together; leave one of them out.")
        scenes = [replace(scene, second=second) for scene in scenes]
    return [replace(scene, style=style_given(config, config.seed + i)) for i, scene in enumerate(scenes)]


def write_captions(folder: Path, rows: Sequence[Rendered]) -> None:
    """Write the captions.csv that `ingest` takes."""
    with (
        explained_os_errors(f"writing to {folder}"),
        atomic_file(folder / "captions.csv") as temporary,
        temporary.open("w", newline="") as file,
    ):
        csv.writer(file).writerows([("file", "caption"), *((row.path.name, row.caption) for row in rows)])


def second_object(
    said: str | None, name: str | None, trajectory: Path | None
) -> tuple[Sprite, Motion] | None:
    """The second object of a clip and its motion. Raises UserError if one is given without the other."""
    given = (name is not None) + (trajectory is not None)
    if said is None and not given:
        return None
    if said is None or given != 1:
        raise UserError(
            'a second object needs words and one motion: give --second "a small blue circle" and --second-motion NAME or '
            "--second-trajectory FILE.json."
        )
    words = parse(said)
    if words.background or words.motion:
        raise UserError(
            f"--second {said!r} names more than an object; leave out the background, and give the motion with --second-motion "
            "or --second-trajectory."
        )
    return drawable(said).sprite, drawn_or_named(trajectory, name)


def drawn_or_named(trajectory: Path | None, name: str | None) -> Motion:
    """The motion from a file, else the named one. Raises UserError for an invalid file or an unknown name."""
    return read_trajectory(trajectory) if trajectory else motion_named(str(name))


def check_motion(prompt: str, motion: Motion) -> None:
    """Raises UserError if the prompt names another motion or speed than the one that is drawn."""
    said = parse(prompt)
    if said.motion not in (None, motion.name) or said.adverb:
        other = said.motion if said.motion not in (None, motion.name) else said.adverb
        raise UserError(
            f"--prompt {prompt!r} says {other!r}, but --motion {motion.name} is drawn, at its usual speed; name only the "
            "appearance in --prompt, and give the motion's words with --words."
        )
