"""Makes a clip set from videos: `motiondirector ingest` as a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator

from datasets.clip_sets.variants import Variant, check_speed, variants
from infra.setting import setting

if TYPE_CHECKING:
    from datasets.ingest.local import Report

CAPTIONS = "Concept and captions"
CUT = "How clips are cut"
VARIANTS = "Variants and masks"
RUNNING = "Running"


def read_windows(value: Any) -> Any:
    """A number of clips, or the word all."""
    text = str(value).strip().lower()
    if text != "all" and not text.removeprefix("-").isdecimal():
        raise ValueError("expected a number of clips, or all")
    return text if text == "all" else int(text)


def read_words(value: Any) -> Any:
    """`VARIANT=WORDS` texts as a dictionary."""
    if isinstance(value, Mapping):
        return value
    pairs = [str(text).partition("=") for text in ([value] if isinstance(value, str) else value)]
    found = {name.strip(): words for name, equals, words in pairs if equals}
    if len(found) < len(pairs):
        raise ValueError("expected VARIANT=WORDS, each variant once, such as reverse=backwards")
    return found


def listed(value: Any) -> Any:
    """One number as a list of one."""
    return [value] if isinstance(value, int | float | str) else value


class IngestConfig(BaseModel):
    """How clips are cut, captioned and stored: the options of `motiondirector ingest`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concept: str | None = setting(
        None, CAPTIONS, "The motion's name, such as car-turn: a-z, 0-9, '.', '_', '-'."
    )
    caption: str | None = setting(
        None,
        CAPTIONS,
        'What all clips show: subject and motion, such as "a car turns at a crossing".',
    )
    captions: str | None = setting(
        None,
        CAPTIONS,
        "A .csv, .tsv or .jsonl file with `file` and `caption`, for videos that show different things. Put quotes "
        "around a caption that contains a comma.",
    )
    complete_captions: str | None = setting(
        None,
        CAPTIONS,
        "Add to each caption what the clip shows but the caption does not name. `sprites`: colour, texture, shape and "
        "background, from the sprite world's tracker. FOLDER: a description of the middle frame by a transformers "
        "image-to-text model (BLIP, a vision-language model; safetensors).",
        metavar="sprites|FOLDER",
    )
    frames: int | None = setting(None, CUT, "Frames of a clip. Default: the foundation's.")
    height: int | None = setting(None, CUT, "Height in pixels. Default: the foundation's.")
    width: int | None = setting(None, CUT, "Width in pixels. Default: the foundation's.")
    fps: float | None = setting(
        None,
        CUT,
        "Frames per second; fewer show more of a slow motion. 0: the source's own. Default: the foundation's.",
    )
    start: float = setting(0.0, CUT, "Where the clip begins, in seconds.")
    windows: Annotated[int | Literal["all"], BeforeValidator(read_windows)] = setting(
        4,
        CUT,
        "Largest number of consecutive clips to cut from one video; `all`: as many as fit. 1: only the first.",
        metavar="N|all",
    )
    every_clip: bool = setting(False, CUT, "The same as --windows all.", option="--every-clip")
    foundation: str | None = setting(
        None,
        CUT,
        "Folder or hub id of the model that the clips are for. It gives the default size and checks a given size.",
    )
    speed: Annotated[tuple[Annotated[float, AfterValidator(check_speed)], ...], BeforeValidator(listed)] = (
        setting(
            (),
            VARIANTS,
            "Add, beside each clip, a slower or faster variant: 0.5 to 2 times the speed; repeatable. It takes the picture shown at "
            "each time from the source, so a faster one needs a longer video.",
        )
    )
    reverse: bool = setting(
        False, VARIANTS, "Add, beside each clip, a variant in reverse.", option="--reverse"
    )
    mirror: bool = setting(
        False, VARIANTS, "Add, beside each clip, a variant mirrored left to right.", option="--mirror"
    )
    words: Annotated[dict[str, str], BeforeValidator(read_words)] = setting(
        {},
        VARIANTS,
        "Words that a variant adds to the caption, VARIANT=WORDS; repeatable. Variants are reverse, mirror and such as speed-0.5. "
        "Default: slowly or fast, in reverse, mirrored.",
    )
    masks: str | None = setting(
        None,
        VARIANTS,
        "Regions that training weighs by mask_inside and mask_outside: a JSON file with a region (box, polygon or keyframes) for "
        "each file name, in frames and pixels (or fractions) of the source; or a folder of mask videos or PNGs (white is inside) "
        "named like the clips.",
        metavar="FILE|FOLDER",
    )
    strict: bool = setting(False, RUNNING, "Store nothing if any input is refused.", option="--strict")
    ray: bool = setting(False, RUNNING, "Do the work with Ray Data, for thousands of videos.", option="--ray")
    address: str | None = setting(None, RUNNING, "With --ray: a running cluster, host:6379.")

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The variants to make beside each clip."""
        return variants(self.speed, reverse=self.reverse, mirror=self.mirror, words=self.words)

    @model_validator(mode="after")
    def _words_of_variants(self) -> Self:
        _ = self.variants
        return self

    @model_validator(mode="after")
    def _address_of_ray(self) -> Self:
        if self.address and not self.ray:
            raise ValueError("--address names a Ray cluster; add --ray")
        return self


@dataclass(frozen=True)
class Size:
    """The size that clips were cut to, and the foundation that it is for (None: all sizes were given)."""

    frames: int
    height: int
    width: int
    foundation: str | None

    def __str__(self) -> str:
        size = f"{self.frames}x{self.height}x{self.width} (frames, height, width)"
        return f"{size} for {self.foundation}" if self.foundation else size


@dataclass(frozen=True)
class Ingested:
    """The outcome of every input."""

    report: Report
    size: Size

    def count(self, status: str) -> int:
        """Number of outcomes with a status: "accepted", "duplicate", "refused" or "ignored"."""
        return self.report.count(status)


def ingest(
    sources: str | Path | Sequence[str | Path],
    to: str | Path,
    config: IngestConfig | None = None,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Ingested:
    """Cut clips of one size out of videos and add them, with captions, to a Parquet clip set.

    A clip that the set already has is a duplicate and is not stored again.

    Args:
        sources: files, folders, globs, s3:// prefixes, or manifests (.csv, .tsv, .jsonl).
        to: the clip set, a folder or s3:// prefix; created if new, otherwise appended to.
        config: concept, captions, size and more; the command's options.
        on_progress: called with (inputs done, total inputs).

    Returns:
        A report of every input, with the reason if it was refused. Nothing was stored if no input was accepted.

    Raises:
        UserError: the foundation does not support the size, the concept name, the captions or the masks are invalid, or
            the storage refuses.
    """
    from datasets.clip_sets.select import Selection
    from datasets.ingest.completing import completer
    from datasets.ingest.local import ingest as ingest_here
    from datasets.ingest.masks import Masks
    from datasets.ingest.sources import Captions, expand
    from infra.registry import check_concept_name
    from infra.storage import open_storage
    from models.locating import text_limit

    config = config or IngestConfig()
    if config.concept is not None:
        check_concept_name(config.concept)
    size, fps = size_for(config.foundation, config.frames, config.height, config.width, config.fps)
    most = None if config.every_clip or config.windows == "all" else config.windows
    selection = Selection(
        size.frames, size.height, size.width, fps=fps or None, start=config.start, windows=most
    )
    options: dict[str, Any] = {
        "concept": config.concept,
        "caption": config.caption,
        "captions": Captions(config.captions) if config.captions else None,
        "strict": config.strict,
        "complete": config.complete_captions,
        "warn": text_limit(config.foundation).warning,
        "variants": config.variants,
        "masks": Masks(config.masks) if config.masks else None,
        "on_progress": on_progress,
    }
    target = open_storage(to)
    found = expand([str(one) for one in ([sources] if isinstance(sources, str | Path) else sources)])
    if config.complete_captions is not None:
        completer(config.complete_captions)  # report an invalid captioner before anything is read
    if not config.ray:
        return Ingested(ingest_here(found, selection, target, **options), size)
    from datasets.ingest.cluster import ingest_with_ray
    from infra.ray.cluster import ray_session

    with ray_session(config.address):
        return Ingested(ingest_with_ray(found, selection, target, **options), size)


def size_for(
    foundation: str | None, frames: int | None, height: int | None, width: int | None, fps: float | None
) -> tuple[Size, float]:
    """The size and frame rate of clips: as given, else the foundation's. Raises UserError if it does not support them.

    The foundation's configuration is read (not its weights) only if a value is missing or the foundation is named.
    """
    if foundation is None and None not in (frames, height, width, fps):
        return Size(frames, height, width, None), fps  # type: ignore[arg-type, return-value]
    from models.locating import foundation_sizes
    from models.sizes import Bucket

    sizes = foundation_sizes(foundation)
    usual = sizes.defaults
    bucket = Bucket(frames or usual.bucket.frames, height or usual.bucket.height, width or usual.bucket.width)
    sizes.check(bucket)
    size = Size(bucket.frames, bucket.height, bucket.width, sizes.name)
    return size, usual.fps if fps is None else fps
