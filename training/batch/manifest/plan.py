"""The plan of a batch: which concepts train together, where and how long; what is done; all mistakes.

    plan = make_plan(read_manifest("batch.yaml"), "batch.yaml", open_registry(uri), lanes=2, pack=8)

Planning loads only configurations and reads only the small columns of the clip sets. Lanes follow the
priorities and take the next concept (training/batch/state/state.py), so packs and times are estimates.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from infra.errors import UserError
from infra.registry import Registry, Version
from training.batch.manifest.entries import Entry, Mistake, Mistakes
from training.batch.manifest.resolving import Sources, resolve_entries
from training.batch.profile.profile import Curve, Profile
from training.batch.state.record import Record, check_idle, stays_ended
from training.batch.state.work import Work, work_sha256
from training.loop.group import GroupKey

if TYPE_CHECKING:
    from models.foundations.base import Foundation
    from training.loop.pack import Capacity

DEFAULT_PACK = 8  # members of a pack without a profile
MOST = 64
COPIES = 4  # float32 copies of a slot's numbers in training: values, gradients, two moments


@dataclass(frozen=True)
class Done:
    """A work that needs no training: this version has the same data and settings."""

    work: Work
    version: str


@dataclass(frozen=True)
class Left:
    """A work that failed or was cancelled in this batch and stays so until it is retried (`runs retry`)."""

    work: Work
    record: Record


@dataclass(frozen=True)
class PlannedPack:
    """Works that one lane trains on one bank, at most `capacity.members` at a time."""

    lane: int  # counted from 1
    key: GroupKey
    works: tuple[Work, ...]  # in the order they begin
    capacity: Capacity
    base_bytes: int  # the denoiser's weights
    adapter_bytes: int  # the bank with gradients and moments
    peak_bytes: int | None  # measured peak, with activations; None without a profile
    seconds: float | None  # includes loading the foundation if it changes; None without a profile


@dataclass(frozen=True)
class Plan:
    """The works of a batch, laid out in packs on lanes."""

    works: tuple[Work, ...]  # to train: by priority, works of a pack together
    done: tuple[Done, ...]
    packs: tuple[PlannedPack, ...]
    lanes: int
    left: tuple[Left, ...] = ()

    @property
    def seconds(self) -> float | None:
        """Time until the last lane ends; None if a pack has no measurement."""
        totals = [0.0] * (self.lanes + 1)
        for pack in self.packs:
            if pack.seconds is None:
                return None
            totals[pack.lane] += pack.seconds
        return max(totals)


def make_plan(
    entries: Sequence[Entry],
    source: str,
    registry: Registry,
    *,
    lanes: int = 1,
    pack: int | None = None,
    profile: Profile | None = None,
    sources: Sources | None = None,
    workers: int | None = None,
    records: Sequence[Record] = (),
    check: Callable[[Work], None] = lambda work: None,
    mistakes: Sequence[Mistake] = (),
) -> Plan:
    """Make the plan of these entries.

    Args:
        source: name of the manifest in errors.
        lanes: number of lanes that train at once.
        pack: members of a pack; None: the best size by the profile (8 without one).
        profile: of the lanes' device.
        workers: workers per lane, if all have the same number: 1 for processes without Ray.
        records: of the batch, if it was begun before.
        check: raises UserError if there is no room to train a work (`training.batch.cluster.sizing.room_check`).
        mistakes: of the manifest (`read_entries`), reported together with those found here.

    Raises:
        Mistakes: all mistakes: missing concepts, clips without captions or too small, settings that do
            not suit the foundation, and concepts that lanes train with other settings now.
    """
    sources = sources or Sources()
    works, wrong = resolve_entries(entries, sources, workers)
    done = already_done(works, registry)
    there = {record.name: record for record in records}
    left = [
        Left(work, there[work.name])
        for work in works
        if work.name not in done and work.name in there and stays_ended(there[work.name], work)
    ]
    ended = {*done, *(one.work.name for one in left)}
    todo = [work for work in works if work.name not in ended]
    lines = {entry.name: entry.line for entry in entries}

    def collect(check: Callable[[], None], name: str) -> None:
        try:
            check()
        except UserError as error:
            wrong.append(Mistake(lines[name], f"{name}: {error.message}"))

    for work in works:
        if work.name in there:
            collect(partial(check_idle, there[work.name], work.sha256), work.name)
    for work in todo:
        collect(partial(check, work), work.name)
    if mistakes or wrong:
        raise Mistakes(source, [*mistakes, *wrong])
    packs = lay_out(todo, sources, lanes, pack, profile)
    return Plan(
        works=tuple(sorted((work for one in packs for work in one.works), key=lambda work: -work.priority)),
        done=tuple(Done(work, done[work.name].ref) for work in works if work.name in done),
        packs=tuple(packs),
        lanes=lanes,
        left=tuple(left),
    )


def already_done(works: Iterable[Work], registry: Registry) -> dict[str, Version]:
    """Works whose adapter is in the registry: name -> newest version with the same hash."""
    wanted = {work.name: work.sha256 for work in works}
    known = [info.name for info in registry.concepts() if info.name in wanted]

    def newest(name: str) -> Version | None:
        versions = reversed(registry.versions(name))
        return next((version for version in versions if version_sha256(version) == wanted[name]), None)

    with ThreadPoolExecutor(16) as pool:  # many small objects in a remote storage
        found = zip(known, pool.map(newest, known), strict=True)
        return {name: version for name, version in found if version is not None}


def version_sha256(version: Version) -> str | None:
    """The hash of the work that a version was made from; None if its metadata does not contain it."""
    metadata = version.metadata
    try:
        return work_sha256(
            version.concept,
            metadata["concept"],
            metadata["foundation_fingerprint"],
            metadata["data_sha256"],
            metadata["config"],
        )
    except (KeyError, TypeError, ValueError):  # `concepts publish`, or settings of another release
        return None


def lay_out(
    works: Sequence[Work], sources: Sources, lanes: int, pack: int | None, profile: Profile | None
) -> list[PlannedPack]:
    """Lay out packs on lanes.

    The works of a group are cut into runs of a pack's size, sorted by priority and then by length, so
    that few slots stay empty. Runs go, by priority and longest first, to the lane that is free first.
    No work joins a pack while one of another group with a higher priority waits
    (training/batch/lane/choosing.py).
    """
    groups: dict[GroupKey, list[Work]] = {}
    for work in works:
        groups.setdefault(work.key, []).append(work)
    runs: list[tuple[Work, ...]] = []
    sizes = {}
    for key, members in groups.items():
        batch = max(work.config.batch_size for work in members)
        best = profile.best_pack(key, batch, MOST) if profile is not None else None
        sizes[key] = size = min(pack or best or DEFAULT_PACK, len(members))
        others = {work.priority for work in works if work.key != key}
        begun: list[Work] = []
        for work in sorted(members, key=lambda work: (-work.priority, -work.config.steps)):
            waits = begun and any(work.priority < other <= begun[-1].priority for other in others)
            if len(begun) == size or waits:
                runs.append(tuple(begun))
                begun = []
            begun.append(work)
        runs.append(tuple(begun))

    def length(run: tuple[Work, ...], loaded: str | None) -> float:
        """Seconds; without a measurement concept-steps, good enough for distributing runs."""
        curve = profile.curve(run[0].key) if profile is not None else None
        loading = profile.load_seconds if profile is not None and loaded != run[0].fingerprint else 0.0
        return loading + duration(run, sizes[run[0].key], curve or UNIT)

    free: list[tuple[float, int, str | None]] = [(0.0, lane, None) for lane in range(1, lanes + 1)]
    queues: dict[int, list[tuple[GroupKey, list[Work]]]] = {lane: [] for lane in range(1, lanes + 1)}
    for run in sorted(runs, key=lambda run: (-run[0].priority, -length(run, run[0].fingerprint))):
        # Among lanes that are free at the same time, prefer one that has loaded the foundation.
        at, lane, loaded = min(free, key=lambda f: (f[0], f[2] != run[0].fingerprint, f[1]))
        free.remove((at, lane, loaded))
        free.append((at + length(run, loaded), lane, run[0].fingerprint))
        queue = queues[lane]
        mine = max((number for number, (key, _) in enumerate(queue) if key == run[0].key), default=None)
        # If a more urgent run follows the group's pack, the pack ends for it and another begins after it.
        if mine is None or any(after[0].priority > run[0].priority for _, after in queue[mine + 1 :]):
            queue.append((run[0].key, list(run)))
        else:
            queue[mine][1].extend(run)
    packs = []
    for lane, queue in queues.items():
        before: str | None = None
        for key, together in queue:
            size, loading = min(sizes[key], len(together)), before != key.foundation
            packs.append(planned(lane, key, together, size, sources, profile, loading))
            before = key.foundation
    return packs


UNIT = Curve((1,), (1.0,), (0.0,))


def planned(
    lane: int,
    key: GroupKey,
    queue: Sequence[Work],
    members: int,
    sources: Sources,
    profile: Profile | None,
    loading: bool,
) -> PlannedPack:
    """A pack with its memory and time."""
    capacity = capacity_for(queue, members)
    foundation = sources.foundation(queue[0].foundation)
    curve = profile.curve(key) if profile is not None else None
    batch = sum(sorted((work.config.batch_size for work in queue), reverse=True)[:members])
    seconds = None
    if curve is not None and profile is not None:
        seconds = duration(queue, members, curve) + (profile.load_seconds if loading else 0.0)
    return PlannedPack(
        lane=lane,
        key=key,
        works=tuple(queue),
        capacity=capacity,
        base_bytes=base_bytes(foundation, key.dtype, key.quantize)
        // (queue[0].config.worker_range[0] if key.zero else 1),
        adapter_bytes=adapter_bytes(foundation, key, capacity),
        peak_bytes=None if curve is None else curve.bytes_at(batch),
        seconds=seconds,
    )


def capacity_for(works: Sequence[Work], members: int) -> Capacity:
    """Slots that suffice for any `members` of these works at once."""
    from training.loop.member import bank_slots
    from training.loop.pack import Capacity

    spatial = sorted((bank_slots(work.config, work.clips)["spatial"] for work in works), reverse=True)
    return Capacity(members=members, spatial=sum(spatial[:members]))


def base_bytes(foundation: Foundation, dtype: str, quantize: str = "none") -> int:
    """Memory of the denoiser's weights on one device, unsharded."""
    from models.quantizing import saved_by_int8

    size = {"fp32": 4, "bf16": 2}[dtype]
    whole = sum(p.numel() for p in foundation.denoiser.parameters()) * size
    return whole - (saved_by_int8(foundation, size) if quantize == "int8" else 0)


def adapter_bytes(foundation: Foundation, key: GroupKey, capacity: Capacity) -> int:
    """Memory of a trainable float32 bank with gradients and AdamW's moments."""
    from training.loop.member import has_temporal

    numbers = 0
    counts = {
        "spatial": capacity.spatial,
        "temporal": capacity.members if has_temporal(key.config()) else 0,
    }
    for path, names in foundation.targets.items():
        for name in names:
            layer = foundation.denoiser.get_submodule(name)
            inside, out = layer.in_features, layer.out_features
            numbers += counts[path] * (key.rank * (inside + out) if key.rank else inside * out)
    return numbers * 4 * COPIES


def duration(works: Sequence[Work], members: int, curve: Curve) -> float:
    """Seconds to train these works in order, `members` at a time; the next work takes each free slot."""
    waiting = list(reversed(works))
    active: list[tuple[int, int, int]] = []  # (ends at this pack step, number, samples)
    now, seconds, samples, number = 0, 0.0, 0, 0
    accumulation = works[0].config.gradient_accumulation
    while waiting or active:
        while waiting and len(active) < members:
            work = waiting.pop()
            number += 1
            heapq.heappush(active, (now + work.config.steps, number, work.config.batch_size))
            samples += work.config.batch_size
        end, _, leaving = heapq.heappop(active)
        seconds += (end - now) * accumulation * curve.seconds_at(samples)
        now, samples = end, samples - leaving
    return seconds
