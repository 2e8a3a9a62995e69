"""A Ray session leaves the machine as it found it and says at once what the cluster has not."""

import os
import socket
import subprocess
import sys
import time

import pytest
import ray

from infra.errors import UserError
from infra.ray.cluster import check_workers, count_fitting, ray_session
from infra.storage import open_storage
from motiondirector.doctor.probes import check_ray
from serving.ray.deployment import HEAD

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(s3):
    with ray_session(num_cpus=2, num_gpus=0) as cluster:
        yield cluster
    assert not ray.is_initialized()


def test_workers_import_this_project_and_reach_the_storage(cluster, s3):
    assert cluster.started
    storage = open_storage(f"{s3.uri}/from-a-worker")

    @ray.remote
    def work(storage):
        import infra.registry

        storage.put("key", b"from afar")
        return os.getpid(), infra.registry.__file__

    pid, path = ray.get(work.remote(storage))
    assert pid != os.getpid()
    assert path == sys.modules["infra.paths"].__file__.replace("paths", "registry")
    assert storage.get("key") == b"from afar"


def test_an_inner_session_leaves_the_outer_ones_cluster(cluster):
    with ray_session() as inner:
        assert not inner.started
        assert inner.address == cluster.address
    assert ray.is_initialized()


def test_the_doctors_task_runs_on_a_cluster_without_a_free_cpu(cluster):
    """A head that only schedules has none at all."""

    @ray.remote(num_cpus=2)
    class All:
        def are_taken(self):
            return ray.available_resources().get("CPU", 0)

    holder = All.remote()
    ray.get(holder.are_taken.remote())
    (check,) = check_ray(None)
    ray.kill(holder)
    assert check.status == "ok", check.found


def test_a_cluster_of_one_machine_has_the_resource_of_a_head(cluster):
    """Where an ingress is pinned."""
    assert ray.cluster_resources()[HEAD] == 1


def test_more_workers_than_the_cluster_has_are_refused(cluster):
    check_workers(1)
    check_workers(2)
    check_workers(4, cpus=0.5)
    for asked in ({"workers": 3}, {"workers": 0}, {"workers": 1, "gpus": 1}, {"workers": 2, "cpus": 1.5}):
        with pytest.raises(UserError, match="the Ray cluster has 2 CPUs, 0 GPUs on 1 node") as caught:
            check_workers(**asked)
        assert caught.value.code == "not_enough_workers"


def test_a_worker_must_fit_on_one_node():
    need = {"CPU": 1, "GPU": 2}
    assert count_fitting({"CPU": 8, "GPU": 5}, need) == 2
    assert count_fitting({"CPU": 1, "GPU": 5}, need) == 1
    assert count_fitting({"CPU": 8}, need) == 0
    assert count_fitting({"CPU": 1}, {"CPU": 0.1, "GPU": 0}) == 10


def test_the_environment_is_left_as_it_was(cluster):
    assert "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO" not in os.environ


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no.such.host.invalid:6379"])
def test_no_cluster_at_the_address_is_one_sentence_at_once(address):
    code = (
        "import sys; from infra.ray.cluster import ray_session; from infra.errors import UserError\n"
        "try:\n"
        "    with ray_session(sys.argv[1]): pass\n"
        "except UserError as error: print(error.code, error.message)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, address],
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    assert answer.startswith(f"ray_unavailable no usable Ray cluster at {address} (")
    assert len(answer.splitlines()) == 1


def test_a_local_cluster_ends_with_the_process_that_started_it():
    code = (
        "import time; from infra.ray.cluster import ray_session\n"
        "with ray_session(num_cpus=1) as cluster: print(cluster.address, flush=True); time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    host, port = child.stdout.readline().strip().split(":")
    socket.create_connection((host, int(port))).close()
    child.kill()
    child.wait()
    child.stdout.close()
    for _ in range(600):
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return
        time.sleep(0.1)
    raise AssertionError("the cluster is still there a minute later")


def test_a_ray_that_does_not_come_up_is_one_sentence(monkeypatch):
    """Ray raises a plain Exception when its node does not answer in time, as on a machine that is very busy."""

    def init(**_):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(
            UserError, match=r"Ray does not start on this machine .*timed out during startup"
        ) as caught,
        ray_session("local"),
    ):
        raise AssertionError
    assert caught.value.code == "ray_unavailable"
