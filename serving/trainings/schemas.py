"""The HTTP API's requests and answers for files and trainings, in the format of OpenAI's files and fine-tuning API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, JsonValue, model_validator

from infra.storage.stored import is_concept_name
from serving.schemas import Lenient, Strict, check_not_blank, check_text

MAX_CAPTION = 2000  # characters, as in clips that are ingested (datasets.clip_sets.amend)
MAX_SUFFIX = 40  # characters: the registry's names have 64, of which a tenant's prefix takes some
MethodName = Literal["motion", "appearance", "coupled", "motiondirector"]
TrainingState = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]


def check_suffix(suffix: str) -> str:
    """Check for a name that a concept may have."""
    if len(suffix) > MAX_SUFFIX or not is_concept_name(suffix):
        raise ValueError(
            f"expected 1 to {MAX_SUFFIX} of a-z, 0-9, '.', '_' and '-', starting with a letter or digit and without '..', "
            "such as car-turn"
        )
    return suffix


def check_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """Check for at most 16 pairs of up to 64 and 512 characters, as OpenAI's API allows."""
    if len(metadata) > 16 or any(len(key) > 64 or len(value) > 512 for key, value in metadata.items()):
        raise ValueError(
            "expected at most 16 pairs, with keys of up to 64 and values of up to 512 characters"
        )
    return metadata


Suffix = Annotated[str, AfterValidator(check_suffix)]
Caption = Annotated[
    str, Field(max_length=MAX_CAPTION), AfterValidator(check_text), AfterValidator(check_not_blank)
]
Metadata = Annotated[dict[str, str], AfterValidator(check_metadata)]
Settings = Annotated[dict[str, JsonValue], Field(max_length=64)]


class MethodSettings(Strict):
    """The settings of a method."""

    hyperparameters: Settings = Field(
        default_factory=dict,
        description='training settings such as steps and rank; "auto" leaves one to the server',
    )


class Method(Strict):
    """How a concept is learned. The settings stand under the method's own name."""

    type: MethodName = "motion"
    motion: MethodSettings | None = None
    appearance: MethodSettings | None = None
    coupled: MethodSettings | None = None
    motiondirector: MethodSettings | None = None

    @property
    def settings(self) -> dict[str, JsonValue]:
        """The hyperparameters of the chosen method."""
        chosen = getattr(self, self.type)
        return {} if chosen is None else chosen.hyperparameters

    @model_validator(mode="after")
    def _only_its_own(self) -> Method:
        others = set(type(self).model_fields) - {"type", self.type}
        if wrong := sorted(name for name in others if getattr(self, name) is not None):
            raise ValueError(f"the method is {self.type}, but `{wrong[0]}` is given; leave that out")
        return self


class CreateTraining(Strict):
    """Body of `POST /v1/fine_tuning/jobs`."""

    model: Annotated[
        str,
        Field(max_length=200, description="`foundation`, the model that is served", examples=["foundation"]),
    ]
    training_file: Annotated[
        str,
        Field(
            max_length=80,
            description="id of a file: a video, a zip of videos, or JSONL rows with `file_id` and `caption`",
        ),
    ]
    suffix: Annotated[Suffix | None, Field(description="the concept's name; absent: a random one")] = None
    caption: Annotated[
        Caption | None,
        Field(description="what the clips show, for those whose row or table gives no caption"),
    ] = None
    seed: Annotated[int | None, Field(ge=0, lt=2**53, description="absent: drawn at random and reported")] = (
        None
    )
    method: Method | None = None
    hyperparameters: Annotated[
        Settings | None, Field(description="the method's settings, if `method` gives none")
    ] = None
    metadata: Metadata | None = None
    webhook_url: Annotated[
        str | None, Field(max_length=2_000, description="gets a signed call when the training has ended")
    ] = None
    validation_file: Annotated[None, Field(description="not supported")] = None
    integrations: Annotated[None, Field(description="not supported")] = None

    @model_validator(mode="after")
    def _settings_once(self) -> CreateTraining:
        if self.hyperparameters and self.method is not None and self.method.settings:
            raise ValueError("`hyperparameters` and the method's own are both given; give only one")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The given hyperparameters; "auto" means not given, as in OpenAI's API."""
        given = self.hyperparameters or (self.method.settings if self.method is not None else {})
        return {name: value for name, value in given.items() if value != "auto"}


class ExpiresAfter(Strict):
    """When a file is deleted by itself."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=30 * 86_400)]


class CreateUpload(Strict):
    """Body of `POST /v1/uploads`."""

    filename: Annotated[str, Field(min_length=1, max_length=200)]
    purpose: Literal["fine-tune"]
    bytes: Annotated[int, Field(ge=1)]
    mime_type: Annotated[str, Field(max_length=200, description="not used: files are known by their content")]
    expires_after: ExpiresAfter | None = None


class CompleteUpload(Strict):
    """Body of `POST /v1/uploads/{id}/complete`."""

    part_ids: Annotated[list[str], Field(min_length=1, max_length=1000, description="in the file's order")]
    md5: Annotated[
        str | None, Field(pattern="^[0-9a-fA-F]{32}$", description="of the whole file, in hex")
    ] = None


class FileObject(BaseModel):
    """An uploaded file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = (
        "processed"  # of OpenAI's API; files are looked at by the training that uses them
    )


class UploadPartObject(BaseModel):
    """One part of an upload."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str
    number: int | None
    bytes: int
    sha256: str


class UploadObject(BaseModel):
    """A file that arrives in parts."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled"]
    file: FileObject | None = None
    parts: list[UploadPartObject] = Field(default_factory=list)  # that have arrived, while it is pending


class FileList(BaseModel):
    """One page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    """Answer of `DELETE /v1/files/{id}`."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class TrainingError(BaseModel):
    """Why a training failed."""

    code: str
    message: str
    param: str | None = None


class TrainingJob(Lenient):
    """A training. Times are Unix seconds."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    model: str
    status: TrainingState
    created_at: int
    started_at: int | None
    finished_at: int | None
    estimated_finish: int | None
    fine_tuned_model: str | None  # the `model` of a request for a video, once the training has succeeded
    training_file: str
    validation_file: None = None
    suffix: str
    caption: str | None
    seed: int
    method: dict[str, Any]
    hyperparameters: dict[str, Any]
    metadata: dict[str, str] | None
    error: TrainingError | None
    steps: int | None  # of the whole training, once its files are accepted
    trained_steps: int
    train_loss: float | None
    webhook_url: str | None
    trained_tokens: None = None  # of OpenAI's API; a motion is learned in steps
    organization_id: str = ""
    result_files: tuple[str, ...] = ()
    integrations: tuple[str, ...] = ()


class TrainingList(BaseModel):
    """One page of trainings."""

    object: Literal["list"] = "list"
    data: list[TrainingJob]
    has_more: bool


class TrainingEventObject(BaseModel):
    """Something that happened to a training."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    type: Literal["message", "metrics"]
    message: str
    data: dict[str, Any]


class TrainingEventList(BaseModel):
    """One page of events."""

    object: Literal["list"] = "list"
    data: list[TrainingEventObject]
    has_more: bool


class CheckpointMetrics(BaseModel):
    """What was measured at a checkpoint."""

    step: int
    train_loss: float | None


class TrainingCheckpoint(BaseModel):
    """A published version of a training: the one at its end."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: CheckpointMetrics


class CheckpointList(BaseModel):
    """One page of checkpoints."""

    object: Literal["list"] = "list"
    data: list[TrainingCheckpoint]
    first_id: str | None
    last_id: str | None
    has_more: bool
