"""Our side: the engine in a separate thread, fed by a workload; and the same engine limited to one adapter per batch (F).

Adapters start as files on local disk. Times are wall-clock times from a request's arrival to its mp4.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from benchmarks.serving_bench.setup import Job, Setup, Shape
from models.load import load_foundation
from serving.adapters.files import AdapterFiles
from serving.engine import finishing
from serving.engine.batch import Batch, Step
from serving.engine.engine import Engine
from serving.events import Admitted, Cancelled, Event, Failed, Finished, Progressed
from serving.requests import VideoRequest
from serving.schemas import AdapterUsed


class OneAdapterBatch(Batch):
    """F: each forward takes the requests of one adapter, in turns, like servers that split batches by adapter."""

    _turn = 0

    def step(self) -> Step | None:
        groups: dict[tuple, list] = {}
        for state in self.active:
            used = tuple(use.sha256 for use in state.request.adapters)
            groups.setdefault((state.bucket, used), []).append(state)
        if not groups:
            return None
        everyone, self._turn = self.active, self._turn + 1
        self.active = list(groups.values())[self._turn % len(groups)]
        try:
            return super().step()
        finally:
            self.active = everyone


class Remote(AdapterFiles):
    """Adapters on local disk, except for some that need one slow fetch each."""

    away: Set[str] = frozenset()
    delay = 0.0

    def has(self, use: AdapterUsed) -> bool:
        return use.sha256 not in self.away and super().has(use)

    def fetch(self, use: AdapterUsed) -> None:
        time.sleep(self.delay)
        self.away = self.away - {use.sha256}


@dataclass
class Record:
    """The outcome of one request; times in seconds since the start of the run."""

    arrival: float
    admitted: float = 0.0
    first_step: float = 0.0
    finished: float = 0.0
    mp4: bytes = b""
    problem: str = ""
    steps: list[tuple[float, int, int]] = field(default_factory=list)  # time, batch size, number of adapters

    @property
    def latency(self) -> float:
        return self.finished - self.arrival


@dataclass
class Run:
    """The run of a workload on one side."""

    records: dict[str, Record]
    seconds: float  # from the first arrival to the last mp4
    step_seconds: list[float] = field(default_factory=list)
    batch_sizes: list[float] = field(default_factory=list)
    batch_adapters: list[float] = field(default_factory=list)
    slot_loads: int = 0

    def latencies(self, keep: Callable[[str], bool] = lambda id: True) -> list[float]:
        return [record.latency for id, record in self.records.items() if keep(id)]


class Ours:
    """An engine for a setup, usable for several runs.

    Args:
        slots: of the bank.
        max_batch: most requests at once.
        one_adapter: baseline F.
        away: hashes of adapters that are not on local disk; fetching one takes `delay` seconds.
    """

    def __init__(
        self,
        setup: Setup,
        slots: int,
        *,
        max_batch: int = 8,
        one_adapter: bool = False,
        away: Set[str] = frozenset(),
        delay: float = 0.0,
    ) -> None:
        self.setup = setup
        foundation = load_foundation(setup.source, device=setup.foundation.device)  # with a separate bank
        bank = foundation.add_bank({"temporal": slots}, setup.rank)
        files = Remote(None, foundation, setup.files)
        files.away, files.delay = away, delay
        self._seen: dict[str, list[float]] = {}
        self.engine = Engine(foundation, bank, files, max_batch=max_batch, observe=self._observe)
        if one_adapter:
            self.engine.batch = OneAdapterBatch(foundation)
        self.engine.start()

    def _observe(self, name: str, value: float, labels: object = None) -> None:
        if name in ("step_seconds", "batch_size", "batch_adapters"):
            self._seen.setdefault(name, []).append(value)

    def request(self, job: Job, shape: Shape) -> VideoRequest:
        bucket = shape.bucket
        used = () if job.adapter is None else (self.setup.adapters[job.adapter].used,)
        return VideoRequest(
            prompt=job.prompt,
            negative_prompt="",
            frames=bucket.frames,
            height=bucket.height,
            width=bucket.width,
            fps=self.setup.foundation.defaults.fps,
            seed=job.seed,
            steps=shape.steps,
            guidance_scale=shape.guidance_scale,
            adapters=used,
            tenant=job.tenant,
        )

    def warm(self, adapters: Sequence[int]) -> None:
        """Load adapters into slots, up to the number of slots."""
        for adapter in adapters:
            self.engine.adapters.prefetch([self.setup.adapters[adapter].used]).result()

    def run(self, jobs: Sequence[Job], shape: Shape, done: Callable[[], None] = lambda: None) -> Run:
        """Submit every job at its arrival and wait for the last. RuntimeError names the first failed job.

        Args:
            done: called as each request ends.
        """
        self._seen.clear()
        loads = self.engine.stats().slot_loads
        records = {job.id: Record(job.arrival) for job in jobs}
        left, lock, all_done = set(records), threading.Lock(), threading.Event()
        began = time.monotonic()

        def listen(id: str, event: Event) -> None:
            record, now = records[id], time.monotonic() - began
            match event:
                case Admitted():
                    record.admitted = now
                case Progressed():
                    record.first_step = record.first_step or now
                    record.steps.append((now, event.batch, event.adapters))
                case Finished():
                    record.mp4 = event.mp4
                case Failed():
                    record.problem = event.message
            if isinstance(event, Finished | Failed | Cancelled):
                record.finished = now
                with lock:
                    done()
                    left.discard(id)
                    if not left:
                        all_done.set()

        for job in jobs:
            wait = job.arrival - (time.monotonic() - began)
            if wait > 0:
                time.sleep(wait)
            self.engine.submit(job.id, self.request(job, shape), lambda event, id=job.id: listen(id, event))
        while not all_done.wait(1):
            if self.engine.failure is not None:
                raise RuntimeError("the engine stopped") from self.engine.failure
        failed = next((record.problem for record in records.values() if not record.mp4), None)
        if failed is not None:
            raise RuntimeError(f"a request failed: {failed}")
        while self.engine.requests:
            time.sleep(0.001)
        seen = {name: list(values) for name, values in self._seen.items()}
        return Run(
            records,
            max(record.finished for record in records.values()) - min(job.arrival for job in jobs),
            seen.get("step_seconds", []),
            seen.get("batch_size", []),
            seen.get("batch_adapters", []),
            self.engine.stats().slot_loads - loads,
        )

    def close(self) -> None:
        self.engine.close()


@contextmanager
def keeping_frames() -> Iterator[dict[int, np.ndarray]]:
    """Within the block, collects the engines' frames by seed, before encoding."""
    kept: dict[int, np.ndarray] = {}
    real = finishing.finish

    def keep(foundation, state):
        kept[state.params.seed] = frames_FHWC = real(foundation, state)
        return frames_FHWC

    finishing.finish = keep
    try:
        yield kept
    finally:
        finishing.finish = real
