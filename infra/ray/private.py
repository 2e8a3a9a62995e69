"""Starts Ray clusters that listen on loopback only and whose files are closed to other users.

    with private_ray():
        ray.init(address="local", ...)          # or ray.cluster_utils.Cluster(...)
    ...
    with loopback_node():                       # another process joins it
        ray.init(address="127.0.0.1:PORT")

By default, Ray 2.60 lets the metrics exporters of a local session listen on every interface, makes its
session folders world-writable (0777), and starts the dashboard's process (with an exporter) even if the
dashboard is off. infra/ray/token.py handles the token.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from infra.environment import restored
from infra.errors import Forbidden
from infra.files import explained_os_errors

OTHERS = stat.S_IRWXG | stat.S_IRWXO


@contextlib.contextmanager
def private_ray(*, dashboard: bool = False) -> Iterator[None]:
    """Make a cluster that starts within the block private. It may run on after the block.

    Raises UserError if the cluster's folder cannot be used.

    Args:
        dashboard: start the dashboard's process; Ray's option `include_dashboard` decides whether it serves
            the dashboard.
    """
    wanted = {"RAY_TMPDIR": str(private_folder())}
    if sys.platform == "linux":  # gloo (torch.distributed) would listen on the host name's address
        wanted["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    # One training has up to ten actors. On two cores Ray takes more than eight for too many, and warns.
    wanted["RAY_worker_maximum_startup_concurrency"] = str(max(4, os.cpu_count() or 1))
    with restored(wanted):
        os.environ.update(wanted)
        with loopback_node(), contextlib.nullcontext() if dashboard else without_dashboard():
            yield


@contextlib.contextmanager
def loopback_node() -> Iterator[None]:
    """Make Ray use 127.0.0.1 as this machine's address within the block, as it does on macOS.

    Exporters of such a node listen on loopback only. Ray has no setting for this on Linux: it replaces a
    given loopback address, of a node or of a cluster to join, with that of an interface.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def without_dashboard() -> Iterator[None]:
    """Start no dashboard process within the block.

    Ray starts one even without a dashboard, for usage reports (off here), and waits for it.
    """
    from ray._private.node import Node

    before = Node.start_api_server
    Node.start_api_server = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Node.start_api_server = before  # type: ignore[method-assign]


def only_on_loopback(address: str) -> bool:
    """Whether the cluster at an address (host:port, or "auto" for a local one) listens on loopback only.

    If it also listens on an interface, its node has that interface's address and Ray can join it as usual.
    """
    from ray._private import services

    if address == "auto":
        try:
            address = services.get_ray_address_from_environment(address, None)
        except ConnectionError:
            return False  # no cluster; Ray will report it
    host, _, port = address.rpartition(":")
    if not services.is_localhost(host):
        return False
    try:
        socket.create_connection((services.node_ip_address_from_perspective(), int(port)), timeout=5).close()
    except OSError:
        return True
    return False


def private_folder() -> Path:
    """A folder that only this user can enter, below Ray's usual one (RAY_TMPDIR, TMPDIR, /tmp).

    Ray makes its files inside world-accessible, but other users cannot enter this folder. Raises UserError
    if the folder belongs to another user.
    """
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    name = f"ray-{os.geteuid()}"
    folder = base if base.name == name else base / name  # within a session, the base is already this folder
    with explained_os_errors(f"making {folder}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise Forbidden(
                f"{folder} is not a folder of this user, so others could read Ray's files in it; remove it, or set "
                "RAY_TMPDIR to a folder of your own (a short path)."
            )
        if found.st_mode & OTHERS:
            folder.chmod(0o700)
    return folder
