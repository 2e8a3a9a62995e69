"""The HTTP API's requests and answers, in the format of OpenAI's videos API.

Validation here needs no model: types, bounds, unknown fields. `serving.requests` and the engine check
what depends on the foundation or the registry (divisible sizes, existing concepts). Every refusal is an
`ErrorAnswer`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from infra.storage.stored import ConceptName, Sha256
from models.adapters.versions import Gives
from models.generation import (
    AdapterSettings,
    AdapterUse,
    BeginningImage,
    GenerationSettings,
    NoisePrior,
    is_none,
)
from models.generation import LoraPath as LoraPath
from serving.keys import MAX_PRIORITY, TENANT, Role

MAX_PROMPT = 2_000  # characters; text encoders cut after 77-512 tokens, so more is a mistake
MAX_STEPS = 500
MAX_FRAMES = 1_024
MAX_SIDE = 4_096  # pixels; the server's own limit is lower (ServeConfig.max_pixels)
MAX_LORA = 8
MAX_CHARACTERS = 4
MAX_IMAGE_URL = 2 << 20  # characters of a data URL; larger images are sent in a form, or as a file

State = Literal["queued", "in_progress", "completed", "failed", "cancelled"]


def check_size(size: str) -> str:
    """Check for `WxH` with both sides from 1 to MAX_SIDE pixels."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", size)
    if not match or max(map(int, match.groups())) > MAX_SIDE:
        raise ValueError(f"expected WIDTHxHEIGHT in pixels up to {MAX_SIDE}, like 384x384")
    return size


def check_seconds(seconds: float | str) -> float | str:
    """Check for a positive number, or a string with one (OpenAI's clients send a string)."""
    try:
        value = float(seconds)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3_600:
        raise ValueError("expected a number of seconds above 0, at most 3600")
    return seconds


def check_text(text: str) -> str:
    """Check for control characters other than white space: they have no meaning for a text encoder."""
    if any(ord(character) < 32 and character not in "\t\n\r" for character in text):
        raise ValueError("contains control characters")
    return text


def check_not_blank(prompt: str) -> str:
    """Check for something other than white space."""
    if not prompt.strip():
        raise ValueError("prompt is empty")
    return prompt


TenantId = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Size = Annotated[str, AfterValidator(check_size)]
Seconds = Annotated[float | str, AfterValidator(check_seconds)]
Text = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(check_text)]
Prompt = Annotated[Text, Field(min_length=1), AfterValidator(check_not_blank)]


class Strict(BaseModel):
    """Refuses unknown fields, type conversions (the string "20" is not the number 20) and NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Lenient(BaseModel):
    """Ignores unknown fields, because answers and stored jobs of a later version may have more."""

    model_config = ConfigDict(extra="ignore")


class LoraUse(AdapterSettings, Strict):
    """One adapter of a request, in addition to or instead of the one that `model` names."""

    name: Annotated[str, Field(max_length=200, description="concept, or concept@version")]
    path: Annotated[
        LoraPath | None,
        Field(
            description="only the motion (temporal) or only the appearance (spatial); absent: all adapters that the "
            "version was trained to use"
        ),
    ] = None


class NoisePriorUse(NoisePrior, Strict):
    """The noise prior of a request."""

    concept: Annotated[
        str | None,
        Field(max_length=200, description="concept, or concept@version; absent: the one that `model` names"),
    ] = None


class InputReference(Strict):
    """An image that a video shows: a file, or the image itself. A form may send it as the file `input_reference`."""

    file_id: Annotated[str | None, Field(max_length=80, description="of a file of yours")] = None
    image_url: Annotated[
        str | None,
        Field(max_length=MAX_IMAGE_URL, description="a data URL in base64; other URLs are never fetched"),
    ] = None
    caption: Annotated[
        Prompt | None,
        Field(
            description="what the image shows, with which it is learned (not used by image-to-video models); absent: the prompt"
        ),
    ] = None

    @model_validator(mode="after")
    def one_image(self) -> InputReference:
        if self.file_id is not None and self.image_url is not None:
            raise ValueError("give `file_id` or `image_url`, not both")
        if self.image_url is not None and not self.image_url.startswith("data:"):
            raise ValueError("expected a data URL (data:image/png;base64,...); other URLs are never fetched")
        return self


class CharacterUse(Strict):
    """A character that a video shows."""

    id: Annotated[str, Field(max_length=80, description="of a character of yours", examples=["char_..."])]


class CreateVideo(GenerationSettings, Strict):
    """Body of `POST /v1/videos`."""

    model: Annotated[
        str,
        Field(
            max_length=200,
            description="`foundation`, `foundation:concept` (its latest version) or `foundation:concept@version`",
            examples=["foundation:orbit@1"],
        ),
    ] = "foundation"
    prompt: Annotated[Prompt, Field(examples=["a red square on a gray background"])]
    size: Annotated[Size | None, Field(description="WIDTHxHEIGHT in pixels", examples=["64x64"])] = None
    seconds: Annotated[Seconds | None, Field(description="length; instead of `frames`")] = None
    frames: Annotated[int | None, Field(ge=1, le=MAX_FRAMES, description="length; instead of `seconds`")] = (
        None
    )
    seed: Annotated[
        int | None, Field(ge=0, le=2**53 - 1, description="absent: drawn at random and reported")
    ] = None
    steps: Annotated[int | None, Field(ge=1, le=MAX_STEPS, description="denoising steps")] = None
    guidance_scale: Annotated[float | None, Field(ge=0, le=100, description="1 means no guidance")] = None
    negative_prompt: Text | None = None
    scheduler: Annotated[
        str | None, Field(max_length=40, description="for example `ddim`, `dpm++`, `flow-euler`")
    ] = None
    lora: Annotated[list[LoraUse], Field(max_length=MAX_LORA)] = []
    # Left out of JSON when absent, so that the body of an Idempotency-Key has the hash that it had before.
    noise_prior: Annotated[
        NoisePriorUse | None,
        Field(
            exclude_if=lambda prior: prior is None,
            description="mixes the inverted noise of a concept's reference clip into the initial noise; needs a version that "
            "was trained with `noise_prior`, and the video size of that training",
        ),
    ] = None
    input_reference: Annotated[
        InputReference | None,
        Field(
            exclude_if=is_none,
            description="an image: image-to-video models begin the video with it; for others its appearance is learned first",
        ),
    ] = None
    characters: Annotated[
        list[CharacterUse],
        Field(
            max_length=MAX_CHARACTERS,
            exclude_if=lambda given: not given,
            description="name each in the prompt",
        ),
    ] = []
    priority: Annotated[
        int,
        Field(
            ge=-2,
            le=2,
            description="each step up is eight times the share of the engines; an API key has a maximum",
        ),
    ] = 0
    deadline: Annotated[
        float | None,
        Field(gt=0, le=86_400, description="seconds from now; the job fails if it has not started by then"),
    ] = None
    webhook_url: Annotated[
        str | None, Field(max_length=2_000, description="gets a signed call when the job has ended")
    ] = None

    @model_validator(mode="after")
    def one_length(self) -> CreateVideo:
        if self.seconds is not None and self.frames is not None:
            raise ValueError("give `seconds` or `frames`, not both")
        return self


class RemixVideo(Strict):
    """Body of `POST /v1/videos/{id}/remix`."""

    prompt: Annotated[Prompt, Field(examples=["a blue ring on a beige background"])]


class VideoError(BaseModel):
    """Why a job failed."""

    code: str
    message: str


class VersionFile(Lenient):
    """A file of a version, resolved when a job was accepted."""

    concept: ConceptName
    version: Annotated[int, Field(ge=1)]
    sha256: Sha256  # names a file on the engine's disk
    # id of the tenant whose own concept it is, never shown to callers; None: everyone's
    owner: Annotated[TenantId | None, Field(exclude_if=is_none)] = None

    @property
    def ref(self) -> str:
        """`concept@version`."""
        return f"{self.concept}@{self.version}"


class AdapterUsed(AdapterUse, VersionFile):
    """One adapter of a job."""

    @property
    def shown(self) -> Self:
        """The same for callers: without the owner, and with a hash in place of a mask's images."""
        return super().shown.model_copy(update={"owner": None})


class NoisePriorUsed(NoisePrior, VersionFile):
    """The noise prior of a job."""

    @property
    def shown(self) -> Self:
        """The same for callers, without the owner."""
        return self.model_copy(update={"owner": None})

    @property
    def source(self) -> str:
        """Its name in the mp4's metadata."""
        return f"{self.ref}:{self.sha256}"


class Awaited(Lenient):
    """An appearance that a job needs and that is still being learned: of its image, or of a character."""

    training: Annotated[str, Field(max_length=64)]  # its id
    what: Annotated[str, Field(max_length=200)]  # how messages call it: the image, or the character's name


class ImageUsed(BeginningImage):
    """The image that a job's video begins with: a file of the tenant."""

    file: Annotated[str, Field(max_length=64)]  # its id


class Timings(BaseModel):
    """Seconds a job spent in each stage."""

    queue: float | None = None
    adapter_load: float | None = None
    denoise: float | None = None
    decode: float | None = None
    device: float | None = None  # its share of the device, by work: of its denoising steps, and decoding


class Video(GenerationSettings, Lenient):
    """A job and, once completed, its video. Times are Unix seconds."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: State
    progress: Annotated[int, Field(ge=0, le=100)]
    created_at: int
    completed_at: int | None
    expires_at: int | None
    prompt: str
    size: str
    seconds: str
    frames: int
    seed: int
    steps: int
    guidance_scale: float
    negative_prompt: str
    adapters: list[AdapterUsed]
    noise_prior: NoisePriorUsed | None = None
    timings: Timings
    queue_position: (
        int | None
    )  # jobs before it, up to half a second old; 0: next, or given to an engine; null: not queued
    batch_neighbours: int | None  # maximum number of your other requests in one of its steps, once completed
    priority: int
    deadline: int | None
    webhook_url: str | None
    warnings: list[
        str
    ] = []  # parts of the request without effect or changed, such as words beyond the text encoder's length
    error: VideoError | None
    remixed_from_video_id: str | None = None
    learning: Annotated[
        list[str],
        Field(
            description="trainings that the job waits for, of its image or its characters; they are the first half of `progress`"
        ),
    ] = []


class Character(BaseModel):
    """A character: the appearance of a clip, learned by a training."""

    id: str
    object: Literal["character"] = "character"
    created_at: int
    name: str
    status: str  # of its training
    training: str  # its id, for /v1/fine_tuning/jobs
    model: str | None  # the `model` that gives its appearance, once it is learned
    error: VideoError | None


class VideoList(BaseModel):
    """One page of jobs."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    """Answer of `DELETE /v1/videos/{id}`."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class AdapterName(Strict):
    """Body of the calls that prepare an adapter."""

    name: Annotated[
        str, Field(max_length=200, description="concept (its latest version), or concept@version")
    ]
    path: Annotated[
        LoraPath | None,
        Field(description="only this adapter; absent: all adapters that the version was trained to use"),
    ] = None


class AdapterPart(BaseModel):
    """One adapter file of a version."""

    path: LoraPath
    sha256: str


class AdapterAnswer(BaseModel):
    """Result of an action on a version's adapters; `path` and `sha256` are those of the first."""

    object: Literal["adapter"] = "adapter"
    concept: str
    version: int
    path: LoraPath
    sha256: str
    adapters: list[AdapterPart]
    status: Literal["pinned", "unpinned", "prefetched"]
    engines: int  # engines that were reached; pins and unpins also reach engines that start or answer later


class Resident(BaseModel):
    """Location of an adapter in an engine: its fastest tier, and how many running requests use it."""

    engine: str
    path: LoraPath
    sha256: str
    tier: Literal["slot", "host", "disk"]
    users: int = 0
    pinned: bool = False


class PinnedAdapter(BaseModel):
    """An adapter that every engine must keep in a slot."""

    concept: str
    version: int
    path: LoraPath
    sha256: str


class ResidentList(BaseModel):
    """Answer of `GET /v1/adapters`: the adapters in each of these engines, and the pinned ones."""

    object: Literal["list"] = "list"
    data: list[Resident]
    engines: list[str]
    pins: list[PinnedAdapter]


class ModelInfo(BaseModel):
    """One valid value of `model`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Annotated[
        Literal["motiondirector", "you", "others"],
        Field(description="motiondirector: everyone's; you: your tenant's own; others: shared with you"),
    ] = "motiondirector"
    foundation: str
    foundation_fingerprint: str
    concept: str | None = None
    version: int | None = None
    sha256: str | None = None
    gives: Annotated[
        list[Gives],
        Field(
            description="what the concept gives to a video: motion, appearance, or both; empty for the foundation"
        ),
    ] = []
    about: Annotated[str | None, Field(description="a sentence on the concept, for people")] = None
    fidelity: Annotated[
        float | None,
        Field(
            description="motion fidelity in looks that it was not trained on, if measured; 1 is the same motion"
        ),
    ] = None
    preview: Annotated[bool, Field(description="whether `GET /v1/models/{model}/preview` has a video")] = (
        False
    )
    shared_with: Annotated[
        list[str] | None,
        Field(description="of your own: the tenants that may use it, `*` for all; null for others"),
    ] = None


class ModelDeleted(BaseModel):
    """Answer of `DELETE /v1/models/{id}`."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


class ShareModel(Strict):
    """Body of `POST /v1/models/{id}/share`: with whom the concept is shared from now on, and nobody else."""

    tenants: Annotated[
        list[Annotated[str, Field(pattern=TENANT)]], Field(max_length=100, description="names of tenants")
    ] = []
    all: Annotated[bool, Field(description="share it with every tenant")] = False


class ModelShare(BaseModel):
    """Answer of `POST /v1/models/{id}/share`; the same whether or not a named tenant exists."""

    id: str
    object: Literal["model.share"] = "model.share"
    tenants: list[str]
    all: bool


class ModelList(BaseModel):
    """Answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class CreateKey(Strict):
    """Body of `POST /v1/keys`."""

    role: Annotated[
        Role,
        Field(
            description="viewer: reads; member: also makes videos; owner: also shares and deletes concepts and has the "
            "tenant's keys; admin: the whole platform (only an admin's key makes one)"
        ),
    ] = "member"
    tenant: Annotated[
        str | None, Field(pattern=TENANT, description="of an admin: whose key; absent: your own tenant")
    ] = None
    name: Annotated[str, Field(max_length=100, description="for people"), AfterValidator(check_text)] = ""
    expires_in: Annotated[float | None, Field(gt=0, description="seconds from now; absent: never")] = None


class RotateKey(Strict):
    """Body of `POST /v1/keys/{key}/rotate`."""

    keep_old: Annotated[
        float, Field(ge=0, le=30 * 86_400, description="seconds for which the old key still works")
    ] = 0.0


class KeyInfo(BaseModel):
    """A key of the database. Times are Unix seconds."""

    id: str
    object: Literal["key"] = "key"
    tenant: str
    name: str
    role: str
    created_at: int
    expires_at: int | None  # refused from then on
    revoked_at: int | None


class NewKey(KeyInfo):
    """A key with its text, which only this answer has."""

    key: str


class KeyList(BaseModel):
    """Answer of `GET /v1/keys`."""

    object: Literal["list"] = "list"
    data: list[KeyInfo]


class KeyDeleted(BaseModel):
    """Answer of `DELETE /v1/keys/{key}`."""

    id: str
    object: Literal["key"] = "key"
    deleted: Literal[True] = True


class TenantLimits(Strict):
    """Limits of a tenant; null: none. Body of `POST /v1/tenants/{tenant}`."""

    storage_bytes: Annotated[int | None, Field(ge=0, description="of videos and own concepts")] = None
    videos_per_day: Annotated[int | None, Field(ge=0, description="completed or under way")] = None
    trainings_per_day: Annotated[int | None, Field(ge=0)] = None
    trainings_at_once: Annotated[int | None, Field(ge=0)] = None
    max_priority: Annotated[int | None, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = None
    requests_per_minute: Annotated[
        float | None, Field(gt=0, description="requested videos, with keys of the database")
    ] = None
    concurrency: Annotated[
        int | None, Field(ge=1, description="unfinished videos, with keys of the database")
    ] = None


class TenantInfo(BaseModel):
    """A tenant."""

    id: str  # its name
    object: Literal["tenant"] = "tenant"
    created_at: int
    erasing: bool  # its keys are refused, and everything of it is being removed
    storage_bytes: int
    limits: TenantLimits


class TenantList(BaseModel):
    """Answer of `GET /v1/tenants`."""

    object: Literal["list"] = "list"
    data: list[TenantInfo]


class TenantDeleted(BaseModel):
    """Answer of `DELETE /v1/tenants/{tenant}`: its keys are refused, and the rest is being erased."""

    id: str
    object: Literal["tenant"] = "tenant"
    deleted: Literal[True] = True


class UsageRow(BaseModel):
    """What the jobs of one day, kind and model used."""

    object: Literal["usage"] = "usage"
    tenant: Annotated[str | None, Field(exclude_if=is_none)] = None  # for admins
    day: str
    kind: Literal["video", "training"]
    model: str
    jobs: int
    frames: int
    steps: int
    device_seconds: float
    bytes: int


class UsageList(BaseModel):
    """Answer of `GET /v1/usage`; storage and limits are those of the caller's tenant."""

    object: Literal["list"] = "list"
    data: list[UsageRow]
    storage_bytes: int
    limits: TenantLimits


class AuditRow(BaseModel):
    """Who did what to what, when."""

    object: Literal["audit"] = "audit"
    number: int
    at: float
    actor: str
    action: str
    tenant: str
    subject: str


class AuditList(BaseModel):
    """Answer of `GET /v1/audit`."""

    object: Literal["list"] = "list"
    data: list[AuditRow]


class ErrorBody(BaseModel):
    """An error: a sentence for people, a code for programs, and the field if there is one."""

    message: str
    type: str
    code: str
    param: str | None = None


class ErrorAnswer(BaseModel):
    """The format of every answer with a status of 400 or more."""

    error: ErrorBody


def error_answer(message: str, *, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """The JSON of an `ErrorAnswer`; `type` follows from the status."""
    kinds = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        429: "rate_limit_error",
    }
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return ErrorAnswer(error=ErrorBody(message=message, type=kind, code=code, param=param)).model_dump()
