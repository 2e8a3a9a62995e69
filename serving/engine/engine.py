"""The denoising engine: many requests, any mix of adapters, one batch per step.

Plain Python around one resident model, without Ray or HTTP. `RequestTable` knows which requests there are
and where each stands, `Scheduler` chooses who joins next, `Batch` runs the steps. Every `tick` admits
requests that fit and runs one step of the requests of one video size, in which each sample has its own
adapters, timestep, guidance, scheduler and seed. Requests join and leave between steps. Adapter loading
(`AdapterCache`), decoding and mp4 encoding (`Finisher`) run in parallel to the steps.

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
from collections.abc import Sequence
from concurrent.futures import Future

from infra.errors import Unavailable
from models.foundations.base import Bucket, Foundation
from models.lora.bank import AdapterBank
from serving.adapters.adapter_cache import AdapterCache, Claim
from serving.adapters.files import Source
from serving.adapters.slots import Lease
from serving.engine.batch import Batch
from serving.engine.checks import check_possible
from serving.engine.compiled import CompiledForward
from serving.engine.failures import failure_of
from serving.engine.finishing import Finisher
from serving.engine.request_state import RequestState, Stage, deadline_passed, flow_of, order_of
from serving.engine.request_table import RequestTable
from serving.engine.scheduler import Scheduler
from serving.engine.stats import EngineStats, Monitor
from serving.events import Admitted, Cancelled, Event, Failed, Listener, Observe, Progressed, unobserved
from serving.requests import VideoRequest

log = logging.getLogger(__name__)


class Engine:
    """Turns requests into mp4 videos.

    `adapters` is where adapters are loaded, pinned and listed, `requests` has the requests that have not
    ended, `finisher` makes previews.

    Args:
        foundation: the resident model, with `bank` attached.
        source: where adapters come from.
        max_batch: maximum number of requests being denoised at once.
        host_bytes: maximum bytes of packed adapters in host memory.
        batch_bytes: maximum bytes of a forward's activations; `Batch.warm_up` derives the samples per forward
            from it. None: what is free at that time.
        max_overtakes: how many others may overtake a request that waits for a slot before one is reserved
            for it.
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
        buckets, compiled = list(warm_buckets or [foundation.defaults.bucket]), None
        if compile:
            backend = compile if isinstance(compile, str) else "inductor"
            compiled = CompiledForward(foundation, buckets, max_rows=2 * max_batch, backend=backend)
        self.foundation, self._max_batch = foundation, max_batch
        self.adapters = AdapterCache(bank, source, host_bytes=host_bytes, observe=observe)
        self.requests = RequestTable()
        self.finisher = Finisher(foundation, self.requests, self._end)
        # Only the engine's thread uses these two.
        self.scheduler = Scheduler(self.adapters, max_batch=max_batch, max_overtakes=max_overtakes)
        self.batch = Batch(foundation, compiled, buckets, batch_bytes)
        self._monitor = Monitor(self.requests, self.adapters, compiled, observe)
        self._thread: threading.Thread | None = None
        self.failure: BaseException | None = None  # why the engine's thread is dead

    # --- from any thread ------------------------------------------------------------------------------------

    def check(self, request: VideoRequest) -> Future[None]:
        """Raise UserError for an impossible request (size, scheduler, number of adapters), and load its files.

        Does not wait: the future ends when its adapters and noise prior are loaded, or with their error.
        """
        check_possible(request, self.foundation, self.adapters.bank)
        return self.adapters.prefetch(request.adapters, flow_of(request), request.noise_file)

    def submit(self, id: str, request: VideoRequest, listener: Listener) -> None:
        """Accept a request. Engine threads call `listener` with its events in order; it must not block.

        Raises RuntimeError if the engine is closed, and ValueError if a request with this id has not ended.
        """

        def loaded(_claim: Claim, error: BaseException | None) -> None:
            self.requests.report_loaded(state, error)

        flow, order = flow_of(request), order_of(request)
        claim = Claim(request.adapters, loaded, flow, order, request.noise_file)
        state = RequestState(id, request, listener, claim)
        self.requests.add(state)
        self._monitor.requested(request)
        self.adapters.load(claim)

    def cancel(self, id: str) -> bool:
        """Stop a request within one step; False if the engine does not have it (any more)."""
        return self.requests.cancel(id)

    def stats(self) -> EngineStats:
        """The current statistics."""
        return self._monitor.stats()

    # --- the engine's own thread ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start a thread that warms up and runs ticks until `close`."""
        assert self._thread is None, "started already"
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the current step. Unfinished requests get no more events."""
        self.requests.close()
        if self._thread is not None:
            self._thread.join()
        self.adapters.shutdown()
        self.finisher.shutdown()

    def run_until_idle(self) -> None:
        """Tick in the caller's thread until every request has ended."""
        while self.requests:
            if not self.tick():
                self.requests.wait()

    def _run(self) -> None:
        try:
            self.batch.warm_up()
            while not self.requests.closed:
                if not self.tick():
                    self.requests.wait()
        except BaseException as error:
            log.exception("the engine stopped")
            self.failure = error
            stopped = Unavailable("the engine stopped; send the request again.", code="engine_lost")
            for state in self.requests.close(error):
                self._end(state, Failed.of(stopped))

    def tick(self) -> bool:
        """One round: take in, end what was cancelled or is late, admit, step, report. False: nothing to do.

        Raises if the device is lost.
        """
        if self.finisher.lost is not None:
            raise self.finisher.lost
        did = self._take_in()
        did |= self._end_cancelled_and_late()
        did |= self._admit()
        did |= self._step()
        self._monitor.report()
        return did

    def _take_in(self) -> bool:
        """Requests with loaded adapters join the fair queue; those whose adapters failed to load end."""
        reported = self.requests.take_loaded()
        for state, error in reported:
            if error is not None:
                self._end(state, failure_of(error, self.foundation.device))
            else:
                state.loaded = state.loaded or time.monotonic()
                self.scheduler.add(state)
        return bool(reported)

    def _end_cancelled_and_late(self) -> bool:
        """End cancelled requests and waiting requests past their deadline."""
        waiting = self.requests.at(Stage.WAITING)
        cancelled = [state for state in (*waiting, *self.batch.active) if state.cancelled]
        late = [state for state in waiting if state.expired() and not state.cancelled]
        for state in cancelled:
            if state.stage is Stage.RUNNING:
                self.batch.leave(state)
            self._end(state, Cancelled())
        for state in late:
            self._end(state, Failed.of(deadline_passed()))
        return bool(cancelled or late)

    def _admit(self) -> bool:
        """Admit requests to the batch in fair turns, as long as there is room."""
        if self.requests.count(Stage.FINISHING) >= self._max_batch:
            return False  # otherwise finished videos would accumulate
        did, started = False, time.monotonic()
        for state, found in self.scheduler.schedule(self.batch):
            did = True
            if isinstance(found, Lease):
                self._begin(state, found, started)
            elif found is None:
                self.adapters.reload(state.claim)
            else:
                self._end(state, Failed.of(found))
        if keys := self.scheduler.worth_warming():
            self.adapters.warm_in_background(keys, self.requests.wake)
        return did

    def _begin(self, state: RequestState, lease: Lease, started: float) -> None:
        """Add a request to the batch. `started`: when the round began that copied its adapters into slots."""
        try:
            self.batch.join(state, lease)
        except Exception as error:
            self._end(state, failure_of(error, self.foundation.device))
            return
        self.adapters.release(state.claim)
        self.requests.move(state, Stage.RUNNING)
        load = 0.0
        if state.request.needs_registry:
            load = max(0.0, state.loaded - state.submitted) + state.admitted - started
        state.timings = {"queue": state.admitted - state.submitted, "adapter_load": load}
        self._monitor.admitted(state)
        state.tell(Admitted(**state.timings))

    def _step(self) -> bool:
        """Run one step of one bucket; requests whose latents are done go on to the finisher."""
        step = self.batch.step()
        if step is None:
            return False
        self._monitor.stepped(step)
        for state in step.states:
            if state in step.failed:
                event = failure_of(step.failed[state], self.foundation.device)
                self.batch.leave(state)
                self._end(state, event)
                continue
            denoising = state.denoising
            assert denoising is not None
            done, steps = denoising.index, len(denoising.timesteps)
            state.tell(Progressed(done, steps, len(step.states), step.adapters))
            if denoising.done:
                self.batch.leave(state)
                state.timings["denoise"] = time.monotonic() - state.admitted
                self.requests.move(state, Stage.FINISHING)
                self.finisher.finish(state)
        return True

    def _end(self, state: RequestState, event: Event) -> None:
        """Send a request's final event, also from other threads. Only the first call for it has an effect."""
        self.adapters.release(state.claim)
        stage = self.requests.remove(state)
        if stage is None:
            return
        if stage is Stage.WAITING:
            self.scheduler.remove(state)
        self._monitor.ended(event)
        state.tell(event)
