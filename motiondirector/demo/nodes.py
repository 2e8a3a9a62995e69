"""Ray for the demos, on this machine: one node that all commands share, or several that can be lost as machines are: at
once, without a word.

The several are a head without CPUs, where drivers run, and nodes for the lanes. Small object stores: lanes pass nothing
through them. Ray would start its workers at a low priority, below the drivers beside them, so that they would starve on few
cores.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from infra.cluster import QUIET, python_path, ray_session, variables
from infra.errors import Unavailable, UserError
from infra.private_ray import private_ray

STORE = 80 << 20  # bytes of a node's object store; Ray's least is 75 MB
# Actors of Ray Train that outlive a run by minutes, holding nothing
RAYS_OWN = {"PlacementGroupCleaner", "_AutoscalingCoordinatorActor"}


class LocalNodes:
    """The nodes that live, and how to lose one."""

    def __init__(self, cluster: Any, nodes: list[Any]) -> None:
        self._cluster, self._nodes = cluster, nodes

    @property
    def address(self) -> str:
        """Of the cluster, host:port."""
        return self._cluster.address

    def __len__(self) -> int:
        """Nodes beside the head."""
        return len(self._nodes)

    def lose(self) -> str:
        """Kill one with all that runs there. Returns its id."""
        node = self._nodes.pop()
        self._cluster.remove_node(node, allow_graceful=False)
        return node.node_id

    def actors(self) -> list[str]:
        """Class names of the actors that live: lanes, their runs, and who keeps those; not what Ray keeps for itself."""
        table = self._cluster.global_state.actor_table(None, None, "ALIVE")
        return sorted({actor["ActorClassName"] for actor in table.values()} - RAYS_OWN)


@contextmanager
def local_nodes(count: int, cpus: int = 1) -> Iterator[LocalNodes]:
    """A head and so many nodes for the length of the block.

    Raises Unavailable where they do not come up.
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
        except Exception as error:  # Ray raises a plain one where a node does not come up
            raise Unavailable(
                f"Ray's nodes do not come up on this machine ({' '.join(str(error).split())[:300]}); Ray gives each half a "
                "minute, its agents 15 s, so let nothing else use the cores, and see `motiondirector doctor`.",
                code="ray_unavailable",
            ) from error
        yield LocalNodes(cluster, nodes)


@contextmanager
def one_node(cpus: int, environment: Mapping[str, str]) -> Iterator[None]:
    """A Ray with so many CPUs and this machine's GPUs for the length of the block; children of this process use it, as
    RAY_ADDRESS says.

    Args:
        environment: more variables, of its processes and of those children.

    Raises Unavailable where it does not come up.
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
    """The environment of a Ray that nobody gets into without the token, which children of this process have as RAY_AUTH_TOKEN.

    Ray reads that when it is first imported, so this comes before.
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
