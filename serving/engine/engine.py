"""The denoising engine: many requests, any mix of adapters, one batch per step.

Plain Python around one resident model, without Ray or HTTP. Every `tick` admits requests that fit, runs
one batch in which each sample has its own adapters, timestep, guidance, scheduler and seed, and releases
finished requests. Requests join and leave between steps. Adapter loading, decoding and mp4 encoding run
in parallel to the steps.

    engine = Engine(foundation, bank, AdapterFiles(registry, foundation, folder), max_batch=8)
    engine.start()                                   # its own thread; or call tick() yourself
    engine.submit("job-1", request, print)           # Admitted, Progressed ..., Finished, Failed or Cancelled

Except for rounding, a request's frames do not depend on its neighbours: each request has its own seed and
scheduler, and no operation of the forward mixes samples. docs/serving.md gives the effect of rounding.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from infra.errors import Conflict, InvalidInput, NotFound, Unavailable, UserError
from models.foundations.base import Bucket, Foundation
from models.lora.bank import AdapterBank
from serving.adapters.adapter_cache import AdapterCache, Claim
from serving.adapters.files import Source
from serving.adapters.slots import Lease
from serving.engine.batch import Batch, probe
from serving.engine.budget import measure
from serving.engine.compiled import CompiledForward
from serving.engine.finishing import package
from serving.engine.preview import render
from serving.engine.request_state import RequestState, deadline_passed, flow_of, order_of, work_left
from serving.engine.scheduler import Scheduler
from serving.engine.stats import Counters, EngineStats
from serving.engine_client import Residency
from serving.events import (
    Admitted,
    Cancelled,
    Event,
    Failed,
    Listener,
    Observe,
    Progressed,
    unobserved,
)
from serving.requests import AdapterUsed, VideoRequest, cost_of

log = logging.getLogger(__name__)


class Engine:
    """Turns requests into mp4 videos.

    Args:
        foundation: the resident model, with `bank` attached.
        source: where adapters come from.
        max_batch: maximum number of requests being denoised at once.
        host_bytes: maximum bytes of packed adapters in host memory.
        batch_bytes: maximum bytes of a forward's activations; `warm_up` derives the samples per forward from
            it. None: what is free at that time.
        max_overtakes: how many others may pass a request that waits for a slot before one is reserved for it.
        compile: torch.compile the forward; a string names the backend.
        warm_buckets: video sizes to measure and compile for; None: the foundation's default.
        observe: receives measurements, named as in `serving.http.metrics.ENGINE`.
    """

    def __init__(
        self,
        foundation: Foundation,
        bank: AdapterBank,
        source: Source,
        *,
        max_batch: int = 8,
        host_bytes: int = 4 << 30,
        batch_bytes: int | None = None,
        max_overtakes: int = 32,
        compile: bool | str = False,
        warm_buckets: Sequence[Bucket] | None = None,
        observe: Observe = unobserved,
    ) -> None:
        self.foundation, self.bank, self.max_batch = foundation, bank, max_batch
        self.tiers = AdapterCache(bank, source, host_bytes=host_bytes, observe=observe)
        self.slots = self.tiers.slots
        self._batch_bytes, self._observe = batch_bytes, observe
        self._warm_buckets = list(warm_buckets or [foundation.defaults.bucket])
        self._queue = Scheduler(self.tiers, max_batch=max_batch, max_overtakes=max_overtakes)
        self._compiled = None
        if compile:
            self._compiled = CompiledForward(
                foundation,
                self._warm_buckets,
                max_rows=2 * max_batch,
                backend=compile if isinstance(compile, str) else "inductor",
            )
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # signals work for the next tick
        self._inbox: deque[tuple[RequestState, BaseException | None]] = (
            deque()
        )  # claims that are loaded, or failed with an error
        self._tickets: dict[str, RequestState] = {}  # every request that has not ended
        self._waiting: dict[str, RequestState] = {}  # those not yet admitted, oldest first
        self._batch = Batch(foundation, self._compiled)  # used only by the engine's thread, like the queue
        self._finishing = 0  # videos being decoded or encoded
        self._lost: Exception | None = None  # error if the device was lost while decoding a video
        self._news = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._counters = Counters()
        self.failure: BaseException | None = None  # why the engine's thread is dead

    # --- from any thread ------------------------------------------------------------------------------------

    def check(self, request: VideoRequest) -> None:
        """Raise UserError for an impossible request (size, scheduler, adapters). Waits for its adapters."""
        if (here := self.check_ahead(request)) is not None:
            here.result()

    def check_ahead(self, request: VideoRequest) -> Future[None] | None:
        """`check` without waiting: the future ends when the adapters are loaded, or with their error."""
        if request.height % 2 or request.width % 2:
            raise InvalidInput(
                f"size {request.width}x{request.height}: mp4 wants an even width and height.",
                code="invalid_size",
            )
        self.foundation.check_bucket(request.bucket)
        self.foundation.make_scheduler(request.scheduler)
        for path, slots in self.bank.slots.items():
            count = len({use.sha256 for use in request.adapters if use.path == path})
            if count > slots:
                raise InvalidInput(
                    f"the request combines {count} {path} adapters and this server has {slots} slots for them; "
                    "name fewer.",
                    code="too_many_adapters",
                )
        if not request.needs_registry:
            return None
        return self.tiers.ahead(request.adapters, flow_of(request), request.noise_file)

    def submit(self, id: str, request: VideoRequest, listener: Listener) -> None:
        """Accept a request. Engine threads call `listener` with its events in order; it must not block."""
        flow, order = flow_of(request), order_of(request)
        claim = Claim(
            request.adapters,
            lambda _claim, error: self._brought(ticket, error),
            flow,
            order,
            request.noise_file,
        )
        ticket = RequestState(id, request, listener, claim)
        with self._work:
            if self._closing or self.failure:
                raise RuntimeError("the engine is closed") from self.failure
            if id in self._tickets:
                raise ValueError(f"{id} is here already")
            self._tickets[id] = self._waiting[id] = ticket
        for use in request.adapters:
            self._counters.requested(use.sha256)
        self.tiers.bring(claim)

    def cancel(self, id: str) -> bool:
        """Stop a request within one step; False if the engine does not have it (any more)."""
        with self._work:
            ticket = self._tickets.get(id)
            if ticket is None:
                return False
            ticket.cancelled = True
        self._wake()
        return True

    def preview(self, id: str) -> Future[bytes]:
        """A preview of a request that is being denoised: a small WebP of one frame.

        It is decoded in parallel to the steps and does not change the result. Calls before the next step, or
        while one is being decoded, share it. Raises NotFound if the engine does not have the request, and
        Conflict if there is no estimate yet (or never, with some schedulers).
        """
        with self._lock:
            ticket = self._tickets.get(id)
            if ticket is None:
                raise NotFound(f"{id} is not being made here (any more).", code="video_not_found")
            x0 = ticket.state.x0_1Cfhw if ticket.state is not None else None
            if x0 is None:
                raise Conflict(f"{id} has nothing to be seen yet; ask again after a step.", code="no_preview")
            shown = ticket.preview
            if shown is None or (shown[1].done() and shown[0] is not x0):
                shown = ticket.preview = (x0, self._finisher.submit(render, self.foundation, x0))
            return shown[1]

    def prefetch(self, use: AdapterUsed, timeout: float | None = None) -> None:
        """Load an adapter into host memory, and into a slot if one is free; blocks. Raises UserError."""
        self.tiers.prefetch([use], timeout)

    def prefetch_ahead(self, use: AdapterUsed) -> Future[None]:
        """`prefetch` without waiting."""
        return self.tiers.ahead([use])

    def keep(self, uses: Sequence[AdapterUsed]) -> None:
        """Pin exactly these adapters, without waiting for loads. One slot of each path stays for others."""
        self.tiers.keep(uses)

    def residency(self) -> list[Residency]:
        """Every adapter in a slot or in host memory."""
        return self.tiers.residency()

    @property
    def idle(self) -> bool:
        """Whether no request is waiting, running or being finished."""
        with self._lock:
            return not self._tickets

    def stats(self) -> EngineStats:
        """The current statistics."""
        slots, counters, resident = self.slots, self._counters, self.slots.resident()
        pinned = slots.pinned()
        with self._lock:
            waiting = list(self._waiting.values())
            work = sum(work_left(ticket) for ticket in self._tickets.values())
            finishing, active = self._finishing, len(self._tickets) - len(waiting) - self._finishing
        busy = {key for key, users in resident.items() if users or key in pinned}
        return EngineStats(
            waiting=len(waiting),
            active=active,
            finishing=finishing,
            queue_age=time.monotonic() - waiting[0].submitted if waiting else 0.0,
            waiting_cost=counters.seconds_for(sum(cost_of(ticket.request) for ticket in waiting)),
            work=work,
            pace=counters.seconds_for(1.0),
            steps=counters.steps,
            step_seconds=counters.step_seconds,
            batch_size=counters.batch_size,
            batch_adapters=counters.batch_adapters,
            slot_hits=slots.hits,
            slot_misses=slots.misses,
            slot_loads=slots.loads,
            loads=dict(self.tiers.loads),
            recompilations=self._compiled.recompilations if self._compiled else 0,
            uncompiled_forwards=self._compiled.eager if self._compiled else 0,
            ended=dict(counters.ended),
            adapter_requests=dict(counters.adapters()),
            resident={path: [sha for kind, sha in resident if kind == path] for path in self.bank.slots},
            free_slots={
                path: n - sum(1 for kind, _ in busy if kind == path) for path, n in self.bank.slots.items()
            },
        )

    # --- the engine's own thread ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start a thread that warms up and runs ticks until `close`."""
        assert self._thread is None, "started already"
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def warm_up(self) -> None:
        """Measure how many samples fit in a forward, and compile. Call it in the ticking thread, first."""
        self._queue.budget = budget = measure(self.foundation, self._warm_buckets, self._batch_bytes)
        log.info("a forward takes %s samples", {str(b): budget.rows(b) for b in self._warm_buckets})
        if self._compiled is not None:
            self._compiled.warm_up(budget)

    def close(self) -> None:
        """Stop after the current step. Unfinished requests get no more events."""
        with self._work:
            self._closing = True
        self._wake()
        if self._thread is not None:
            self._thread.join()
        self.tiers.shutdown()
        self._finisher.shutdown(cancel_futures=True)

    def run_until_idle(self) -> None:
        """Tick in the caller's thread until every request has ended."""
        while not self.idle:
            if not self.tick():
                self._wait()

    def tick(self) -> bool:
        """One round: take in, drop cancelled, admit, run one step of one bucket. False if there was no work.

        Raises if the device is lost.
        """
        if self._lost is not None:
            raise self._lost
        did = self._take_in()
        did |= self._drop()
        did |= self._admit()
        did |= self._step()
        self._tell_state()
        return did

    def _run(self) -> None:
        try:
            self.warm_up()
            while not self._closing:
                if not self.tick():
                    self._wait()
        except BaseException as error:
            log.exception("the engine stopped")
            with self._lock:
                self.failure = error
                tickets = list(self._tickets.values())
            for ticket in tickets:
                self._end(ticket, Failed(Unavailable("the engine stopped", code="engine_lost")))

    def _wait(self) -> None:
        with self._work:
            deadlines = [t.request.deadline for t in self._waiting.values() if t.request.deadline is not None]
            patience = min([1.0, *(deadline - time.time() for deadline in deadlines)])
            self._work.wait_for(lambda: self._news or self._closing, timeout=max(0.001, patience))
            self._news = False

    def _wake(self) -> None:
        with self._work:
            self._news = True
            self._work.notify_all()

    def _take_in(self) -> bool:
        """Requests with loaded adapters join the fair queue; those whose adapters failed to load end."""
        with self._lock:
            arrived = list(self._inbox)
            self._inbox.clear()
        for ticket, error in arrived:
            if self._waiting.get(ticket.id) is not ticket or ticket in self._queue:
                continue  # it ended meanwhile
            if error is not None:
                self._end(ticket, self._failed(error))
            else:
                ticket.loaded = ticket.loaded or time.monotonic()
                self._queue.add(ticket)
        return bool(arrived)

    def _drop(self) -> bool:
        """End cancelled requests and waiting requests past their deadline."""
        with self._lock:
            waiting = list(self._waiting.values())
        dropped = [ticket for ticket in (*waiting, *self._batch.tickets) if ticket.cancelled]
        late = [ticket for ticket in waiting if ticket.expired() and not ticket.cancelled]
        for ticket in dropped:
            if ticket in self._batch.tickets:
                self._batch.leave(ticket)
            self._end(ticket, Cancelled())
        for ticket in late:
            self._end(ticket, Failed.of(deadline_passed()))
        return bool(dropped or late)

    def _admit(self) -> bool:
        """Admit requests to the batch in fair turns, as long as there is room."""
        did = False
        started = time.monotonic()
        if self._finishing >= self.max_batch:  # otherwise finished videos would accumulate
            return False
        for ticket, lease in self._queue.round(self._batch.tickets):
            did = True
            if isinstance(lease, Lease):
                self._begin(ticket, lease, started)
            elif lease is None:
                self.tiers.bring_again(ticket.claim)
            else:
                self._end(ticket, self._failed(lease))
        if keys := self._queue.worth_warming():
            self.tiers.warm_beside(keys, self._wake)
        return did

    def _begin(self, ticket: RequestState, lease: Lease, started: float) -> None:
        try:
            self._batch.join(ticket, lease)
        except Exception as error:
            self._end(ticket, self._failed(error))
            return
        self.tiers.close(ticket.claim)
        with self._lock:
            del self._waiting[ticket.id]
        load = 0.0
        if ticket.request.needs_registry:
            load = max(0.0, ticket.loaded - ticket.submitted) + ticket.admitted - started
        ticket.timings = {"queue": ticket.admitted - ticket.submitted, "adapter_load": load}
        self._observe("queue_seconds", ticket.timings["queue"])
        self._tell(ticket, Admitted(**ticket.timings))

    def _step(self) -> bool:
        """Run one step of one bucket; completed requests are passed on for decoding."""
        step = self._batch.step()
        if step is None:
            return False
        size = len(step.tickets)
        self._counters.stepped(step.seconds, step.work, size, step.adapters)
        self._observe("step_seconds", step.seconds)
        self._observe("batch_size", size)
        self._observe("batch_adapters", step.adapters)
        for ticket in step.tickets:
            assert ticket.state is not None
            if ticket in step.failed:
                failed = self._failed(step.failed[ticket])
                self._batch.leave(ticket)
                self._end(ticket, failed)
                continue
            self._tell(
                ticket, Progressed(ticket.state.index, len(ticket.state.timesteps), size, step.adapters)
            )
            if ticket.state.done:
                self._batch.leave(ticket)
                ticket.timings["denoise"] = time.monotonic() - ticket.admitted
                with self._lock:
                    self._finishing += 1
                self._finisher.submit(self._finish, ticket)
        return True

    def _tell_state(self) -> None:
        with self._lock:
            waiting = len(self._waiting)
            oldest = next(iter(self._waiting.values()), None)
        self._observe("waiting", waiting)
        self._observe("active", len(self._batch.tickets))
        self._observe("queue_age_seconds", time.monotonic() - oldest.submitted if oldest is not None else 0.0)
        self._observe("slot_hits", self.slots.hits)
        self._observe("slot_misses", self.slots.misses)
        self._observe("slot_loads", self.slots.loads)
        if self._compiled is not None:
            self._observe("recompilations", self._compiled.recompilations)
            self._observe("uncompiled_forwards", self._compiled.eager)

    # --- from the engine's thread and others ----------------------------------------------------------------

    def _brought(self, ticket: RequestState, error: BaseException | None) -> None:
        with self._lock:
            self._inbox.append((ticket, error))
        self._wake()

    def _failed(self, error: BaseException) -> Failed:
        """The final event of a failed request. Raises if the device is lost: then the whole engine ends."""
        if not isinstance(error, UserError):
            probe(self.foundation.device)
        return Failed.of(error)

    def _end(self, ticket: RequestState, event: Event) -> None:
        """Send a request's final event. Only the first call for a request has an effect."""
        self.tiers.close(ticket.claim)
        with self._lock:
            if self._tickets.get(ticket.id) is not ticket:
                return
            del self._tickets[ticket.id]
            waited = self._waiting.pop(ticket.id, None)
        if waited is not None:
            self._queue.remove(ticket)
        self._counters.end(type(event).__name__.lower())
        self._tell(ticket, event)

    def _tell(self, ticket: RequestState, event: Event) -> None:
        try:
            ticket.listener(event)
        except Exception:  # a broken listener must not stop other requests
            log.exception("the listener of %s failed", ticket.id)

    def _finish(self, ticket: RequestState) -> None:
        event: Event
        try:
            event = Cancelled() if ticket.cancelled else package(self.foundation, ticket)
        except Exception as error:
            try:
                event = self._failed(error)
            except Exception as lost:  # the engine's thread raises it and ends all requests
                self._lost = lost
                self._wake()
                return
        with self._lock:
            self._finishing -= 1
        self._end(ticket, event)
        self._wake()
