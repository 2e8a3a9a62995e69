"""The masks of `ingest --masks`: boxes in a JSON file, or mask videos and pictures in a folder.

    {"fox.mp4": {"unit": "pixels", "keyframes": [{"frame": 0, "box": [0, 10, 40, 60]}, {"frame": 47, "box": [...]}]}}
    masks/fox.png (for all frames), masks/fox.mp4 (one for each frame of the video): white is inside

A name is matched like those of `--captions`; in a folder its suffix does not matter. Coordinates and frames are those of
the video as it is played, so every clip cut out of it gets its own part, and a variant its own order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, ValidationError

from datasets.clip_sets.masks import View, from_pictures, placed
from datasets.clip_sets.select import Selection, Unsuitable, Window
from datasets.clip_sets.variants import Variant
from datasets.ingest.names import ByFile, Named
from datasets.ingest.sources import VIDEO_SUFFIXES, local_path
from datasets.video.decode import VideoFile, open_video
from infra.errors import InvalidInput, NotFound
from infra.rows import decoded, once
from models.regions.masks import MAX_FRAMES, Unusable, greys
from models.regions.region import Keyframe, Region
from models.sizes import Bucket

CODE = "invalid_mask"
MAX_JSON = 16 << 20  # bytes
MAX_FILE = 64 << 20  # bytes of a mask video or picture
MAX_FRAME = 10_000_000  # of a source
SUFFIXES = {*VIDEO_SUFFIXES, ".png"}


class SourceKeyframe(Keyframe):
    """A box or polygon at one frame of a source, which may be longer than any video that is generated."""

    frame: Annotated[int, Field(ge=0, lt=MAX_FRAME)]


def no_pictures(value: Any) -> None:
    """Raise ValueError for the pictures of a mask."""
    if value is not None:
        raise ValueError("expected a box, polygon or keyframes; put mask pictures into a folder")


class SourceRegion(Region):
    """A region of a source, as the JSON file describes it."""

    mask: Annotated[None, BeforeValidator(no_pictures)] = None
    keyframes: Annotated[
        tuple[SourceKeyframe, ...] | None, Field(strict=False, min_length=1, max_length=MAX_FRAMES)
    ] = None


class Masks(ByFile[SourceRegion | str]):
    """The masks of `--masks`, by file: a region, or the path of a mask video or picture.

    Raises:
        NotFound: there is nothing.
        InvalidInput: a file that is no such JSON, or a folder without masks.
    """

    def __init__(self, uri: str) -> None:
        path = local_path(uri)
        super().__init__(suffixes=not path.is_dir())
        self.uri = uri
        if "://" in uri and not uri.startswith("file://"):
            raise InvalidInput(f"--masks {uri}: expected a JSON file or a folder on this machine.", code=CODE)
        if not path.exists():
            raise NotFound(
                f"--masks {uri} does not exist; give a JSON file or a folder.", code="masks_not_found"
            )
        if path.is_dir():
            self._read_folder(path.absolute())
        elif path.is_file():
            self._read_json(path)
        else:
            raise InvalidInput(f"--masks {uri} is no regular file; give a JSON file or a folder.", code=CODE)

    def _read_folder(self, folder: Path) -> None:
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() not in SUFFIXES or not file.is_file():
                continue
            name = file.relative_to(folder).as_posix()
            other = self.add(name, str(file))
            if other != str(file):
                raise InvalidInput(
                    f"--masks {self.uri}: {Path(str(other)).name} and {file.name} are masks of the same clip; keep one.",
                    code=CODE,
                )
        if not self.by_parts:
            raise InvalidInput(
                f"--masks {self.uri}: the folder has no masks; expected videos or PNGs named like the clips.",
                code=CODE,
            )

    def _read_json(self, path: Path) -> None:
        where = f"--masks {self.uri}"
        try:
            size = path.stat().st_size
            if size > MAX_JSON:
                raise InvalidInput(
                    f"{where} has {size >> 20} MB, more than the {MAX_JSON >> 20} MB that a file of boxes may have.",
                    code=CODE,
                )
            text = decoded(path.read_bytes(), where, CODE)
        except OSError as error:
            raise InvalidInput(
                f"{where} cannot be read ({error.strerror}); give a JSON file.", code=CODE
            ) from None
        try:
            found = json.loads(text, object_pairs_hook=once)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(
                f"{where} is no JSON ({getattr(error, 'msg', error)}); expected an object of a region for each file name.",
                code=CODE,
            ) from None
        if not isinstance(found, dict) or not found:
            raise InvalidInput(
                f'{where}: expected an object of a region for each file name, such as {{"fox.mp4": {{"box": [0, 0, 0.5, 1]}}}}.',
                code=CODE,
            )
        for name, value in found.items():
            region = self._region(name, value)
            if self.add(name, region) is not region:
                raise InvalidInput(f"{where}: {name} appears twice; keep one.", code=CODE)

    def _region(self, name: str, value: Any) -> SourceRegion:
        try:
            return SourceRegion.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            said = first["msg"].removeprefix("Value error, ")
            if first["type"] in ("extra_forbidden", "model_type"):
                said = "expected box, polygon or keyframes, and unit and feather if needed"
            raise InvalidInput(
                f"--masks {self.uri}, {name[:80]}{f', {place[:80]}' if place else ''}: {said[:200]}.",
                code=CODE,
            ) from None

    def check(self, sources: Iterable[Named]) -> None:
        """Raise InvalidInput for masks of files that are not among the sources."""
        left = self.unused(sources)
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise InvalidInput(
                f"--masks {self.uri} has a mask for {left[0]}{more}, which is not an input; expected the names of inputs.",
                code=CODE,
            )


def open_mask(path: Path, name: str) -> VideoFile:
    """A mask video or picture. Raises Unsuitable for too large a file, and UnreadableVideo for any other content."""
    size = path.stat().st_size if path.exists() else 0
    if size > MAX_FILE:
        raise Unsuitable(
            f"{name} has {size >> 20} MB, more than the {MAX_FILE >> 20} MB that a mask may have; a mask needs no more pixels "
            "than its clip.",
            code=CODE,
        )
    return open_video(path, name=name)


class SourceMask:
    """The mask of one source, checked against its video.

    Args:
        given: a region, or the path of a mask video or picture.

    Raises:
        Unsuitable: outside the frame or the video, another number of frames, or too large a file.
        UnreadableVideo: a file that is no video or picture.
    """

    def __init__(self, given: SourceRegion | str, video: VideoFile) -> None:
        self.video = video
        self.notes: list[str] = []
        self._region = given if isinstance(given, SourceRegion) else None
        self._file: VideoFile | None = None
        if isinstance(given, SourceRegion):
            # A still shape suits any number of frames, and counting those of a long video takes long.
            frames = video.num_frames if given.keyframes else 1
            try:
                given.check(Bucket(frames, video.height, video.width), f"the mask of {video.name}")
            except InvalidInput as error:
                raise Unsuitable(error.message, code=CODE) from None
        else:
            self._file = self._opened(Path(given))

    def _opened(self, path: Path) -> VideoFile:
        name, video = f"the mask {path.name}", self.video
        file = open_mask(path, name)
        if file.num_frames not in (1, video.num_frames):
            raise Unsuitable(
                f"{name} has {file.num_frames} frames and {video.name} has {video.num_frames}; give a picture, or one frame for "
                "each.",
                code=CODE,
            )
        if (file.height, file.width) != (video.height, video.width):
            self.notes.append(
                f"{name} of {file.width}x{file.height} pixels is scaled to the video's {video.width}x{video.height}"
            )
        return file

    def of(self, window: Window, variant: Variant, selection: Selection) -> Region:
        """The region of a clip or a variant of it.

        Raises:
            Unsuitable: the clip shows nothing of it, or it is too detailed to store.
        """
        video = self.video
        view = View(
            video.height, video.width, selection.height, selection.width, video.pixel_aspect, variant.mirror
        )
        frames = window.indices[::-1] if variant.reverse else window.indices
        try:
            region = self._placed(view, frames)
        except Unusable as error:
            raise Unsuitable(f"the mask of {video.name}: {error}.", code=CODE) from None
        if region is None:
            raise Unsuitable(
                f"the mask of {video.name} is empty in the part that this clip shows; draw it there, or take it out.",
                code=CODE,
            )
        return region

    def _placed(self, view: View, frames: Sequence[int]) -> Region | None:
        if self._region is not None:
            return placed(self._region, view, frames)
        assert self._file is not None
        still = self._file.num_frames == 1
        wanted = [0] if still else sorted(set(frames))
        pictures = {
            number: view.pictures(greys(frame_HWC[None]))[0]
            for number, frame_HWC in zip(wanted, self._file.frames(wanted), strict=True)
        }
        return from_pictures(
            np.stack([pictures[0 if still else number] for number in ([0] if still else frames)])
        )
