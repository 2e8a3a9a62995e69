"""The token without which nobody gets into a local Ray session, in a file that its owner alone reads.

Ray 2.60 asks for a token by a default of its own, and writes it with the umask's permissions, mostly for everybody to
read. Here it is asked for by name, and its file is made before Ray would make it.
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
GIVEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")  # the user's own: Ray takes it from there
OTHERS = stat.S_IRWXG | stat.S_IRWXO


@contextlib.contextmanager
def token_asked_for() -> Iterator[None]:
    """Have a session that starts in this block, and its processes, ask for the token, which is there.

    RAY_AUTH_MODE is obeyed where it is set: whoever switches tokens off means it. Raises UserError when the token's file
    cannot be had.
    """
    from ray._raylet import Config  # type: ignore[attr-defined]

    before = os.environ.get(MODE)
    if (before or "token").lower() == "token" and not any(os.environ.get(name) for name in GIVEN):
        ensure_token(Path.home() / ".ray" / "auth_token")
    with restored([MODE]):
        os.environ[MODE] = before or "token"
        # Ray read the mode as it was imported, and reads it again itself only where none is set.
        Config.initialize("")
        yield


def ensure_token(path: Path) -> None:
    """Have a token in a file that only its owner reads: made where there is none, closed where it was open to others."""
    with explained_os_errors(f"writing {path}"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            handle, name = tempfile.mkstemp(dir=path.parent)  # 0600
            try:
                with os.fdopen(handle, "w") as file:
                    file.write(secrets.token_hex(32))
                with contextlib.suppress(FileExistsError):  # another session was quicker
                    os.link(name, path)  # whole, or not at all
            finally:
                os.unlink(name)
        found = path.stat()
        if found.st_mode & OTHERS and found.st_uid == os.geteuid():
            path.chmod(0o600)
