"""Writes checkpoints of a lane's concepts in a thread; the training thread only copies tensors to the host.

    with CheckpointWriter(batch_state) as checkpoints:
        checkpoints.begin(claim)
        checkpoints.put(claim, pack.state("orbit"))      # returns at once
        ...
        checkpoints.flush("orbit")                       # waits until it is in the storage and in the record

One thread writes one state at a time, so the states of a concept are written in order. A new state
replaces the concept's previous one if that still waits. The thread writes the object, then the record
(compare-and-swap under the lease), then deletes the previous object.

Killing a lane costs a concept the steps since the last state in its record. That is at most one
checkpoint interval plus the steps done while the interval's last state was *in flight*: copied, but not
yet in the record. Lanes that are stopped, or fail in another way, wait for states in flight.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Any

from safetensors import SafetensorError

from infra.errors import DamagedData
from infra.storage import Storage
from infra.storage.leases import LeaseLost
from training.batch.state.record import Claim, Record
from training.batch.state.state import BatchState
from training.loop.checkpoint import MemberState


class CheckpointWriter:
    """A context manager; the thread runs during the block.

    On normal exit or an Exception, all waiting states are written first; on KeyboardInterrupt or
    SystemExit, only the one being written.

    Args:
        batch: used from the thread; do not share it.
    """

    def __init__(self, batch: BatchState) -> None:
        self.batch = batch
        self._keys: dict[str, str | None] = {}  # concept -> key of the state in its record
        self._waiting: dict[str, tuple[Claim, MemberState]] = {}  # in writing order
        self._writing: str | None = None
        self._lost: set[str] = set()
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread

    def __enter__(self) -> CheckpointWriter:
        self._closing, self._error = False, None
        self._thread = threading.Thread(target=self._run, name="batch-checkpoints", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        with self._changed:
            if kind is not None and not issubclass(kind, Exception):
                self._waiting.clear()
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if kind is None:
            self.check()

    # ------------------------------------------------------- the training thread
    def begin(self, claim: Claim) -> None:
        """Accept this concept's states from now on."""
        with self._changed:
            self._keys[claim.name] = claim.record.checkpoint
            self._lost.discard(claim.name)

    def put(self, claim: Claim, state: MemberState) -> None:
        """Queue a state for writing; replaces one that still waits. Raises earlier errors, like `check`."""
        self.check()
        with self._changed:
            self._waiting[claim.name] = claim, state
            self._changed.notify_all()

    def check(self) -> None:
        """Raises the thread's error, such as an unavailable storage. After it, nothing more is written."""
        if self._error is not None:
            raise self._error

    def lost(self) -> set[str]:
        """Concepts found to be another lane's since the last call."""
        with self._changed:
            lost, self._lost = self._lost, set()
        return lost

    def flush(self, name: str | None = None) -> None:
        """Wait until a concept's states, or all, are written. Raises like `check`."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or not self._pending(name))
        self.check()

    def drop(self, name: str) -> None:
        """Stop writing this concept's states. When this returns, none is being written."""
        with self._changed:
            self._waiting.pop(name, None)
            self._changed.wait_for(lambda: self._writing != name)
            self._keys.pop(name, None)

    def _pending(self, name: str | None) -> bool:
        if name is None:
            return bool(self._waiting) or self._writing is not None
        return name in self._waiting or self._writing == name

    # ------------------------------------------------------------ the writer's
    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                name = next(iter(self._waiting))
                claim, state = self._waiting.pop(name)
                self._writing, before = name, self._keys.get(name)
            error, lost, key = None, False, before
            try:
                key = self._write(claim, state, before)
            except LeaseLost:
                lost = True
            except Exception as caught:
                error = caught
            with self._changed:
                self._writing = None
                if name in self._keys:
                    self._keys[name] = key
                if lost:
                    self._lost.add(name)
                if error is not None:
                    self._error = error
                    self._waiting.clear()
                self._changed.notify_all()
                if error is not None:
                    return

    def _write(self, claim: Claim, state: MemberState, before: str | None) -> str:
        """Write a state to the storage, then to the record. Returns its key. Raises LeaseLost."""
        data = state.encode()
        name = f"{state.step:07d}-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
        key = f"checkpoints/{claim.name}/{name}"
        self.batch.storage.put(key, data)
        self.batch.checkpointed(claim, state.step, key)
        if before is not None and before != key:
            self.batch.storage.delete(before)
        return key


def restore(storage: Storage, record: Record) -> MemberState | None:
    """The state that a record names; None if it names none. Raises DamagedData if it is damaged."""
    if record.checkpoint is None:
        return None
    data = storage.get(record.checkpoint)
    try:
        if hashlib.sha256(data).hexdigest()[:16] not in record.checkpoint:
            raise ValueError("its content does not match its checksum")
        return MemberState.decode(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedData(
            f"the checkpoint {record.checkpoint} of step {record.checkpoint_step} is damaged ({error}); use `motiondirector "
            "runs retry` to train the concept from the start."
        ) from None
