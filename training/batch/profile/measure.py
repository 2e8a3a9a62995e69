"""Measures a device's profile: for each group, a few steps of packs of 1, 2, 4, ... random samples.

    profile = device_profile(plan.works, on_progress=bars)        # measures what the cache lacks

A group takes at most a minute (`BUDGET_S`) plus one step: sizes that would take longer are skipped.
Results are kept in the cache folder by device and torch version, so each is measured once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from infra.allocator import give_back_freed_memory
from infra.errors import OutOfMemory, UserError
from infra.files import atomic_file, cache_folder
from models.dtypes import DTYPES
from models.foundations.base import Bucket, Foundation
from models.load import load_foundation
from models.quantizing import Quantization
from training.batch.profile.profile import Curve, Profile
from training.batch.state.work import Work
from training.loop.group import GroupKey
from training.loop.member import Member
from training.loop.pack import Capacity, Failed, Pack
from training.memory import device_memory, device_name, explaining_memory

log = logging.getLogger(__name__)

SIZES = (1, 2, 4, 8, 16)  # samples per forward
WARM_UP, STEPS = 1, 2
BUDGET_S = 60.0  # per group
SHARE = 0.8  # of the memory: sizes that are expected to need more are skipped
Progress = Callable[[str, int, int], None]  # what, done, total


@dataclass(frozen=True)
class RandomClip:
    """Latents of the right shape; their content does not affect the cost."""

    latents_CFHW: Tensor
    frame_latents_FC1HW: Tensor
    text_LD: Tensor
    empty_text_LD: Tensor
    look_texts: tuple[()] = ()
    coverage: None = None


def random_clip(foundation: Foundation, bucket: Bucket, seed: int = 0) -> RandomClip:
    """A clip of random latents for this model, with an empty caption."""
    generator = torch.Generator().manual_seed(seed)
    one_frame = foundation.clip_shape(dataclasses.replace(bucket, frames=1))
    empty_LD = foundation.encode_text([""])[0].float().cpu()
    return RandomClip(
        torch.randn(foundation.clip_shape(bucket), generator=generator),
        torch.randn(bucket.frames, *one_frame, generator=generator),
        empty_LD,
        empty_LD,
    )


def measure_curve(
    foundation: Foundation,
    key: GroupKey,
    *,
    budget_s: float = BUDGET_S,
    sizes: tuple[int, ...] = SIZES,
    memory: int | None = None,
    on_progress: Progress | None = None,
) -> Curve:
    """Measure seconds and peak bytes of a group's step by the number of samples in its forward.

    Stops early at the budget, at `SHARE` of the memory, or when the device runs out of memory.
    """
    memory = memory or device_memory(foundation.device)
    clip = random_clip(foundation, key.bucket)
    began = time.monotonic()
    points: list[tuple[int, float, int]] = []
    for number, samples in enumerate(sizes):
        if points:
            last, seconds, peak = points[-1]
            expected = (WARM_UP + STEPS) * seconds * samples / last
            if time.monotonic() - began + expected > budget_s or peak * samples / last > SHARE * memory:
                break
        if on_progress:
            on_progress(f"measuring {key.bucket} {key.forward} rank {key.rank or 'full'}", number, len(sizes))
        try:
            points.append((samples, *_point(foundation, key, clip, samples)))
        except torch.OutOfMemoryError:
            break
    if not points:
        raise OutOfMemory(
            f"one training step of {key.bucket} does not fit this device's memory; use gradient_checkpointing, dtype "
            "bf16 or a smaller size."
        )
    columns = zip(*points, strict=True)
    return Curve(*(tuple(column) for column in columns))


def _point(foundation: Foundation, key: GroupKey, clip: RandomClip, samples: int) -> tuple[float, int]:
    """(seconds, peak bytes) of one forward and backward, including its share of the update."""
    config = key.config().model_copy(update={"steps": WARM_UP + STEPS + 1})
    device, times = foundation.device, []
    with Pack(foundation, key, Capacity(samples, samples)) as pack:
        for number in range(samples):
            pack.admit(Member(f"m{number}", f"m{number}", config, [clip]))
        forget_peak(device)
        for _ in range(WARM_UP + STEPS):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            began = time.perf_counter()
            failed = [event.error for event in pack.step() if isinstance(event, Failed)]
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if failed:
                raise failed[0]
            times.append(time.perf_counter() - began)
        return min(times[WARM_UP:]) / key.gradient_accumulation, peak_bytes(device)


def device_profile(
    works: Iterable[Work],
    *,
    device: str | None = None,
    cache: Path | None = None,
    budget_s: float = BUDGET_S,
    on_progress: Progress | None = None,
) -> Profile:
    """The profile of this device with every group of these works that one process can train.

    Args:
        cache: the file that keeps it; default: this device's file in the cache folder.

    Raises:
        UserError: a foundation cannot be loaded, or a step does not fit the memory.
    """
    on = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cache = cache or cache_folder() / "profiles" / f"{profile_name(on)}.json"
    profile = read_cached(cache) or Profile(device_name(on), device_memory(on), 0.0)
    groups: dict[tuple[str | None, str, Quantization], dict[GroupKey, None]] = {}
    for work in works:
        if not work.key.zero and profile.curve(work.key) is None:
            groups.setdefault((work.foundation, work.config.dtype, work.config.quantize), {})[work.key] = None
    for (source, dtype, quantize), keys in groups.items():
        if on_progress:
            on_progress("loading the foundation", 0, 1)
        began = time.perf_counter()
        with explaining_memory(source, dtype, 0, on):
            foundation = load_foundation(source, device=on, dtype=DTYPES[dtype], quantize=quantize)
        seconds = time.perf_counter() - began
        for key in keys:
            curve = measure_curve(
                foundation, key, budget_s=budget_s, memory=profile.memory, on_progress=on_progress
            )
            profile = dataclasses.replace(
                profile,
                load_seconds=max(profile.load_seconds, seconds),
                curves={**profile.curves, key.measured_as: curve},
            )
            with atomic_file(cache) as path:
                path.write_text(profile.encode())
    return profile


def read_cached(path: Path) -> Profile | None:
    """The profile in this file; None if there is none, or if it cannot be read (logged)."""
    if not path.is_file():
        return None
    try:
        return Profile.parse(path.read_text(), str(path))
    except (UserError, OSError, UnicodeDecodeError) as error:
        log.warning("%s; measuring again", error)
        return None


def profile_name(device: torch.device) -> str:
    """A name that differs between devices whose steps take different times."""
    description = f"{device_name(device)} torch {torch.__version__} threads {torch.get_num_threads()}"
    return hashlib.sha256(description.encode()).hexdigest()[:16]


def forget_peak(device: torch.device) -> None:
    """Reset `peak_bytes`; on a CPU only if the kernel supports it (Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    give_back_freed_memory()  # otherwise memory of the previous group would be counted
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # sizes are measured in rising order, so the peak since the start is the current size's


def peak_bytes(device: torch.device) -> int:
    """Peak memory since `forget_peak`: allocated on the GPU, or held by this process including libraries."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return process_peak_bytes()


def process_peak_bytes() -> int:
    """Peak memory of this process. Prefers /proc to `ru_maxrss`, which a child inherits from its parent."""
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if platform.system() == "Darwin" else 1024
        )
