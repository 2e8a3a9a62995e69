"""Checks API keys in Ray Serve's proxy, and limits each key's requests, before they reach an ingress.

A refusal in the proxy is cheap; a forwarded request costs milliseconds of several processes. A flood of
requests without keys, or of one key, is therefore answered here, and callers with another key do not wait
behind it. The ingress checks the key, its scopes and its tenant's limits again.

Ray Serve's proxies on every node call `middlewares` at their start if
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it. `motiondirector serve` sets that for the cluster that
it starts (`environment`). On other clusters the keys come from the same place as in `serving.cluster`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr
from starlette.middleware import Middleware
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.errors import Unauthorized
from serving.keys import API_KEY_FILE_VARIABLE, ApiKey, hash_key, key_id, read_api_keys
from serving.schemas import error_answer
from serving.sessions import COOKIE, SESSION_SECRET_VARIABLE, Sessions, read_session_secret

CALLBACK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
HASHES_VARIABLE = "MOTIONDIRECTOR_GATE_KEYS"  # SHA-256 of the keys, comma-separated
# Set: keys of the job database exist too. The gate does not read the database.
LEARNS_VARIABLE = "MOTIONDIRECTOR_GATE_LEARNS"
UNKNOWN = "unknown"  # counts the requests with keys that the gate does not know
MOST_LEARNED = 4096  # keys of the database that a proxy knows
OPEN = 32  # concurrent requests without a key to forward: health checks, the docs page
# Of one key, at once in one proxy: forwarded requests (half of what an ingress takes and lets wait), and those
# of them whose body has not arrived.
REQUESTS, BODIES = 384, 64
GUARDED = ("/v1/", "/metrics")
STUDIO = "/studio/"  # where a session's cookie counts
NO_KEY = "no valid API key; send `Authorization: Bearer KEY`."
BUSY = "too many requests without an API key are waiting; try again in a second."
MANY = f"{REQUESTS} requests with this API key are being answered; wait for some of them."
UNFINISHED = (
    f"the bodies of {BODIES} requests with this API key have not arrived; send each body without delay."
)


def environment(
    keys: Sequence[ApiKey], required: bool, session_secret: SecretStr | None = None
) -> dict[str, str]:
    """Environment variables that make the proxies of a new cluster check keys.

    Args:
        keys: those that are known at the start.
        required: whether callers need a key; if not, the gate is left out.
        session_secret: what the ingress signs the studio's sessions with.
    """
    if not required:
        return {}
    secret = {} if session_secret is None else {SESSION_SECRET_VARIABLE: session_secret.get_secret_value()}
    return {
        CALLBACK_VARIABLE: f"{__name__}:{middlewares.__name__}",
        HASHES_VARIABLE: ",".join(key.sha256 for key in keys),
        LEARNS_VARIABLE: "1",
        **secret,
    }


def middlewares() -> list[Middleware]:
    """The middlewares for Ray Serve's proxy: the gate, if this node knows any keys or is told to learn them."""
    hashes = set(filter(None, os.environ.get(HASHES_VARIABLE, "").split(",")))
    file, learns = os.environ.get(API_KEY_FILE_VARIABLE), bool(os.environ.get(LEARNS_VARIABLE))
    hashes |= {key.sha256 for key in read_api_keys(Path(file) if file else None)}
    if not hashes and not learns:
        return []
    return [Middleware(Gate, hashes=frozenset(hashes), learns=learns, session_secret=read_session_secret())]


class Gate:
    """Forwards a limited number of requests of each key, and of those without one on routes that need none.

    Of keys that it does not know, it passes on as few requests as without one. Such a key
    is known once the ingress has answered it with success. It is forgotten when the ingress refuses it, as a revoked one.
    Requests with a studio's session count as those of its key. Without the secret, they count as without a key.

    Args:
        hashes: SHA-256 of the keys that are known at the start, in hex.
        learns: whether there may be others, which only the ingress knows.
        session_secret: what the ingress signs sessions with.
    """

    def __init__(
        self,
        app: ASGIApp,
        hashes: frozenset[str],
        learns: bool = False,
        session_secret: SecretStr | None = None,
    ) -> None:
        self._app, self._hashes, self._learns = app, hashes, learns
        self._learned: OrderedDict[str, None] = OrderedDict()
        self._sessions = Sessions(session_secret) if session_secret is not None else None
        self._by_id = {key_id(sha256): sha256 for sha256 in hashes}
        # of each key; "": without a key
        self._requests, self._bodies = Counter[str](), Counter[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        presented, guarded = presented_key(scope), scope["path"].startswith(GUARDED)
        known = presented in self._hashes or presented in self._learned
        key = presented if known else "" if presented else self._of_session(scope)
        if self._learns and presented and guarded and not key:
            key = UNKNOWN
        if self._learns and presented and presented not in self._hashes and guarded:
            send = self._observed(send, presented)
        if not key and guarded:
            await refuse(scope, send, 401, NO_KEY, "invalid_api_key", {"WWW-Authenticate": "Bearer"})
        elif key in ("", UNKNOWN) and self._requests[key] >= OPEN:
            await refuse(scope, send, 503, BUSY, "overloaded", {"Retry-After": "1"})
        elif self._requests[key] >= REQUESTS:
            await refuse(scope, send, 429, MANY, "too_many_requests", {"Retry-After": "1"})
        elif has_body(scope) and self._bodies[key] >= BODIES:
            await refuse(scope, send, 429, UNFINISHED, "too_many_bodies", {"Retry-After": "1"})
        else:
            with counted(self._requests, key):
                if not has_body(scope):
                    await self._app(scope, receive, send)
                    return
                with counted(self._bodies, key) as arrived:

                    async def receive_counted() -> Message:
                        message = await receive()
                        if not message.get("more_body", False):
                            arrived()
                        return message

                    await self._app(scope, receive_counted, send)

    def _of_session(self, scope: Scope) -> str:
        """What the requests of a studio's session are counted by: its key's hash, or id if the hash is unknown here."""
        cookies = b"; ".join(value for name, value in scope["headers"] if name == b"cookie")
        if self._sessions is not None and cookies and scope["path"].startswith(STUDIO):
            with contextlib.suppress(Unauthorized):
                id = self._sessions.key_of(cookie_parser(cookies.decode("latin-1")).get(COOKIE, ""))
                return self._by_id.get(id, id)
        return ""

    def _observed(self, send: Send, presented: str) -> Send:
        """`send`, which also learns from the ingress's answer whether a key is valid."""

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == 401:
                    self._learned.pop(presented, None)
                elif message["status"] < 300:
                    self._learned[presented] = None
                    self._learned.move_to_end(presented)
                    if len(self._learned) > MOST_LEARNED:
                        self._learned.popitem(last=False)
            await send(message)

        return observed


def presented_key(scope: Scope) -> str:
    """The hash of the key that a request presents; empty if it presents none."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, presented = value.decode("latin-1").partition(" ")
            return hash_key(presented.strip()) if scheme.lower() == "bearer" else ""
    return ""


@contextmanager
def counted(counter: Counter[str], key: str) -> Iterator[Callable[[], None]]:
    """Count one for the key until the block ends or the yielded function is called."""
    counter[key] += 1
    held = True

    def done() -> None:
        nonlocal held
        if held:
            held = False
            counter[key] -= 1
            if not counter[key]:
                del counter[key]

    try:
        yield done
    finally:
        done()


def has_body(scope: Scope) -> bool:
    """Whether the request says that it has a body."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
        for name, value in scope["headers"]
    )


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
