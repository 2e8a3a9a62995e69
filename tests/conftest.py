"""Fixtures that more than one room's tests use, and how tests are shared out among processes."""

import functools
import os
from pathlib import Path

import pytest

# Before torch is loaded, and for the processes that tests start. Tiny models gain nothing by threads, sums are rounded
# by how threads split them, and threads that spin while they wait slow everything down where processes share cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray starts its workers at niceness 15, where they starve beside the other process of the tests.
os.environ.setdefault("RAY_worker_niceness", "0")

from warm import warm_processes

from infra.s3server import LoopbackS3


@pytest.fixture(scope="session")
def s3():
    """An S3 server on loopback with the bucket "tests"; its AWS_* variables are in os.environ."""
    with LoopbackS3(bucket="tests") as server, server.exported():
        yield server


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """Starts scripts in processes that have torch already (warm.py)."""
    with warm_processes(tmp_path_factory.mktemp("warm")) as processes:
        yield processes


@functools.cache
def text_of(file: Path) -> str:
    return file.read_text()


def on_cluster(file: Path) -> bool:
    """Whether the file has tests that start a Ray cluster."""
    return "pytest.mark.cluster" in text_of(file)


def forks(file: Path) -> bool:
    """Whether its tests start scripts with `warm`."""
    return "warm.start(" in text_of(file)


def pytest_collection_modifyitems(items):
    """What takes longest together first: the clusters' tests, then the scripts'."""
    items.sort(key=lambda item: (not on_cluster(item.path), not forks(item.path)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `-n`: a file's tests stay together, for their fixtures, and one process has all the clusters, one at a time, as
    one has all scripts that are forked (`warm`).

    Not `--dist loadgroup`: xdist 3.8 does not get its groups through to pytest 9.2, and says nothing.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneClusterAtATime(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            path = config.rootpath / file
            return "clusters" if on_cluster(path) else "forks" if forks(path) else file

    return OneClusterAtATime(config, log)
