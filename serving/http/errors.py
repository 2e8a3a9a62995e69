"""Error handlers that give all errors one format, instead of FastAPI's own handlers."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.errors import Throttled, UserError
from serving.http.statuses import status_of
from serving.schemas import MAX_IMAGE_URL, ErrorAnswer, error_answer

log = logging.getLogger(__name__)
MAX_BODY = 64 * 1024  # bytes of a request's body; one mask in it has at most 43 KiB
BODY_TIMEOUT = 10.0  # seconds for a whole body to arrive, from the first wait for it
# Paths whose bodies go to a file; their routes bound them. The studio has the same routes for sessions.
STREAMED = re.compile("(/studio/api)?(/v1/files|/v1/uploads/[^/]+/parts|/v1/videos/characters)")
WITH_IMAGE = "/v1/videos"  # a form with a file is bounded like those; JSON may have an image besides MAX_BODY of the rest
RETRY_AFTER = {"Retry-After": "5"}  # seconds, if nothing better is known
HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 503: RETRY_AFTER}
CODES = {
    404: "not_found",
    405: "method_not_allowed",
    400: "invalid_body",
    408: "body_timeout",
    413: "too_large",
    415: "unsupported_media_type",
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503)
}


class BodyLimit:
    """Refuses bodies over MAX_BODY with 413, whatever their Content-Length says, and slow ones with 408.

    A request for a video may have more, for its image; its route refuses what is not that.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        posts = scope["type"] == "http" and scope.get("method") == "POST"
        video = posts and scope["path"] == WITH_IMAGE
        if not posts:
            streamed = scope["type"] != "http"
        else:
            streamed = bool(STREAMED.fullmatch(scope["path"])) or (video and is_multipart(scope))
        if streamed:
            await self._app(scope, receive, send)
            return
        most = MAX_BODY + MAX_IMAGE_URL if video else MAX_BODY
        seen, until, whole = 0, math.inf, False

        async def limited() -> Message:
            nonlocal seen, until, whole
            if whole:  # the next message is the client's disconnect
                return await receive()
            until = min(until, asyncio.get_running_loop().time() + BODY_TIMEOUT)
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, f"the body did not arrive within {BODY_TIMEOUT:g} s; send it without delay."
                ) from None
            seen += len(message.get("body", b""))
            if seen > most:
                raise HTTPException(413, f"the body is larger than {most} bytes.")
            whole = not message.get("more_body", False)
            return message

        await self._app(scope, limited, send)


def is_multipart(scope: Scope) -> bool:
    """Whether a request's body is a form that may have files."""
    types = [value for name, value in scope["headers"] if name == b"content-type"]
    return any(value.strip().lower().startswith(b"multipart/form-data") for value in types)


def add_error_handlers(app: FastAPI) -> None:
    """Install the handlers."""

    @app.exception_handler(UserError)
    async def user_error(_request: Request, error: UserError) -> JSONResponse:
        status = status_of(error)
        headers = dict(HEADERS.get(status, {}))
        if isinstance(error, Throttled):
            headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
        answer = error_answer(error.message, status=status, code=error.code)
        return JSONResponse(answer, status_code=status, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        status, answer = explain(error)
        return JSONResponse(answer, status_code=status)

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> JSONResponse:
        code = CODES.get(error.status_code, "invalid_request")
        answer = error_answer(str(error.detail), status=error.status_code, code=code)
        return JSONResponse(answer, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(SQLAlchemyError)
    async def database_away(request: Request, error: SQLAlchemyError) -> JSONResponse:
        log.error("%s %s: the database failed", request.method, request.url.path, exc_info=error)
        message = "the job database does not answer; try again in a few seconds."
        answer = error_answer(message, status=503, code="database_unavailable")
        return JSONResponse(answer, status_code=503, headers=RETRY_AFTER)

    @app.exception_handler(Exception)
    async def our_fault(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s", request.method, request.url.path, exc_info=error)
        answer = error_answer(
            "internal error; the server's log has the details.", status=500, code="internal_error"
        )
        return JSONResponse(answer, status_code=500)


def explain(error: RequestValidationError) -> tuple[int, dict[str, Any]]:
    """Status and answer for a request that does not match its schema. Never repeats the input."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"][1:]]  # after "body", "query" or "path"
    param = ".".join(where)[:100] or None
    if first["type"] == "extra_forbidden":
        return 422, error_answer(
            f"unknown field {param!r}; /docs lists the fields.", status=422, code="unknown_field", param=param
        )
    reason = first["msg"].removeprefix("Value error, ")
    message = f"{param}: {reason}." if param else f"{reason}."
    return 422, error_answer(message, status=422, code="invalid_value", param=param)
