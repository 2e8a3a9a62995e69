"""Fixtures shared by the tests of several packages, and how tests are distributed over processes."""

import functools
import os
import uuid
from pathlib import Path

import pytest

# Set before torch is loaded, also for processes that tests start. Tiny models gain nothing from threads, the number of
# threads affects the rounding of sums, and spinning threads slow down processes that share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray starts its workers at niceness 15, where the other test process would starve them.
os.environ.setdefault("RAY_worker_niceness", "0")

from warm import warm_processes

from infra.storage import open_storage
from infra.storage.s3server import LoopbackS3


@pytest.fixture(scope="session")
def s3():
    """An S3 server on loopback with the bucket "tests"; its AWS_* variables are in os.environ."""
    with LoopbackS3(bucket="tests") as server, server.exported():
        yield server


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """Starts scripts in processes that have already imported torch (warm.py)."""
    with warm_processes(tmp_path_factory.mktemp("warm")) as processes:
        yield processes


@functools.cache
def text_of(file: Path) -> str:
    return file.read_text()


def on_cluster(file: Path) -> bool:
    """Whether the file has tests that start a Ray cluster."""
    return "pytest.mark.cluster" in text_of(file)


def forks(file: Path) -> bool:
    """Whether the file's tests start scripts with `warm`."""
    return "warm.start(" in text_of(file)


def pytest_collection_modifyitems(items):
    """Run the longest groups first: tests with a cluster, then tests with forked scripts."""
    items.sort(key=lambda item: (not on_cluster(item.path), not forks(item.path)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `-n`, keep a file's tests in one process, all cluster tests in one, and all tests with forked scripts in one.

    `--dist loadgroup` does not work: xdist 3.8 silently loses its groups with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneClusterAtATime(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            path = config.rootpath / file
            return "clusters" if on_cluster(path) else "forks" if forks(path) else file

    return OneClusterAtATime(config, log)


@pytest.fixture(params=["folder", "s3"])
def storage(request, tmp_path):
    """An empty storage: a folder and S3."""
    if request.param == "folder":
        return open_storage(tmp_path / "store")
    return open_storage(f"{request.getfixturevalue('s3').uri}/{uuid.uuid4().hex}")
