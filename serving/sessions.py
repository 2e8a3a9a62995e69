"""Signed session cookies of the web studio: an API key, presented once, becomes a cookie that ends by itself.

A `<video>` and an `EventSource` cannot send an Authorization header, and a page should not keep a key where its
scripts can read it. The cookie holds no key: only the key's id, signed with the server's secret. It works while the
secret and the key last. Removing or revoking a key ends its sessions.

Every process that checks a cookie needs the same secret: the ingress, and the gate in Ray Serve's proxies.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer
from pydantic import SecretStr

from infra.errors import Unauthorized, UserError

SESSION_SECRET_VARIABLE = "MOTIONDIRECTOR_SESSION_SECRET"
COOKIE = "motiondirector_session"
CSRF_HEADER = "x-csrf-token"
LIFETIME = 12 * 3600  # seconds from sign-in to the end of a session
MIN_SECRET = 32  # characters
FILE = "session-secret"
NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY


class Sessions:
    """Makes and checks the cookies of one secret."""

    def __init__(self, secret: SecretStr) -> None:
        self._secret = secret.get_secret_value().encode()
        self._signer = URLSafeTimedSerializer(
            self._secret, salt="motiondirector studio", signer_kwargs={"digest_method": hashlib.sha256}
        )

    def start(self, key_id: str) -> str:
        """The cookie's value for a new session of the key with this id."""
        return self._signer.dumps({"key": key_id, "session": secrets.token_urlsafe(12)})

    def key_of(self, cookie: str) -> str:
        """The id of a session's key. Raises Unauthorized if the cookie is forged or has expired."""
        try:
            return str(self._signer.loads(cookie, max_age=LIFETIME)["key"])
        except SignatureExpired:
            raise ended("has expired") from None
        except (BadSignature, KeyError, TypeError):
            raise ended("is not valid here") from None

    def csrf_token(self, cookie: str) -> str:
        """The token that a changing request of this session must repeat in a header."""
        return hmac.new(self._secret, f"csrf:{cookie}".encode(), hashlib.sha256).hexdigest()[:32]

    def is_csrf_token(self, token: str, cookie: str) -> bool:
        return hmac.compare_digest(token.encode(), self.csrf_token(cookie).encode())


def ended(why: str) -> Unauthorized:
    """The error for a session that does not count."""
    return Unauthorized(
        f"your session {why}; sign in again with your API key at /studio/sign-in.", code="session_ended"
    )


def read_session_secret() -> SecretStr | None:
    """The environment's secret; None without one. Raises UserError if it is too short to be safe."""
    text = os.environ.get(SESSION_SECRET_VARIABLE, "").strip()
    if not text:
        return None
    if len(text) < MIN_SECRET:
        raise UserError(
            f"{SESSION_SECRET_VARIABLE} has {len(text)} characters; give at least {MIN_SECRET} random ones "
            "(openssl rand -hex 32).",
            code="invalid_value",
        )
    return SecretStr(text)


def new_secret() -> SecretStr:
    """A random secret."""
    return SecretStr(secrets.token_hex(32))


def kept_secret(folder: Path) -> SecretStr:
    """The secret in a folder, made at the first call, so that sessions outlive a restart. Its owner alone can read it.

    Raises UserError if the file cannot be read or written, or is damaged.
    """
    file = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError), open(os.open(file, NEW, 0o600), "w") as opened:
            opened.write(new_secret().get_secret_value())
        text = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} cannot be read or written ({error}); give a writable --data-dir, or set {SESSION_SECRET_VARIABLE}.",
            code="invalid_path",
        ) from None
    if len(text) < MIN_SECRET:
        raise UserError(f"{file} is damaged: it has {len(text)} characters; delete it.", code="invalid_value")
    return SecretStr(text)
