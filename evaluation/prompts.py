"""The prompts of an evaluation: from a file, or held-out appearances of the sprite world.

A text file holds one prompt per line (blank lines and lines that begin with # are skipped). Other formats:

    .yaml, .yml       a list of prompts, or of mappings with `prompt`, optionally below a key `prompts`
    .jsonl, .ndjson   an object with `prompt` on every line, or a prompt in quotes
    .csv, .tsv        a header with a column `prompt`

A row may also have a `concept`; the prompt is then for that concept alone. Tables are read strictly
(infra/rows.py). The paper's benchmark sets have prompts for each concept (evaluation/paper_sets.py).
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
from infra.paths import as_written, expanded
from infra.rows import NOT_YAML, TABLE_SUFFIXES, Column, Row, decoded, is_table, read_strictly, read_values

COLUMNS = (
    Column(
        "prompt", ("text", "caption", "prompts", "description", "sentence"), required=True, what="a prompt"
    ),
    Column("concept", ("name", "motion", "class", "action", "label"), what="a concept's name"),
)
CODE = "invalid_prompts"
NO_PROMPTS = {
    ".json",
    ".xlsx",
    ".xls",
    ".ods",
    ".parquet",
}  # formats that would be misread as lines of text
MAX_PROMPT = 2000  # characters; text encoders read far fewer
HELD_OUT_SEED = 20231012


@dataclass(frozen=True)
class Prompt:
    """One prompt; `concept` if the file assigns it to one."""

    text: str
    concept: str | None = None


def read_prompts(path: Path, option: str = "--prompts") -> list[Prompt]:
    """The prompts of a file, in its order.

    Args:
        option: the option that named the file, for messages.

    Raises:
        UserError: unreadable, without prompts, or with an invalid line (the message has its number).
    """
    source = f"{option} {path}"
    try:
        data = as_written(expanded(path)).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{source}: cannot be read ({reason}); give a file with one prompt per line."
        ) from None
    text = decoded(data, source, CODE)
    kind = path.suffix.lower()
    if kind in NO_PROMPTS:
        raise UserError(
            f"{source}: {kind} is not supported; give .txt, .yaml or one of {', '.join(TABLE_SUFFIXES)}."
        )
    if is_table(path.name):
        rows = read_strictly(source, text, kind, COLUMNS, code=CODE, bare="prompt")
    else:
        values = _yaml_rows(source, text) if kind in (".yaml", ".yml") else _plain_rows(text)
        rows = read_values(source, values, COLUMNS, code=CODE, bare="prompt")
    prompts = [_prompt(source, row) for row in rows]
    if not prompts:
        raise UserError(
            f"{source}: the file contains no prompt; write one per line, such as "
            '"a red striped star on a navy gradient".'
        )
    first: dict[Prompt, int] = {}
    for row, prompt in zip(rows, prompts, strict=True):
        if prompt in first:
            raise UserError(
                f"{source}, line {row.line}: the same prompt as in line {first[prompt]}; keep one "
                "(--seeds makes several videos of each prompt)."
            )
        first[prompt] = row.line
    return prompts


def prompts_for(prompts: Iterable[Prompt], *names: str) -> list[str]:
    """The texts of the general prompts and those for one of these concept names, without duplicates."""
    return list(dict.fromkeys(prompt.text for prompt in prompts if prompt.concept in (None, *names)))


Rows = Sequence[tuple[int, Any]]  # (line number, content)


def _wrong(source: str, line: int, found: str, expected: str) -> UserError:
    return UserError(f"{source}, line {line}: {found}; expected {expected}.")


def _prompt(source: str, row: Row) -> Prompt:
    text = " ".join(row.values["prompt"].split())
    if len(text) > MAX_PROMPT:
        raise _wrong(source, row.line, f"a prompt of {len(text)} characters", f"at most {MAX_PROMPT}")
    return Prompt(text, row.values.get("concept"))


def _plain_rows(text: str) -> Rows:
    lines = enumerate(text.splitlines(), 1)
    return [(n, line) for n, line in lines if line.strip() and not line.lstrip().startswith("#")]


def _yaml_rows(source: str, text: str) -> Rows:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except NOT_YAML as error:
        raise _wrong(
            source, _line_of(error, text), f"not YAML ({_problem(error)})", "a list of prompts"
        ) from None
    if isinstance(root, yaml.MappingNode):
        others = [key for key, _ in root.value if key.value != "prompts"]
        if len(root.value) > len(others) and others:
            line = others[0].start_mark.line + 1
            raise _wrong(source, line, f"unknown key {str(others[0].value)[:64]!r}", "only `prompts:`")
        root = next((value for key, value in root.value if key.value == "prompts"), root)
    if not isinstance(root, yaml.SequenceNode):
        line = root.start_mark.line + 1 if root is not None else 1
        raise _wrong(
            source, line, "not a list", "`- a prompt` on every line, or such a list under `prompts:`"
        )
    build, rows = yaml.SafeLoader(""), []
    for node in root.value:
        line = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len(set(keys)) < len(keys):
                raise _wrong(
                    source, line, f"one of the keys {', '.join(keys)} appears twice", "each key once"
                )
        try:
            rows.append((line, build.construct_object(node, deep=True)))
        except NOT_YAML as error:
            raise _wrong(source, line, f"not readable ({_problem(error)})", "a prompt, in quotes") from None
    return rows


def _line_of(error: Exception, text: str) -> int:
    """The line where PyYAML failed, or 1 if it gives none."""
    if isinstance(error, yaml.reader.ReaderError):
        return text.count("\n", 0, error.position) + 1
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark else 1


def _problem(error: Exception) -> str:
    """PyYAML's problem in one line."""
    if isinstance(error, yaml.reader.ReaderError):
        return f"the character #x{error.character:04x}: {error.reason}"
    return str(getattr(error, "problem", None) or " ".join(str(error).split()))


def held_out_prompts(count: int, captions: Iterable[str], seed: int = HELD_OUT_SEED) -> list[str]:
    """Prompts that name sprite appearances unlike the references', and no motion.

    Args:
        captions: of the references. A scene is skipped if it shares the object's shape and colour, or
            the object's and the background's colours, with one of them.
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
    while len(found) < count:  # there are 800 scenes and more: enough for any set of references
        draw *= 2
        scenes = appearances(draw, seed)
        found = list(dict.fromkeys(canonical(scene, None) for scene in scenes if held_out(scene)))
        if draw > 64 * count + 4096:
            raise UserError(
                f"only {len(found)} of the {count} requested appearances differ from the references; give --prompts FILE."
            )
    return found[:count]


def prompts_sha256(prompts: Sequence[str]) -> str:
    """One hash over the prompts, in order."""
    return hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()
