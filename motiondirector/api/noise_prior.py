"""The noise prior of a video made here, from a clip: a video file, or a clip of a clip set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import NotFound, UserError

if TYPE_CHECKING:
    from datasets.clip_sets.clips import Clip
    from datasets.clip_sets.latents import LatentCache
    from models.foundations.base import Bucket, Foundation
    from models.generation import InvertedNoise


def clip_noise(
    clip: str, weight: float, foundation: Foundation, bucket: Bucket, on_step: Callable[[int, int], None]
) -> InvertedNoise:
    """A clip's inverted noise for a video of this size, computed or found in a cache.

    A clip set keeps it beside the clips. Of a video file it is kept in the cache folder of this machine.

    Args:
        clip: a video file, or SET#CLIP: a clip set and the first digits of one of its clips.
        on_step: called with (steps done, total steps) of the inversion.

    Raises UserError: no such clip, or one that is smaller, shorter or slower than the video.
    """
    from datasets.clip_sets.inverted import noise_of_clip
    from models.generation import InvertedNoise

    try:
        found, cache = clip_of_set(clip) if is_of_set(clip) else clip_of_file(clip, foundation, bucket)
        noise_Cfhw = noise_of_clip(found, foundation, bucket, cache, on_step)
    except UserError as error:
        raise error.reworded(f"--prior-clip: {error.message}") from None
    return InvertedNoise(weight=weight, noise_Cfhw=noise_Cfhw, source=f"clip:{found.sha256}")


def check_clip(clip: str) -> None:
    """Raise NotFound, before a model is loaded, if there is no such file or clip."""
    if is_of_set(clip):
        from datasets.clip_sets.amend import find

        uri, _, name = clip.rpartition("#")
        find(uri, [name])
    elif not Path(clip).is_file():
        raise NotFound(
            f"--prior-clip {clip}: no such file; expected a video file, or SET#CLIP, such as data#3fa2c81b, for a clip that "
            "`motiondirector clips list SET` shows.",
            code="clip_not_found",
        )


def is_of_set(clip: str) -> bool:
    """Whether a clip is named as SET#CLIP. A file may have such a name, too; then it is the file."""
    return "#" in clip and not Path(clip).is_file()


def clip_of_set(clip: str) -> tuple[Clip, LatentCache]:
    """The clip that SET#CLIP names, and the set's cache."""
    from datasets.clip_sets.amend import find
    from datasets.clip_sets.clips import read_clips
    from datasets.clip_sets.latents import LatentCache
    from infra.storage import open_storage

    uri, _, name = clip.rpartition("#")
    (facts,) = find(uri, [name])
    (found,) = (one for one in read_clips(uri, facts.concept) if one.clip_id == facts.clip_id)
    return found, LatentCache(open_storage(uri))


def clip_of_file(file: str, foundation: Foundation, bucket: Bucket) -> tuple[Clip, LatentCache]:
    """The first clip of a video file, cut as `motiondirector ingest` cuts it, and this machine's cache."""
    from datasets.clip_sets.clips import make_clip
    from datasets.clip_sets.latents import LatentCache
    from datasets.clip_sets.select import Selection, cut, windows
    from datasets.video.decode import open_video
    from infra.files import cache_folder
    from infra.storage import open_storage
    from infra.storage.objects import sha256_file

    selection = Selection(bucket.frames, bucket.height, bucket.width, fps=foundation.defaults.fps)
    video = open_video(file)
    window = windows(video, selection)[0]
    found = make_clip(
        concept="clip",
        caption="",
        frames_FHWC=cut(video, window, selection),
        fps=window.fps,
        source_uri=file,
        source_sha256=sha256_file(Path(file)),
        selection=window.identity(selection),
    )
    return found, LatentCache(open_storage(cache_folder()))
