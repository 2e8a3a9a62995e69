"""Reads tables (.csv, .tsv, .jsonl, .ndjson) into rows with line numbers.

    columns = (Column("file", ("path", "video"), required=True), Column("caption", ("text", "prompt")))
    rows, flaws = read_table(text, ".csv", columns)

All tables are read by this module, and always strictly. It reports an unknown column, a row with more or
fewer cells than the header, a text with an unquoted comma and a duplicate key with line and column. It
never drops or guesses values. Callers name their columns and common synonyms, which errors suggest.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from infra.errors import UserError

# what PyYAML raises for invalid text: also ValueError for 2023-99-99, and RecursionError for deep nesting
NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)

JSON_SUFFIXES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = (".csv", ".tsv", *JSON_SUFFIXES)
# Not allowed in the text of a table: control characters other than white space, and lone surrogates.
FORBIDDEN = re.compile("[\x00-\x08\x0e-\x1b\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Column:
    """A column that a table may have."""

    name: str
    synonyms: tuple[str, ...] = ()  # names that other tools use
    required: bool = False  # whether every row needs a value
    what: str = "a value"  # what its cells hold, for errors
    text: bool = True  # cells must be text; if False, JSON may hold other values


@dataclass(frozen=True, order=True)
class Flaw:
    """A mistake in a table: where it is, what was found, what was expected."""

    line: int
    found: str
    expected: str
    column: str = ""

    def __str__(self) -> str:
        where = f"line {self.line}, column {self.column}" if self.column else f"line {self.line}"
        return f"{where}: {self.found}; expected {self.expected}"


@dataclass(frozen=True)
class Row:
    """A row's values by column: stripped text, or any JSON value. Empty values are left out."""

    line: int
    values: dict[str, Any]


Report = Callable[[Flaw], None]


def is_table(name: str) -> bool:
    """Whether a file's name has a table's suffix."""
    return PurePosixPath(name).suffix.lower() in TABLE_SUFFIXES


def key_of(name: Any) -> str:
    """A column's name in normal form: `Learning-Rate` becomes `learning_rate`."""
    return str(name).strip().lower().replace("-", "_")


def read_table(
    text: str, kind: str, columns: Sequence[Column], *, bare: str | None = None, known: str | None = None
) -> tuple[list[Row], list[Flaw]]:
    """The rows of a table and all of its flaws, ordered by line.

    Args:
        kind: the file's suffix, one of TABLE_SUFFIXES.
        columns: all columns that the table may have.
        bare: the column that a JSON value outside an object belongs to: `"a red star"` in a list of prompts.
        known: a description of the columns, if there are too many to list in an error.
    """
    table = _Table(columns, known or _listed(columns))
    if kind in JSON_SUFFIXES:
        rows = list(table.json_rows(text, bare))
    else:
        rows = list(table.cell_rows(text, "\t" if kind == ".tsv" else separator_of(text)))
    return rows, sorted(table.flaws)


def read_strictly(
    source: str, text: str, kind: str, columns: Sequence[Column], *, code: str, bare: str | None = None
) -> list[Row]:
    """`read_table` for callers that accept only a table without flaws. `source` names the table in errors.

    Raises:
        UserError: the first flaw, with its line and column, and the number of further ones.
    """
    rows, flaws = read_table(text, kind, columns, bare=bare)
    return _without_flaws(source, rows, flaws, code)


def read_values(
    source: str, values: Iterable[tuple[int, Any]], columns: Sequence[Column], *, code: str, bare: str
) -> list[Row]:
    """`read_strictly` for (line, value) pairs that another parser found, such as the items of a YAML list."""
    table = _Table(columns, _listed(columns))
    found = [table.object_row(line, value, bare, columns[0].what) for line, value in values]
    return _without_flaws(source, [row for row in found if row is not None], sorted(table.flaws), code)


def _without_flaws(source: str, rows: list[Row], flaws: Sequence[Flaw], code: str) -> list[Row]:
    if flaws:
        more = f" ({len(flaws) - 1} more like this)" if len(flaws) > 1 else ""
        raise UserError(f"{source}, {flaws[0]}{more}.", code=code)
    return rows


def _listed(columns: Sequence[Column]) -> str:
    return f"only {', '.join(column.name for column in columns)}"


def decoded(data: bytes, source: str, code: str) -> str:
    """Decode a table's bytes. Raises UserError unless they are UTF-8."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{source} is UTF-16, not UTF-8; save it as UTF-8 text.", code=code)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{source}: byte {error.start} is not UTF-8; save it as UTF-8 text.", code=code
        ) from None


def json_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, line) of each non-blank line. Splits at "\\n" only: JSON strings may hold other separators."""
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def separator_of(text: str) -> str:
    """A comma, or a semicolon if the header has only those: Excel's choice where decimals have commas."""
    header = text.partition("\n")[0]
    return ";" if ";" in header and "," not in header else ","


class _Table:
    """Reads one table and collects its flaws."""

    def __init__(self, columns: Sequence[Column], expected: str) -> None:
        self.columns = {column.name: column for column in columns}
        self.expected = expected
        self.flaws: list[Flaw] = []

    def report(self, line: int, found: str, expected: str, column: str = "") -> None:
        self.flaws.append(Flaw(line, found, expected, column))

    def hint(self, name: str) -> str:
        """A suggestion for an unknown name, or ""."""
        key = key_of(name)
        meant = next((column.name for column in self.columns.values() if key in column.synonyms), None)
        near = [meant] if meant else difflib.get_close_matches(key, self.columns, 1, 0.75)
        return f" (did you mean `{near[0]}`?)" if near else ""

    def check_names(self, line: int, names: Sequence[str], what: str) -> bool:
        """Report unknown and missing names of a header or an object; True if all required ones exist."""
        for column in self.columns.values():
            if column.required and column.name not in names:
                called = next((name for name in names if name in column.synonyms), None)
                hint = f"; rename `{called}` to `{column.name}`" if called else ""
                listed = ", ".join(names)[:200] or "nothing"
                self.report(line, f"no {what}`{column.name}` among {listed}", f"it in every table{hint}")
                return False
        for name in dict.fromkeys(names):
            if name not in self.columns:
                self.report(line, f"unknown column {name[:64]!r}{self.hint(name)}", self.expected)
        return True

    def row(self, line: int, values: dict[str, Any]) -> Row:
        """A row of the given values; reports invalid and missing ones."""
        kept: dict[str, Any] = {}
        for name, value in values.items():
            column = self.columns.get(name)
            if column is None or value is None:
                continue
            if isinstance(value, str):
                if FORBIDDEN.search(value):
                    self.report(line, f"{value[:60]!a} holds a control character", "printable text", name)
                    continue
                value = value.strip()
                if not value:
                    continue
            elif column.text:
                self.report(
                    line,
                    f"{json.dumps(value, default=str)[:60]} is not text",
                    f"{column.what}, in quotes",
                    name,
                )
                continue
            kept[name] = value
        wrong = {flaw.column for flaw in self.flaws if flaw.line == line}
        for column in self.columns.values():
            if column.required and column.name not in kept and column.name not in wrong:
                self.report(line, f"no `{column.name}`", column.what)
        return Row(line, kept)

    # -------------------------------------------------------------------- JSON
    def json_rows(self, text: str, bare: str | None) -> Iterator[Row]:
        first = bare or next(iter(self.columns))
        expected = f'an object such as {{"{first}": "..."}}'
        for line, written in json_lines(text):
            try:
                value = json.loads(written, object_pairs_hook=once, parse_constant=_no_constant)
            except (ValueError, RecursionError) as error:
                self.report(line, f"not JSON ({getattr(error, 'msg', error)})", expected)
                continue
            found = self.object_row(line, value, bare, expected)
            if found is not None:
                yield found

    def object_row(self, line: int, value: Any, bare: str | None, expected: str) -> Row | None:
        """The row of a JSON or YAML value; None for an invalid one, which is reported as a flaw."""
        if bare is not None and not isinstance(value, dict):
            return self.row(line, {bare: value})
        if not isinstance(value, dict):
            self.report(line, f"{json.dumps(value, default=str)[:60]} is not an object", expected)
            return None
        cells = {key_of(name): cell for name, cell in value.items()}
        if len(cells) < len(value):
            self.report(line, f"a key of {', '.join(map(str, value))[:200]} appears twice", "each key once")
        elif self.check_names(line, list(cells), ""):
            return self.row(line, cells)
        return None

    # ------------------------------------------------------------- CSV and TSV
    def cell_rows(self, text: str, separator: str) -> Iterator[Row]:
        named = {",": "comma", ";": "semicolon", "\t": "tab"}[separator]
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        try:
            header = [key_of(name) for name in next(reader, [])]
            for name in dict.fromkeys(name for name in header if header.count(name) > 1):
                self.report(1, f"column {name[:64]} appears twice", "each column once")
            if not self.check_names(1, header, "column "):
                return
            line = reader.line_num + 1
            for cells in reader:
                if cells and len(cells) != len(header):
                    self.report(
                        line,
                        f"{len(cells)} cell{'s' if len(cells) > 1 else ''}; the header has {len(header)}",
                        f"a cell for each column, and double quotes around a text that holds a {named}",
                    )
                elif cells and self.check_cells(line, header, cells, separator, named):
                    yield self.row(line, dict(zip(header, cells, strict=True)))
                line = reader.line_num + 1
        except csv.Error as error:
            self.report(
                reader.line_num, f"not CSV ({error})", f"quoted, {named}-separated values under a header"
            )

    def check_cells(
        self, line: int, header: Sequence[str], cells: Sequence[str], separator: str, named: str
    ) -> bool:
        """Report cells that begin with a space, which usually come from an unquoted text with a comma."""
        right = True
        for name, cell in zip(header, cells, strict=True):
            if separator != "\t" and cell.startswith(" ") and cell.strip():
                right = False
                self.report(
                    line,
                    f"{cell[:60]!r} begins with a space, like the rest of a text with an unquoted {named}",
                    f"no space after a {named}, and double quotes around a text that holds a {named}",
                    name,
                )
        return right


def once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError for a duplicate key, where Python would keep the last value."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"`{name[:64]}` appears twice")
        found[name] = value
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")
