"""The token that a local Ray session requires, in a file that only its owner can read.

Ray 2.60 requires a token by default, but writes its file with the umask's permissions, which usually make
it world-readable. This module requires the token explicitly and creates the file before Ray does.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from infra.environment import restored
from infra.files import explained_os_errors

MODE = "RAY_AUTH_MODE"
GIVEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")  # Ray reads a token of the user's own from these
OTHERS = stat.S_IRWXG | stat.S_IRWXO


@contextlib.contextmanager
def token_required() -> Iterator[None]:
    """Make a session that starts in this block, and its processes, require the token; creates it if needed.

    Respects RAY_AUTH_MODE if it is set, so a user can switch tokens off. Raises UserError if the token's
    file cannot be written or read.
    """
    from ray._raylet import Config  # type: ignore[attr-defined]

    before = os.environ.get(MODE)
    if (before or "token").lower() == "token" and not any(os.environ.get(name) for name in GIVEN):
        ensure_token(Path.home() / ".ray" / "auth_token")
    with restored([MODE]):
        os.environ[MODE] = before or "token"
        # Ray read the mode at import; on its own it reads it again only if none was set.
        Config.initialize("")
        yield


def ensure_token(path: Path) -> None:
    """Create the token file if it is missing, and remove other users' permissions from it."""
    with explained_os_errors(f"writing {path}"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            handle, name = tempfile.mkstemp(dir=path.parent)  # 0600
            try:
                with os.fdopen(handle, "w") as file:
                    file.write(secrets.token_hex(32))
                with contextlib.suppress(FileExistsError):  # another session was faster
                    os.link(name, path)  # atomic
            finally:
                os.unlink(name)
        found = path.stat()
        if found.st_mode & OTHERS and found.st_uid == os.geteuid():
            path.chmod(0o600)
