"""Erases versions from a registry for good, with the files that no other version has.

`Registry.remove` only hides a version. Publications may run at the same time: a publisher looks for its files
once more after it has written its version, and an erasure looks once more for new versions after it has removed
files. Whichever comes second puts a file back that both were about. An erasure that is killed may be repeated.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from infra.registry import Registry, Version, number_of, read_version
from infra.storage import ObjectNotFound
from infra.storage.objects import object_key
from infra.storage.stored import Damaged, parse


def erase_versions(
    registry: Registry, versions: Collection[tuple[str, int]], hashes: Collection[str]
) -> None:
    """Erase versions: their pointers, metrics, and files. Repeating it is no error.

    A concept without any version left loses its tombstones too, so nothing of its name stays.

    Args:
        versions: (concept, number) of each.
        hashes: SHA-256 of their files.
    """
    storage = registry.storage
    for concept, number in versions:
        for info in list(storage.list(f"concepts/{concept}/metrics/{number}/")):
            storage.delete(info.key)
        storage.delete(f"concepts/{concept}/versions/{number}.json")
    unused = set(hashes) - referenced(registry)
    with tempfile.TemporaryDirectory() as folder:
        for sha256 in unused:
            try:
                storage.get_file(object_key(sha256), Path(folder, sha256))
            except ObjectNotFound:  # an earlier attempt removed it
                continue
            storage.delete(object_key(sha256))
        for sha256 in unused & referenced(registry):
            if (kept := Path(folder, sha256)).exists():
                storage.put_file(object_key(sha256), kept)
    for concept in {concept for concept, _ in versions}:
        if not registry.numbers(concept, "versions"):
            for what in ("removed", "metrics"):  # not `versions`: one may be published at this moment
                for info in list(storage.list(f"concepts/{concept}/{what}/")):
                    storage.delete(info.key)
            storage.prune(f"concepts/{concept}")


def hashes_of(version: Version) -> set[str]:
    """SHA-256 of a version's files, and of those that its metrics name (an evaluation's pages and videos)."""
    return {entry.sha256 for entry in version.files.values()} | set(_named(version.metrics))


def referenced(registry: Registry) -> set[str]:
    """SHA-256 of every file of every version, removed ones included. Reads every pointer and all metrics."""
    found: set[str] = set()
    for info in registry.storage.list("concepts/"):
        # Erased meanwhile, or a note that somebody put there.
        with contextlib.suppress(ObjectNotFound, Damaged):
            match info.key.split("/"):
                case [_, concept, "versions", _] if number := number_of(info.key):
                    found |= hashes_of(read_version(registry.storage.get(info.key), concept, number))
                case [_, _, "metrics", _, _]:
                    found.update(_named(parse(dict[str, Any], registry.storage.get(info.key))))
    return found


def _named(value: object) -> Iterator[str]:
    """The hashes in metrics: `sha256` of any mapping in them."""
    if isinstance(value, dict):
        if isinstance(sha256 := value.get("sha256"), str) and re.fullmatch("[0-9a-f]{64}", sha256):
            yield sha256
        for inner in value.values():
            yield from _named(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner)
