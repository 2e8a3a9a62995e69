"""The HTTP face: routes, keys, and one shape for every error. What a route means is in `serving.service`."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.errors import UserError
from serving.config import find_key, is_loopback
from serving.schemas import (
    CreateVideo,
    ErrorAnswer,
    ModelList,
    Video,
    VideoDeleted,
    VideoList,
    error_answer,
)
from serving.service import VideoService, video_of

log = logging.getLogger(__name__)
MAX_BODY = 64 * 1024  # bytes of a request's body; the largest valid one is under 20 KiB
RETRY_AFTER = {"Retry-After": "5"}
HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 429: RETRY_AFTER, 503: RETRY_AFTER}
CODES = {404: "not_found", 405: "method_not_allowed", 400: "invalid_json", 413: "too_large"}

DESCRIPTION = """Text to video with learned motions: one resident model, any mix of concepts in one batch.

`POST /v1/videos` answers a job at once; poll `GET /v1/videos/{id}` and download `GET /v1/videos/{id}/content`.
Field names follow OpenAI's videos API. `GET /v1/models` lists what `model` may be.
"""


class BodyLimit:
    """Refuses bodies over MAX_BODY with 413, whatever their Content-Length says."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_BODY:
                raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes.")
            return message

        await self._app(scope, limited, send)


def create_api(service: VideoService) -> FastAPI:
    """The application for a service; its life span starts and stops the dispatcher."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPI(title="MotionDirector", description=DESCRIPTION, version="1", lifespan=lifespan)
    app.add_middleware(BodyLimit)
    add_error_handlers(app)
    hashes = service.config.api_key_hashes
    bearer = HTTPBearer(auto_error=False, description="API key, when the server has any")

    async def tenant(request: Request, _documented: Annotated[Any, Depends(bearer)]) -> str:
        """Who asks: the start of the key's hash, or "" on a server without keys."""
        if not hashes:
            host = request.client.host if request.client else ""
            if is_loopback(host):
                return ""
            raise UserError(
                "this server has no API key and so answers its own machine alone; configure api_key_hashes.",
                status=403,
                code="loopback_only",
            )
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        found = find_key(key.strip(), hashes) if scheme.lower() == "bearer" else None
        if found is None:
            raise UserError(
                "no valid API key; send `Authorization: Bearer KEY`.", status=401, code="invalid_api_key"
            )
        return found[:16]

    Tenant = Annotated[str, Depends(tenant)]
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorAnswer} for status in (400, 401, 403, 404, 409, 413, 422, 503)
    }

    @app.post("/v1/videos", responses=refusals, tags=["videos"])
    async def create_video(body: CreateVideo, tenant: Tenant) -> Video:
        """Ask for a video. Answers the queued job."""
        return video_of(await service.create(body, tenant))

    @app.get("/v1/videos", responses=refusals, tags=["videos"])
    async def list_videos(
        tenant: Tenant,
        after: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> VideoList:
        """Your jobs, newest first; `after` is the last id of the page before."""
        jobs, more = await service.page(tenant, after, limit, order)
        videos = [video_of(job) for job in jobs]
        return VideoList(
            data=videos,
            first_id=videos[0].id if videos else None,
            last_id=videos[-1].id if videos else None,
            has_more=more,
        )

    @app.get("/v1/videos/{id}", responses=refusals, tags=["videos"])
    async def get_video(id: str, tenant: Tenant) -> Video:
        """Status and progress of a job."""
        return video_of(await service.get(id, tenant))

    @app.get(
        "/v1/videos/{id}/content",
        responses={**refusals, 200: {"content": {"video/mp4": {}}}},
        response_class=Response,
        tags=["videos"],
    )
    async def get_content(id: str, tenant: Tenant) -> Response:
        """The finished video (409 before that). Its metadata says what made it."""
        mp4 = await service.content(id, tenant)
        headers = {"Content-Disposition": f'inline; filename="{id}.mp4"'}
        return Response(mp4, media_type="video/mp4", headers=headers)

    @app.post("/v1/videos/{id}/cancel", responses=refusals, tags=["videos"])
    async def cancel_video(id: str, tenant: Tenant) -> Video:
        """Stop a job; its place is free within one denoising step."""
        return video_of(await service.cancel(id, tenant))

    @app.delete("/v1/videos/{id}", responses=refusals, tags=["videos"])
    async def delete_video(id: str, tenant: Tenant) -> VideoDeleted:
        """Remove a job and its video; one that runs is cancelled first."""
        await service.delete(id, tenant)
        return VideoDeleted(id=id)

    @app.get("/v1/models", responses=refusals, tags=["models"])
    async def list_models(_tenant: Tenant) -> ModelList:
        """What `model` may be: the foundation, and each version of each concept."""
        return ModelList(data=await service.models())

    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """The ingress lives."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"model": ErrorAnswer}}, tags=["health"])
    async def readyz() -> dict[str, str]:
        """Jobs are being dispatched and an engine holds the model."""
        info = await service.info(patience=1.0)
        if not service.dispatching:
            raise UserError("the dispatcher is not running.", status=503, code="not_ready")
        return {"status": "ready", "foundation": info.name, "foundation_fingerprint": info.fingerprint}

    return app


def add_error_handlers(app: FastAPI) -> None:
    """Every error in the one shape, in place of FastAPI's own."""

    @app.exception_handler(UserError)
    async def user_error(_request: Request, error: UserError) -> JSONResponse:
        headers = HEADERS.get(error.status)
        answer = error_answer(error.message, status=error.status, code=error.code)
        return JSONResponse(answer, status_code=error.status, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        status, answer = explain(error)
        return JSONResponse(answer, status_code=status)

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> JSONResponse:
        code = CODES.get(error.status_code, "invalid_request")
        answer = error_answer(str(error.detail), status=error.status_code, code=code)
        return JSONResponse(answer, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def our_fault(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s", request.method, request.url.path, exc_info=error)
        answer = error_answer(
            "internal error; the server's log says more.", status=500, code="internal_error"
        )
        return JSONResponse(answer, status_code=500)


def explain(error: RequestValidationError) -> tuple[int, dict[str, Any]]:
    """Status and answer for a request that does not fit its schema. Never repeats the input."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"][1:]]  # after "body", "query" or "path"
    if first["type"] == "json_invalid" or (first["type"] == "missing" and not where):
        reason = first.get("ctx", {}).get("error", "it is empty")
        message = f"the body is not JSON ({reason}); send an object like " + '{"prompt": "..."}.'
        return 400, error_answer(message, status=400, code="invalid_json")
    param = ".".join(where)[:100] or None
    if first["type"] == "extra_forbidden":
        return 422, error_answer(
            f"unknown field {param!r}; /docs lists the fields.", status=422, code="unknown_field", param=param
        )
    reason = first["msg"].removeprefix("Value error, ")
    message = f"{param}: {reason}." if param else f"{reason}."
    return 422, error_answer(message, status=422, code="invalid_value", param=param)
