"""Speed of preparing latents against the bare decoder and VAE: `python benchmarks/prepare.py [CLIPS]` (default: 24).

Renders clips of the sprite world into a clip set, then runs both sides alternately on the embedded foundation:

    bare      decode every clip and encode it with the VAE; no reading, checking, resizing, captions, hashing or storing
    prepared  `prepare_portions`: read from Parquet, check hashes, decode, encode (captions too), store in the cache

Both must make the same latents. Prints clips per second and the ratio. All captions differ, so each needs the text encoder
once; there is no bare side for that, and its time is shown separately.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # otherwise `training` would be this script

import torch

from datasets.clip_sets.clips import Clip, make_clip, read_clips
from datasets.clip_sets.latents import LatentCache, clip_key, precision_of, text_of
from datasets.clip_sets.parquet import Pending, append
from datasets.sprites.captions import canonical
from datasets.sprites.motions import NOVEL
from datasets.sprites.render import render_clip
from datasets.sprites.world import appearances
from datasets.video.decode import decode
from infra.storage import open_storage
from models.foundations.base import Foundation
from models.load import load_foundation
from training.batch.latents.prepare import Missing, prepare_portions
from training.batch.state.work import Work
from training.config import make_config
from training.described import data_sha256

ROUNDS = 3
CLIPS_EACH = 4  # per concept


def write_clips(uri: Path, count: int, frames: int, side: int) -> None:
    """A clip set of rendered clips, four per concept."""
    motion = next(iter(NOVEL.values()))
    with tempfile.TemporaryDirectory() as folder:
        spool = open_storage(folder)
        pending = [
            Pending.spooled(
                make_clip(
                    concept=f"c{number // CLIPS_EACH}",
                    caption=canonical(scene, motion),
                    frames_FHWC=render_clip(scene, motion, frames, side, number),
                    fps=8,
                    source_uri=f"{number}.mp4",
                    source_sha256=f"{number}",
                ),
                spool,
            )
            for number, scene in enumerate(appearances(count, 7))
        ]
        append(open_storage(uri), pending, spool)


def works_of(uri: Path, foundation: Foundation) -> list[Work]:
    """Every concept of the set, as a batch describes it."""
    bucket = foundation.defaults.bucket
    size = {"frames": bucket.frames, "height": bucket.height, "width": bucket.width}
    concepts: dict[str, list[Clip]] = {}
    for clip in read_clips(uri):
        concepts.setdefault(clip.concept, []).append(clip)
    return [
        Work(
            name,
            name,
            str(uri),
            data_sha256(clips),
            len(clips),
            None,
            foundation.fingerprint,
            make_config(size),
        )
        for name, clips in concepts.items()
    ]


def bare(clips: list[Clip], foundation: Foundation) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Seconds of the decoder and of the VAE, and the latents by hash."""
    began = time.perf_counter()
    videos = [decode(clip.video, name=clip.clip_id).frames_FHWC for clip in clips]
    decoded = time.perf_counter()
    latents = {}
    for clip, video in zip(clips, videos, strict=True):
        pixels = torch.from_numpy(video).permute(3, 0, 1, 2).float() / 127.5 - 1
        encoded = foundation.encode_video(pixels.unsqueeze(0).to(foundation.device))
        latents[clip.sha256] = encoded[0].float().cpu()
    return decoded - began, time.perf_counter() - decoded, latents


def prepared(works: list[Work], foundation: Foundation) -> float:
    """Seconds to fill an empty cache."""
    cache = LatentCache(open_storage(works[0].data))
    for key in cache.keys(""):
        cache.storage.delete(key)
    began = time.perf_counter()
    done = list(prepare_portions(Missing().of_all(works), foundation))
    assert [one.error for one in done] == [None] * len(works)
    return time.perf_counter() - began


def main() -> None:
    """Run and print both sides."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=int, nargs="?", default=24)
    count = parser.parse_args().clips
    foundation = load_foundation()
    bucket = foundation.defaults.bucket
    with tempfile.TemporaryDirectory() as folder:
        uri = Path(folder) / "clips"
        write_clips(uri, count, bucket.frames, bucket.height)
        clips, works = read_clips(uri), works_of(uri, foundation)
        bare(clips[:2], foundation)  # warm-up
        text_of(clips[0].caption, foundation)
        rounds = []
        for _ in range(ROUNDS):
            decoding, encoding, latents = bare(clips, foundation)
            seconds = prepared(works, foundation)
            began = time.perf_counter()
            for clip in clips:
                text_of(clip.caption, foundation)
            rounds.append((decoding, encoding, seconds, time.perf_counter() - began))
        cache = LatentCache(open_storage(uri))
        for clip in clips:
            found = cache.get(clip_key(clip.sha256, foundation.fingerprint, precision_of(foundation), bucket))
            assert found is not None
            assert torch.equal(found["latents"], latents[clip.sha256])
    decoding, encoding, seconds, captions = (
        statistics.median(column) for column in zip(*rounds, strict=True)
    )
    ratios = sorted((d + e) / s for d, e, s, _ in rounds)
    print(f"{count} clips of {bucket}, {len(works)} concepts, {ROUNDS} alternating rounds; medians")
    print(f"bare decoder               {count / decoding:8.2f} clips/s")
    print(f"bare VAE                   {count / encoding:8.2f} clips/s")
    print(f"bare decoder, then VAE     {count / (decoding + encoding):8.2f} clips/s")
    print(f"prepared, with captions    {count / seconds:8.2f} clips/s (the captions alone: {captions:.2f} s)")
    print(
        f"prepared / bare            {statistics.median(ratios):8.2f}      ({ratios[0]:.2f} to {ratios[-1]:.2f} by round)"
    )
    device = torch.cuda.get_device_name() if foundation.device.type == "cuda" else "CPU"
    print(
        f"{device}, {torch.get_num_threads()} threads, {platform.machine()}, {foundation.dtype}, torch {torch.__version__}, "
        f"{datetime.now(UTC):%Y-%m-%d}"
    )


if __name__ == "__main__":
    main()
