"""What a cluster can have counts, not only what it has: GPU workers that an autoscaler starts are waited for."""

import pytest
import ray

from infra.errors import UserError
from infra.ray.cluster import WORKER_NODES, check_workers, has_gpus, reachable_nodes, worker_nodes

HEAD = {"Alive": True, "Resources": {"CPU": 0.0, "node:__internal_head__": 1.0}}
GPU_NODE = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}


@pytest.fixture
def cluster(monkeypatch):
    """Sets the nodes that Ray knows of."""

    def has(*nodes):
        monkeypatch.setattr(ray, "nodes", lambda: list(nodes))

    monkeypatch.delenv(WORKER_NODES, raising=False)
    return has


def test_a_cluster_at_zero_can_have_what_its_autoscaler_may_start(cluster, monkeypatch):
    cluster(HEAD)
    assert not has_gpus()
    with pytest.raises(UserError, match="expected 1 to 0"):
        check_workers(1, gpus=1)
    monkeypatch.setenv(WORKER_NODES, '[{"count": 2, "CPU": 8, "GPU": 1}, {"count": 1, "CPU": 16}]')
    assert has_gpus()
    check_workers(2, gpus=1)
    check_workers(32)
    with pytest.raises(UserError, match="expected 1 to 2: the Ray cluster has 32 CPUs, 2 GPUs on 4 nodes"):
        check_workers(3, gpus=1)


def test_workers_that_are_there_already_are_not_counted_twice(cluster, monkeypatch):
    monkeypatch.setenv(WORKER_NODES, '[{"count": 2, "CPU": 8, "GPU": 1}]')
    cluster(HEAD, GPU_NODE)
    assert len(reachable_nodes()) == 3
    cluster(HEAD, GPU_NODE, GPU_NODE, GPU_NODE, {**GPU_NODE, "Alive": False})
    assert len(reachable_nodes()) == 4  # somebody added one by hand


@pytest.mark.parametrize("text", ["8", "{", '{"GPU": 1}', '[{"GPU": 1}]', '[{"count": "two"}]', "[3]"])
def test_a_wrong_list_is_one_sentence(text):
    with pytest.raises(UserError, match=f"{WORKER_NODES}=.* is not a list of nodes; expected JSON such as"):
        worker_nodes(text)
