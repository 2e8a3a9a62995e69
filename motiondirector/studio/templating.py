"""Renders the studio's templates. Everything that comes from data is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from motiondirector.studio import words
from serving.http.dependencies import service_of
from serving.sessions import COOKIE

ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(["j2"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {
    "state": words.state,
    "closeness": words.closeness,
    "motions": words.motions,
    "when": words.when,
    "sentence": words.sentence,
}


def root_of(request: Request) -> str:
    """The studio's path on this server, without a slash at the end."""
    return str(request.scope.get("root_path", ""))


def render(request: Request, template: str, status: int = 200, **content: Any) -> HTMLResponse:
    """A page or a part of one."""
    service = service_of(request)
    cookie = request.cookies.get(COOKIE)
    text = ENVIRONMENT.get_template(template).render(
        root=root_of(request),
        csrf_token=service.sessions.csrf_token(cookie) if cookie else "",
        signed_in=cookie is not None,
        teaches=service.trainings is not None,
        path=request.scope["path"].removeprefix(root_of(request)),
        **content,
    )
    return HTMLResponse(text, status_code=status)
