"""Checks data read from a storage or a database while parsing it.

Other programs may write to a registry, a clip set, a batch or a job database. Hashes, names and keys in
them become paths, so this module defines a format for each, and rejects anything else before it is used:

    @dataclass(frozen=True)
    class FileEntry:
        sha256: Sha256
        size: Annotated[int, Field(ge=0)]

    entry = parse(FileEntry, storage.get(key))       # from JSON; raises Damaged
    entry = convert(FileEntry, row)                  # from values: a row of Parquet, columns of SQL

The types are dataclasses, TypedDicts or pydantic models.
"""

from __future__ import annotations

import functools
import re
from typing import Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, TypeAdapter, ValidationError

from infra.errors import DamagedData, UserError
from infra.storage import check_key

T = TypeVar("T")
CONCEPT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Damaged(ValueError):
    """Stored data is not in this program's format. The message says where and what is expected."""


def is_concept_name(name: str) -> bool:
    """Whether a concept may have this name: at most 64 of a-z, 0-9, '.', '_', '-', without '..'."""
    return bool(CONCEPT.fullmatch(name)) and ".." not in name


def _concept_name(name: str) -> str:
    if not is_concept_name(name):
        raise ValueError("expected a concept's name")
    return name


def _version_ref(ref: str) -> str:
    name, at, number = ref.partition("@")
    if not (is_concept_name(name) and at and re.fullmatch(r"[1-9][0-9]{0,8}", number)):
        raise ValueError("expected a version such as orbit@3")
    return ref


def _key(key: str) -> str:
    try:
        return check_key(key)
    except UserError:
        raise ValueError("expected a relative path that stays in its folder") from None


def hexadecimal(text: str, digits: int) -> str:
    """The text, if it is exactly `digits` hexadecimal digits. Raises ValueError."""
    if not re.fullmatch(rf"[0-9a-f]{{{digits}}}", text):
        raise ValueError(f"expected {digits} hexadecimal digits")
    return text


Sha256 = Annotated[str, AfterValidator(functools.partial(hexadecimal, digits=64))]
HexId = Annotated[
    str, AfterValidator(functools.partial(hexadecimal, digits=32))
]  # uuid4().hex, or half of a SHA-256
ConceptName = Annotated[str, AfterValidator(_concept_name)]
VersionRef = Annotated[str, AfterValidator(_version_ref)]  # orbit@3
Key = Annotated[str, AfterValidator(_key)]  # of an object in a storage, or a file below a folder


def parse(kind: type[T], data: bytes | str) -> T:
    """Parse JSON as a `kind`, without conversions between types. Raises Damaged."""
    try:
        return _adapter(cast(Any, kind)).validate_json(data, strict=True)
    except ValidationError as error:
        raise Damaged(_reason(error)) from None


def convert(kind: type[T], value: Any) -> T:
    """Convert values to a `kind`. Raises Damaged."""
    try:
        return _adapter(cast(Any, kind)).validate_python(value)
    except ValidationError as error:
        raise Damaged(_reason(error)) from None


def parse_object(kind: type[T], data: bytes | str, where: str, remedy: str) -> T:
    """`parse` for a stored object. Raises DamagedData ("object_damaged").

    Args:
        where: key and storage, for the error.
        remedy: what to do about it.
    """
    try:
        return parse(kind, data)
    except Damaged as error:
        raise damaged(where, error, remedy) from None


def damaged(where: str, reason: object, remedy: str) -> DamagedData:
    """The error for a damaged object."""
    return DamagedData(f"{where} is damaged ({reason}); {remedy}.")


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _reason(error: ValidationError) -> str:
    """Describe the first mistake. Stored text appears only as the name of a field, shortened."""
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(ascii(part)[1:-1][:40] if isinstance(part, str) else str(part) for part in first["loc"])
    said = first["msg"].removeprefix("Value error, ")
    return f"{place}: {said}" if place else said
