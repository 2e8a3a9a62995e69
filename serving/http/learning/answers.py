"""Converts rows of files and trainings into the API's answers."""

from __future__ import annotations

import time
from collections.abc import Sequence

from serving.files.parts import upload_of
from serving.files.store import STORED, UPLOAD_SECONDS
from serving.jobs.training_tables import StoredFile, Training, TrainingEvent, UploadPart
from serving.trainings.names import model_of
from serving.trainings.request import asked
from serving.trainings.schemas import (
    CheckpointMetrics,
    FileObject,
    TrainingCheckpoint,
    TrainingError,
    TrainingEventObject,
    TrainingJob,
    UploadObject,
    UploadPartObject,
)
from serving.trainings.store import RUNNING

EVENT = "ftevent-"


def file_of(file: StoredFile) -> FileObject:
    """A file as the API shows it to its owner."""
    return FileObject(
        id=file.id,
        bytes=file.size,
        created_at=int(file.created_at),
        expires_at=None if file.expires_at is None else int(file.expires_at),
        filename=file.filename,
        purpose=file.purpose,
    )


def part_of(part: UploadPart) -> UploadPartObject:
    """A part as the API shows it."""
    return UploadPartObject(
        id=part.id,
        created_at=int(part.created_at),
        upload_id=upload_of(part.file),
        number=part.place,
        bytes=part.size,
        sha256=part.sha256,
    )


def upload_answer(
    file: StoredFile, parts: Sequence[UploadPart] = (), *, cancelled: bool = False
) -> UploadObject:
    """An upload as the API shows it to its owner."""
    stored = file.state == STORED
    return UploadObject(
        id=upload_of(file.id),
        bytes=file.size,
        created_at=int(file.created_at),
        expires_at=int(file.expires_at or file.created_at + UPLOAD_SECONDS),
        filename=file.filename,
        purpose=file.purpose,
        status="cancelled" if cancelled else "completed" if stored else "pending",
        file=file_of(file) if stored else None,
        parts=[part_of(part) for part in parts],
    )


def training_of(training: Training) -> TrainingJob:
    """A training as the API shows it to its owner."""
    request = asked(training)
    error = None
    if training.error_code is not None:
        error = TrainingError(
            code=training.error_code, message=training.error_message or "", param=training.error_param
        )
    return TrainingJob(
        id=training.id,
        model="foundation",
        status=training.state,  # type: ignore[arg-type]
        created_at=int(training.created_at),
        started_at=whole(training.started_at),
        finished_at=whole(training.finished_at),
        estimated_finish=estimate(training),
        fine_tuned_model=None if training.version is None else model_of(training.version),
        training_file=request.training_file,
        suffix=request.suffix,
        caption=request.caption,
        seed=request.seed,
        method={"type": request.method, request.method: {"hyperparameters": request.settings}},
        hyperparameters=request.settings,
        metadata=request.metadata,
        error=error,
        steps=training.steps,
        trained_steps=training.step,
        train_loss=training.loss,
        webhook_url=training.webhook_url,
    )


def whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def estimate(training: Training) -> int | None:
    """When a running training should end, from the time that its last steps took; None if unknown."""
    if (
        training.state != RUNNING
        or training.step_seconds is None
        or not training.steps
        or training.started_at is None
    ):
        return None
    return int(time.time() + (training.steps - training.step) * training.step_seconds)


def event_of(event: TrainingEvent) -> TrainingEventObject:
    """An event as the API shows it."""
    return TrainingEventObject(
        id=f"{EVENT}{event.training.removeprefix('ftjob-')}-{event.place}",
        created_at=int(event.created_at),
        level=event.level,  # type: ignore[arg-type]
        type=event.kind,  # type: ignore[arg-type]
        message=event.message,
        data=event.data,
    )


def event_place(id: str) -> int | None:
    """The place of an event, from its id or its `Last-Event-ID`; None if it is none."""
    place = id.rpartition("-")[2]
    return int(place) if place.isdecimal() and len(place) < 10 else None


def checkpoints_of(training: Training) -> list[TrainingCheckpoint]:
    """The versions that a training has published: one, at its end."""
    if training.version is None:
        return []
    return [
        TrainingCheckpoint(
            id=f"ftckpt-{training.id.removeprefix('ftjob-')}",
            created_at=int(training.finished_at or training.created_at),
            fine_tuned_model_checkpoint=model_of(training.version),
            fine_tuning_job_id=training.id,
            step_number=training.step,
            metrics=CheckpointMetrics(step=training.step, train_loss=training.loss),
        )
    ]
