"""What Ray Serve's proxy asks of a request before it hands it to an ingress: a key that is one of ours.

A request costs the proxy little as long as it stays there, and milliseconds of several processes once it is handed on. So
a crowd without keys is answered here, and callers with a key do not wait behind it. The ingress checks the key again, and
what it may do; this only turns away what it would turn away.

Ray Serve's proxies call `middlewares` as they start, where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it, on every
node. `motiondirector serve` sets that for the cluster that it starts (`environment`). On a cluster of its own the keys
come from where `serving.cluster` has them.
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
HASHES_VARIABLE = "MOTIONDIRECTOR_GATE_KEYS"  # SHA-256 of the keys, by commas
OPEN = 32  # requests without a key that are handed on at once: health, the page for people
GUARDED = ("/v1/", "/metrics")
NO_KEY = "no valid API key; send `Authorization: Bearer KEY`."
BUSY = "too many requests without an API key are waiting; try again in a second."


def environment(keys: Sequence[ApiKey]) -> dict[str, str]:
    """Variables with which a cluster is to be started, so that its proxies know these keys. None without keys."""
    if not keys:
        return {}
    return {
        CALLBACK_VARIABLE: f"{__name__}:{middlewares.__name__}",
        HASHES_VARIABLE: ",".join(key.sha256 for key in keys),
    }


def middlewares() -> list[Middleware]:
    """For Ray Serve's proxy: the gate, where this node knows any keys."""
    hashes = set(filter(None, os.environ.get(HASHES_VARIABLE, "").split(",")))
    file = os.environ.get(API_KEY_FILE_VARIABLE)
    hashes |= {key.sha256 for key in read_api_keys(Path(file) if file else None)}
    return [Middleware(Gate, hashes=frozenset(hashes))] if hashes else []


class Gate:
    """Hands on requests with a key; of those without, some at once where none is needed.

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
    """Answer in the API's one shape of errors; nothing of the request's body is read."""
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
