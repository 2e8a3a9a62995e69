"""Ray sessions: start a local cluster or attach to a running one; check resources instead of waiting.

    with ray_session(args.address) as cluster:
        check_workers(args.workers, gpus=1)
        ...

A local cluster is a child of this process and ends with it. It requires a token (token.py) and
listens on loopback only (private.py). On any other cluster, every node needs this package installed
and the AWS_* variables of the storage; no code is shipped from here.

A cluster with an autoscaler may have no worker yet, and Ray does not report what its autoscaler can add.
The operator of such a cluster declares it where drivers run (docs/cluster.md):
MOTIONDIRECTOR_WORKER_NODES='[{"count": 8, "CPU": 8, "GPU": 1}]'.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from infra.environment import restored
from infra.errors import InvalidInput, Unavailable, UserError
from infra.paths import ROOT
from infra.ray.private import loopback_node, only_on_loopback, private_ray
from infra.ray.token import token_required

WORKER_NODES = "MOTIONDIRECTOR_WORKER_NODES"
EXAMPLE = '[{"count": 8, "CPU": 8, "GPU": 1}]'
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no usage reports
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's future default; without it every worker warns
    "RAY_DEDUP_LOGS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # several workers share the cores: spinning threads slow all tenfold
}


@dataclass(frozen=True)
class Cluster:
    """The cluster of a session."""

    address: str  # host:port of its control service
    started: bool  # whether this session started it, and so ends it


@contextlib.contextmanager
def ray_session(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    logs: bool = False,
    **options: Any,
) -> Iterator[Cluster]:
    """Connect to Ray for the length of a block.

    Args:
        address: of a running cluster ("host:6379", "auto", "ray://..."). None: RAY_ADDRESS if it is set,
            else a new cluster on this machine. A nested session uses the outer session's cluster.
        num_cpus, num_gpus: of a new cluster; None: all of the machine.
        logs: show the workers' output here (it disturbs progress bars).
        options: other arguments of ray.init.

    Raises Unavailable if there is no cluster at the address, if its version differs, or if a local
    one does not start.
    """
    import ray

    if ray.is_initialized():
        yield Cluster(ray.get_runtime_context().gcs_address, started=False)
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    local = address == "local"
    if local:
        options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "include_dashboard": False, **options}
    with contextlib.ExitStack() as stack:
        try:
            check_listening(address)
            if local:
                stack.enter_context(token_required())
                starting: contextlib.AbstractContextManager[None] = private_ray(
                    dashboard=bool(options["include_dashboard"])
                )
            else:
                starting = loopback_node() if only_on_loopback(address) else contextlib.nullcontext()
            with variables(QUIET | ({"PYTHONPATH": python_path()} if local else {})), starting:
                begin(address=address, logging_level=logging.ERROR, log_to_driver=logs, **options)
            stack.callback(ray.shutdown)
        except UserError:
            raise
        except Exception as error:  # Ray raises a bare Exception if its node does not answer in time
            ray.shutdown()
            raise Unavailable(explain(address, local, error), code="ray_unavailable") from error
        yield Cluster(ray.get_runtime_context().gcs_address, started=local)


def begin(**options: Any) -> None:
    """`ray.init`, tried again if a cluster fails to start its server for this client.

    Ray forks that server beside threads that use gRPC, so sometimes it ends at once; the next one is another process.
    """
    import ray

    for _ in range(2):
        try:
            ray.init(**options)
            return
        except Exception as error:
            if "Starting Ray client server failed" not in str(error):
                raise
            ray.shutdown()
    ray.init(**options)


def check_listening(address: str) -> None:
    """Raise OSError if nothing listens at host:port or ray://host:port; Ray would retry for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def explain(address: str, local: bool, error: Exception) -> str:
    """The error message for a cluster that cannot be started or reached."""
    reason = " ".join(str(error).split())[:300].rstrip(".")
    if not local:
        return (
            f"no usable Ray cluster at {address} ({reason}); check the address, that `ray status` answers there, and "
            "that it runs the same versions of Ray and Python."
        )
    return (
        f"Ray does not start on this machine ({reason}); `motiondirector doctor` checks /dev/shm, free disk and "
        "the temporary folder (RAY_TMPDIR, a short path)."
    )


def reachable_nodes() -> list[dict[str, float]]:
    """Resources ({"CPU": 8, "GPU": 1}, ...) of each node that the cluster has or that its autoscaler can add.

    MOTIONDIRECTOR_WORKER_NODES lists all possible workers, including those already alive. If the two lists
    of workers differ in length, the longer one counts. Raises UserError if the variable is malformed.
    """
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    workers = [node["Resources"] for node in alive if not is_head(node["Resources"])]
    heads = [node["Resources"] for node in alive if is_head(node["Resources"])]
    named = worker_nodes(os.environ.get(WORKER_NODES, "[]"))
    return heads + (named if len(named) > len(workers) else workers)


def is_head(resources: Mapping[str, float]) -> bool:
    return "node:__internal_head__" in resources


def worker_nodes(text: str) -> list[dict[str, float]]:
    """Resources of each node of MOTIONDIRECTOR_WORKER_NODES: JSON [{"count": n, RESOURCE: amount, ...}]."""
    try:
        kinds = [(int(kind["count"]), kind) for kind in json.loads(text)]
        return [
            {name: float(amount) for name, amount in kind.items() if name != "count"}
            for count, kind in kinds
            for _ in range(count)
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(
            f"{WORKER_NODES}={text[:200]!r} is not a list of nodes; expected JSON such as {EXAMPLE}.",
            code="invalid_worker_nodes",
        ) from None


def has_gpus() -> bool:
    """Whether any node of this session's cluster has GPUs, including nodes that its autoscaler can add."""
    return any(node.get("GPU", 0) > 0 for node in reachable_nodes())


def check_workers(workers: int, gpus: float = 0, cpus: float = 1) -> None:
    """Raise unless this session's cluster has room for `workers`, each with `gpus` and `cpus` on one node.

    Ray would wait forever for a worker that fits nowhere. Counts total resources, not free ones,
    because other jobs end. Raises InvalidInput "not_enough_workers".
    """
    nodes = reachable_nodes()
    room = sum(count_fitting(node, {"CPU": cpus, "GPU": gpus}) for node in nodes)
    if workers < 1 or room < workers:
        have = ", ".join(f"{sum(node.get(kind, 0) for node in nodes):g} {kind}s" for kind in ("CPU", "GPU"))
        needs = f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
        raise InvalidInput(
            f"{workers} workers were requested, each with {needs}; expected 1 to {room}: the Ray cluster has {have} on "
            f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}. Request fewer workers or attach a larger cluster "
            "(--address).",
            code="not_enough_workers",
        )


def this_node() -> dict[str, str]:
    """The label selector of this process's node (for a `ray://` client: of the node it is attached to).

    Ray may place an actor without CPUs on any node. Actors that a run depends on stay on the driver's node.
    """
    import ray

    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()}


def last_line(error: BaseException) -> str:
    """The last line of an error: Ray adds a remote traceback. For Ray Train, uses the worker's error."""
    failures = list(getattr(error, "worker_failures", {}).values()) or [error]
    lines = [line.strip() for line in str(failures[0]).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:400]


def count_fitting(node: dict[str, float], need: dict[str, float]) -> int:
    """How many workers with these needs fit on one node."""
    return min(int(node.get(kind, 0) / amount + 1e-9) for kind, amount in need.items() if amount > 0)


def python_path() -> str:
    """PYTHONPATH with this project's root first, so that Ray's workers find its packages from any folder."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


@contextlib.contextmanager
def variables(wanted: dict[str, str]) -> Iterator[None]:
    """Set environment variables within a block. Those already set keep their values, except PYTHONPATH."""
    new = {name: value for name, value in wanted.items() if name not in os.environ or name == "PYTHONPATH"}
    with restored(wanted):
        os.environ.update(new)
        yield
