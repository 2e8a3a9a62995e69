"""The concept registry: immutable, numbered versions of adapters, in a folder or in S3.

    registry = open_registry("s3://bucket/registry")
    version = registry.publish("orbit", Path("runs/orbit/adapter"), metadata={"rank": 16})     # orbit@1
    registry.pull(registry.resolve("orbit"), Path("orbit"))                                    # the latest

Layout, below the registry's URI:

    objects/<aa>/<sha256>                        every file of every version, once (infra/storage/objects.py)
    concepts/<name>/versions/<n>.json            the pointer: names, hashes and sizes of the files, metadata
    concepts/<name>/metrics/<n>/<time>-<id>.json metrics that were measured later, append-only
    concepts/<name>/removed/<n>.json             a tombstone: the number is never given again

A pointer is written last and only where none is (`put_if_absent`), so a version is there whole or not at all, and
of publishers at once each gets a number of its own.
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
ADAPTER_FILE = "adapter_model.safetensors"


@dataclass(frozen=True)
class Version:
    """One published version of a concept; it never changes, but for `metrics`, which may be added to."""

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
        """The hash of adapter_model.safetensors: what makes two versions the same motion."""
        return self.files[ADAPTER_FILE].sha256


@dataclass(frozen=True)
class ConceptInfo:
    """A concept at a glance."""

    name: str
    versions: int  # how many there are, removed ones not counted
    latest: int  # the highest number among them
    updated_at: datetime  # when that one was published, UTC


def check_concept_name(name: str) -> str:
    """The name, if it can be a concept's: a-z, 0-9, '.', '_', '-', at most 64, no '..'. InvalidInput else."""
    if not is_concept_name(name):
        shown = name if len(name) <= 64 else f"{name[:40]}... ({len(name)} characters)"
        raise InvalidInput(
            f"concept name {shown!a}: expected 1 to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter "
            "or digit and without '..'; for example car-turn.",
            code="invalid_concept",
        )
    return name


def parse_ref(ref: str) -> tuple[str, int | None]:
    """`name` -> (name, None), `name@3` -> (name, 3). InvalidInput for anything else."""
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
    """Publishes, finds and fetches versions. Holds no state of its own: several processes may use one URI."""

    overview = (
        "`motiondirector concepts list` shows what it has."  # where a message sends those who find nothing
    )

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    @property
    def uri(self) -> str:
        return self.storage.uri

    @property
    def shown(self) -> str:
        """What messages call it."""
        return f"the registry {self.uri}"

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
        """Make the files of `folder` the next version of `concept`.

        Every file below the folder but dot files goes along; `adapter_model.safetensors` must be among them.
        What is in the adapter is the caller's to check (models/adapters/file.py `read_adapter`) beforehand.
        With `once`, a name of this publication, it happens once whoever repeats it or does it at the same time: the
        version that was first is answered.
        Raises InvalidInput for a bad name, a folder without adapter, metadata or metrics that are not JSON.
        """
        check_concept_name(concept)
        paths = collect(folder)
        pointer: dict[str, Any] = {
            "schema": 1,
            "concept": concept,
            "id": once or uuid.uuid4().hex,  # tells this publication from another of the same content
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
            # False also when our own write got through and only its answer was lost: then it is ours.
            if self.storage.put_if_absent(key, body) or self.storage.get(key) == body:
                return read_version(body, concept, number)
            if once is not None and (version := self._published_as(concept, {number}, once)) is not None:
                return version
            number += 1

    def _published_as(self, concept: str, numbers: set[int], once: str) -> Version | None:
        """That of these versions which was published under the name `once`.

        None is overlooked: a version is only written as the next after all that its publisher had looked at.
        """
        for number in sorted(numbers):
            body = self.storage.get(f"concepts/{concept}/versions/{number}.json")
            with contextlib.suppress(Damaged):  # not what this program published
                if parse(dict[str, Any], body).get("id") == once:
                    return self.load(concept, number)
        return None

    def versions(self, concept: str) -> list[Version]:
        """All versions but the removed, oldest first; empty when there is none."""
        check_concept_name(concept)
        kept = self.numbers(concept, "versions") - self.numbers(concept, "removed")
        return [self.load(concept, number) for number in sorted(kept)]

    def concepts(self) -> list[ConceptInfo]:
        """Every concept that has a version, by name. One listing, no object is read."""
        times: dict[str, dict[int, datetime]] = {}
        for (name, number), info in self.pointers().items():
            times.setdefault(name, {})[number] = info.modified
        return [ConceptInfo(name, len(of), max(of), of[max(of)]) for name, of in times.items()]

    def pointers(self) -> dict[tuple[str, int], ObjectInfo]:
        """The pointer of every version but the removed, by concept and number. One listing, no object is read."""
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
        """The version that `name` (the latest) or `name@3` means. NotFound when there is none."""
        return self.load(*self.find(ref))

    def find(self, ref: str) -> tuple[str, int]:
        """(name, number) of what `ref` means, without reading it. NotFound when there is none."""
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
                f"concept version {name}@{number} {what} in {self.shown}; there is {have}.",
                code="version_not_found",
            )
        return name, number

    def pull(self, version: Version, folder: Path) -> Path:
        """Fetch a version's files to `folder`, every one checked against its hash; all or nothing.

        A folder that holds the version already is left as it is. Raises Conflict when it holds something
        else, DamagedData when an object is damaged or was cut short, StorageFull.
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
                except OSError:  # another pull was quicker
                    return check_same(version, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return folder

    def read(self, version: Version, name: str) -> bytes:
        """One file of a version, checked against its hash. NotFound when it has no such file."""
        if name not in version.files:
            raise NotFound(
                f"{version.ref} has no file {name[:100]!a}; it has {', '.join(sorted(version.files))}.",
                code="file_not_found",
            )
        return get_object(self.storage, version.files[name].sha256)

    def add_metrics(self, version: Version, metrics: dict[str, Any]) -> None:
        """Append metrics measured later; of one name the newest counts. The version itself stays as it is."""
        body = to_json(metrics, f"metrics of {version.ref}")
        folder = f"concepts/{version.concept}/metrics/{version.number}/"
        stamps = (re.match(r"[0-9]{20}", info.key.removeprefix(folder)) for info in self.storage.list(folder))
        last = max((int(stamp[0]) for stamp in stamps if stamp), default=0)
        # After all that is there, also where a clock that was ahead has written it.
        stamp = min(max(time.time_ns(), last + 1), 10**20 - 1)
        self.storage.put(f"{folder}{stamp:020d}-{uuid.uuid4().hex[:8]}.json", body)

    def remove(self, ref: str) -> None:
        """Take a version (or, of `name` alone, the latest) out of sight. Its number is never given again.

        Its files stay in `objects/`: other versions may share them, and a running service may hold them.
        """
        name, number = self.find(ref)
        body = to_json({"removed_at": datetime.now(UTC).isoformat()}, ref)
        self.storage.put_if_absent(f"concepts/{name}/removed/{number}.json", body)

    def numbers(self, concept: str, what: str) -> set[int]:
        """The numbers under concepts/<concept>/<what>/, of `versions` or `removed`."""
        found = (number_of(info.key) for info in self.storage.list(f"concepts/{concept}/{what}/"))
        return {number for number in found if number}

    def load(self, concept: str, number: int, *, added_metrics: bool = True) -> Version:
        """Read a pointer and (unless they are not needed) the metrics that were added.

        DamagedData when one is not what was written.
        """
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
    """Up to three of the names that are most like this one."""
    return [near for near, _, _ in process.extract(name, names, scorer=fuzz.ratio, limit=3, score_cutoff=60)]


def number_of(key: str) -> int | None:
    """3 for .../3.json; None for what is no pointer (people put notes into folders)."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})\.json", key.rpartition("/")[2])
    return int(found[1]) if found else None


def open_registry(uri: str | Path = DEFAULT_REGISTRY) -> Registry:
    """The registry at a folder or `s3://bucket/prefix`; it comes into being with the first publication."""
    return Registry(open_storage(uri))


def collect(folder: Path) -> dict[str, Path]:
    """The files to publish, by relative posix path. InvalidInput without folder or adapter."""
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
    if ADAPTER_FILE not in paths:
        raise InvalidInput(
            f"{folder} holds no {ADAPTER_FILE}; give the folder that `motiondirector train` wrote.",
            code="adapter_missing",
        )
    return {check_key(name): path for name, path in paths.items()}


def to_json(value: dict[str, Any], what: str) -> bytes:
    """Canonical JSON. InvalidInput for what JSON cannot say (NaN, infinity, objects)."""
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"{what}: not plain JSON ({error}); give strings, finite numbers, lists and mappings.",
            code="invalid_metadata",
        ) from None


def read_version(pointer: bytes, concept: str, number: int) -> Version:
    """The pointer of this version. Raises Damaged: also for another's, and for one without an adapter."""
    version = parse(Version, pointer)
    if (version.concept, version.number) != (concept, number):
        raise Damaged(f"it says that it is {version.ref}")
    if ADAPTER_FILE not in version.files:
        raise Damaged(f"it has no {ADAPTER_FILE}")
    return version


def check_same(version: Version, folder: Path) -> Path:
    """`folder`, if it holds exactly this version's files. Conflict else."""
    files = {name: folder / name for name in version.files}
    if all(
        path.is_file() and sha256_file(path) == version.files[name].sha256 for name, path in files.items()
    ):
        return folder
    raise Conflict(
        f"{folder} exists and holds something else than {version.ref}; remove it or choose another folder.",
        code="folder_not_empty",
    )
