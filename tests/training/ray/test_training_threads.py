"""How many torch threads a training worker has on a CPU."""

import os

from training.ray.threads import SMALL, threads_for


def test_a_worker_has_its_share_of_the_cores_and_one_thread_for_a_small_model(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    assert [threads_for(SMALL, workers) for workers in (1, 2, 4, 8)] == [6, 3, 1, 1]
    assert [threads_for(SMALL - 1, workers) for workers in (1, 8)] == [1, 1]
