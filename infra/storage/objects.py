"""Content-addressed objects: each is stored once under its hash and never changes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from infra.errors import DamagedData
from infra.files import atomic_file
from infra.storage import Storage
from infra.storage.stored import Damaged, Key, Sha256, convert, damaged, hexadecimal


@dataclass(frozen=True)
class FileEntry:
    """One stored file."""

    sha256: Sha256
    size: Annotated[int, Field(ge=0)]  # bytes


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def object_key(sha256: str) -> str:
    """The key of the object with this hash: objects/<aa>/<sha256>. Raises DamagedData for an invalid hash."""
    try:
        hexadecimal(sha256, 64)
    except ValueError as error:
        raise damaged(
            f"the hash {sha256[:80]!a} of an object", error, "restore the record that names it from a copy"
        ) from None
    return f"objects/{sha256[:2]}/{sha256}"


def put_object(storage: Storage, content: bytes | Path) -> str:
    """Store bytes or a file under its hash; returns the hash. Sends nothing if it is already complete."""
    if isinstance(content, bytes):
        sha256, size = hashlib.sha256(content).hexdigest(), len(content)
    else:
        sha256, size = sha256_file(content), content.stat().st_size
    stored = storage.head(object_key(sha256))
    if stored is None or stored.size != size:
        if isinstance(content, bytes):
            storage.put(object_key(sha256), content)
        else:
            storage.put_file(object_key(sha256), content)
    return sha256


def get_object(storage: Storage, sha256: str) -> bytes:
    """The bytes with this hash. Raises ObjectNotFound, or DamagedData if the bytes hash differently."""
    content = storage.get(object_key(sha256))
    check_hash(storage, sha256, hashlib.sha256(content).hexdigest())
    return content


def put_files(storage: Storage, folder: Path) -> dict[str, dict[str, Any]]:
    """Store every file below a folder. Returns {relative path: {"sha256", "size"}} for `get_files`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return put_named(storage, {path.relative_to(folder).as_posix(): path for path in files})


def put_named(storage: Storage, paths: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Store files under the given names. Returns {name: {"sha256", "size"}}."""
    return {
        name: {"sha256": put_object(storage, path), "size": path.stat().st_size}
        for name, path in paths.items()
    }


def get_files(storage: Storage, files: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Write files stored by `put_files` below a folder, with each hash checked.

    Raises UserError for a damaged object, hash or name.
    """
    try:
        entries = convert(dict[Key, FileEntry], dict(files))
    except Damaged as error:
        raise damaged("a list of stored files", error, "store the files again") from None
    for name, entry in entries.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_bytes(get_object(storage, entry.sha256))


def check_hash(storage: Storage, expected: str, found: str) -> None:
    """Raise DamagedData unless the two hashes are equal."""
    if found != expected:
        raise DamagedData(
            f"object {expected[:12]} in {storage.uri} is damaged (its content hashes to {found[:12]}); "
            "delete it and store the same content again, or restore it from a copy."
        )
