"""Authentication and authorization. A server without API keys answers only its own machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from infra.errors import Forbidden, Unauthorized
from serving.config import is_loopback
from serving.keys import MAX_PRIORITY, ApiKey, Scope
from serving.sessions import COOKIE, CSRF_HEADER, Sessions, ended
from serving.tenants.api_keys import KeyRing
from serving.tenants.audit import LOCAL

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
BEARER = HTTPBearer(auto_error=False, description="API key, if the server has any")


@dataclass(frozen=True)
class Caller:
    """The sender of a request: an API key, or None for a program on this machine."""

    key: ApiKey | None = None

    @property
    def tenant(self) -> str:
        """The tenant whose jobs it sees; "" on a server without keys."""
        return self.key.tenant if self.key else ""

    @property
    def name(self) -> str:
        """Its name in the audit log: the id of its key."""
        return self.key.id if self.key else LOCAL

    @property
    def is_admin(self) -> bool:
        """Whether it has the whole platform: an admin's key, or a program on this machine if there are no keys."""
        return self.key is None or "admin" in self.key.scopes

    @property
    def max_priority(self) -> int:
        return self.key.max_priority if self.key else MAX_PRIORITY

    def check(self, scope: Scope) -> None:
        """Raise Forbidden if its key lacks the scope."""
        if self.key is not None and scope not in self.key.scopes:
            raise Forbidden(
                f"this API key lacks the scope {scope!r} (it has: {', '.join(self.key.scopes) or 'none'}); use another key.",
                code="missing_scope",
            )


def identify(request: Request, keys: KeyRing) -> Caller:
    """The caller: of a key in the Authorization header, or of a session of the studio.

    Raises Unauthorized without a valid key or session. If no keys exist, Forbidden for other machines.
    """
    if not keys.required:
        check_local(request)
        return Caller()
    if "authorization" not in request.headers and (cookie := request.cookies.get(COOKIE)):
        return Caller(key_of_session(request, cookie, keys))
    scheme, _, presented = request.headers.get("authorization", "").partition(" ")
    found = keys.find(presented.strip()) if scheme.lower() == "bearer" else None
    if found is None:
        raise Unauthorized("no valid API key; send `Authorization: Bearer KEY`.")
    return Caller(found)


def key_of_session(request: Request, cookie: str, keys: KeyRing) -> ApiKey:
    """The key of a session. A browser sends the cookie with any site's requests, so changes also need the CSRF token.

    Raises Unauthorized if the session has ended, Forbidden without the token.
    """
    sessions: Sessions = request.app.state.service.sessions
    found = keys.with_id(sessions.key_of(cookie))
    if found is None:
        raise ended("belongs to an API key that is not accepted any more")
    if request.method not in SAFE_METHODS:
        check_same_site(request)
        if not sessions.is_csrf_token(request.headers.get(CSRF_HEADER, ""), cookie):
            raise Forbidden(
                f"the request has a session's cookie but not its token; send it in the header {CSRF_HEADER}, or reload "
                "the page.",
                code="csrf_token",
            )
    return found


def check_same_site(request: Request) -> None:
    """Raise Forbidden for a request that another site's page made, as the browser reports it."""
    fetched = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    same = (
        fetched in ("same-origin", "none")
        if fetched is not None
        else origin is None or urlsplit(origin).netloc == request.headers.get("host")
    )
    if not same:
        raise Forbidden(
            "another site's page sent this request; open the studio in its own tab and try again there.",
            code="cross_site",
        )


def check_local(request: Request) -> None:
    """Raise Forbidden unless a program on this machine sent the request.

    Refuses other machines, and foreign web pages in a local browser: these send their Origin, or their own
    Host name that resolves to loopback.
    """
    origin = request.headers.get("origin")
    hosts = [request.client.host if request.client else "", request.url.hostname or ""]
    if origin is not None:
        hosts.append(urlsplit(origin).hostname or "")
    if not all(is_loopback(host) for host in hosts):
        raise Forbidden(
            "this server has no API keys, so it answers only its own machine; start it with --api-key-file.",
            code="loopback_only",
        )


def caller_with(scope: Scope | None) -> Callable[..., Caller]:
    """A FastAPI dependency: the caller, who must have the scope (None: any key is enough)."""

    def dependency(request: Request, _documented: Annotated[Any, Depends(BEARER)]) -> Caller:
        caller = identify(request, request.app.state.service.keys)
        if scope is not None:
            caller.check(scope)
        return caller

    return dependency


AnyCaller = Annotated[Caller, Depends(caller_with(None))]
Reader = Annotated[Caller, Depends(caller_with("videos:read"))]
Writer = Annotated[Caller, Depends(caller_with("videos:write"))]
ConceptOwner = Annotated[Caller, Depends(caller_with("concepts"))]
KeyOwner = Annotated[Caller, Depends(caller_with("keys"))]
Admin = Annotated[Caller, Depends(caller_with("admin"))]
AdapterAdmin = Annotated[Caller, Depends(caller_with("adapters"))]
MetricsReader = Annotated[Caller, Depends(caller_with("metrics"))]
