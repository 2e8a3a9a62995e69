"""The clip set: its row format and its readers.

A set is a folder or an S3 prefix that any Parquet reader can read as it is:

    clips-<sha256 of the file>.parquet    immutable shards, sorted by concept, row groups <= 100 MB
    .manifest.json                        the set's shards; changed by compare-and-swap
    .staging/                             shards of an ingest in progress (plain readers skip dot files)

    pyarrow.parquet.read_table(folder);  ray.data.read_parquet(uri);  datasets.load_dataset("parquet", ...)

`read_clips` uses the manifest, so it sees an ingest from its commit on. Plain readers see it moments
later, when its shards have moved out of `.staging/` (`datasets/clip_sets/parquet.py` writes, and explains the
order).

`video.bytes` holds the clip that training sees, not the original file: selected frames, resized and
cropped to the bucket, encoded as H.264 at crf 14 (visually lossless), or without any loss if they repeat a
still image. Reasons:
- A row is self-consistent: fps, num_frames, height and width describe the bytes for every decoder.
- Every reader plays mp4; GIF, WebP or ProRes originals would need this project's decoders.
- Windows of one long video do not each carry the whole video.
- A phone's location and owner tags are not stored.
- Latents depend on these bytes alone, so their `sha256` identifies them in caches and adapters.

The costs: chroma at half resolution, and a small clip cannot serve a larger bucket later; `source_uri`
says what to ingest again. Identity is decided by the *source* (`clip_id` hashes concept, source file
and selection), so another encoder version does not make old clips new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from datasets.clip_sets.masks import Mask, mask_id, mask_text
from datasets.video.decode import decode
from infra.errors import ConceptError, InvalidInput, NotFound
from infra.storage import ObjectNotFound, Storage, open_storage
from infra.storage.stored import ConceptName, Damaged, HexId, Sha256, convert, parse
from models.regions.region import Region

Row = TypeVar("Row")
Count = Annotated[int, Field(ge=1)]
SCHEMA_VERSION = 1
MANIFEST = ".manifest.json"
STAGING = ".staging"

VIDEO_TYPE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
FIELDS = [
    pa.field("clip_id", pa.string()),
    pa.field("concept", pa.string()),
    pa.field("caption", pa.string()),
    pa.field("video", VIDEO_TYPE),
    pa.field("fps", pa.float64()),
    pa.field("num_frames", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("width", pa.int32()),
    pa.field("sha256", pa.string()),
    pa.field("source_uri", pa.string()),
    pa.field("ingested_at", pa.timestamp("us", tz="UTC")),
    # Added later: null in a clip without them; shards of earlier versions lack these columns (`complete`).
    pa.field("variant", pa.string()),
    pa.field("variant_of", pa.string()),
    pa.field("mask", pa.string()),
]


def hugging_face_features() -> dict[str, Any]:
    """The columns in the form of Hugging Face `datasets` metadata, with `video` as a Video."""
    types = {pa.string(): "string", pa.float64(): "float64", pa.int32(): "int32"}
    features: dict[str, Any] = {}
    for column in FIELDS:
        if column.name == "video":
            features[column.name] = {"_type": "Video"}
        elif pa.types.is_timestamp(column.type):
            features[column.name] = {"dtype": "timestamp[us, tz=UTC]", "_type": "Value"}
        else:
            features[column.name] = {"dtype": types[column.type], "_type": "Value"}
    return features


SCHEMA = pa.schema(
    FIELDS,
    metadata={
        "motiondirector.clips": str(SCHEMA_VERSION),
        "huggingface": json.dumps({"info": {"features": hugging_face_features()}}),
    },
)


@dataclass(frozen=True)
class Clip:
    """One row. `video` is an H.264 mp4 of `num_frames` frames of `width`x`height` at `fps`; `sha256` is its hash."""

    clip_id: HexId
    concept: ConceptName
    caption: str
    video: bytes = field(repr=False)
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    num_frames: Count
    height: Count
    width: Count
    sha256: Sha256
    source_uri: str
    ingested_at: datetime
    variant: str | None = None  # how it differs from the clip `variant_of`, such as "mirror" (variants.py)
    variant_of: HexId | None = None
    mask: Mask = field(default=None, repr=False)  # what matters more or less in training (masks.py)

    @property
    def mask_id(self) -> str:
        """A hash of the mask; "" for none."""
        return mask_id(self.mask)

    def frames_FHWC(self) -> np.ndarray:
        """The decoded frames, uint8 RGB."""
        return decode(self.video, name=f"clip {self.clip_id}").frames_FHWC

    def check(self) -> Clip:
        """Return the clip if its bytes match their hash. Raises ConceptError ("clip_corrupt")."""
        if hashlib.sha256(self.video).hexdigest() != self.sha256:
            raise ConceptError(
                f"clip {self.clip_id} of {self.source_uri} is corrupt: its bytes do not match its sha256; ingest it again.",
                code="clip_corrupt",
            )
        return self

    def row(self) -> dict[str, Any]:
        """The Parquet row. `video.path` is a name for readers that need one, not a file."""
        values = {column.name: getattr(self, column.name) for column in FIELDS}
        video = {"bytes": self.video, "path": f"{self.clip_id}.mp4"}
        return values | {"video": video, "mask": mask_text(self.mask)}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Clip:
        """Parse a row. Raises Damaged if it is not one of a clip set."""
        video = row.get("video")
        return convert(cls, {**row, "video": video.get("bytes") if isinstance(video, dict) else None})


def clips_to_table(clips: Iterable[Clip]) -> pa.Table:
    """Clips as an Arrow table of SCHEMA, sorted by concept, then clip_id."""
    ordered = sorted(clips, key=lambda clip: (clip.concept, clip.clip_id))
    return pa.Table.from_pylist([clip.row() for clip in ordered], schema=SCHEMA)


def complete(table: pa.Table) -> pa.Table:
    """The rows with every column of SCHEMA: what earlier versions did not write is null."""
    for column in SCHEMA:
        if column.name not in table.column_names:
            table = table.append_column(column, pa.nulls(table.num_rows, column.type))
    return table.select(SCHEMA.names).cast(SCHEMA)


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a set, as the manifest lists it."""

    sha256: Sha256
    size: Annotated[int, Field(ge=0)]  # bytes
    concepts: dict[ConceptName, Count] = field(hash=False)  # rows of each concept

    @property
    def key(self) -> str:
        return f"clips-{self.sha256}.parquet"


@dataclass(frozen=True)
class Manifest:
    """The shards of a set, oldest first, and those that were replaced (datasets/clip_sets/amend.py)."""

    shards: tuple[Shard, ...] = ()
    retired: tuple[Sha256, ...] = ()  # to be hidden from plain readers

    def encode(self) -> bytes:
        shards = [
            {"sha256": s.sha256, "size": s.size, "concepts": dict(sorted(s.concepts.items()))}
            for s in self.shards
        ]
        retired = {"retired": list(self.retired)} if self.retired else {}
        return json.dumps({"schema_version": SCHEMA_VERSION, "shards": shards, **retired}, indent=1).encode()

    @classmethod
    def parse(cls, data: bytes, uri: str) -> Manifest:
        """Parse a manifest. Raises UserError if it is invalid or of a newer version."""
        try:
            version = parse(_Versioned, data).schema_version
            if version == SCHEMA_VERSION:
                return parse(cls, data)
        except Damaged as error:
            raise InvalidInput(
                f"{uri}/{MANIFEST} is not the manifest of a clip set ({error}); give a folder that `motiondirector ingest` "
                "wrote.",
                code="invalid_clip_set",
            ) from None
        raise InvalidInput(
            f"{uri} is a clip set of version {version}, but this program reads version {SCHEMA_VERSION}; update motiondirector.",
            code="invalid_clip_set",
        )


@dataclass(frozen=True)
class _Versioned:
    """The part that every version's manifest has."""

    schema_version: int


def read_manifest(storage: Storage) -> Manifest | None:
    """The set's manifest, or None if nothing has been ingested yet."""
    try:
        return Manifest.parse(storage.get(MANIFEST), storage.uri)
    except ObjectNotFound:
        return None


def read_shard(
    storage: Storage, shard: Shard, *, concept: str | None = None, columns: list[str] | None = None
) -> pa.Table:
    """A shard's rows; for one `concept`, row group statistics avoid fetching the others."""
    filesystem, base = storage.arrow()
    filters = None if concept is None else [("concept", "=", concept)]
    # A committed shard is in its place or about to move there from staging. Look again in case it just moved.
    for key in (shard.key, f"{STAGING}/{shard.key}", shard.key):
        try:
            # With a schema, columns that an earlier version did not write are null.
            return pq.read_table(
                f"{base}/{key}", filesystem=filesystem, filters=filters, columns=columns, schema=SCHEMA
            )
        except FileNotFoundError:
            continue
        except OSError:
            if storage.exists(key):
                raise
            # It moved between being found and being read, which S3 reports differently.
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise InvalidInput(
                f"{storage.uri}/{key} is damaged ({error}); restore it or ingest into a new folder.",
                code="invalid_clip_set",
            ) from None
    raise NotFound(
        f"{storage.uri}/{shard.key} is missing, although the manifest lists it; restore it or ingest into a new folder.",
        code="invalid_clip_set",
    )


def _rows(
    storage: Storage, shard: Shard, table: pa.Table, made: Callable[[dict[str, Any]], Row]
) -> Iterator[Row]:
    """Convert each row. Raises InvalidInput ("invalid_clip_set") for a row that no ingest wrote."""
    for row in table.to_pylist():
        try:
            yield made(row)
        except Damaged as error:
            raise InvalidInput(
                f"{storage.uri}/{shard.key} has a row that is not a clip ({error}); ingest into a new folder.",
                code="invalid_clip_set",
            ) from None


def _manifest_of(uri: str | Path) -> tuple[Storage, Manifest]:
    storage = open_storage(uri)
    manifest = read_manifest(storage)
    if manifest is None:
        raise NotFound(
            f"no clips at {uri}; add some with `motiondirector ingest VIDEO... --concept NAME --caption TEXT --to {uri}`.",
            code="clips_not_found",
        )
    return storage, manifest


def concepts_in(uri: str | Path) -> dict[str, int]:
    """Concept -> number of clips, sorted by name. Raises NotFound ("clips_not_found") if there is no set."""
    counts: dict[str, int] = {}
    for shard in _manifest_of(uri)[1].shards:
        for name, rows in shard.concepts.items():
            counts[name] = counts.get(name, 0) + rows
    return dict(sorted(counts.items()))


@dataclass(frozen=True)
class ClipFacts:
    """A row without its video: enough to decide what can be trained on it."""

    clip_id: HexId
    concept: ConceptName
    caption: str
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    num_frames: Count
    height: Count
    width: Count
    sha256: Sha256
    source_uri: str
    variant: str | None = None
    variant_of: HexId | None = None
    mask: Mask = field(default=None, repr=False)

    @property
    def mask_id(self) -> str:
        """A hash of the mask; "" for none."""
        return mask_id(self.mask)


def read_facts(uri: str | Path) -> dict[str, list[ClipFacts]]:
    """The facts of every clip of a set, by concept, in the order of `read_clips`; reads no video.

    Raises:
        NotFound: no set there.
        InvalidInput: damage.
    """
    storage, manifest = _manifest_of(uri)
    columns = [column.name for column in fields(ClipFacts)]
    found = [
        row
        for shard in manifest.shards
        for row in _rows(
            storage, shard, read_shard(storage, shard, columns=columns), partial(convert, ClipFacts)
        )
    ]
    by_concept: dict[str, list[ClipFacts]] = {}
    for clip in sorted(found, key=lambda clip: (clip.concept, clip.clip_id)):
        by_concept.setdefault(clip.concept, []).append(clip)
    return by_concept


def read_clips(uri: str | Path, concept: str | None = None) -> list[Clip]:
    """The clips of a set or of one concept, ordered by (concept, clip_id); every hash is checked.

    Raises:
        NotFound: no set there, or no such concept.
        InvalidInput: damage.
    """
    storage, manifest = _manifest_of(uri)
    clips: list[Clip] = []
    for shard in manifest.shards:
        if concept is None or concept in shard.concepts:
            table = read_shard(storage, shard, concept=concept)
            clips += [clip.check() for clip in _rows(storage, shard, table, Clip.from_row)]
    if concept is not None and not clips:
        known = ", ".join(sorted({name for shard in manifest.shards for name in shard.concepts}))
        raise NotFound(
            f"no clips of concept {concept!r} at {uri}; concepts there: {known or 'none'}.",
            code="concept_not_found",
        )
    return sorted(clips, key=lambda clip: (clip.concept, clip.clip_id))


def make_clip(
    *,
    concept: str,
    caption: str,
    frames_FHWC: np.ndarray,
    fps: float,
    source_uri: str,
    source_sha256: str,
    selection: dict[str, Any] | None = None,
    ingested_at: datetime | None = None,
    lossless: bool = False,
    variant: str | None = None,
    variant_of: str | None = None,
    mask: Region | None = None,
) -> Clip:
    """Make a clip of frames [F, H, W, 3] uint8. `selection` (start, fps, ...) identifies it in its source."""
    from datasets.video.writing import CRF_CLIP, encode_mp4

    video = encode_mp4(frames_FHWC, fps, crf=CRF_CLIP, lossless=lossless)
    return Clip(
        clip_id=clip_id(concept, source_sha256, selection or {}),
        concept=concept,
        caption=caption,
        video=video,
        fps=float(fps),
        num_frames=frames_FHWC.shape[0],
        height=frames_FHWC.shape[1],
        width=frames_FHWC.shape[2],
        sha256=hashlib.sha256(video).hexdigest(),
        source_uri=source_uri,
        ingested_at=ingested_at or datetime.now(UTC),
        variant=variant,
        variant_of=variant_of,
        mask=mask,
    )


def clip_id(concept: str, source_sha256: str, selection: dict[str, Any]) -> str:
    """32 hex digits from concept, source and selection; equal requests give equal ids."""
    content = json.dumps([concept, source_sha256, selection], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]
