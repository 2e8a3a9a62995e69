"""Brings accepted trainings to their end: validates files, hands work to the trainer, follows it, cleans up.

Every ingress runs one desk, on one database; it works on the trainings of the foundation that its server has. All that a
desk does is safe to repeat and to do twice: a change of a training happens once (`serving.trainings.store`), a validation is
leased and writes to a place of its own, and `Trainer` says of its methods that they may be repeated. A training that is
cancelled ends at once for its tenant; the desk then waits until the trainer has let go of it before it removes the
clips.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from infra.errors import Conflict, DamagedData, StorageError, SystemFailure, Unavailable, UserError
from infra.storage import Storage
from serving.files.store import FileStore
from serving.jobs.training_tables import Training
from serving.tenants.namespaces import split_name
from serving.threads import VALIDATIONS, Threads
from serving.trainings.files import fetch_clips
from serving.trainings.names import model_of
from serving.trainings.request import asked, order_of
from serving.trainings.store import (
    CANCELLED,
    FINAL,
    LEASE,
    PAUSED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    VALIDATING,
    Moved,
    TrainingStore,
    event,
)
from serving.trainings.trainer import Standing, Trainer

log = logging.getLogger(__name__)
POLL = 1.0  # seconds between looks at the trainer, and at the table
SWEEP = 30.0  # seconds between searches for what has expired
AT_ONCE = 2  # validations at once on one ingress; each decodes videos in a process of its own
WATCHED = Threads("trainings", 1)  # the trainer's storage is read by one thread, in order


def clips_key(id: str) -> str:
    """The prefix of a training's clips and latents in the results storage; each validation has a folder in it."""
    return f"trainings/{id}"


class Desk:
    """Works on the trainings of one database until cancelled. Several may share it.

    Args:
        results: holds the clips of trainings.
        folder: local, for files that are being validated.
        served: returns the fingerprint of the server's foundation; raises Unavailable while no engine answers.
        ttl: seconds to keep an ended training; None: for ever.
        changed: called with the id of each training that has changed.
    """

    def __init__(
        self,
        store: TrainingStore,
        files: FileStore,
        trainer: Trainer,
        results: Storage,
        folder: Path,
        *,
        served: Callable[[], Awaitable[str]] | None = None,
        ttl: float | None = None,
        changed: Callable[[str], None] = lambda id: None,
    ) -> None:
        self._store, self._files, self._trainer = store, files, trainer
        self._results, self._folder, self._ttl, self._changed = results, folder, ttl, changed
        self._served = served
        self._foundation: str | None = None  # None: trainings of any
        self.name = f"desk_{secrets.token_hex(8)}"
        self._validating: set[asyncio.Task[None]] = set()
        self._swept = float("-inf")
        self._wake = asyncio.Event()

    def notify(self) -> None:
        """Tell the desk that there is something to do."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled. Validations end then, and another desk begins them again."""
        try:
            while True:
                self._wake.clear()
                try:
                    if self._served is not None:
                        self._foundation = await self._served()
                    await self._begin_validations()
                    await WATCHED.run(self.look)
                except Unavailable as error:
                    log.info("trainings wait: %s", error.message)
                except Exception:  # a storage or the database is away for a moment; the next round retries
                    log.exception("trainings cannot be followed")
                try:
                    async with asyncio.timeout(POLL):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            for task in self._validating:
                task.cancel()
            await asyncio.gather(*self._validating, return_exceptions=True)

    # ----------------------------------------------------------------- validating
    async def _begin_validations(self) -> None:
        while len(self._validating) < AT_ONCE:
            training = await asyncio.to_thread(self._store.claim, self.name, self._foundation)
            if training is None:
                return
            task = asyncio.create_task(self._validate_beside(training))
            self._validating.add(task)
            task.add_done_callback(self._validating.discard)

    async def _validate_beside(self, training: Training) -> None:
        stopped = threading.Event()

        def beat() -> None:
            if stopped.is_set():
                raise Moved(training.id)

        keeping = asyncio.create_task(self._keep_lease(training, stopped))
        try:
            await VALIDATIONS.run(self.validate, training, beat)
        finally:
            stopped.set()
            keeping.cancel()
            self._changed(training.id)
            self._wake.set()

    async def _keep_lease(self, training: Training, stopped: threading.Event) -> None:
        """Renew the lease of a validation until cancelled; sets `stopped` once it is lost or the training cancelled."""
        while True:
            await asyncio.sleep(LEASE / 6)
            try:
                await asyncio.to_thread(self._store.renew, training)
            except Moved:
                stopped.set()
                return
            except SQLAlchemyError as error:  # a short outage: the lease allows more tries
                log.warning("%s: its lease could not be renewed: %s", training.id, error)

    def validate(self, training: Training, beat: Callable[[], None] = lambda: None) -> None:
        """Validate the files of a claimed training, and queue or fail it. Blocks for as long as that takes.

        Args:
            beat: called often; what it raises ends the work.
        """
        # A validation that lost its lease must not touch what the one that took over makes.
        own = secrets.token_hex(8)
        folder = self._folder / f"{training.id}.{own}"
        target = self._results.sub(f"{clips_key(training.id)}/{own}")
        again_at_once, accepted = True, False
        try:
            (folder / "work").mkdir(parents=True)
            request, files = asked(training), folder / "files"
            clips = fetch_clips(
                self._files, training.tenant, request.training_file, files, beat, image=request.image
            )
            prepared = self._trainer.prepare(order_of(training), clips, folder / "work", target, beat)
            notes = [event(text, level="warn") for text in prepared.warnings]
            counted = "1 clip" if prepared.clips == 1 else f"{prepared.clips} clips"
            said = event(f"The files were accepted: {counted}; the training is queued.")
            values: dict[str, Any] = {"work": prepared.work, "steps": prepared.steps}
            self._store.change(training, said, *notes, state=QUEUED, owner=None, lease_until=None, **values)
            accepted = True
        except Moved:
            log.info("%s was cancelled, or another ingress validates it", training.id)
        except (SystemFailure, StorageError) as error:  # not the files' fault
            log.error("%s cannot be validated now: %s", training.id, error.message)
            again_at_once = False  # but when its lease expires
        except UserError as error:
            param = "hyperparameters" if is_setting(error) else "training_file"
            self._fail(training, error.code, error.message, param)
        except Exception as error:
            log.exception("%s cannot be validated", training.id)
            self._fail(
                training, "internal_error", f"internal error while validating ({type(error).__name__}).", None
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if not accepted:
                with contextlib.suppress(UserError):  # the storage is away: `_settle` removes it at the end
                    clear(target)
            if again_at_once:
                self._store.release(training)

    def _fail(self, training: Training, code: str, message: str, param: str | None) -> None:
        try:
            self._store.fail(training, code, as_its_owner_says(training, message), param)
        except Moved:
            log.info("%s was cancelled while it was validated", training.id)

    # ------------------------------------------------------------------ following
    def look(self) -> None:
        """Follow every training that is not settled, once."""
        trainings = [one for one in self._store.unsettled(self._foundation) if one.state != VALIDATING]
        self._enter(one for one in trainings if one.state == QUEUED and not one.entered)
        known = [one for one in trainings if one.work is not None]
        standings = self._trainer.standings([one.work or {} for one in known]) if known else []
        where = {one.id: standing for one, standing in zip(known, standings, strict=True)}
        for training in trainings:
            try:
                if self._follow(training, where.get(training.id)):
                    self._changed(training.id)
            except Moved:
                continue  # the next look sees what it has become
        if time.monotonic() - self._swept > SWEEP:
            self._swept = time.monotonic()
            self._files.sweep()
            self._sweep_folders()
            if self._ttl is not None:
                self._store.purge(time.time() - self._ttl)

    def _sweep_folders(self) -> None:
        """Remove what validations of a killed ingress left on this disk."""
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            if not self._store.is_being_validated(folder.name.partition(".")[0]):
                shutil.rmtree(folder, ignore_errors=True)

    def _enter(self, trainings: Iterable[Training]) -> None:
        for training in trainings:
            assert training.work is not None
            # A tenant's n-th waiting training comes after the (n-1)-th of all others: turns go round the tenants.
            try:
                self._trainer.enter(training.work, -min(1000, self._store.waiting_before(training)))
            except Conflict as error:  # the operator trains this concept otherwise; the next look tries again
                log.warning("%s waits: %s", training.id, error.message)
                continue
            try:
                changed = self._store.change(training, entered=True)
            except Moved:  # it was cancelled meanwhile; `_settle` sees that the trainer has it
                continue
            training.entered, training.revision = True, changed.revision

    def _follow(self, training: Training, standing: Standing | None) -> bool:
        """Write what has become of a training. Returns whether anything has changed. Raises Moved."""
        if training.state in FINAL:
            return self._settle(training, standing)
        if standing is None:
            return False
        going, rests = standing.state in ("queued", "running", "paused"), training.state == PAUSED
        if going and rests != (standing.state == "paused"):
            assert training.work is not None
            (self._trainer.pause if rests else self._trainer.resume)(training.work)
            return False
        if standing.state == "queued":
            return False  # also if a lane gave it back: it goes on, so it stays `running`
        match standing.state:
            case "published":
                assert standing.version is not None
                model = model_of(standing.version)
                done = event(f"The training has succeeded: {model}.", fine_tuned_model=model)
                values = {"version": standing.version, "step": standing.step, "loss": standing.loss}
                if standing.step_seconds is not None:  # it may have ended between two looks
                    values |= {"step_seconds": standing.step_seconds}
                self._store.end(training, SUCCEEDED, done, **values)
            case "failed":
                reason = standing.reason or "the training failed."
                self._store.fail(training, "training_failed", as_its_owner_says(training, reason))
            case "cancelled":
                said = standing.reason or "the operator of the server cancelled it"
                self._store.end(
                    training, CANCELLED, event(f"The training was cancelled: {said}.", level="warn")
                )
            case "paused":  # its lane may have done a step more
                if standing.step == training.step:
                    return False
                self._store.change(training, step=standing.step, loss=standing.loss)
            case _:
                return self._progress(training, standing)
        return True

    def _progress(self, training: Training, standing: Standing) -> bool:
        begins = training.state == QUEUED
        if not begins and standing.step == training.step:
            return False
        events, again = [], training.started_at is not None
        if begins:
            events.append(event("The training goes on." if again else "The training has begun."))
        if standing.step:
            data: dict[str, Any] = {
                "step": standing.step,
                "total_steps": training.steps,
                "train_loss": standing.loss,
            }
            said = f"Step {standing.step}/{training.steps}"
            loss = "" if standing.loss is None else f": training loss={standing.loss:.4f}"
            events.append(event(f"{said}{loss}", kind="metrics", **data))
        values: dict[str, Any] = {
            "step": standing.step,
            "loss": standing.loss,
            "step_seconds": standing.step_seconds,
        }
        if begins:
            values |= {"state": RUNNING} if again else {"state": RUNNING, "started_at": time.time()}
        self._store.change(training, *events, **values)
        return True

    def _settle(self, training: Training, standing: Standing | None) -> bool:
        """Remove what an ended training left behind, once the trainer has let go of it."""
        if self._store.is_being_validated(
            training.id
        ):  # it was cancelled, and its validation writes until it notices
            return False
        if training.state == CANCELLED and standing is not None:
            assert training.work is not None
            if standing.state in ("queued", "running", "paused"):
                self._trainer.cancel(training.work)
                return False
            if standing.state == "published" and standing.version is not None and standing.own:
                self._trainer.withdraw(standing.version)
        clear(self._results.sub(clips_key(training.id)))
        with contextlib.suppress(DamagedData):  # nobody can tell any more
            if (request := asked(training)).own_file:
                self._files.remove(request.training_file)
        self._store.change(training, settled=True)
        return False


def clear(storage: Storage) -> None:
    """Delete every object of a storage."""
    for info in list(storage.list()):
        storage.delete(info.key)


def as_its_owner_says(training: Training, text: str) -> str:
    """A text with the tenant's name of the concept in place of the registry's."""
    return text.replace(training.concept, split_name(training.concept)[1])


def is_setting(error: UserError) -> bool:
    """Whether an error is about the settings of a training, not its files."""
    return error.code in ("invalid_setting", "invalid_size")
