"""Checkpoints of a lane's concepts, written by a thread: the training thread copies tensors to the host and goes on.

    with CheckpointWriter(batch_state) as checkpoints:
        checkpoints.begin(claim)
        checkpoints.put(claim, pack.state("orbit"))      # at once
        ...
        checkpoints.flush("orbit")                       # until it is in the storage, and in the record

One thread writes, so what is in flight is one state at a time, and those of a concept are in order. A state that comes
while the concept's last still waits takes its place. First the object, then the record (compare-and-swap under the
lease), then the object before it goes.

What a lane that is killed costs a concept: the steps since the last state that its record names. That is one checkpoint
interval, and the steps that were done while the state of its end was *in flight*: copied, and not yet in the record.
Lanes that are stopped, or fail in another way, wait for what is in flight.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Any

from safetensors import SafetensorError

from infra.errors import DamagedData
from infra.leases import LeaseLost
from infra.storage import Storage
from training.batch.record import Claim, Record
from training.batch.state import BatchState
from training.pack import MemberState


class CheckpointWriter:
    """A context manager; within it the thread runs. Left in order or with an error, everything is written first;
    left by KeyboardInterrupt or SystemExit, only what is being written.

    Args:
        batch: of its own: it is used from the thread.
    """

    def __init__(self, batch: BatchState) -> None:
        self.batch = batch
        self._keys: dict[str, str | None] = {}  # of the state in the record
        self._waiting: dict[str, tuple[Claim, MemberState]] = {}  # in the order to write
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
        """From now on this concept's states may come."""
        with self._changed:
            self._keys[claim.name] = claim.record.checkpoint
            self._lost.discard(claim.name)

    def put(self, claim: Claim, state: MemberState) -> None:
        """Have a state written, in place of one that still waits. Raises what went wrong before, as `check`."""
        self.check()
        with self._changed:
            self._waiting[claim.name] = claim, state
            self._changed.notify_all()

    def check(self) -> None:
        """Raises what the thread met: a storage that is away, for example. Then nothing more is written."""
        if self._error is not None:
            raise self._error

    def lost(self) -> set[str]:
        """Concepts that turned out to be another's, since the last call."""
        with self._changed:
            lost, self._lost = self._lost, set()
        return lost

    def flush(self, name: str | None = None) -> None:
        """Wait until a concept's states, or all, are written. Raises as `check`."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or not self._pending(name))
        self.check()

    def drop(self, name: str) -> None:
        """Write no more of this concept; when this returns nothing of it is under way."""
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
        """Put a state into the storage, then into the record. Raises LeaseLost."""
        data = state.encode()
        name = f"{state.step:07d}-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
        key = f"checkpoints/{claim.name}/{name}"
        self.batch.storage.put(key, data)
        self.batch.checkpointed(claim, state.step, key)
        if before is not None and before != key:
            self.batch.storage.delete(before)
        return key


def restore(storage: Storage, record: Record) -> MemberState | None:
    """The state that a record names; None when it names none. Raises DamagedData when it is damaged."""
    if record.checkpoint is None:
        return None
    data = storage.get(record.checkpoint)
    try:
        if hashlib.sha256(data).hexdigest()[:16] not in record.checkpoint:
            raise ValueError("its content does not have its checksum")
        return MemberState.decode(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedData(
            f"the checkpoint {record.checkpoint} of step {record.checkpoint_step} is damaged ({error}); `motiondirector "
            "runs retry` trains it from its beginning."
        ) from None
