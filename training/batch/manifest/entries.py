"""Reads a batch's manifest: which concepts to train, on which data, with which settings.

    defaults: {data: clips, rank: 16}          # YAML; or a list of entries alone
    concepts:
      - orbit
      - {concept: wave, steps: 500, priority: 2, publish_as: wave-long}

    {"concept": "orbit", "data": "clips"}      JSONL: one entry per line
    concept,data,steps                         CSV, TSV: one column per field; an empty cell means not given
    clips/                                     a clip set: every concept in it

An entry has `concept` and `data`, and may have `foundation`, `publish_as`, `priority` (higher begins earlier) and any
setting of `TrainConfig`. All mistakes of a file are reported at once, with line numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import yaml

from infra.errors import InvalidInput, NotFound, UserError
from infra.paths import as_written, expanded
from infra.registry import check_concept_name
from infra.rows import NOT_YAML, TABLE_SUFFIXES, Column, decoded, key_of, read_table
from infra.storage import Storage, open_storage
from training.config import TrainConfig, wrong_settings

TEXTS = ("concept", "data", "foundation", "publish_as")
FIELDS = (*TEXTS, "priority")
PRIORITIES = range(-1000, 1001)
LARGEST = 64 << 20  # bytes of a manifest: about two hundred thousand entries
SHOWN = 50  # number of mistakes that a message lists


@dataclass(frozen=True, order=True)
class Mistake:
    """A mistake in a manifest. `line` counts from 1; 0 if the manifest has no lines."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


class Mistakes(InvalidInput):
    """All mistakes of a batch, in the order of their lines."""

    default_code = "invalid_manifest"

    def __init__(self, source: str, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(sorted(set(mistakes)))
        count = len(self.mistakes)
        lines = [f"  {mistake}" for mistake in self.mistakes[:SHOWN]]
        if count > SHOWN:
            lines.append(f"  ... and {count - SHOWN} more")
        head = f"{source} has {count} mistake{'s' if count > 1 else ''}; nothing was started:"
        super().__init__("\n".join([head, *lines]))


@dataclass(frozen=True)
class Entry:
    """One concept to train, as given by its manifest."""

    concept: str
    data: str  # URI of a clip set
    foundation: str | None = None
    publish_as: str | None = None
    priority: int = 0
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    line: int = 0
    refused: bool = False  # a setting was wrong: `settings` is empty, concept and data can be checked

    @property
    def name(self) -> str:
        """The name that it is published under; unique in a batch."""
        return self.publish_as or self.concept


@dataclass(frozen=True)
class Raw:
    """An unchecked entry: fields and settings, with the line of each if the format has lines."""

    line: int
    values: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)

    def at(self, name: str) -> int:
        """The line of a field."""
        return self.lines.get(name, self.line)


Report = Callable[[int, str], None]


def read_manifest(source: str, defaults: Mapping[str, Any] | None = None) -> list[Entry]:
    """The entries of a manifest: a .yaml, .yml, .csv, .tsv, .jsonl or .ndjson file or object, or a clip set.

    Args:
        defaults: default fields and settings. The file's `defaults` override them, and an entry
            overrides both.

    Raises:
        Mistakes: all mistakes, in one list.
        UserError: the manifest cannot be read at all.
    """
    entries, mistakes = read_entries(source, defaults)
    if mistakes:
        raise Mistakes(source, mistakes)
    return entries


def read_entries(source: str, defaults: Mapping[str, Any] | None = None) -> tuple[list[Entry], list[Mistake]]:
    """`read_manifest` for a plan that reports the manifest's mistakes together with its own.

    Returns the entries that a plan can check, including those with wrong settings (`Entry.refused`),
    and the mistakes. Raises UserError if the manifest cannot be read at all.
    """
    kind = PurePosixPath(source).suffix.lower()
    if kind not in PARSERS:
        from datasets.clip_sets.clips import concepts_in

        return check_entries(
            [Raw(0, {"concept": name, "data": source}) for name in concepts_in(source)], defaults or {}
        )
    if "://" not in source:
        source = str(as_written(expanded(source)))
    folder, _, name = source.rpartition("/")
    data = read_limited(open_storage(folder or "."), name)
    return parse_entries(data, kind, defaults)


def read_limited(storage: Storage, name: str) -> str:
    """The text of a manifest. Raises UserError if it is missing, too large, or not UTF-8."""
    info = storage.head(name)
    if info is None or info.size > LARGEST:
        problem = (
            "does not exist"
            if info is None
            else f"has {info.size >> 20} MiB, more than the limit of {LARGEST >> 20} MiB"
        )
        raise NotFound(
            f"the manifest {storage.uri}/{name} {problem}; check the name.",
            code="manifest_not_found",
        )
    return decoded(storage.get(name), f"the manifest {storage.uri}/{name}", "invalid_manifest")


def parse_entries(
    text: str, kind: str, defaults: Mapping[str, Any] | None = None
) -> tuple[list[Entry], list[Mistake]]:
    """`read_entries` for a text that was read already."""
    mistakes: list[Mistake] = []

    def report(line: int, words: str) -> None:
        mistakes.append(Mistake(line, words))

    raws, own = PARSERS[kind](text, report)
    return check_entries(raws, {**(defaults or {}), **own.values}, own, mistakes)


def check_entries(
    raws: Iterable[Raw],
    defaults: Mapping[str, Any],
    own: Raw | None = None,
    mistakes: list[Mistake] | None = None,
) -> tuple[list[Entry], list[Mistake]]:
    """Check parsed entries and fill in defaults. Returns them and all mistakes, including the parser's."""
    found = mistakes if mistakes is not None else []
    in_defaults = {text for _, text in _wrong(Raw(0, dict(defaults)), require=False)}
    shared = own or Raw(0, dict(defaults))
    found += [
        Mistake(shared.at(name), f"defaults: {text}")
        for name, text in _wrong(Raw(0, dict(defaults)), require=False)
    ]
    entries: list[Entry] = []
    first: dict[str, int] = {}
    for raw in raws:
        values = {**defaults, **raw.values}
        wrong = list(_wrong(Raw(raw.line, values), require=True))
        found += [Mistake(raw.at(name), text) for name, text in wrong if text not in in_defaults]
        name = values.get("publish_as") or values.get("concept")
        if isinstance(name, str) and name:
            if name in first:
                where = f" (first on line {first[name]})" if first[name] else ""
                found.append(
                    Mistake(
                        raw.line, f"{name[:64]} appears twice{where}; give one of them its own publish_as."
                    )
                )
            first.setdefault(name, raw.line)
        if not any(name in TEXTS for name, _ in wrong):
            fields = {key: values[key] for key in TEXTS if values.get(key) is not None}
            if "://" not in fields["data"]:
                fields["data"] = str(as_written(expanded(fields["data"])))
            if wrong:
                entries.append(Entry(**fields, line=raw.line, refused=True))
                continue
            settings = {key: value for key, value in values.items() if key not in FIELDS}
            entries.append(
                Entry(**fields, priority=int(values.get("priority") or 0), settings=settings, line=raw.line)
            )
    if not found and not entries:
        found.append(Mistake(0, "the manifest names no concept; give at least one."))
    return entries, found


def _wrong(raw: Raw, *, require: bool) -> Iterator[tuple[str, str]]:
    """(field, sentence) of every mistake in one entry."""
    values = raw.values
    for name in TEXTS:
        value = values.get(name)
        if value is None:
            if require and name in ("concept", "data"):
                yield name, f"{name} is missing; every entry needs concept and data."
        elif not isinstance(value, str) or not value:
            yield name, f"{name} {str(value)[:80]!r}: expected text."
        elif name in ("concept", "publish_as"):
            try:
                check_concept_name(value)
            except UserError as error:
                yield name, error.message
        elif name == "data":
            try:
                open_storage(value)
            except UserError as error:
                yield name, error.message
    priority = values.get("priority")
    if priority is not None and _whole(priority) not in PRIORITIES:
        yield "priority", f"priority {str(priority)[:80]!r}: expected a whole number from -1000 to 1000."
    settings = {key: value for key, value in values.items() if key not in FIELDS}
    yield from wrong_settings(settings).items()


def _whole(value: Any) -> int | None:
    try:
        return int(value) if isinstance(value, int | str) and not isinstance(value, bool) else None
    except ValueError:
        return None


def _yaml(text: str, report: Report) -> tuple[list[Raw], Raw]:
    nothing = Raw(0, {})
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return [], nothing
        own, items = nothing, root
        if isinstance(root, yaml.MappingNode):
            parts = {key.value: (key, value) for key, value in root.value if isinstance(key, yaml.ScalarNode)}
            for name in sorted(parts.keys() - {"defaults", "concepts"}):
                report(
                    parts[name][0].start_mark.line + 1,
                    f"unknown key {name[:64]!r}; a manifest has only `defaults:` and `concepts:`, which contain the settings.",
                )
            if "defaults" in parts:
                own = _mapping(loader, parts["defaults"][1], report)
            if "concepts" not in parts:
                report(1, "`concepts:` is missing; give a list of concepts.")
                return [], own
            items = parts["concepts"][1]
        if not isinstance(items, yaml.SequenceNode):
            report(items.start_mark.line + 1, "expected a list of concepts, each beginning with `- `.")
            return [], own
        return [
            Raw(item.start_mark.line + 1, {"concept": item.value})
            if isinstance(item, yaml.ScalarNode)
            else _mapping(loader, item, report)
            for item in items.value
        ], own
    except NOT_YAML as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or (
            "it cannot be read" if isinstance(error, yaml.YAMLError) else str(error)
        )
        report(mark.line + 1 if mark else 0, f"not YAML: {problem}.")
        return [], nothing
    finally:
        loader.dispose()


def _mapping(loader: yaml.SafeLoader, node: yaml.Node, report: Report) -> Raw:
    """One entry, with the line of each of its keys."""
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        report(line, "expected a concept's name or `key: value` pairs.")
        return Raw(line, {})
    loader.flatten_mapping(node)
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, at = key_of(loader.construct_object(key_node, deep=True)), key_node.start_mark.line + 1
        if key in values and at != lines[key]:
            report(at, f"{key[:64]} appears twice in this entry.")
        value = loader.construct_object(value_node, deep=True)
        if value is not None:
            values[key], lines[key] = value, at
    return Raw(line, values, lines)


def _columns() -> list[Column]:
    """All columns that a table may have, with their synonyms."""
    synonyms = {
        "concept": ("name", "motion", "label", "class"),
        "data": ("clips", "dataset", "file", "path", "folder", "uri"),
        "foundation": ("model", "base_model", "checkpoint"),
        "publish_as": ("as", "output", "publish"),
        "learning_rate": ("lr",),
        "steps": ("max_steps", "num_steps", "iterations"),
    }
    settings = [name for name in TrainConfig.model_fields if name not in FIELDS]
    return [Column(name, synonyms.get(name, ()), what="text", text=False) for name in (*FIELDS, *settings)]


def _table(kind: str) -> Callable[[str, Report], tuple[list[Raw], Raw]]:
    """The parser of a table format (infra/rows.py)."""

    def parse(text: str, report: Report) -> tuple[list[Raw], Raw]:
        known = f"one of {', '.join(FIELDS)} and the training settings"
        rows, flaws = read_table(text, kind, _columns(), known=known)
        for flaw in flaws:
            column = f"column {flaw.column}: " if flaw.column else ""
            report(flaw.line, f"{column}{flaw.found}; expected {flaw.expected}.")
        return [Raw(row.line, row.values) for row in rows], Raw(0, {})

    return parse


PARSERS: dict[str, Callable[[str, Report], tuple[list[Raw], Raw]]] = {
    ".yaml": _yaml,
    ".yml": _yaml,
    **{kind: _table(kind) for kind in TABLE_SUFFIXES},
}
