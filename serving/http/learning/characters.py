"""Characters, in the format of OpenAI's videos API: the appearance of a clip, learned by an ordinary training.

A character is its training under another id; nothing else is stored of it. Its concept, the tenant's own, is named after it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field

from serving.http.learning.answers import whole
from serving.jobs.training_tables import Training
from serving.schemas import Character, Strict, VideoError
from serving.trainings.names import model_of
from serving.trainings.request import TrainingRequest, asked
from serving.trainings.schemas import MAX_SUFFIX, Caption

CHARACTER, TRAINING = "char_", "ftjob-"
MAX_NAME = 80  # characters


def training_id(id: str) -> str | None:
    """The id of a character's training; None if it is no character's id."""
    return TRAINING + id.removeprefix(CHARACTER) if id.startswith(CHARACTER) else None


def concept_of(name: str) -> str:
    """The concept of a character with this name: of `Mossy, the fox`, mossy-the-fox; of one without a-z and 0-9, a hash."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    concept = re.sub("[^a-z0-9]+", "-", plain).strip("-")[:MAX_SUFFIX].strip("-")
    return concept or f"character-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def check_name(name: str) -> str:
    """Check for printable characters; white space around them is removed."""
    name = name.strip()
    if not name or not name.isprintable():
        raise ValueError(f"expected 1 to {MAX_NAME} printable characters, such as Mossy")
    return name


class CharacterForm(Strict):
    """The fields of `POST /v1/videos/characters`, besides its file."""

    name: Annotated[str, Field(max_length=MAX_NAME), AfterValidator(check_name)]
    caption: Annotated[Caption | None, Field(description="what the clip shows; absent: the name")] = None

    def training(self, file: str, settings: dict[str, int]) -> TrainingRequest:
        """The training that learns the character from a file, which goes with the training's end."""
        return TrainingRequest(
            training_file=file,
            suffix=concept_of(self.name),
            caption=self.caption or self.name,
            seed=0,
            method="appearance",
            settings=dict(settings),
            character=self.name,
            own_file=True,
        )


def character_of(training: Training) -> Character:
    """A character as the API shows it to its owner."""
    error = None
    if training.error_code is not None:
        error = VideoError(code=training.error_code, message=training.error_message or "")
    return Character(
        id=CHARACTER + training.id.removeprefix(TRAINING),
        created_at=whole(training.created_at) or 0,
        name=asked(training).character or "",
        status=training.state,
        training=training.id,
        model=None if training.version is None else model_of(training.version),
        error=error,
    )
