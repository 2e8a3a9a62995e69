"""The denoising engine: many requests, any mix of adapters, one batch a step.

Plain Python around one resident model; no Ray, no HTTP. Every `tick` admits what fits, forwards one batch in which
each sample has its own adapters, timestep, guidance, scheduler and seed, and lets finished ones go; a request joins
or leaves between two steps. Fetching adapters goes on beside the steps, as do decoding and mp4 encoding.

    engine = Engine(foundation, bank, HostCache(fetch), max_batch=8)
    engine.start()                                   # its own thread; or call tick() yourself
    engine.submit("job-1", request, print)           # Admitted, Progressed ..., then Finished or Failed or Cancelled

A request's frames do not depend on its neighbours: noise comes from its own seed, its scheduler is its own, and no
operation of the forward mixes samples.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from datasets.video import encode_mp4
from infra.errors import UserError
from models.adapter import MAX_RANK, Adapter
from models.bank import AdapterBank
from models.denoise import Denoising, GenerationRequest, denoise_step, finish, start
from models.foundation import Bucket, Foundation
from serving.requests import VideoRequest, metadata
from serving.slots import HostCache, Lease, SlotTable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Admitted:
    """The request is in the batch. Seconds it waited, and of these for its adapters."""

    queue: float
    adapter_load: float


@dataclass(frozen=True)
class Progressed:
    """Steps done, of how many."""

    step: int
    steps: int


@dataclass(frozen=True)
class Finished:
    """The video. `timings` in seconds by stage."""

    mp4: bytes
    sha256: str
    timings: dict[str, float]


@dataclass(frozen=True)
class Failed:
    """The request cannot be made; `status` is the HTTP status that fits."""

    message: str
    code: str
    status: int = 500

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """A UserError speaks for itself; anything else is this program's fault and is logged."""
        if isinstance(error, UserError):
            return cls(error.message, error.code, error.status)
        log.error("request failed", exc_info=error)
        return cls(f"internal error while making the video ({type(error).__name__})", "internal_error")


@dataclass(frozen=True)
class Cancelled:
    """As asked."""


Event = Admitted | Progressed | Finished | Failed | Cancelled
Listener = Callable[[Event], None]
Observe = Callable[[str, float], None]


@dataclass
class Ticket:
    """One request on its way through the engine."""

    id: str
    request: VideoRequest
    listener: Listener
    submitted: float
    adapters: Future[list[Adapter]]
    loaded: float = 0.0  # when the adapters were in host memory
    overtaken: int = 0
    lease: Lease | None = None
    state: Denoising | None = None
    timings: dict[str, float] = field(default_factory=dict)
    admitted: float = 0.0
    cancelled: bool = False

    @property
    def bucket(self) -> Bucket:
        return Bucket(self.request.frames, self.request.height, self.request.width)


class Engine:
    """Requests in, mp4s out.

    Args:
        foundation: the resident model, with `bank` behind it.
        cache: where adapters come from.
        max_batch: most samples in one forward, and most requests being denoised at once.
        max_overtakes: how many younger requests may pass one that waits for a slot before nobody passes any more.
        observe: called with (metric name, value): "step_seconds", "batch_size", "batch_adapters", "waiting",
            "active", "slot_loads".
    """

    def __init__(
        self,
        foundation: Foundation,
        bank: AdapterBank,
        cache: HostCache,
        *,
        max_batch: int = 8,
        max_overtakes: int = 32,
        observe: Observe = lambda name, value: None,
    ) -> None:
        self.foundation, self.bank, self.max_batch = foundation, bank, max_batch
        self.slots = SlotTable(bank)
        self._cache, self._max_overtakes, self._observe = cache, max_overtakes, observe
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # something for the next tick
        self._inbox: deque[Ticket] = deque()
        self._tickets: dict[str, Ticket] = {}  # every request that has not ended
        self._waiting: deque[Ticket] = deque()  # only the engine's thread touches these three
        self._active: list[Ticket] = []
        self._last_bucket: Bucket | None = None
        self._finishing = 0  # videos being decoded or encoded
        self._news = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._loader = ThreadPoolExecutor(4, thread_name_prefix="adapter")
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self.failure: BaseException | None = None  # why the engine's thread is dead

    # --- from any thread ---------------------------------------------------------------------------------------

    def check(self, request: VideoRequest) -> None:
        """Raises UserError (4xx) for a request this engine cannot make: size, scheduler, adapters (fetched here)."""
        if request.height % 2 or request.width % 2:
            raise UserError(
                f"size {request.width}x{request.height}: mp4 wants an even width and height.",
                status=422,
                code="invalid_size",
            )
        self.foundation.check_bucket(Bucket(request.frames, request.height, request.width))
        self.foundation.make_scheduler(request.scheduler)
        self._fetch(request)

    def submit(self, id: str, request: VideoRequest, listener: Listener) -> None:
        """Take a request; `listener` gets its events, in order, from the engine's threads, and must not block."""
        ticket = Ticket(id, request, listener, time.monotonic(), Future())
        if not request.adapters:
            ticket.adapters.set_result([])
        with self._work:
            if self._closing or self.failure:
                raise RuntimeError("the engine is closed") from self.failure
            if id in self._tickets:
                raise ValueError(f"{id} is here already")
            self._tickets[id] = ticket
            self._inbox.append(ticket)
        if request.adapters:
            self._loader.submit(self._load, ticket)
        self._wake()

    def cancel(self, id: str) -> bool:
        """Stop a request within one step; False when it is not here (any more)."""
        with self._work:
            ticket = self._tickets.get(id)
            if ticket is None:
                return False
            ticket.cancelled = True
        self._wake()
        return True

    def progress(self, id: str) -> float | None:
        """Share of the steps done, 0 to 1; None when the request is not here."""
        with self._lock:
            ticket = self._tickets.get(id)
        if ticket is None:
            return None
        return ticket.state.progress if ticket.state is not None else 0.0

    @property
    def idle(self) -> bool:
        """Nothing is waiting, running or being finished."""
        with self._lock:
            return not self._tickets

    # --- the engine's own thread -------------------------------------------------------------------------------

    def start(self) -> None:
        """Run ticks in a thread of its own until `close`."""
        assert self._thread is None, "started already"
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the present step. Requests that have not ended get no more events."""
        with self._work:
            self._closing = True
        self._wake()
        if self._thread is not None:
            self._thread.join()
        self._loader.shutdown(cancel_futures=True)
        self._finisher.shutdown(cancel_futures=True)

    def run_until_idle(self) -> None:
        """Tick in the caller's thread until every request has ended."""
        while not self.idle:
            if not self.tick():
                self._wait()

    def tick(self) -> bool:
        """One round: take in, drop cancelled, admit, one step of one bucket, let go. False when nothing was done."""
        with self._lock:
            arrived = list(self._inbox)
            self._inbox.clear()
        self._waiting.extend(arrived)
        dropped = self._drop_cancelled()
        admitted = self._admit()
        stepped = self._step()
        self._observe("waiting", len(self._waiting))
        self._observe("active", len(self._active))
        return bool(arrived) or dropped or admitted or stepped

    def _run(self) -> None:
        try:
            while not self._closing:
                if not self.tick():
                    self._wait()
        except BaseException as error:
            log.exception("the engine stopped")
            with self._lock:
                self.failure = error
                tickets = list(self._tickets.values())
            for ticket in tickets:
                self._end(ticket, Failed("the engine stopped", "engine_lost", 503))

    def _wait(self) -> None:
        with self._work:
            self._work.wait_for(lambda: self._news or self._closing, timeout=1.0)
            self._news = False

    def _wake(self) -> None:
        with self._work:
            self._news = True
            self._work.notify_all()

    def _drop_cancelled(self) -> bool:
        dropped = [ticket for ticket in (*self._waiting, *self._active) if ticket.cancelled]
        for ticket in dropped:
            if ticket in self._active:
                self._leave(ticket)
            else:
                self._waiting.remove(ticket)
            self._end(ticket, Cancelled())
        return bool(dropped)

    def _admit(self) -> bool:
        """Waiting requests whose adapters are here join the batch, oldest first.

        One whose adapters are still on their way holds nobody up. One that finds no free slot may be passed by
        others, `max_overtakes` times; then slots that come free are kept for it.
        """
        did = False
        blocked: list[Ticket] = []
        for ticket in list(self._waiting):
            if len(self._active) + self._finishing >= self.max_batch:
                break
            if not ticket.adapters.done():
                continue
            if any(other.overtaken >= self._max_overtakes for other in blocked):
                break
            error = ticket.adapters.exception()
            if error is not None:
                self._waiting.remove(ticket)
                self._end(ticket, Failed.of(error))
                did = True
                continue
            started = time.monotonic()
            lease = self.slots.acquire(ticket.request.adapters, ticket.adapters.result())
            if lease is None:
                blocked.append(ticket)
                continue
            for other in blocked:
                other.overtaken += 1
            self._waiting.remove(ticket)
            did = True
            self._begin(ticket, lease, started)
        return did

    def _begin(self, ticket: Ticket, lease: Lease, started: float) -> None:
        request = ticket.request
        try:
            ticket.state = start(
                self.foundation,
                GenerationRequest(
                    prompt=request.prompt,
                    negative_prompt=request.negative_prompt,
                    bucket=ticket.bucket,
                    seed=request.seed,
                    num_inference_steps=request.steps,
                    guidance_scale=request.guidance_scale,
                    scheduler=request.scheduler,
                    adapters=tuple(lease.uses),
                ),
            )
        except Exception as error:
            lease.release()
            self._end(ticket, Failed.of(error))
            return
        now = time.monotonic()
        load = (max(0.0, ticket.loaded - ticket.submitted) + now - started) if request.adapters else 0.0
        ticket.lease, ticket.admitted = lease, now
        ticket.timings = {"queue": now - ticket.submitted, "adapter_load": load}
        self._active.append(ticket)
        self._observe("slot_loads", self.slots.loads)
        self._tell(ticket, Admitted(**ticket.timings))

    def _step(self) -> bool:
        """One denoising step of the bucket whose turn it is."""
        buckets = list(dict.fromkeys(ticket.bucket for ticket in self._active))
        if not buckets:
            return False
        turn = buckets.index(self._last_bucket) + 1 if self._last_bucket in buckets else 0
        bucket = self._last_bucket = buckets[turn % len(buckets)]
        batch = [ticket for ticket in self._active if ticket.bucket == bucket][: self.max_batch]
        started = time.monotonic()
        self._forward(batch)
        self._observe("step_seconds", time.monotonic() - started)
        self._observe("batch_size", len(batch))
        self._observe("batch_adapters", len({a.sha256 for ticket in batch for a in ticket.request.adapters}))
        for ticket in batch:
            if ticket not in self._active:
                continue
            assert ticket.state is not None
            self._tell(ticket, Progressed(ticket.state.index, len(ticket.state.timesteps)))
            if ticket.state.done:
                self._leave(ticket)
                ticket.timings["denoise"] = time.monotonic() - ticket.admitted
                self._finishing += 1
                self._finisher.submit(self._finish, ticket)
        return True

    def _forward(self, batch: list[Ticket]) -> None:
        """One step; when it fails, each alone, so that only the guilty one ends."""
        try:
            denoise_step(self.foundation, [ticket.state for ticket in batch if ticket.state is not None])
        except Exception as error:
            if len(batch) == 1:
                self._leave(batch[0])
                self._end(batch[0], Failed.of(error))
                return
            log.warning("a step of %d failed (%s); trying each alone", len(batch), error)
            for ticket in batch:
                self._forward([ticket])

    def _leave(self, ticket: Ticket) -> None:
        assert ticket.lease is not None
        self._active.remove(ticket)
        ticket.lease.release()

    def _end(self, ticket: Ticket, event: Event) -> None:
        """The request's last event."""
        with self._lock:
            self._tickets.pop(ticket.id, None)
        self._tell(ticket, event)

    def _tell(self, ticket: Ticket, event: Event) -> None:
        try:
            ticket.listener(event)
        except Exception:  # a listener that is gone must not stop the others' steps
            log.exception("the listener of %s failed", ticket.id)

    # --- beside the steps --------------------------------------------------------------------------------------

    def _fetch(self, request: VideoRequest) -> list[Adapter]:
        adapters = [self._cache.get(use) for use in request.adapters]
        for use, adapter in zip(request.adapters, adapters, strict=True):
            if not self.bank.holds(adapter.rank):
                wider = f"start it with --rank {adapter.rank}"
                merged = "export it merged into the model's weights (motiondirector concepts export --merged)"
                raise UserError(
                    f"{use.concept}@{use.version} has rank {adapter.rank}, this server's slots hold {self.bank.rank}; "
                    f"{wider if adapter.rank <= MAX_RANK else merged}.",
                    status=422,
                    code="rank_too_large",
                )
        return adapters

    def _load(self, ticket: Ticket) -> None:
        try:
            adapters = self._fetch(ticket.request)
        except Exception as error:
            ticket.adapters.set_exception(error)
        else:
            ticket.loaded = time.monotonic()
            ticket.adapters.set_result(adapters)
        self._wake()

    def _finish(self, ticket: Ticket) -> None:
        event: Event
        try:
            event = Cancelled() if ticket.cancelled else self._package(ticket)
        except Exception as error:
            event = Failed.of(error)
        with self._lock:
            self._finishing -= 1
        self._end(ticket, event)
        self._wake()

    def _package(self, ticket: Ticket) -> Finished:
        """Latents -> frames -> mp4 with what made it in its metadata."""
        assert ticket.state is not None
        started = time.monotonic()
        if not bool(torch.isfinite(ticket.state.latents_1Cfhw).all()):
            raise UserError(
                "the model's answer is not finite; lower guidance_scale or the adapters' scales.",
                status=422,
                code="not_finite",
            )
        frames_FHWC = finish(self.foundation, ticket.state)
        request = ticket.request
        mp4 = encode_mp4(frames_FHWC, request.fps, metadata=metadata(request, self.foundation.fingerprint))
        ticket.timings["decode"] = time.monotonic() - started
        return Finished(mp4, hashlib.sha256(mp4).hexdigest(), dict(ticket.timings))
