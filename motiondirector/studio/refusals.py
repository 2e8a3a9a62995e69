"""Errors as pages: the sentence that the API would answer, and a way on."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from infra.errors import UserError
from motiondirector.studio.headers import SAFE
from motiondirector.studio.signin import SignInNeeded, to_sign_in
from motiondirector.studio.templating import render
from serving.http.errors import explain
from serving.http.statuses import status_of

log = logging.getLogger(__name__)


def add_page_errors(app: FastAPI) -> None:
    """Install the handlers."""

    def page(request: Request, status: int, message: str) -> Response:
        template = "part_error.html.j2" if "hx-request" in request.headers else "error.html.j2"
        return render(request, template, status=status, message=message, number=status)

    @app.exception_handler(SignInNeeded)
    async def sign_in_needed(request: Request, error: SignInNeeded) -> Response:
        return to_sign_in(request, error)

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> Response:
        return page(request, status_of(error), error.message)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        status, answer = explain(error)
        return page(request, status, answer["error"]["message"])

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        missing = "there is no such page; the menu lists the pages."
        return page(request, error.status_code, missing if error.status_code == 404 else str(error.detail))

    @app.exception_handler(SQLAlchemyError)
    async def database_away(request: Request, error: SQLAlchemyError) -> Response:
        log.error("%s %s: the database failed", request.method, request.url.path, exc_info=error)
        return page(request, 503, "the job database does not answer; try again in a few seconds.")

    @app.exception_handler(Exception)
    async def our_fault(request: Request, error: Exception) -> Response:
        log.error("%s %s", request.method, request.url.path, exc_info=error)
        answer = page(request, 500, "internal error; the server's log has the details.")
        answer.headers.update(SAFE)  # this handler is outside the middlewares
        return answer
