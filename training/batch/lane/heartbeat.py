"""Renews a lane's claims from a thread while the lane loads, prepares and trains; notes what is cancelled or paused."""

from __future__ import annotations

import logging
import threading
from typing import Any

from infra.errors import UserError
from infra.storage.leases import LeaseLost
from training.batch.state.record import Claim
from training.batch.state.state import BatchState

log = logging.getLogger(__name__)


class Heartbeat:
    """A context manager. `gone` has the names of lost claims, `cancelling` those of concepts to cancel, `paused` to pause.

    Args:
        batch: used from the thread; do not share it.
        every_s: seconds between two renewals; default: a third of the lease.
    """

    def __init__(self, batch: BatchState, every_s: float | None = None) -> None:
        self.batch = batch
        self.every_s = batch.lease_s / 3 if every_s is None else every_s
        self.gone: set[str] = set()
        self.cancelling: set[str] = set()
        self.paused: set[str] = set()
        self._claims: dict[str, tuple[Claim, dict[str, Any]]] = {}
        self._renewing: str | None = None
        # Guards the state above. Never held during a request: the training thread calls `tell` for
        # every step.
        self._changed = threading.Condition()
        self._beating = threading.Lock()  # only one thread at a time may use `batch`
        self._over = threading.Event()
        self._thread: threading.Thread

    def __enter__(self) -> Heartbeat:
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name="batch-heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def hold(self, claim: Claim) -> None:
        """Renew this claim from now on."""
        with self._changed:
            self.gone.discard(claim.name)
            self.cancelling.discard(claim.name)
            self.paused.discard(claim.name)
            self._claims[claim.name] = claim, {}

    def drop(self, name: str) -> None:
        """Stop renewing a claim. When this returns, no renewal of it is in progress."""
        with self._changed:
            self._claims.pop(name, None)
            self._changed.wait_for(lambda: self._renewing != name)

    def tell(self, name: str, **progress: Any) -> None:
        """Set what the next renewal writes: step, loss, step_seconds."""
        with self._changed:
            if name in self._claims:
                self._claims[name] = self._claims[name][0], progress

    def beat(self) -> None:
        """Renew every claim now."""
        with self._beating:
            with self._changed:
                names = list(self._claims)
            for name in names:
                self._renew(name)

    def _renew(self, name: str) -> None:
        with self._changed:
            if name not in self._claims:
                return
            claim, progress = self._claims[name]
            self._renewing = name
        gone, record = False, None
        try:
            record = self.batch.beat(claim, **progress)
        except LeaseLost:
            gone = True
        except UserError as error:  # such as a short outage of the storage: the lease allows more tries
            log.warning("%s: its claim could not be renewed: %s", name, error.message)
        finally:
            with self._changed:
                if name in self._claims:  # otherwise it was dropped meanwhile
                    if record is not None and record.cancelling:
                        self.cancelling.add(name)
                    if record is not None:
                        (self.paused.add if record.paused else self.paused.discard)(name)
                    if gone:
                        self.gone.add(name)
                        del self._claims[name]
                self._renewing = None
                self._changed.notify_all()

    def _run(self) -> None:
        while not self._over.wait(self.every_s):
            self.beat()
