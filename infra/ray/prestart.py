"""Makes Ray start worker processes before there is work for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def prestart(variables: Mapping[str, str], count: int, keep_s: int, *, merged: bool = False) -> None:
    """Have Ray start `count` idle processes on this driver's node; returns at once.

    An actor uses one of them if the environment variables of its `runtime_env` are exactly `variables`.
    Ray 2.60 has no Python API for this, so this sends the internal request.

    Args:
        keep_s: how long Ray keeps an idle process, in seconds.
        merged: the actor sets variables and its creator has some too. Ray compares serialized environments,
            and serializes a merged one differently.
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
