"""The HTTP API: the application and its routes. `serving.http.service` implements what they do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Header, Query, Request, Response
from fastapi import Path as PathParameter
from prometheus_client import CONTENT_TYPE_LATEST

from infra.errors import NotFound
from serving.http.admin import keys, manage, tenants
from serving.http.auth import AdapterAdmin, AnyCaller, Caller, ConceptOwner, MetricsReader, Reader, Writer
from serving.http.bodies import FORMS, body_of, read_body, read_json, schemas_of
from serving.http.dependencies import Service
from serving.http.errors import REFUSALS, BodyLimit, add_error_handlers
from serving.http.event_stream import EventStream, follow, was_end
from serving.http.learning.characters import character_of
from serving.http.learning.routes import BODIES as TRAINING_BODIES
from serving.http.learning.routes import files, form, trainings, uploads
from serving.http.learning.video_bodies import read_video
from serving.http.media import media
from serving.http.metrics import MeasuredRequests
from serving.http.pages import pages
from serving.http.service import VideoService
from serving.jobs.database import Job
from serving.requests import parse_model
from serving.schemas import (
    AdapterAnswer,
    AdapterName,
    Character,
    CreateKey,
    CreateVideo,
    ErrorAnswer,
    ModelDeleted,
    ModelInfo,
    ModelList,
    ModelShare,
    RemixVideo,
    ResidentList,
    RotateKey,
    ShareModel,
    TenantLimits,
    Video,
    VideoDeleted,
    VideoList,
)

DESCRIPTION = """Text to video with learned motions: one resident model, any mix of concepts in one batch.

`POST /v1/videos` returns a job at once. Poll `GET /v1/videos/{id}`, or follow `GET /v1/videos/{id}/events`, then download
`GET /v1/videos/{id}/content`. Field names follow OpenAI's videos API. `GET /v1/models` lists the valid values of `model`.
"""


VIDEO = body_of(CreateVideo, "application/json", *FORMS)
CHARACTER = form("video", {"name": {"type": "string"}, "caption": {"type": "string"}}, "name")
REMIX = body_of(RemixVideo, "application/json", *FORMS)
BODIES = (CreateVideo, RemixVideo, AdapterName, ShareModel, CreateKey, RotateKey, TenantLimits)
NAME = body_of(AdapterName, "application/json")
SHARE = body_of(ShareModel, "application/json")


IdempotencyHeader = Annotated[str | None, Header(description="the same key and body return the same job")]
videos = APIRouter(prefix="/v1/videos", responses=REFUSALS, tags=["videos"])
adapters = APIRouter(prefix="/v1/adapters", responses=REFUSALS, tags=["adapters"])
models = APIRouter(prefix="/v1/models", responses=REFUSALS, tags=["models"])
server = APIRouter()


def create_api(service: VideoService) -> FastAPI:
    """The application for a service; its lifespan starts and stops the service."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="MotionDirector",
        description=DESCRIPTION,
        version="1",
        lifespan=lifespan,
        redirect_slashes=False,  # it would redirect to the Host of the request, which an attacker may choose
        docs_url=None,  # FastAPI's pages load scripts from other hosts; `serving.http.pages` replaces them
        redoc_url=None,
    )
    app.state.service = service
    app.add_middleware(BodyLimit)
    app.add_middleware(MeasuredRequests, metrics=service.metrics)
    add_error_handlers(app)
    for router in (videos, files, uploads, trainings, adapters, models, keys, tenants, manage, server, pages):
        app.include_router(router)
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generated()
        for model in (*BODIES, *TRAINING_BODIES):
            schema["components"]["schemas"].update(schemas_of(model))
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


async def read_name(request: Request, service: VideoService, caller: Caller) -> AdapterName:
    """Read the adapter's name from the body."""
    with service.bodies.one(caller.tenant):
        return await read_json(request, AdapterName)


async def answer(service: VideoService, response: Response, job: Job, is_new: bool) -> Video:
    """The answer to a request for a video: its job, which is an earlier one if the request was repeated."""
    if not is_new:
        response.headers["Idempotent-Replayed"] = "true"
    return (await service.videos([job]))[0]


@videos.post("", openapi_extra=VIDEO)
async def create_video(
    request: Request,
    response: Response,
    service: Service,
    caller: Writer,
    idempotency_key: IdempotencyHeader = None,
) -> Video:
    """Request a video. Returns the queued job."""
    with service.references.local_file() as path:
        with service.bodies.one(caller.tenant):
            body, name = await read_video(request, path)
        image = None if name is None else (path, name)
        return await answer(service, response, *await service.create(body, caller, idempotency_key, image))


@videos.post("/characters", openapi_extra=CHARACTER)
async def create_character(
    request: Request,
    response: Response,
    service: Service,
    caller: Writer,
    idempotency_key: IdempotencyHeader = None,
) -> Character:
    """Have the appearance of a clip learned, for requests that name it among their `characters`."""
    with service.bodies.one(caller.tenant):
        pass  # refuse before anything is looked up
    training, is_new = await service.references.create_character(request, caller.tenant, idempotency_key)
    if not is_new:
        response.headers["Idempotent-Replayed"] = "true"
    return character_of(training)


@videos.get("/characters/{id}")
async def get_character(id: str, service: Service, caller: Reader) -> Character:
    """A character, and how far it is learned."""
    return character_of(await service.references.character(id, caller.tenant))


@videos.post("/{id}/remix", openapi_extra=REMIX)
async def remix_video(
    id: str,
    request: Request,
    response: Response,
    service: Service,
    caller: Writer,
    idempotency_key: IdempotencyHeader = None,
) -> Video:
    """Request the video of one of your jobs with another prompt: same adapters, seed, noise prior, size and settings."""
    with service.bodies.one(caller.tenant):
        body = await read_body(request, RemixVideo)
    return await answer(service, response, *await service.remix(id, body, caller, idempotency_key))


@videos.get("")
async def list_videos(
    service: Service,
    caller: Reader,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> VideoList:
    """Your jobs, newest first; `after` is the last id of the previous page."""
    jobs, more = await service.page(caller.tenant, after, limit, order)
    shown = await service.videos(jobs)
    first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
    return VideoList(data=shown, first_id=first, last_id=last, has_more=more)


@videos.get("/{id}")
async def get_video(id: str, service: Service, caller: Reader) -> Video:
    """Status and progress of a job."""
    return (await service.videos([await service.get(id, caller.tenant)]))[0]


@videos.get("/{id}/content", responses={200: {"content": {"video/mp4": {}}}}, response_class=Response)
async def get_content(
    id: str,
    request: Request,
    service: Service,
    caller: Reader,
    variant: Annotated[Literal["video"], Query(description="the mp4; the only variant")] = "video",
) -> Response:
    """The finished video (409 before that). Its metadata records how it was made."""
    mp4 = await service.content(id, caller.tenant)
    headers = {"Content-Disposition": f'inline; filename="{id}.mp4"'}
    return media(request, mp4, "video/mp4", headers)


@videos.get(
    "/{id}/events",
    responses={
        200: {"content": {"text/event-stream": {}}},
        204: {"description": "the client has already seen the end"},
    },
    response_class=Response,
)
async def get_events(
    id: str,
    service: Service,
    caller: Reader,
    previews: Annotated[
        bool, Query(description="also send `video.preview`, a picture of the unfinished video")
    ] = False,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> Response:
    """Server-sent events: `video.<status>` with the job at each change, until it ends."""
    job = await service.get(id, caller.tenant)
    if was_end(last_event_id, job):
        return Response(status_code=204)  # makes an EventSource stop reconnecting
    return EventStream(
        follow(service, id, caller.tenant, last_event_id, previews), service.streams, caller.tenant
    )


@videos.post("/{id}/cancel")
async def cancel_video(id: str, service: Service, caller: Writer) -> Video:
    """Stop a job; its place is freed within one denoising step."""
    return (await service.videos([await service.cancel(id, caller.tenant)]))[0]


@videos.delete("/{id}")
async def delete_video(id: str, service: Service, caller: Writer) -> VideoDeleted:
    """Remove a job and its video; cancels a running job first."""
    await service.delete(id, caller.tenant)
    return VideoDeleted(id=id)


@adapters.get("")
async def list_residents(service: Service, caller: AdapterAdmin) -> ResidentList:
    """Which engine holds which adapters, and which are pinned."""
    return await service.catalogue.residents(caller.tenant, everyones=caller.is_admin)


@adapters.post("/prefetch", openapi_extra=NAME)
async def prefetch_adapter(request: Request, service: Service, caller: AdapterAdmin) -> AdapterAnswer:
    """Load an adapter into memory in every running engine, before the first request that uses it."""
    return await service.catalogue.prefetch(await read_name(request, service, caller), caller.tenant)


@adapters.post("/pin", openapi_extra=NAME)
async def pin_adapter(request: Request, service: Service, caller: AdapterAdmin) -> AdapterAnswer:
    """Pin an adapter to a slot of every engine, including engines that start later."""
    return await service.catalogue.pin(await read_name(request, service, caller), caller.tenant)


@adapters.post("/unpin", openapi_extra=NAME)
async def unpin_adapter(request: Request, service: Service, caller: AdapterAdmin) -> AdapterAnswer:
    """Unpin an adapter in every engine, so that it can be evicted by least recent use again."""
    return await service.catalogue.unpin(await read_name(request, service, caller), caller.tenant)


@models.get("", responses={200: {"model": ModelList}}, response_class=Response)
async def list_models(service: Service, caller: AnyCaller) -> Response:
    """The valid values of `model`: the foundation, and each version of each concept that you may use."""
    return Response(await service.catalogue.models(caller.tenant), media_type="application/json")


@models.get("/{model}")
async def get_model(model: str, service: Service, caller: AnyCaller) -> ModelInfo:
    """One valid value of `model`; of a concept without `@version`, the latest version."""
    return await service.catalogue.model(model, caller.tenant)


@models.delete("/{model}")
async def delete_model(model: str, service: Service, caller: ConceptOwner) -> ModelDeleted:
    """Delete a concept of your own, or one version of it. Videos that were accepted with it are still made."""
    await service.catalogue.delete(model, caller.tenant, caller.name)
    return ModelDeleted(id=model)


@models.post("/{model}/share", openapi_extra=SHARE)
async def share_model(model: str, request: Request, service: Service, caller: ConceptOwner) -> ModelShare:
    """Share a concept of your own with these tenants, or all, and with nobody else."""
    with service.bodies.one(caller.tenant):
        body = await read_json(request, ShareModel)
    await service.catalogue.share(model, body, caller.tenant, caller.name)
    return ModelShare(id=model, tenants=sorted(set(body.tenants)), all=body.all)


@models.get("/{model}/preview", responses={200: {"content": {"video/mp4": {}}}}, response_class=Response)
async def get_preview(
    request: Request,
    model: Annotated[
        str, PathParameter(max_length=200, description="`foundation:concept` or `foundation:concept@version`")
    ],
    service: Service,
    caller: AnyCaller,
) -> Response:
    """The sample video of a version, made when it was published. 404 if it has none."""
    concept = parse_model(model, "foundation")  # asks no engine, which may still be loading
    if concept is None:
        raise NotFound("the foundation alone has no sample video; name a concept.", code="no_preview")
    mp4 = await service.catalogue.preview(concept, caller.tenant)
    # not kept: with another key the same name may mean another concept
    return media(request, mp4, "video/mp4", {"Cache-Control": "no-store"})


@server.get("/healthz", tags=["health"])
async def healthz() -> dict[str, str]:
    """The ingress is alive."""
    return {"status": "ok"}


@server.get("/readyz", responses={503: {"model": ErrorAnswer}}, tags=["health"])
async def readyz(service: Service) -> dict[str, str]:
    """Ready: jobs are accepted and dispatched, there is space for videos, and an engine holds the model."""
    info = await service.ready()
    return {"status": "ready", "foundation": info.name, "foundation_fingerprint": info.fingerprint}


@server.get("/metrics", responses=REFUSALS, response_class=Response, tags=["health"])
async def metrics(service: Service, _caller: MetricsReader) -> Response:
    """Metrics for Prometheus. If the server has API keys, requires one with the scope `metrics`."""
    return Response(await service.exposition(), media_type=CONTENT_TYPE_LATEST)
