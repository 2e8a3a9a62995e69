"""Reads the paper's two benchmark sets from their folders: concepts with clips, a caption and prompts.

    ucf_sports(Path("/data/ucf_sports_actions"))      # several clips of one action are a concept
    loveu_tgve(Path("/data/loveu-tgve-2023"))         # every clip is a separate concept

Nothing is skipped silently: `PaperSet.problems` lists what is missing and where it was expected. A
folder without any part of the set raises. docs/evaluation.md shows the layouts and which of the paper's
own lists are public.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.ingest.sources import VIDEO_SUFFIXES
from evaluation.prompts import Prompt
from infra.errors import UserError
from infra.rows import decoded

# UCF Sports Action: folder of each action -> the caption of its clips, and the predicate of its prompts.
UCF_ACTIONS = {
    "Diving-Side": ("an athlete is diving from a platform", "is diving from a platform"),
    "Golf-Swing-Back": ("a golfer is swinging a club, seen from behind", "is swinging a golf club"),
    "Golf-Swing-Front": ("a golfer is swinging a club, seen from the front", "is swinging a golf club"),
    "Golf-Swing-Side": ("a golfer is swinging a club, seen from the side", "is swinging a golf club"),
    "Kicking-Front": ("a player is kicking a ball, seen from the front", "is kicking a ball"),
    "Kicking-Side": ("a player is kicking a ball, seen from the side", "is kicking a ball"),
    "Lifting": ("an athlete is lifting a barbell", "is lifting a barbell"),
    "Riding-Horse": ("a person is riding a horse", "is riding a horse"),
    "Run-Side": ("a person is running, seen from the side", "is running"),
    "SkateBoarding-Front": ("a person is skateboarding", "is skateboarding"),
    "Swing-Bench": ("a gymnast is swinging on a pommel horse", "is swinging on a pommel horse"),
    "Swing-SideAngle": ("a gymnast is swinging on a high bar", "is swinging on a high bar"),
    "Walk-Front": ("a person is walking towards the camera", "is walking"),
}
# The paper uses six prompts per motion, which are not public. These differ from the clips in subject
# and scene.
UCF_APPEARANCES = (
    ("a panda", "in a bamboo forest"),
    ("an astronaut", "on the moon"),
    ("a robot", "in a city at night"),
    ("a monkey", "on a beach"),
    ("a knight in armour", "in the snow"),
    ("a tiger", "in a desert"),
)

LOVEU_CSV = "LOVEU-TGVE-2023_Dataset.csv"
# The rows of the table are in three parts, each below a line that names it.
LOVEU_PARTS = {"davis": "DAVIS_480p", "youtube": "youtube_480p", "videvo": "videvo_480p"}
LOVEU_NAME, LOVEU_CAPTION = "video name", "our gt caption"
LOVEU_CHANGES = ("style change", "object change", "background change", "multiple changes")


@dataclass(frozen=True)
class SetConcept:
    """A motion of a set: the files to learn it from and the prompts to evaluate it with."""

    name: str  # valid in the registry: ucf-diving-side
    title: str  # the set's own name: Diving-Side
    sources: tuple[Path, ...]
    caption: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class PaperSet:
    """A set as found on disk; `problems` are sentences about what is missing."""

    name: str
    title: str
    concepts: tuple[SetConcept, ...]
    problems: tuple[str, ...]


def ucf_sports(folder: Path, prompts: Sequence[Prompt] | None = None, only: Collection[str] = ()) -> PaperSet:
    """UCF Sports Action: <folder>/ucf action/<Action>/<001>/*.avi, as ucf_sports_actions.zip unpacks.

    Args:
        folder: this folder, its parent, or the folder of the actions.
        prompts: replace the built-in ones. A prompt with `concept` (an action's folder name) is used
            for that action only, the others for every action.
        only: names of actions to keep; empty keeps all.

    Raises:
        UserError: no action folder there, or a name that is no action.
    """
    places = [
        folder,
        folder / "ucf action",
        folder / "ucf_sports_actions",
        folder / "ucf_sports_actions/ucf action",
    ]
    root = next((place for place in places if any((place / name).is_dir() for name in UCF_ACTIONS)), None)
    if root is None:
        raise UserError(
            f"no UCF Sports Action at {folder}: expected folders such as {folder / 'ucf action/Diving-Side/001'} with an "
            ".avi each; unpack ucf_sports_actions.zip (https://www.crcv.ucf.edu/data/UCF_Sports_Action.php) there."
        )
    wanted = chosen(only, UCF_ACTIONS)
    asked = by_concept(prompts or (), UCF_ACTIONS)
    concepts, problems = [], []
    for action in wanted:
        caption, does = UCF_ACTIONS[action]
        if not (root / action).is_dir():
            problems.append(f"{root / action} is missing: the action is left out")
            continue
        sources, empty = clip_files(root / action)
        problems += [f"{place} contains no video: the clip is left out" for place in empty]
        if not sources:
            problems.append(f"{root / action} contains no video: the action is left out")
            continue
        own = [f"{who} {does} {where}" for who, where in UCF_APPEARANCES]
        texts = asked[action] if prompts else own
        if not texts:
            problems.append(f"the prompts contain none for {action}: the action is left out")
            continue
        concepts.append(SetConcept(slug(f"ucf-{action}"), action, tuple(sources), caption, tuple(texts)))
    return whole("ucf-sports", "UCF Sports Action", concepts, problems, root)


def loveu_tgve(folder: Path, prompts: Sequence[Prompt] | None = None, only: Collection[str] = ()) -> PaperSet:
    """LOVEU-TGVE-2023: the table LOVEU-TGVE-2023_Dataset.csv and its videos.

    The videos are in <folder>/{DAVIS,youtube,videvo}_480p/480p_videos/*.mp4.

    Args:
        folder: the folder of the table, or its parent.
        prompts: used in addition to the table's four; with `concept` (a video's name) for that video only.
        only: names of videos to keep; empty keeps all.

    Raises:
        UserError: no table or no video there, a table without the columns, or a name that is no video
            of the table.
    """
    places = [folder, folder / "loveu-tgve-2023", folder / "LOVEU-TGVE-2023"]
    root = next((place for place in places if (place / LOVEU_CSV).is_file()), None)
    if root is None:
        raise UserError(
            f"no LOVEU-TGVE-2023 at {folder}: expected {folder / LOVEU_CSV} beside {', '.join(LOVEU_PARTS.values())}; if you "
            "have the .xlsx file, save it as .csv."
        )
    rows = loveu_rows(root / LOVEU_CSV)
    names = dict.fromkeys(row["name"] for row in rows)
    wanted = set(chosen(only, names))
    asked = by_concept(prompts or (), names)
    concepts, problems = [], []
    for row in rows:
        name, part = row["name"], row["part"]
        if name not in wanted:
            continue
        parts = [part] if part else list(LOVEU_PARTS.values())
        files = [root / one / "480p_videos" / f"{name}.mp4" for one in parts]
        source = next((file for file in files if file.is_file()), None)
        texts = [row[change] for change in LOVEU_CHANGES if row[change]] + asked[name]
        if source is None:
            problems.append(f"{files[0]} is missing: the clip is left out")
        elif not row["caption"] or not texts:
            problems.append(
                f"{name} in line {row['line']} of {LOVEU_CSV} has no caption or no prompt: the clip is left out"
            )
        else:
            texts = list(dict.fromkeys(texts))
            concepts.append(SetConcept(slug(f"tgve-{name}"), name, (source,), row["caption"], tuple(texts)))
    return whole("loveu-tgve", "LOVEU-TGVE-2023", concepts, problems, root)


SETS = {"ucf-sports": ucf_sports, "loveu-tgve": loveu_tgve}


def whole(name: str, title: str, concepts: list[SetConcept], problems: list[str], root: Path) -> PaperSet:
    """The set. Raises UserError with the first problem if no concept is left, or if two have one name."""
    if not concepts:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        reason = f"{problems[0]}{more}" if problems else "it is empty"
        raise UserError(f"nothing of {title} can be used at {root}: {reason}.")
    slugs = [concept.name for concept in concepts]
    twice = sorted({one for one in slugs if slugs.count(one) > 1})
    if twice:
        raise UserError(f"{title} at {root} has two concepts that would be called {twice[0]}; rename one.")
    return PaperSet(name, title, tuple(concepts), tuple(problems))


def clip_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """(one video from each clip folder plus videos outside them, clip folders without a video), by name.

    `gt` (annotations) is no clip. UCF's archive repeats some clips in a second format, so one file per
    clip is used.
    """

    def videos(place: Path) -> list[Path]:
        return sorted(p for p in place.rglob("*") if p.is_file() and p.suffix.lower() in VIDEO_SUFFIXES)

    files = [p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix.lower() in VIDEO_SUFFIXES]
    empty = []
    for place in sorted(p for p in folder.iterdir() if p.is_dir() and p.name != "gt"):
        found = videos(place)
        files += found[:1]
        if not found:
            empty.append(place)
    return files, empty


def loveu_rows(path: Path) -> list[dict[str, str]]:
    """The table's videos: name, part (folder of its videos, "" without parts), line, caption, changes.

    Unknown columns are ignored, because the table is not ours.

    Raises:
        UserError: unreadable, columns missing, or a row with more cells than the header or without a name.
    """
    lines, ends = [], []  # for each row: its cells, and the line of the file where it ends
    try:
        text = decoded(path.read_bytes(), str(path), "invalid_set")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        for row in reader:
            lines.append(row)
            ends.append(reader.line_num)
    except (OSError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); save it as UTF-8 CSV.") from None
    normal = [[" ".join(cell.lower().split()) for cell in line] for line in lines]
    start = next((i for i, line in enumerate(normal) if LOVEU_NAME in line), None)
    columns: dict[str, int] = {}
    if start is not None:
        for wanted in (LOVEU_NAME, LOVEU_CAPTION, *LOVEU_CHANGES):
            # the published table says "Style Change Caption"; some copies drop the last word
            found = next(
                (i for i, cell in enumerate(normal[start]) if cell in (wanted, f"{wanted} caption")), None
            )
            if found is not None:
                columns[wanted] = found
    missing = [name for name in (LOVEU_NAME, LOVEU_CAPTION, *LOVEU_CHANGES) if name not in columns]
    if start is None or missing:
        raise UserError(
            f"{path} has no column {missing[0]!r}; expected Video name, Our GT caption, Style Change Caption, Object "
            "Change Caption, Background Change Caption, Multiple Changes Caption."
        )

    def cell(line: list[str], column: str) -> str:
        index = columns[column]
        return " ".join(line[index].split()) if index < len(line) else ""

    rows, part, width = [], "", len(lines[start])
    for number, line in zip(ends[start + 1 :], lines[start + 1 :], strict=True):
        name = cell(line, LOVEU_NAME)
        if any(text.strip() for text in line[width:]):
            raise UserError(
                f"{path}, line {number}: {len(line)} cells, but the header has {width}; put double quotes around a text that "
                "contains a comma."
            )
        if not name:
            if any(text.strip() for text in line):
                raise UserError(f"{path}, line {number}: no `Video name`; expected one in each row.")
            continue
        heading = next(
            (folder for word, folder in LOVEU_PARTS.items() if name.lower().startswith(word)), None
        )
        if name.endswith(":") and heading:
            part = heading
            continue
        texts = {change: cell(line, change) for change in LOVEU_CHANGES}
        rows.append(
            {"name": name, "part": part, "line": str(number), "caption": cell(line, LOVEU_CAPTION), **texts}
        )
    if not rows:
        raise UserError(f"{path} lists no video below its header.")
    return rows


def chosen(only: Collection[str], known: Iterable[str]) -> list[str]:
    """The selected names in the set's order. Raises UserError for an unknown name."""
    names = list(known)
    unknown = [name for name in only if name not in names]
    if unknown:
        shown = ", ".join(names[:13]) + (", ..." if len(names) > 13 else "")
        raise UserError(f"--only {unknown[0]}: the set has no such concept; its concepts are {shown}.")
    return [name for name in names if not only or name in only]


def by_concept(prompts: Sequence[Prompt], known: Iterable[str]) -> dict[str, list[str]]:
    """The prompts of each concept: its own and the general ones. Raises UserError for an unknown concept."""
    asked: dict[str, list[str]] = {name: [] for name in known}
    for prompt in prompts:
        if prompt.concept is not None and prompt.concept not in asked:
            raise UserError(
                f"the prompt {prompt.text[:60]!r} is for {prompt.concept!r}, which is not in the set; its concepts are "
                f"{', '.join(list(asked)[:13])}."
            )
        for name in asked if prompt.concept is None else [prompt.concept]:
            asked[name].append(prompt.text)
    return asked


def slug(text: str) -> str:
    """A concept name for the registry: a-z, 0-9, '.', '_', '-', at most 64 characters."""
    return re.sub(r"\.{2,}", ".", re.sub(r"[^a-z0-9._-]+", "-", text.lower())).strip("-.")[:64]
