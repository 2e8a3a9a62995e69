"""A training's request as it is stored."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from pydantic import Field

from infra.errors import DamagedData, InvalidInput
from infra.storage.stored import Damaged, convert
from serving.jobs.training_tables import Training
from serving.requests import parse_model
from serving.schemas import Lenient
from serving.trainings.schemas import CreateTraining
from serving.trainings.trainer import Order


class TrainingRequest(Lenient):
    """What a tenant asked for, with a seed and a name if it gave none."""

    training_file: str
    suffix: str
    caption: str | None = None
    seed: Annotated[int, Field(ge=0)]
    method: str
    settings: dict[str, Any]
    metadata: dict[str, str] | None = None
    character: str | None = None  # the name for people of a character, which this training learns
    image: bool = False  # the file is a still image
    own_file: bool = False  # the file came with the request, and goes with the training's end


def resolve_training(body: CreateTraining, served: str) -> TrainingRequest:
    """The request of a body. `served`: name of the foundation. Raises UserError for another model."""
    if (reference := parse_model(body.model, served)) is not None:
        raise InvalidInput(
            f"model {body.model[:80]!r} is the concept {reference[:64]!r}; a training starts from `foundation`.",
            code="invalid_model",
        )
    return TrainingRequest(
        training_file=body.training_file,
        suffix=body.suffix or f"motion-{secrets.token_hex(4)}",
        caption=body.caption,
        seed=secrets.randbelow(2**31) if body.seed is None else body.seed,
        method=body.method.type if body.method is not None else "motion",
        settings=body.settings,
        metadata=body.metadata,
    )


def asked(training: Training) -> TrainingRequest:
    """The request of an accepted training. Raises DamagedData if the stored one is invalid."""
    try:
        return convert(TrainingRequest, training.request)
    except Damaged as error:
        raise DamagedData(
            f"the request of training {training.id[:80]} is damaged in the job database ({error}); start it again.",
            code="job_damaged",
        ) from None


def order_of(training: Training) -> Order:
    """What the trainer is to do."""
    request = asked(training)
    return Order(
        id=training.id,
        concept=training.concept,
        foundation=training.foundation,
        method=request.method,
        settings=request.settings,
        seed=request.seed,
        caption=request.caption,
        image=request.image,
    )
