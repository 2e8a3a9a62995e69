"""The prompts of an evaluation: a file of them, or held-out appearances of the sprite world.

A file holds one prompt a line (blank lines and lines that begin with # are passed over), or:

    .yaml, .yml   a list of prompts, or of mappings with `prompt`; either may stand below a key `prompts`
    .jsonl        an object with `prompt` on every line
    .csv          a header with a column `prompt`

Beside `prompt` a row may have `concept`: it is then for that one alone. The benchmark sets of the paper have prompts for
each (evaluation/paper_sets.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from datasets.sprites.captions import canonical, parse
from datasets.sprites.world import Scene, appearances
from infra.errors import UserError
from infra.rows import NOT_YAML, WrongRow, csv_rows, jsonl_rows

MAX_PROMPT = 2000  # characters; text encoders read far fewer
HELD_OUT_SEED = 20231012


@dataclass(frozen=True)
class Prompt:
    """One prompt; `concept` where the file says whose it is."""

    text: str
    concept: str | None = None


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file, in its order.

    Raises:
        UserError: unreadable, no prompt in it, or a line that is none, with its number.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(
            f"--prompts {path}: cannot be read ({error.strerror}); give a file with one prompt a line."
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"--prompts {path}: byte {error.start} is not UTF-8; save it as UTF-8 text."
        ) from None
    kind = path.suffix.lower()
    try:
        if kind in (".yaml", ".yml"):
            rows = _yaml_rows(path, text)
        elif kind == ".jsonl":
            rows = jsonl_rows(text, "prompt")
        else:
            rows = csv_rows(text, "prompt") if kind == ".csv" else _plain_rows(text)
    except WrongRow as error:
        raise _wrong(path, error.line, error.found, error.expected) from None
    prompts = [_prompt(path, line, row) for line, row in rows]
    if not prompts:
        raise UserError(
            f"--prompts {path}: it holds no prompt; write one a line, such as "
            '"a red striped star on a navy gradient".'
        )
    first: dict[Prompt, int] = {}
    for (line, _), prompt in zip(rows, prompts, strict=True):
        if prompt in first:
            raise UserError(
                f"--prompts {path}, line {line}: the same prompt as in line {first[prompt]}; keep one, "
                "--seeds makes several videos of each."
            )
        first[prompt] = line
    return prompts


def prompts_for(prompts: Iterable[Prompt], *names: str) -> list[str]:
    """The texts of the prompts that are for everybody or for a concept of one of these names, each once."""
    return list(dict.fromkeys(prompt.text for prompt in prompts if prompt.concept in (None, *names)))


Rows = Sequence[tuple[int, Any]]  # (line number, what stands there)


def _wrong(path: Path, line: int, found: str, expected: str) -> UserError:
    return UserError(f"--prompts {path}, line {line}: {found}; expected {expected}.")


def _prompt(path: Path, line: int, row: Any) -> Prompt:
    expected = 'a prompt, or `prompt: "..."`'
    concept = None
    if isinstance(row, dict):
        row = {str(key).strip().lower(): value for key, value in row.items()}
        if "prompt" not in row:
            raise _wrong(path, line, f"no `prompt` among {', '.join(row) or 'nothing'}", expected)
        concept = str(row["concept"]).strip() if row.get("concept") else None
        row = row["prompt"]
    if not isinstance(row, str):
        raise _wrong(path, line, f"{json.dumps(row, default=str)[:60]} is not text", expected)
    text = " ".join(row.split())
    if not text:
        raise _wrong(path, line, "an empty prompt", expected)
    if len(text) > MAX_PROMPT:
        raise _wrong(path, line, f"a prompt of {len(text)} characters", f"at most {MAX_PROMPT}")
    return Prompt(text, concept)


def _plain_rows(text: str) -> Rows:
    lines = enumerate(text.splitlines(), 1)
    return [(n, line) for n, line in lines if line.strip() and not line.lstrip().startswith("#")]


def _yaml_rows(path: Path, text: str) -> Rows:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except NOT_YAML as error:
        raise _wrong(
            path, _line_of(error, text), f"not YAML ({_problem(error)})", "a list of prompts"
        ) from None
    if isinstance(root, yaml.MappingNode):
        root = next((value for key, value in root.value if key.value == "prompts"), root)
    if not isinstance(root, yaml.SequenceNode):
        line = root.start_mark.line + 1 if root is not None else 1
        raise _wrong(path, line, "no list", "`- a prompt` on every line, or such a list below `prompts:`")
    build, rows = yaml.SafeLoader(""), []
    for node in root.value:
        line = node.start_mark.line + 1
        try:
            rows.append((line, build.construct_object(node, deep=True)))
        except NOT_YAML as error:
            raise _wrong(path, line, f"not readable ({_problem(error)})", "a prompt, in quotes") from None
    return rows


def _line_of(error: Exception, text: str) -> int:
    """The line that PyYAML stumbled over; 1 where it does not say."""
    if isinstance(error, yaml.reader.ReaderError):
        return text.count("\n", 0, error.position) + 1
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark else 1


def _problem(error: Exception) -> str:
    """What PyYAML stumbled over, in one line."""
    if isinstance(error, yaml.reader.ReaderError):
        return f"the character #x{error.character:04x}: {error.reason}"
    return str(getattr(error, "problem", None) or " ".join(str(error).split()))


def held_out_prompts(count: int, captions: Iterable[str], seed: int = HELD_OUT_SEED) -> list[str]:
    """Prompts that name appearances of the sprite world and no motion, none of them one of the references'.

    Args:
        captions: of the references; a scene that shares its object's shape and colour, or its object's colour and its
            background's, with one of them is passed over.
    """
    said = [parse(caption) for caption in captions]
    objects = {(s.sprite.shape, s.sprite.colour) for s in said if s.sprite}
    settings = {(s.sprite.colour, s.background.colour) for s in said if s.sprite and s.background}

    def held_out(scene: Scene) -> bool:
        sprite = scene.sprite
        return (sprite.shape, sprite.colour) not in objects and (
            sprite.colour,
            scene.background.colour,
        ) not in settings

    found: list[str] = []
    draw = count
    while len(found) < count:  # 800 scenes and more: enough for any set of references
        draw *= 2
        scenes = appearances(draw, seed)
        found = list(dict.fromkeys(canonical(scene, None) for scene in scenes if held_out(scene)))
        if draw > 64 * count + 4096:
            raise UserError(
                f"only {len(found)} of {count} appearances are in none of the references; give --prompts FILE."
            )
    return found[:count]


def prompts_sha256(prompts: Sequence[str]) -> str:
    """One hash over the prompts, in order."""
    return hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()
