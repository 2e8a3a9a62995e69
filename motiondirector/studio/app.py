"""Adds the studio to the API: pages at /studio, and the API's routes for their scripts at /studio/api."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from starlette.staticfiles import StaticFiles

from motiondirector.studio import data, draw, export, pages, parts, signin, usage
from motiondirector.studio.headers import SafeHeaders
from motiondirector.studio.refusals import add_page_errors
from motiondirector.studio.teach import drawn, following, previews
from motiondirector.studio.teach import pages as teach
from serving.http.api import models, videos
from serving.http.errors import add_error_handlers
from serving.http.learning.routes import files, trainings, uploads

STATIC = Path(__file__).parent / "static"


def add_studio(app: FastAPI) -> None:
    """Mount the studio on an application made by `serving.http.api.create_api`."""
    service = app.state.service
    # A redirect to another slash would go to the Host of the request, which an attacker may choose.
    behind, shown = (FastAPI(openapi_url=None, redirect_slashes=False) for _ in range(2))
    for part in (behind, shown):
        part.state.service = service
        part.add_middleware(SafeHeaders)
    add_error_handlers(behind)
    apis = (videos, models, files, uploads, trainings)
    for router in (*apis, data.router, draw.router, previews.router, drawn.router):
        behind.include_router(router)
    add_page_errors(shown)
    own = (signin.router, pages.router, parts.router, export.router, usage.router)
    for router in (*own, teach.router, following.router):
        shown.include_router(router)
    shown.mount("/static", StaticFiles(directory=STATIC))
    app.mount("/studio/api", behind)
    app.mount("/studio", shown)

    @app.get("/studio", include_in_schema=False)
    async def studio(request: Request) -> RedirectResponse:
        """The start page. A relative address: a request may name any host."""
        return RedirectResponse(f"{request.scope.get('root_path', '')}/studio/", status_code=308)
