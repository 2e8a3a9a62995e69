"""A Ray cluster that starts on this machine listens on loopback only, and keeps its files where other users cannot get.

    with private_ray():
        ray.init(address="local", ...)          # or ray.cluster_utils.Cluster(...)
    ...
    with loopback_node():                       # another process joins it
        ray.init(address="127.0.0.1:PORT")

Left to itself, Ray 2.60 lets the metrics exporters of a local session listen on every interface, makes its session folders
writable for everybody (0777), and starts the dashboard's process (with an exporter) even where the dashboard is switched
off. Its token is in infra/ray_token.py.
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
    """Needed while a cluster starts, not while it runs. Raises UserError when its folder cannot be had.

    Args:
        dashboard: start the dashboard's process; whether it serves the dashboard is Ray's own option, `include_dashboard`.
    """
    wanted = {"RAY_TMPDIR": str(private_folder())}
    if (
        sys.platform == "linux"
    ):  # torch.distributed's gloo otherwise listens at the address of the host's name
        wanted["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    with restored(wanted):
        os.environ.update(wanted)
        with loopback_node(), contextlib.nullcontext() if dashboard else without_dashboard():
            yield


@contextlib.contextmanager
def loopback_node() -> Iterator[None]:
    """Within the block Ray takes 127.0.0.1 for this machine's address, as it does on a Mac, and leaves it as it is.

    Exporters of a node with that address listen there only. There is no setting for it on Linux: Ray replaces a loopback
    address that it is given, for its node or for a cluster to join, by that of an interface.
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
    """Within the block no dashboard process is started. Ray itself starts one even without a dashboard, for usage
    reports, which are off, and waits for it."""
    from ray._private.node import Node

    before = Node.start_api_server
    Node.start_api_server = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Node.start_api_server = before  # type: ignore[method-assign]


def only_on_loopback(address: str) -> bool:
    """Whether the cluster at an address (host:port, or "auto" for one that runs here) listens on loopback only.

    A cluster that listens on an interface, too, has that interface's address for its node; it is joined as Ray does it.
    """
    from ray._private import services

    if address == "auto":
        try:
            address = services.get_ray_address_from_environment(address, None)
        except ConnectionError:
            return False  # there is none, as Ray will say
    host, _, port = address.rpartition(":")
    if not services.is_localhost(host):
        return False
    try:
        socket.create_connection((services.node_ip_address_from_perspective(), int(port)), timeout=5).close()
    except OSError:
        return True
    return False


def private_folder() -> Path:
    """A folder of this user's alone, below where Ray would put its own (RAY_TMPDIR, TMPDIR, /tmp).

    Ray opens what it makes in there to everybody; nobody else gets as far. Raises UserError when it is another's.
    """
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    name = f"ray-{os.geteuid()}"
    folder = base if base.name == name else base / name  # within a session its folder is the base
    with explained_os_errors(f"making {folder}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise Forbidden(
                f"{folder} is not a folder of this user, and Ray's files in it would be open to another; remove it, or set "
                "RAY_TMPDIR to a folder of your own (a short path)."
            )
        if found.st_mode & OTHERS:
            folder.chmod(0o700)
    return folder
