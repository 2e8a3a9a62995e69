"""Fixtures shared by several folders' tests, and the distribution of tests to processes."""

import functools
import os
from pathlib import Path

import pytest

# Set before torch is imported, also for processes that tests start. Tiny models gain nothing from
# threads, rounding of sums depends on how threads split them, and spinning threads slow down other
# processes on the same cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# By default Ray starts its workers at niceness 15, where they starve beside other test processes.
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
    """Starts scripts in processes that have imported torch already (warm.py)."""
    with warm_processes(tmp_path_factory.mktemp("warm")) as processes:
        yield processes


@functools.cache
def text_of(file: Path) -> str:
    return file.read_text()


def on_cluster(file: Path) -> bool:
    """Whether the file has tests that start a Ray cluster."""
    return "pytest.mark.cluster" in text_of(file)


def forks(file: Path) -> bool:
    """Whether the file has tests that start scripts with `warm`."""
    return "warm.start(" in text_of(file)


def pytest_collection_modifyitems(items):
    """Run the slowest groups first: tests with clusters, then tests with scripts."""
    items.sort(key=lambda item: (not on_cluster(item.path), not forks(item.path)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `-n`, keep each file's tests in one process, for their fixtures.

    All cluster tests run in one process, one cluster at a time, and all forked scripts (`warm`) in one
    process. `--dist loadgroup` is no alternative: xdist 3.8 silently loses its groups with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneClusterAtATime(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            path = config.rootpath / file
            return "clusters" if on_cluster(path) else "forks" if forks(path) else file

    return OneClusterAtATime(config, log)
