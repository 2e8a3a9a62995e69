"""Which requests an engine has, and where each stands.

A request is added by any thread. Its adapters are reported as loaded by the threads of the adapter cache.
The engine's thread moves it into the batch and on to the finisher. Whoever sends its final event removes
it first. One lock guards all of this, so every caller sees each request in one stage.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from serving.engine.request_state import RequestState, Stage

PATIENCE = 1.0  # seconds after which `wait` returns at the latest


class RequestTable:
    """The requests that have not ended, by stage and, within a stage, in order of arrival there. Thread-safe.

    Also the engine thread's signal that there is work (`wake`, `wait`).
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())  # its lock guards all fields
        self._stages: dict[Stage, dict[str, RequestState]] = {
            stage: {} for stage in (Stage.WAITING, Stage.RUNNING, Stage.FINISHING)
        }
        self._loaded: list[tuple[RequestState, BaseException | None]] = []  # reported, not yet taken
        self._awake = False
        self._closed = False
        self._reason: BaseException | None = None

    # --- requests -------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of requests that have not ended."""
        with self._changed:
            return sum(map(len, self._stages.values()))

    def add(self, state: RequestState) -> None:
        """Add a waiting request.

        Raises RuntimeError if the table is closed, and ValueError if a request with this id has not ended.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed") from self._reason
            if self._find(state.id) is not None:
                raise ValueError(f"the engine already has a request {state.id!r}; submit it under another id")
            self._stages[Stage.WAITING][state.id] = state

    def get(self, id: str) -> RequestState | None:
        """The request with this id, or None if there is none (any more)."""
        with self._changed:
            return self._find(id)

    def move(self, state: RequestState, stage: Stage) -> None:
        """Move a request to its next stage."""
        with self._changed:
            del self._stages[state.stage][state.id]
            self._stages[stage][state.id] = state
            state.stage = stage

    def remove(self, state: RequestState) -> Stage | None:
        """Remove a request that ends. Returns the stage it was in, or None if it had ended before."""
        with self._changed:
            stage = state.stage
            if stage is Stage.ENDED:
                return None
            del self._stages[stage][state.id]
            state.stage = Stage.ENDED
            return stage

    def count(self, stage: Stage) -> int:
        """Number of requests in a stage."""
        with self._changed:
            return len(self._stages[stage])

    def at(self, stage: Stage) -> list[RequestState]:
        """The requests in a stage, in order of arrival."""
        with self._changed:
            return list(self._stages[stage].values())

    def all(self) -> Mapping[Stage, list[RequestState]]:
        """The requests of all stages at one moment."""
        with self._changed:
            return {stage: list(states.values()) for stage, states in self._stages.items()}

    def oldest_waiting(self) -> RequestState | None:
        """The waiting request that arrived first."""
        with self._changed:
            return next(iter(self._stages[Stage.WAITING].values()), None)

    def _find(self, id: str) -> RequestState | None:
        return next((states[id] for states in self._stages.values() if id in states), None)

    # --- messages to the engine's thread --------------------------------------------------------------------

    def cancel(self, id: str) -> bool:
        """Mark a request as cancelled and wake the engine's thread; False if there is none with this id."""
        with self._changed:
            state = self._find(id)
            if state is None:
                return False
            state.cancelled = True
            self._wake()
            return True

    def report_loaded(self, state: RequestState, error: BaseException | None = None) -> None:
        """Report that a request's adapters are loaded, or the error of loading them, and wake the engine."""
        with self._changed:
            self._loaded.append((state, error))
            self._wake()

    def take_loaded(self) -> list[tuple[RequestState, BaseException | None]]:
        """The waiting requests reported by `report_loaded` since the last call, with their errors."""
        with self._changed:
            reported, self._loaded = self._loaded, []
            return [(state, error) for state, error in reported if state.stage is Stage.WAITING]

    def wake(self) -> None:
        """Make the current or the next `wait` return at once."""
        with self._changed:
            self._wake()

    def _wake(self) -> None:
        self._awake = True
        self._changed.notify_all()

    def wait(self) -> None:
        """Wait for `wake`, for the next deadline of a waiting request, or for `PATIENCE` seconds."""
        with self._changed:
            waiting = self._stages[Stage.WAITING].values()
            deadlines = [s.request.deadline for s in waiting if s.request.deadline is not None]
            patience = min([PATIENCE, *(deadline - time.time() for deadline in deadlines)])
            self._changed.wait_for(lambda: self._awake or self._closed, timeout=max(0.001, patience))
            self._awake = False

    @property
    def closed(self) -> bool:
        """Whether the table takes no more requests."""
        return self._closed

    def close(self, reason: BaseException | None = None) -> list[RequestState]:
        """Refuse requests from now on and end `wait`. Returns the requests that have not ended.

        Args:
            reason: the error because of which the engine stops, if any; becomes the cause of `add`'s error.
        """
        with self._changed:
            self._closed = True
            self._reason = reason if self._reason is None else self._reason
            self._wake()
            return [state for states in self._stages.values() for state in states.values()]
