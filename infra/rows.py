"""Rows of .jsonl and .csv texts, each with the line that it begins on, so that what is wrong can be found; what is no YAML."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import yaml

# what PyYAML raises for a text: 2023-99-99 is a bare ValueError to it, and deep nesting too much for Python's stack
NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)


class WrongRow(ValueError):
    """What stands on a line, and what was expected there; callers add whose text it is."""

    def __init__(self, line: int, found: str, expected: str) -> None:
        super().__init__(f"line {line}: {found}; expected {expected}")
        self.line, self.found, self.expected = line, found, expected


def json_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, line) of the lines that are not blank. Other separators than newlines may stand in a JSON string."""
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def jsonl_rows(text: str, column: str) -> list[tuple[int, Any]]:
    """(line, value) of each line. `column` is for the sentence: what an object should have. Raises WrongRow."""
    rows = []
    for number, line in json_lines(text):
        try:
            rows.append((number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise WrongRow(
                number, f"not JSON ({error})", f'an object such as {{"{column}": "..."}}'
            ) from None
    return rows


def csv_rows(text: str, column: str) -> list[tuple[int, dict[str, str]]]:
    """(line, cells by the header's names, in small letters) of each row. Raises WrongRow, also without `column`."""
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if column not in header:
            raise WrongRow(
                1, f"no column `{column}` among {', '.join(header) or 'nothing'}", "a header with it"
            )
        rows, line = [], reader.line_num + 1
        for row in reader:
            if row:
                rows.append((line, dict(zip(header, row, strict=False))))
            line = reader.line_num + 1
        return rows
    except csv.Error as error:
        raise WrongRow(
            reader.line_num, f"not CSV ({error})", "quoted, comma-separated values under a header"
        ) from None
