"""The processes of a training start before there is work for them, and the work finds them."""

import os
import sys
import time

import psutil
import pytest

from infra.ray.cluster import ray_session, variables
from training.ray.preload import preload
from training.ray.processes import (
    ONE_MACHINE,
    OWN,
    PRELOAD,
    RAY_SETTINGS,
    begin_processes,
    session_variables,
    worker_variables,
)

MODEL = "tiny-random:unet3d"


def idle() -> set[int]:
    """Processes of this one's cluster that wait for work."""
    return {p.pid for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::IDLE")}


@pytest.mark.cluster
def test_actors_with_the_variables_of_ray_trains_own_find_processes_that_have_imported():
    import ray

    class Actor:
        """Begun with variables, as Ray Train's controller; begins a helper without, and a worker that names its own."""

        def look(self):
            return os.getpid(), "torch" in sys.modules

        def begin(self, kind, worker_variables):
            helper = ray.remote(kind).options(num_cpus=0).remote()
            worker = ray.remote(kind).options(runtime_env={"env_vars": worker_variables}).remote()
            return ray.get([helper.look.remote(), worker.look.remote()])

    with variables(session_variables()), ray_session("local", num_cpus=1, num_gpus=0):
        begin_processes(MODEL, 1, use_gpu=False)
        until = time.monotonic() + 240
        while len(started := idle()) < OWN + 1:
            assert time.monotonic() < until, started
            time.sleep(0.2)
        own = RAY_SETTINGS | ONE_MACHINE
        controller = ray.remote(Actor).options(num_cpus=0, runtime_env={"env_vars": own}).remote()
        pid, torch = ray.get(controller.look.remote())
        mine = own | worker_variables(MODEL, use_gpu=False)
        (helper, _), (worker, imported) = ray.get(controller.begin.remote(Actor, mine))
        assert {pid, helper, worker} <= started
        assert not torch
        assert imported


def test_a_worker_on_a_gpu_imports_nothing_before_it_is_given_one():
    assert worker_variables(MODEL, use_gpu=True) == {}


@pytest.mark.parametrize(
    ("foundation", "loaded"),
    [(None, "sprites"), (MODEL, MODEL), ("/models/wan", "/models/wan"), ("owner/model", "")],
)
def test_a_model_that_may_have_to_be_fetched_is_left_to_the_driver(foundation, loaded):
    assert worker_variables(foundation, use_gpu=False) == {PRELOAD: loaded}


def test_other_processes_import_nothing_ahead(monkeypatch):
    for name in RAY_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(PRELOAD, "no such model")
    preload()


def test_processes_that_cannot_be_begun_ahead_are_one_line_in_the_log(monkeypatch, caplog):
    def refuse(*_, **__):
        raise RuntimeError("no such request")

    monkeypatch.setattr("training.ray.processes.prestart", refuse)
    begin_processes(MODEL, 1, use_gpu=False)
    assert "could not be started in advance: no such request" in caplog.text
