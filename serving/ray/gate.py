"""Checks API keys in Ray Serve's proxy, before a request reaches an ingress.

A refusal in the proxy is cheap; a forwarded request costs milliseconds of several processes. A flood of
requests without keys is therefore answered here, and callers with a key do not wait behind it. The
ingress checks the key and its scopes again; this only refuses what the ingress would refuse.

Ray Serve's proxies on every node call `middlewares` at their start if
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it. `motiondirector serve` sets that for the cluster that
it starts (`environment`). On other clusters the keys come from the same place as in `serving.cluster`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.keys import API_KEY_FILE_VARIABLE, ApiKey, hash_key, read_api_keys
from serving.schemas import error_answer

CALLBACK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
HASHES_VARIABLE = "MOTIONDIRECTOR_GATE_KEYS"  # SHA-256 of the keys, comma-separated
OPEN = 32  # concurrent requests without a key to forward: health checks, the docs page
GUARDED = ("/v1/", "/metrics")
NO_KEY = "no valid API key; send `Authorization: Bearer KEY`."
BUSY = "too many requests without an API key are waiting; try again in a second."


def environment(keys: Sequence[ApiKey]) -> dict[str, str]:
    """Environment variables that make the proxies of a new cluster check these keys. Empty without keys."""
    if not keys:
        return {}
    return {
        CALLBACK_VARIABLE: f"{__name__}:{middlewares.__name__}",
        HASHES_VARIABLE: ",".join(key.sha256 for key in keys),
    }


def middlewares() -> list[Middleware]:
    """The middlewares for Ray Serve's proxy: the gate, if this node knows any keys."""
    hashes = set(filter(None, os.environ.get(HASHES_VARIABLE, "").split(",")))
    file = os.environ.get(API_KEY_FILE_VARIABLE)
    hashes |= {key.sha256 for key in read_api_keys(Path(file) if file else None)}
    return [Middleware(Gate, hashes=frozenset(hashes))] if hashes else []


class Gate:
    """Forwards requests with a key, and a limited number without one on routes that need none.

    Args:
        hashes: SHA-256 of every key, in hex.
    """

    def __init__(self, app: ASGIApp, hashes: frozenset[str]) -> None:
        self._app, self._hashes, self._open = app, hashes, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._known(scope):
            await self._app(scope, receive, send)
        elif scope["path"].startswith(GUARDED):
            await refuse(scope, send, 401, NO_KEY, "invalid_api_key", {"WWW-Authenticate": "Bearer"})
        elif self._open >= OPEN:
            await refuse(scope, send, 503, BUSY, "overloaded", {"Retry-After": "1"})
        else:
            self._open += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._open -= 1

    def _known(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, _, presented = value.decode("latin-1").partition(" ")
                return scheme.lower() == "bearer" and hash_key(presented.strip()) in self._hashes
        return False


async def refuse(
    scope: Scope, send: Send, status: int, message: str, code: str, headers: Mapping[str, str]
) -> None:
    """Send an error in the API's format, without reading the request's body."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = json.dumps(error_answer(message, status=status, code=code)).encode()
    all = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **headers,
    }
    lines = [(name.lower().encode(), value.encode()) for name, value in all.items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
