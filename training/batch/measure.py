"""Measures the profile of a device: a few steps of packs of 1, 2, 4, ... samples for each group, on random latents.

    profile = device_profile(plan.works, on_progress=bars)        # measures what the cache lacks

A minute for each group at most (`BUDGET_S`) and one step beyond it: sizes that would not fit in are left out. What was
measured is kept in the cache folder, by device and version of torch, so it is done once.
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
from models.foundation import Bucket, Foundation
from models.load import load_foundation
from training.batch.profile import Curve, Profile
from training.batch.work import Work
from training.group import GroupKey
from training.memory import device_memory, device_name, explaining_memory
from training.pack import Capacity, Failed, Member, Pack

log = logging.getLogger(__name__)

SIZES = (1, 2, 4, 8, 16)  # samples of a forward
WARM_UP, STEPS = 1, 2
BUDGET_S = 60.0  # of a group
SHARE = 0.8  # of the memory: no size is tried that is expected beyond it
Progress = Callable[[str, int, int], None]  # what, done, of so many


@dataclass(frozen=True)
class RandomClip:
    """Latents of the right shape; what they show costs nothing."""

    latents_CFHW: Tensor
    frame_latents_FC1HW: Tensor
    text_LD: Tensor

    @property
    def empty_text_LD(self) -> Tensor:
        """Its caption is empty."""
        return self.text_LD


def random_clip(foundation: Foundation, bucket: Bucket, seed: int = 0) -> RandomClip:
    """A clip of noise in this model's latents, under an empty caption."""
    generator = torch.Generator().manual_seed(seed)
    channels, frames, height, width = foundation.latent_shape(bucket)
    return RandomClip(
        torch.randn(channels, frames, height, width, generator=generator),
        torch.randn(bucket.frames, channels, 1, height, width, generator=generator),
        foundation.encode_text([""])[0].float().cpu(),
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
    """Seconds and peak bytes of a group's step by the samples in its forward, from one sample up.

    Stops early at the budget, at `SHARE` of the memory, or where the device's memory does not suffice.
    """
    memory = memory or device_memory(foundation.device)
    clip = random_clip(foundation, Bucket(key.frames, key.height, key.width))
    began = time.monotonic()
    points: list[tuple[int, float, int]] = []
    for number, samples in enumerate(sizes):
        if points:
            last, seconds, peak = points[-1]
            ahead = (WARM_UP + STEPS) * seconds * samples / last
            if time.monotonic() - began + ahead > budget_s or peak * samples / last > SHARE * memory:
                break
        if on_progress:
            on_progress(f"measuring {key.bucket} {key.forward} rank {key.rank or 'full'}", number, len(sizes))
        try:
            points.append((samples, *_point(foundation, key, clip, samples)))
        except torch.OutOfMemoryError:
            break
    if not points:
        raise OutOfMemory(
            f"one training step of {key.bucket} does not fit this device's memory; give gradient_checkpointing, dtype "
            "bf16 or a smaller size."
        )
    columns = zip(*points, strict=True)
    return Curve(*(tuple(column) for column in columns))


def _point(foundation: Foundation, key: GroupKey, clip: RandomClip, samples: int) -> tuple[float, int]:
    """(seconds, peak bytes) of one forward and backward with its share of the update."""
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
        cache: the file that keeps it; the cache folder's for this device when not given.

    Raises:
        UserError: a foundation that cannot be loaded, or a step that does not fit.
    """
    on = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cache = cache or cache_folder() / "profiles" / f"{profile_name(on)}.json"
    profile = read_cached(cache) or Profile(device_name(on), device_memory(on), 0.0)
    groups: dict[tuple[str | None, str], dict[GroupKey, None]] = {}
    for work in works:
        if not work.key.zero and profile.curve(work.key) is None:
            groups.setdefault((work.foundation, work.config.dtype), {})[work.key] = None
    for (source, dtype), keys in groups.items():
        if on_progress:
            on_progress("loading the foundation", 0, 1)
        began = time.perf_counter()
        with explaining_memory(source, dtype, 0, on):
            foundation = load_foundation(source, device=on, dtype=DTYPES[dtype])
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
    """The profile that is kept there; None when there is none, or one that cannot be read, which is said."""
    if not path.is_file():
        return None
    try:
        return Profile.parse(path.read_text(), str(path))
    except (UserError, OSError, UnicodeDecodeError) as error:
        log.warning("%s; measuring again", error)
        return None


def profile_name(device: torch.device) -> str:
    """Tells devices apart whose steps take other times."""
    told = f"{device_name(device)} torch {torch.__version__} threads {torch.get_num_threads()}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def forget_peak(device: torch.device) -> None:
    """Let `peak_bytes` begin anew; on a CPU where the kernel lets a process do so (Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    give_back_freed_memory()  # or a group would be measured with what the one before it had needed
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # sizes are measured rising, so the peak since the start is the present one's


def peak_bytes(device: torch.device) -> int:
    """The most memory since `forget_peak`: allocated on the GPU, or held by this process, libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return process_peak_bytes()


def process_peak_bytes() -> int:
    """The most memory this process held. Not `ru_maxrss` where /proc is there: a child inherits its parent's in that."""
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if platform.system() == "Darwin" else 1024
        )
