"""The routes of files and trainings, in the format of OpenAI's files and fine-tuning API."""

from collections.abc import Iterator
from typing import IO, Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from infra.errors import NotFound
from serving.http.auth import Reader, Writer
from serving.http.bodies import read_json
from serving.http.errors import REFUSALS
from serving.http.event_stream import EventStream
from serving.http.learning.answers import (
    checkpoints_of,
    event_of,
    event_place,
    file_of,
    part_of,
    training_of,
    upload_answer,
)
from serving.http.learning.service import TrainingService
from serving.trainings.schemas import (
    CheckpointList,
    CompleteUpload,
    CreateTraining,
    CreateUpload,
    FileDeleted,
    FileList,
    FileObject,
    TrainingEventList,
    TrainingJob,
    TrainingList,
    UploadObject,
    UploadPartObject,
)

PIECE = 1 << 18  # bytes of a file that are sent at a time


def form(file: str, others: dict[str, Any], *required: str) -> dict[str, Any]:
    """The OpenAPI description of a form with one file; the route itself reads the body."""
    properties = {file: {"type": "string", "format": "binary"}, **others}
    schema = {"type": "object", "required": [file, *required], "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def body(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a JSON body; the route itself reads it."""
    schema = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    return {"requestBody": {"required": True, "content": {"application/json": schema}}}


FILE = form(
    "file",
    {
        "purpose": {"type": "string", "enum": ["fine-tune", "vision"]},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
    },
)
DATA = form("data", {"number": {"type": "integer"}, "sha256": {"type": "string"}})
BODIES = (CreateTraining, CreateUpload, CompleteUpload)
files = APIRouter(prefix="/v1/files", responses=REFUSALS, tags=["files"])
uploads = APIRouter(prefix="/v1/uploads", responses=REFUSALS, tags=["files"])
trainings = APIRouter(prefix="/v1/fine_tuning/jobs", responses=REFUSALS, tags=["trainings"])
After = Annotated[str | None, Query(max_length=64, description="the last id of the previous page")]


def trains(request: Request) -> TrainingService:
    """The server's files and trainings. Raises NotFound if it has none. Called after the caller was checked."""
    service: TrainingService | None = request.app.state.service.trainings
    if service is None:
        raise NotFound(
            "this server has no files and trainings; its operator starts it with --train-lanes.",
            code="training_off",
        )
    return service


@files.post("", openapi_extra=FILE)
async def upload_file(request: Request, caller: Writer) -> FileObject:
    """Upload a video, a zip of videos, or JSONL rows with `file_id` and `caption`, to learn from."""
    with request.app.state.service.bodies.one(caller.tenant):
        pass  # refuse before anything is looked up
    return file_of(await trains(request).filing.upload(request, caller.tenant))


@files.get("")
async def list_files(
    request: Request,
    caller: Reader,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(max_length=32)] = None,
) -> FileList:
    """Your files, newest first."""
    found, more = await trains(request).filing.file_page(caller.tenant, after, limit, order, purpose)
    shown = [file_of(file) for file in found]
    first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
    return FileList(data=shown, first_id=first, last_id=last, has_more=more)


@files.get("/{id}")
async def get_file(id: str, request: Request, caller: Reader) -> FileObject:
    """Name and size of a file."""
    return file_of(await trains(request).filing.file(id, caller.tenant))


@files.get(
    "/{id}/content",
    responses={200: {"content": {"application/octet-stream": {}}}},
    response_class=Response,
)
async def get_file_content(id: str, request: Request, caller: Reader) -> Response:
    """The bytes of a file, as they were uploaded."""
    file, opened = await trains(request).filing.content(id, caller.tenant)
    headers = {
        "Content-Length": str(file.size),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(pieces(opened), media_type="application/octet-stream", headers=headers)


def pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE):
            yield piece


@files.delete("/{id}")
async def delete_file(id: str, request: Request, caller: Writer) -> FileDeleted:
    """Delete a file. Trainings whose files were accepted go on."""
    await trains(request).filing.delete_file(id, caller.tenant)
    return FileDeleted(id=id)


@uploads.post("", openapi_extra=body(CreateUpload))
async def begin_upload(request: Request, caller: Writer) -> UploadObject:
    """Begin the upload of a large file in parts. It expires an hour after its last part."""
    with request.app.state.service.bodies.one(caller.tenant):
        service = trains(request)
        given = await read_json(request, CreateUpload)
    return upload_answer(await service.filing.begin_upload(given, caller.tenant))


@uploads.get("/{id}")
async def get_upload(id: str, request: Request, caller: Reader) -> UploadObject:
    """An upload, and which parts of it have arrived: send the others to resume it."""
    file, parts = await trains(request).filing.upload_row(id, caller.tenant)
    return upload_answer(file, parts)


@uploads.post("/{id}/parts", openapi_extra=DATA)
async def add_part(id: str, request: Request, caller: Writer) -> UploadPartObject:
    """Send a part of up to 64 MiB, in any order. With a `number`, sending it again returns the same part."""
    with request.app.state.service.bodies.one(caller.tenant):
        pass  # refuse before anything is looked up
    return part_of(await trains(request).filing.add_part(id, request, caller.tenant))


@uploads.post("/{id}/complete", openapi_extra=body(CompleteUpload))
async def complete_upload(id: str, request: Request, caller: Writer) -> UploadObject:
    """Put the parts together in the order of `part_ids`; the answer has the file."""
    with request.app.state.service.bodies.one(caller.tenant):
        service = trains(request)
        given = await read_json(request, CompleteUpload)
    return upload_answer(await service.filing.complete_upload(id, given, caller.tenant))


@uploads.post("/{id}/cancel")
async def cancel_upload(id: str, request: Request, caller: Writer) -> UploadObject:
    """Give up an upload, with its parts."""
    return upload_answer(await trains(request).filing.cancel_upload(id, caller.tenant), cancelled=True)


@trainings.post("", openapi_extra=body(CreateTraining))
async def create_training(
    request: Request,
    response: Response,
    caller: Writer,
    idempotency_key: Annotated[
        str | None, Header(description="the same key and body return the same training")
    ] = None,
) -> TrainingJob:
    """Have a motion or an appearance learned. Returns the training, whose files are then validated."""
    with request.app.state.service.bodies.one(caller.tenant):
        service = trains(request)
        given = await read_json(request, CreateTraining)
    training, is_new = await service.create(given, caller.tenant, idempotency_key)
    if not is_new:
        response.headers["Idempotent-Replayed"] = "true"
    return training_of(training)


@trainings.get("")
async def list_trainings(
    request: Request, caller: Reader, after: After = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> TrainingList:
    """Your trainings, newest first."""
    found, more = await trains(request).page(caller.tenant, after, limit)
    return TrainingList(data=[training_of(one) for one in found], has_more=more)


@trainings.get("/{id}")
async def get_training(id: str, request: Request, caller: Reader) -> TrainingJob:
    """State and progress of a training."""
    return training_of(await trains(request).training(id, caller.tenant))


@trainings.post("/{id}/cancel")
async def cancel_training(id: str, request: Request, caller: Writer) -> TrainingJob:
    """Stop a training; it publishes nothing."""
    return training_of(await trains(request).cancel(id, caller.tenant))


@trainings.post("/{id}/pause")
async def pause_training(id: str, request: Request, caller: Writer) -> TrainingJob:
    """Let a training rest. A lane that has it writes a checkpoint first, within a minute."""
    return training_of(await trains(request).pause(id, caller.tenant))


@trainings.post("/{id}/resume")
async def resume_training(id: str, request: Request, caller: Writer) -> TrainingJob:
    """Let a paused training go on from its checkpoint, when it is its turn."""
    return training_of(await trains(request).resume(id, caller.tenant))


@trainings.get(
    "/{id}/events",
    responses={200: {"model": TrainingEventList, "content": {"text/event-stream": {}}}},
    response_model=None,
)
async def get_training_events(
    id: str,
    request: Request,
    caller: Reader,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    stream: Annotated[bool, Query(description="as server-sent events, oldest first, until the end")] = False,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> Any:
    """What happened to a training, newest first; as server-sent events with `stream=true` or `Accept: text/event-stream`."""
    service = trains(request)
    training = await service.training(id, caller.tenant)
    if stream or accept.startswith("text/event-stream"):
        seen = event_place(last_event_id or after or "")
        return EventStream(service.events(training, seen), service.streams, caller.tenant)
    found, more = await service.event_page(training, event_place(after or ""), limit)
    return TrainingEventList(data=[event_of(one) for one in found], has_more=more)


@trainings.get("/{id}/checkpoints")
async def list_checkpoints(
    id: str,
    request: Request,
    caller: Reader,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> CheckpointList:
    """The versions that a training has published: one, at its end."""
    del limit  # there is at most one
    found = checkpoints_of(await trains(request).training(id, caller.tenant))
    shown = [] if after is not None else found
    first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
    return CheckpointList(data=shown, first_id=first, last_id=last, has_more=False)
