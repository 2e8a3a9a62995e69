"""A cluster that starts on this machine listens on loopback alone, and keeps its files where others cannot get.

Left to itself, Ray 2.60 lets three exporters of a local session listen on every interface, and makes its session folders
writable for everybody (0777). Its token is in infra/ray_token.py.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from infra.errors import UserError
from infra.files import explained_os_errors

OTHERS = stat.S_IRWXG | stat.S_IRWXO


@contextlib.contextmanager
def private_ray() -> Iterator[None]:
    """Needed while a cluster starts, not while it runs. Raises UserError: the folder cannot be had."""
    from ray._private import ray_constants

    temporary, before = os.environ.get("RAY_TMPDIR"), ray_constants.ENABLE_RAY_CLUSTER
    os.environ["RAY_TMPDIR"] = str(private_folder())
    # Ray then takes 127.0.0.1 for the node's address, as it does on a Mac, and its exporters listen there alone. It has no
    # setting for it: a loopback address that is given as the node's is replaced by that of an interface.
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if temporary is None:
            os.environ.pop("RAY_TMPDIR", None)
        else:
            os.environ["RAY_TMPDIR"] = temporary


def private_folder() -> Path:
    """A folder of this user's alone, below where Ray would put its own (RAY_TMPDIR, TMPDIR, /tmp).

    Ray opens what it makes in there to everybody; nobody else gets as far. Raises UserError when it is another's.
    """
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    name = f"ray-{os.geteuid()}"
    folder = base if base.name == name else base / name  # within a session its folder is the base
    with explained_os_errors(f"making {folder}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise UserError(
                f"{folder} is not a folder of this user, and Ray's files would be another's to change; remove it, or set "
                "RAY_TMPDIR to a folder of your own (a short path).",
                status=403,
                code="access_denied",
            )
        if found.st_mode & OTHERS:
            folder.chmod(0o700)
    return folder
