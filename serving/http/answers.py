"""Converts jobs and refusals of engines into the API's answers and errors."""

from __future__ import annotations

from infra.errors import Unavailable, UserError
from serving.events import Failed
from serving.jobs.database import Job
from serving.jobs.jobs import LEARNING, QUEUED
from serving.requests import request_of
from serving.schemas import State, Timings, Video, VideoError


def raise_refusal(refused: Failed | None) -> None:
    """Raise an engine's refusal as a UserError, if there is one."""
    if refused is not None:
        raise refused.error


def engine_unavailable() -> UserError:
    return Unavailable(
        "no engine answers, because the model is loading or restarting; try again in a few seconds.",
        code="engine_unavailable",
    )


def adapters_late(seconds: float) -> UserError:
    return Unavailable(
        f"no engine had the request's adapters within {seconds:g} s, because the registry is slow, or many other adapters "
        "or the model are being loaded; try again in a few seconds.",
        code="adapter_slow",
    )


def video_of(job: Job, position: int | None) -> Video:
    """A job as the API shows it to its owner; `position`: number of jobs before it in the queue."""
    request = request_of(job)
    return Video(
        **request.settings,
        id=job.id,
        model=job.model,
        status=status_of(job),
        progress=job.progress,
        created_at=int(job.created_at),
        completed_at=int(job.finished_at) if job.finished_at is not None else None,
        expires_at=int(job.expires_at) if job.expires_at is not None else None,
        prompt=request.prompt,
        size=f"{request.width}x{request.height}",
        seconds=f"{request.frames / request.fps:g}",
        frames=request.frames,
        seed=request.seed,
        adapters=[used.shown for used in request.adapters],
        noise_prior=request.noise_file.shown if request.noise_file else None,
        timings=Timings(**job.timings),
        queue_position=position,
        batch_neighbours=job.neighbours,
        priority=request.priority,
        deadline=int(request.deadline) if request.deadline is not None else None,
        webhook_url=job.webhook_url,
        warnings=list(request.warnings),
        error=VideoError(code=job.error_code, message=job.error_message or "") if job.error_code else None,
        remixed_from_video_id=request.remixed_from,
        learning=[one.training for one in request.awaits] if job.state == LEARNING else [],
    )


def status_of(job: Job) -> State:
    """The state of a job in OpenAI's words: one that waits for an appearance is queued."""
    return QUEUED if job.state == LEARNING else job.state  # type: ignore[return-value]
