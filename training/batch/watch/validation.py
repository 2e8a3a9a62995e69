"""Validates published concepts in a child process beside the training; its errors never fail a concept.

    with Validating(batch, registry, validate) as validating:      # a child process, at a low priority
        ...                                                        # lanes train and publish
        validating.finish()                                        # until everything published is validated

The command line provides `validate(version, on_progress)`, because it knows evaluation. `validate`
stores its results with the version and returns the means by name. What remains to validate follows from
the batch's records, so there is no queue: a restarted batch validates the rest, and any number of
processes share the work by tasks (`validations/<concept>-<attempt>.json`, which hold the results).
Validation has a separate process because generation needs a second foundation with its own adapters and
as much memory: if it runs out of memory, the lane survives.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from typing import Any

from infra.children import end_with_parent
from infra.errors import Unavailable, UserError
from infra.registry import Registry, Version
from infra.storage import Storage
from infra.storage.leases import LEASE_S
from infra.storage.stored import Damaged, VersionRef, convert, damaged
from training.batch.state.leased_tasks import LeasedTasks
from training.batch.state.record import Record
from training.batch.state.state import BatchState

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]  # (what, done, total)
Validate = Callable[[Version, Progress], Mapping[str, float | None]]

POLL_S = 2.0
HEADLINE_SCORES = ("motion fidelity", "appearance accuracy", "appearance leakage")
GRACE_S = 5.0  # time for the process to end
NICE = 10  # beside a lane on the same cores it gets about a tenth of them; alone, all


class Stopped(Exception):
    """Raised through `on_progress` to end a validation, which is repeated later."""


def validation_task(record: Record) -> str:
    """The name of the validation task of a record's version."""
    return f"{record.name}-{record.attempt}"


def headline_scores(scores: Mapping[str, float]) -> list[str]:
    """Names of the most telling scores: whether the motion is right and the appearance is left free."""
    return [name for name in HEADLINE_SCORES if name in scores] or list(scores)[: len(HEADLINE_SCORES)]


def headline(scores: Mapping[str, float]) -> str:
    """The most telling scores, for a table's cell."""
    return ", ".join(f"{name} {scores[name]:.2f}" for name in headline_scores(scores))


def validations(batch: BatchState, records: list[Record]) -> dict[str, dict[str, Any]]:
    """Validation results by concept: {"version", "scores": {name: mean}, "error": None or why, "seconds"}."""
    names = {validation_task(record): record.name for record in records if record.status == "published"}
    results = _tasks(batch).results(set(names))
    found = {}
    for task, result in results.items():
        try:
            found[names[task]] = asdict(convert(Validated, result))
        except Damaged as error:
            where = f"validations/{task}.json of {batch.storage.uri}"
            raise damaged(where, error, "delete it; the version is then validated again") from None
    return found


@dataclass(frozen=True)
class Validated:
    """The result of a validation."""

    version: VersionRef
    scores: dict[str, float | None]  # means by name
    error: str | None  # why there are no scores
    seconds: float | None = None


def _tasks(batch: BatchState, token: str | None = None) -> LeasedTasks:
    storage = batch.storage.sub("validations")
    owner = f"{socket.gethostname()}:{os.getpid()}"
    return LeasedTasks(storage, owner, lease_s=LEASE_S, clock=batch.clock, token=token)


class Validator:
    """Validates published concepts, one after the other, in this process.

    Args:
        batch: another thread renews tasks with it; do not share it.
        token: marks its tasks, so that a process that knows the token can find the tasks that this one held.
    """

    def __init__(
        self, batch: BatchState, registry: Registry, validate: Validate, *, token: str | None = None
    ) -> None:
        self.batch, self.registry, self.validate = batch, registry, validate
        self.tasks = _tasks(batch, token)
        self._done: set[str] = set()

    def pending(self) -> list[Record]:
        """Published concepts that this process does not know to be validated, in the order of their ends."""
        published = [record for record in self.batch.records() if record.status == "published"]
        return sorted(
            (record for record in published if validation_task(record) not in self._done),
            key=lambda r: r.updated,
        )

    def once(self, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Validate the next concept that is pending and free. Returns False if there is none.

        Raises:
            Unavailable: the storage is unavailable; the task is given back if possible.
        """
        for record in self.pending():
            task = validation_task(record)
            if self.tasks.take(task):
                self._validate(record, task, stopping)
                return True
            found = self.tasks.get(task)
            if found is not None and found.result is not None:
                self._done.add(task)
        return False

    def run(self, stopping: Callable[[], bool], finishing: Callable[[], bool]) -> None:
        """Validate until `stopping`, or until `finishing` and all published concepts are validated.

        Also waits for validations of other processes, which may die before they finish.
        """
        while not stopping():
            try:
                finish = finishing()  # before looking, so that concepts published in between are not missed
                worked = self.once(stopping)
                if not worked and finish and not self.pending():
                    return
            except UserError as error:
                log.warning("validation is delayed: %s", error.message)
                worked = False
            if not worked:
                _wait(POLL_S, stopping, finishing)

    def _validate(self, record: Record, task: str, stopping: Callable[[], bool]) -> None:
        began = time.monotonic()
        result: dict[str, Any] = {"version": record.version, "scores": {}, "error": None}

        def on_progress(_what: str, _done: int, _total: int) -> None:
            if stopping():
                raise Stopped

        assert record.version is not None
        try:
            with self._renewed(task):
                version = self.registry.resolve(record.version)
                result["scores"] = dict(self.validate(version, on_progress))
        except Stopped:
            self.tasks.give_back(task)
            return
        except Unavailable:
            self.tasks.give_back(task)
            raise
        except UserError as error:
            result["error"] = error.message
        except Exception as error:
            log.error("validation of %s: %s", record.version, error, exc_info=error)
            result["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        result["seconds"] = round(time.monotonic() - began, 1)
        self.tasks.done(task, result)
        self._done.add(task)

    @contextlib.contextmanager
    def _renewed(self, task: str) -> Iterator[None]:
        over = threading.Event()

        def renew() -> None:
            while not over.wait(LEASE_S / 3):
                with contextlib.suppress(UserError):  # a short outage: the lease allows more tries
                    self.tasks.renew(task)

        thread = threading.Thread(target=renew, name="validation-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _wait(seconds: float, stopping: Callable[[], bool], finishing: Callable[[], bool]) -> None:
    """Wait until the time is over or one of the two changes."""
    was, end = finishing(), time.monotonic() + seconds
    while time.monotonic() < end and not stopping() and finishing() == was:
        time.sleep(0.1)


class Validating:
    """A context manager that validates in a child process. An early exit abandons the current validation.

    Args:
        validate: must be picklable.
    """

    def __init__(self, batch: BatchState, registry: Registry, validate: Validate) -> None:
        self.batch, self.registry, self.validate = batch, registry, validate
        self.token = uuid.uuid4().hex
        self._context = multiprocessing.get_context("spawn")  # torch and threads do not survive a fork
        self._stop, self._finish = self._context.Event(), self._context.Event()
        self._process: BaseProcess | None = None

    def __enter__(self) -> Validating:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._stop.set()
        self._process.join(GRACE_S)
        if self._process.is_alive():  # in the middle of a video; its task expires
            self._process.kill()
            self._process.join()

    def finish(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Wait until all published concepts are validated, or until `stopping`."""
        self._finish.set()
        while not stopping():
            assert self._process is not None
            self._process.join(0.2)
            if self._process.is_alive():
                continue
            if self._process.exitcode == 0 or not self._fail_current():
                return
            self._start()

    def _start(self) -> None:
        self._process = self._context.Process(
            target=_child,
            args=(
                self.batch.storage,
                self.registry.storage,
                self.validate,
                self.token,
                self._stop,
                self._finish,
            ),
            name="batch-validation",
            daemon=True,
        )
        self._process.start()

    def _fail_current(self) -> bool:
        """Fail the validation that the process died in. False if it had none: a new process would die too."""
        assert self._process is not None
        reason = (
            f"the validation process ended with code {self._process.exitcode} (-9: probably out of memory); evaluate the "
            "version with `motiondirector evaluate`."
        )
        tasks = _tasks(self.batch, self.token)
        for record in self.batch.records():
            if record.status == "published" and tasks.done(
                validation_task(record),
                {"version": record.version, "scores": {}, "error": reason, "seconds": None},
            ):
                return True
        log.error(
            "the validation process ended with code %s; no more versions are validated",
            self._process.exitcode,
        )
        return False


def _child(batch: Storage, registry: Storage, validate: Validate, token: str, stop: Any, finish: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and tells this process
    os.nice(NICE)
    end_with_parent()
    state = BatchState(batch)
    Validator(state, Registry(registry), validate, token=token).run(stop.is_set, finish.is_set)
