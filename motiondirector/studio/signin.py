"""Signing in with an API key, and out. A server without keys needs neither."""

from __future__ import annotations

import asyncio
from typing import Annotated
from urllib.parse import urlencode, urlsplit

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from infra.errors import Unauthorized
from motiondirector.studio.templating import render, root_of
from serving.http.auth import Caller, check_same_site, identify
from serving.http.dependencies import service_of
from serving.sessions import COOKIE, LIFETIME

router = APIRouter()
MAX_FIELDS = 4


class SignInNeeded(Exception):
    """The visitor has no session, or it has ended. Answered by a way to the sign-in page."""

    def __init__(self, ended: bool) -> None:
        super().__init__("sign in first")
        self.ended = ended


def visitor(request: Request) -> Caller:
    """A FastAPI dependency: who looks at a page. Raises SignInNeeded, and Forbidden as `identify` does."""
    try:
        return identify(request, service_of(request).keys)
    except Unauthorized:
        raise SignInNeeded(ended=COOKIE in request.cookies) from None


Visitor = Annotated[Caller, Depends(visitor)]


def to_sign_in(request: Request, needed: SignInNeeded) -> Response:
    """The way to the sign-in page, from which the visitor comes back to where it was. htmx needs a header for it."""
    back = f"{request.scope['path']}?{request.url.query}" if request.url.query else request.scope["path"]
    is_part = "hx-request" in request.headers
    if is_part and "hx-current-url" in request.headers:  # the page that the part belongs to
        page = urlsplit(request.headers["hx-current-url"])
        back = safe_next(request, f"{page.path}?{page.query}" if page.query else page.path)
    elif is_part or request.method != "GET":
        back = f"{root_of(request)}/"
    query = urlencode({"next": back, **({"ended": "1"} if needed.ended else {})})
    address = f"{root_of(request)}/sign-in?{query}"
    if is_part:
        return Response(status_code=401, headers={"HX-Redirect": address})
    return RedirectResponse(address, status_code=303)


def safe_next(request: Request, address: str) -> str:
    """The address if it is one of the studio's own pages; else its start page."""
    root = root_of(request)
    clean = address.isprintable() and "\\" not in address and "//" not in address
    return address if clean and address.startswith(f"{root}/") else f"{root}/"


@router.get("/sign-in")
def sign_in_page(request: Request, next: str = "", ended: bool = False) -> Response:
    """The form for an API key."""
    address = safe_next(request, next)
    if not service_of(request).keys.required:
        return RedirectResponse(address, status_code=303)
    return render(request, "sign_in.html.j2", next=address, ended=ended, refused=False)


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Start a session."""
    service = service_of(request)
    check_same_site(request)
    async with request.form(max_files=0, max_fields=MAX_FIELDS) as form:
        presented, address = str(form.get("key", "")).strip(), safe_next(request, str(form.get("next", "")))
    key = await asyncio.to_thread(service.keys.find, presented)
    if key is None:
        return render(request, "sign_in.html.j2", status=401, next=address, ended=False, refused=True)
    answer = RedirectResponse(address, status_code=303)
    answer.set_cookie(
        COOKIE,
        service.sessions.start(key.id),
        max_age=LIFETIME,
        path=root_of(request),
        secure="https" in (request.url.scheme, request.headers.get("x-forwarded-proto")),
        httponly=True,
        samesite="lax",
    )
    return answer


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """End the session in this browser. The form must hold the session's token, or another site could sign people out."""
    cookie = request.cookies.get(COOKIE, "")
    async with request.form(max_files=0, max_fields=MAX_FIELDS) as form:
        token = str(form.get("csrf_token", ""))
    root = root_of(request)
    if not service_of(request).sessions.is_csrf_token(token, cookie):
        return RedirectResponse(f"{root}/", status_code=303)
    answer = RedirectResponse(f"{root}/sign-in", status_code=303)
    answer.delete_cookie(COOKIE, path=root)
    return answer
