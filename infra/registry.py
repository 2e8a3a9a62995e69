"""The concept registry: immutable, numbered versions of adapters, in a folder or in S3.

    registry = open_registry("s3://bucket/registry")
    version = registry.publish("orbit", Path("runs/orbit/adapter"), metadata={"rank": 16})     # orbit@1
    registry.pull(registry.resolve("orbit"), Path("orbit"))                                    # the latest

Layout, below the registry's URI:

    objects/<aa>/<sha256>                        every file of every version, once (infra/storage/objects.py)
    concepts/<name>/versions/<n>.json            the pointer: names, hashes and sizes of the files, metadata
    concepts/<name>/metrics/<n>/<time>-<id>.json metrics that were measured later, append-only
    concepts/<name>/removed/<n>.json             a tombstone: the number is never reused

A pointer is written last and only if its number is free (`put_if_absent`). So a version is either complete
or absent, and concurrent publishers get different numbers.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, Field
from rapidfuzz import fuzz, process

from infra.errors import Conflict, DamagedData, InvalidInput, NotFound
from infra.files import TEMPORARY, explained_os_errors
from infra.storage import ObjectInfo, Storage, check_key, open_storage
from infra.storage.objects import FileEntry, check_hash, get_object, object_key, put_named, sha256_file
from infra.storage.stored import ConceptName, Damaged, Key, is_concept_name, parse

DEFAULT_REGISTRY = "runs/registry"
# A version has a temporal adapter (motion), a spatial one (appearance), or both.
ADAPTER_FILE = "adapter_model.safetensors"
SPATIAL_FILE = f"spatial/{ADAPTER_FILE}"


@dataclass(frozen=True)
class Version:
    """One published version of a concept. Immutable, except that metrics may be added."""

    concept: ConceptName
    number: Annotated[int, Field(ge=1, le=999_999_999)]
    created_at: AwareDatetime  # UTC
    files: dict[Key, FileEntry]  # by relative posix path
    metadata: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def ref(self) -> str:
        """`name@3`."""
        return f"{self.concept}@{self.number}"

    @property
    def adapter_sha256(self) -> str:
        """The hash of its motion's adapter, or of its appearance's if it has no motion. The same hash is the same adapter."""
        return self.files[ADAPTER_FILE if ADAPTER_FILE in self.files else SPATIAL_FILE].sha256


@dataclass(frozen=True)
class ConceptInfo:
    """A summary of a concept."""

    name: str
    versions: int  # number of versions, without removed ones
    latest: int  # number of the latest version
    updated_at: datetime  # when the latest version was published, UTC


def check_concept_name(name: str) -> str:
    """The name, if it is valid: at most 64 of a-z, 0-9, '.', '_', '-', without '..'. Else InvalidInput."""
    if not is_concept_name(name):
        shown = name if len(name) <= 64 else f"{name[:40]}... ({len(name)} characters)"
        raise InvalidInput(
            f"concept name {shown!a}: expected 1 to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter "
            "or digit and without '..'; for example car-turn.",
            code="invalid_concept",
        )
    return name


def parse_ref(ref: str) -> tuple[str, int | None]:
    """`name` -> (name, None), `name@3` -> (name, 3). Raises InvalidInput for anything else."""
    name, at, number = ref.partition("@")
    check_concept_name(name)
    if at and not re.fullmatch(r"[1-9][0-9]{0,8}", number):
        raise InvalidInput(
            f"concept version {number[:40]!a} of {name}: expected a number from 1; write {name} for the latest "
            f"version or {name}@3 for the third.",
            code="invalid_version",
        )
    return name, int(number) if at else None


class Registry:
    """Publishes, finds and fetches versions. Has no state of its own: several processes may use one URI."""

    overview = (
        "`motiondirector concepts list` shows its concepts."  # the hint of an error if no name is similar
    )

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    @property
    def uri(self) -> str:
        return self.storage.uri

    @property
    def shown(self) -> str:
        """Its name in messages."""
        return f"the registry {self.uri}"

    def owner(self, concept: str) -> str | None:
        """Id of the tenant whose own a concept is. None: in a registry itself every concept is everyone's."""
        return None

    def near(self, name: str) -> list[str]:
        """Up to three concepts whose names are similar."""
        return similar(name, [info.name for info in self.concepts()])

    def publish(
        self,
        concept: str,
        folder: Path,
        *,
        metadata: dict[str, Any],
        metrics: dict[str, Any] | None = None,
        once: str | None = None,
    ) -> Version:
        """Publish the files of `folder` as the next version of `concept`.

        All files below the folder except dot files are published; `adapter_model.safetensors`, or the one in
        `spatial/`, must be among them. The caller must have validated the adapter (`models.adapters.file.read_adapter`).

        Args:
            once: an identifier of this publication. If it is repeated, or runs in several processes at once,
                only one version is published, and every call returns it.

        Raises:
            InvalidInput: an invalid name, a folder without an adapter, or metadata or metrics that are not JSON.
        """
        check_concept_name(concept)
        paths = collect(folder)
        pointer: dict[str, Any] = {
            "schema": 1,
            "concept": concept,
            "id": once or uuid.uuid4().hex,  # distinguishes this publication from another of the same content
            "created_at": datetime.now(UTC).isoformat(),
            "metadata": metadata,
            "metrics": metrics or {},
        }
        to_json(pointer, f"metadata and metrics of {concept}")  # before anything is written
        pointer["files"] = put_named(self.storage, paths)
        published = self.numbers(concept, "versions")
        if once is not None and (version := self._published_as(concept, published, once)) is not None:
            return version
        number = max(published, default=0) + 1
        while True:
            key = f"concepts/{concept}/versions/{number}.json"
            body = to_json({**pointer, "number": number}, concept)
            # False also if our own write succeeded but its answer was lost: then the stored body is ours.
            if self.storage.put_if_absent(key, body) or self.storage.get(key) == body:
                version = read_version(body, concept, number)
                self._put_back(version, paths)
                return version
            if once is not None and (version := self._published_as(concept, {number}, once)) is not None:
                return version
            number += 1

    def _put_back(self, version: Version, paths: dict[str, Path]) -> None:
        """Store files again that an erasure, which did not see this version yet, removed (`infra.erasure`)."""
        for name, entry in version.files.items():
            if not self.storage.exists(key := object_key(entry.sha256)):
                self.storage.put_file(key, paths[name])

    def _published_as(self, concept: str, numbers: set[int], once: str) -> Version | None:
        """The version among these numbers that was published with this `once`, or None.

        It cannot be overlooked: a publisher writes a version only after it has checked all lower numbers.
        """
        for number in sorted(numbers):
            body = self.storage.get(f"concepts/{concept}/versions/{number}.json")
            with contextlib.suppress(Damaged):  # not published by this program
                if parse(dict[str, Any], body).get("id") == once:
                    return self.load(concept, number)
        return None

    def versions(self, concept: str) -> list[Version]:
        """All versions except removed ones, oldest first; empty if there are none."""
        check_concept_name(concept)
        kept = self.numbers(concept, "versions") - self.numbers(concept, "removed")
        return [self.load(concept, number) for number in sorted(kept)]

    def concepts(self) -> list[ConceptInfo]:
        """Every concept that has a version, by name. Lists the storage once and reads no object."""
        times: dict[str, dict[int, datetime]] = {}
        for (name, number), info in self.pointers().items():
            times.setdefault(name, {})[number] = info.modified
        return [ConceptInfo(name, len(of), max(of), of[max(of)]) for name, of in times.items()]

    def pointers(self) -> dict[tuple[str, int], ObjectInfo]:
        """The pointers of all versions except removed ones, by (concept, number).

        Lists the storage once and reads no object.
        """
        published: dict[tuple[str, int], ObjectInfo] = {}
        removed: set[tuple[str, int]] = set()
        for info in self.storage.list("concepts/"):
            number = number_of(info.key)
            match info.key.split("/"):
                case [_, name, "versions", _] if number:
                    published[name, number] = info
                case [_, name, "removed", _] if number:
                    removed.add((name, number))
        return {version: published[version] for version in sorted(published.keys() - removed)}

    def resolve(self, ref: str) -> Version:
        """The version of a reference: `name` (the latest) or `name@3`. Raises NotFound."""
        return self.load(*self.find(ref))

    def find(self, ref: str) -> tuple[str, int]:
        """(name, number) of the version that a reference means, without reading it. Raises NotFound."""
        name, number = parse_ref(ref)
        published = self.numbers(name, "versions")
        kept = published - self.numbers(name, "removed")
        if not kept:
            near = self.near(name)
            hint = f"did you mean {' or '.join(near)}?" if near else self.overview
            raise NotFound(
                f"concept {name} is not in {self.shown}; {hint}",
                code="concept_not_found",
            )
        if number is None:
            number = max(kept)
        if number not in kept:
            what = "was removed" if number in published else "was never published"
            have = ", ".join(f"{name}@{other}" for other in sorted(kept)[-8:])
            raise NotFound(
                f"concept version {name}@{number} {what} in {self.shown}; available: {have}.",
                code="version_not_found",
            )
        return name, number

    def pull(self, version: Version, folder: Path) -> Path:
        """Copy a version's files to `folder`, all or none, and check each against its hash.

        Does nothing if the folder already holds the version.

        Raises:
            Conflict: the folder holds other files.
            DamagedData: an object is damaged or truncated.
            StorageFull: the disk is full.
        """
        folder = Path(os.path.abspath(folder))
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            return check_same(version, folder)
        with explained_os_errors(f"writing {folder}"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=TEMPORARY))
            try:
                temporary.chmod(0o755)
                for name, entry in version.files.items():
                    self.storage.get_file(object_key(entry.sha256), temporary / name)
                    check_hash(self.storage, entry.sha256, sha256_file(temporary / name))
                try:
                    temporary.rename(folder)
                except OSError:  # another pull was faster
                    return check_same(version, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return folder

    def read(self, version: Version, name: str) -> bytes:
        """One file of a version, checked against its hash. Raises NotFound if it has no such file."""
        if name not in version.files:
            raise NotFound(
                f"{version.ref} has no file {name[:100]!a}; it has {', '.join(sorted(version.files))}.",
                code="file_not_found",
            )
        return get_object(self.storage, version.files[name].sha256)

    def add_metrics(self, version: Version, metrics: dict[str, Any]) -> None:
        """Append metrics measured later; the newest value of a name counts. The version does not change."""
        body = to_json(metrics, f"metrics of {version.ref}")
        folder = f"concepts/{version.concept}/metrics/{version.number}/"
        stamps = (re.match(r"[0-9]{20}", info.key.removeprefix(folder)) for info in self.storage.list(folder))
        last = max((int(stamp[0]) for stamp in stamps if stamp), default=0)
        # Later than all existing ones, even if a clock that was ahead wrote them.
        stamp = min(max(time.time_ns(), last + 1), 10**20 - 1)
        self.storage.put(f"{folder}{stamp:020d}-{uuid.uuid4().hex[:8]}.json", body)

    def remove(self, ref: str) -> None:
        """Remove a version (for `name` alone, the latest). Its number is never reused.

        Its files stay in `objects/`: other versions may share them, and a running service may use them.
        """
        name, number = self.find(ref)
        body = to_json({"removed_at": datetime.now(UTC).isoformat()}, ref)
        self.storage.put_if_absent(f"concepts/{name}/removed/{number}.json", body)

    def numbers(self, concept: str, what: str) -> set[int]:
        """The numbers under concepts/<concept>/<what>/; `what` is `versions` or `removed`."""
        found = (number_of(info.key) for info in self.storage.list(f"concepts/{concept}/{what}/"))
        return {number for number in found if number}

    def load(self, concept: str, number: int, *, added_metrics: bool = True) -> Version:
        """Read a version's pointer and, if `added_metrics`, the metrics added later. Raises DamagedData."""
        key = f"concepts/{concept}/versions/{number}.json"
        try:
            version = read_version(self.storage.get(key), concept, number)
            metrics = dict(version.metrics)
            added = self.storage.list(f"concepts/{concept}/metrics/{number}/") if added_metrics else ()
            for info in added:
                key = info.key
                metrics |= parse(dict[str, Any], self.storage.get(key))
            return replace(version, metrics=metrics)
        except Damaged as error:
            raise DamagedData(
                f"{key} in {self.shown} is damaged ({error}); restore it from a copy, or remove the version "
                f"(`motiondirector concepts rm {concept}@{number}`) and publish it again."
            ) from None


def similar(name: str, names: Collection[str]) -> list[str]:
    """Up to three of the names, those most similar to `name`."""
    return [near for near, _, _ in process.extract(name, names, scorer=fuzz.ratio, limit=3, score_cutoff=60)]


def number_of(key: str) -> int | None:
    """3 for .../3.json; None for other files (people put notes into folders)."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})\.json", key.rpartition("/")[2])
    return int(found[1]) if found else None


def open_registry(uri: str | Path = DEFAULT_REGISTRY) -> Registry:
    """The registry in a folder or at `s3://bucket/prefix`. The first publication creates it."""
    return Registry(open_storage(uri))


def collect(folder: Path) -> dict[str, Path]:
    """The files to publish, by relative POSIX path. Raises InvalidInput without a folder or an adapter."""
    if not folder.is_dir():
        raise InvalidInput(
            f"{folder} is not a folder; give the one that holds {ADAPTER_FILE}.",
            code="adapter_missing",
        )
    paths = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    if not has_adapter(paths):
        raise InvalidInput(
            f"{folder} holds no {ADAPTER_FILE} and no {SPATIAL_FILE}; give the folder that `motiondirector train` wrote.",
            code="adapter_missing",
        )
    return {check_key(name): path for name, path in paths.items()}


def has_adapter(names: Collection[str]) -> bool:
    """Whether a temporal or a spatial adapter is among the files of a version."""
    return ADAPTER_FILE in names or SPATIAL_FILE in names


def to_json(value: dict[str, Any], what: str) -> bytes:
    """Canonical JSON. Raises InvalidInput for values that JSON cannot express (NaN, infinity, objects)."""
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"{what}: not plain JSON ({error}); give strings, finite numbers, lists and mappings.",
            code="invalid_metadata",
        ) from None


def read_version(pointer: bytes, concept: str, number: int) -> Version:
    """Parse a version's pointer. Raises Damaged, also if it is another version's or names no adapter."""
    version = parse(Version, pointer)
    if (version.concept, version.number) != (concept, number):
        raise Damaged(f"it describes {version.ref}")
    if not has_adapter(version.files):
        raise Damaged(f"it has no {ADAPTER_FILE} and no {SPATIAL_FILE}")
    return version


def check_same(version: Version, folder: Path) -> Path:
    """The folder, if it holds this version's files unchanged. Else raises Conflict."""
    files = {name: folder / name for name in version.files}
    if all(
        path.is_file() and sha256_file(path) == version.files[name].sha256 for name, path in files.items()
    ):
        return folder
    raise Conflict(
        f"{folder} exists and does not hold {version.ref}; remove it or choose another folder.",
        code="folder_not_empty",
    )
