"""Worker processes that Ray starts before there is work for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def prestart(variables: Mapping[str, str], count: int, keep_s: int, *, merged: bool = False) -> None:
    """Have Ray start so many idle processes on this driver's node; returns at once.

    An actor takes one of them when the environment variables of its `runtime_env` are exactly these. Ray 2.60 offers that to its
    own parts, not to Python; this is its request.

    Args:
        keep_s: how long an idle one is kept, in seconds.
        merged: for an actor that names variables of its own and is created by one that has some. Ray compares its text of
            them, and writes that otherwise where it merged them.
    """
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray._private.utils import get_runtime_env_info
    from ray.core.generated import common_pb2, node_manager_pb2, node_manager_pb2_grpc
    from ray.runtime_env import RuntimeEnv

    node: Any = ray._private.worker._global_node
    messages: Any = node_manager_pb2
    languages: Any = common_pb2
    info = get_runtime_env_info(RuntimeEnv(env_vars=dict(variables)))
    if merged:
        text = json.dumps({"env_vars": dict(variables)}, sort_keys=True, separators=(",", ":"))
        info.serialized_runtime_env = text
    request = messages.PrestartWorkersRequest(
        language=languages.PYTHON,
        job_id=ray._private.worker.global_worker.current_job_id.binary(),
        runtime_env_info=info,
        keep_alive_duration_secs=keep_s,
        num_workers=count,
    )
    with init_grpc_channel(f"{node.node_ip_address}:{node.node_manager_port}") as channel:
        node_manager_pb2_grpc.NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=10)
