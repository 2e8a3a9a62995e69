"""Ray for the demos, on this machine: one node that all commands share, or several nodes that can be killed.

Several nodes are a head without CPUs, for drivers, and nodes for the lanes. Object stores are small,
because lanes do not use them. Workers run at normal priority: at Ray's default, below the drivers'
priority, they would starve on few cores.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from infra.errors import Unavailable, UserError
from infra.ray.cluster import QUIET, python_path, ray_session, variables
from infra.ray.private import private_ray

STORE = 80 << 20  # bytes of a node's object store; Ray's minimum is 75 MB
# Actors of Ray Train that outlive a run by minutes, without holding resources
RAYS_OWN = {"PlacementGroupCleaner", "_AutoscalingCoordinatorActor"}


class LocalNodes:
    """The running nodes, and a way to kill one."""

    def __init__(self, cluster: Any, nodes: list[Any]) -> None:
        self._cluster, self._nodes = cluster, nodes

    @property
    def address(self) -> str:
        """The cluster's address, host:port."""
        return self._cluster.address

    def __len__(self) -> int:
        """Number of nodes beside the head."""
        return len(self._nodes)

    def lose(self) -> str:
        """Kill a node with everything that runs there. Returns its id."""
        node = self._nodes.pop()
        self._cluster.remove_node(node, allow_graceful=False)
        return node.node_id

    def actors(self) -> list[str]:
        """Class names of the running actors (lanes, their runs, supervisors), without Ray's internal ones."""
        table = self._cluster.global_state.actor_table(None, None, "ALIVE")
        return sorted({actor["ActorClassName"] for actor in table.values()} - RAYS_OWN)


@contextmanager
def local_nodes(count: int, cpus: int = 1) -> Iterator[LocalNodes]:
    """Run a head and `count` nodes during the block.

    Raises Unavailable if they do not start.
    """
    with ours(), ExitStack() as stack:
        from ray.cluster_utils import Cluster

        try:
            with private_ray():
                head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
                cluster = Cluster(initialize_head=True, head_node_args=head)
                stack.callback(cluster.shutdown)
                nodes = [cluster.add_node(num_cpus=cpus, object_store_memory=STORE) for _ in range(count)]
        except UserError:
            raise
        except Exception as error:  # Ray raises a plain Exception if a node does not start
            raise Unavailable(
                f"Ray's nodes do not start on this machine ({' '.join(str(error).split())[:300]}); Ray waits half a minute for "
                "each and 15 s for its agents, so stop other work on these cores, and try `motiondirector doctor`.",
                code="ray_unavailable",
            ) from error
        yield LocalNodes(cluster, nodes)


@contextmanager
def one_node(cpus: int, environment: Mapping[str, str]) -> Iterator[None]:
    """Run Ray with this number of CPUs and the machine's GPUs during the block.

    Child processes of this process use it, through RAY_ADDRESS.

    Args:
        environment: additional variables for its processes and those children.

    Raises Unavailable if it does not start.
    """
    with ours(environment), ray_session("local", num_cpus=cpus) as cluster:
        before = os.environ.get("RAY_ADDRESS")
        os.environ["RAY_ADDRESS"] = cluster.address
        try:
            yield
        finally:
            if before is None:
                del os.environ["RAY_ADDRESS"]
            else:
                os.environ["RAY_ADDRESS"] = before


@contextmanager
def ours(environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Sets the environment of a Ray that requires a token, which child processes get as RAY_AUTH_TOKEN.

    Ray reads the token when it is first imported, so enter this block before.
    """
    wanted = {
        **QUIET,
        "PYTHONPATH": python_path(),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_worker_niceness": "0",
        **(environment or {}),
    }
    with variables(wanted):
        yield
