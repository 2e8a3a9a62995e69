"""Fixtures that more than one room's tests use, and how tests are shared out among processes."""

import os

import pytest

# Before torch is loaded, and for the processes that tests start. Tiny models gain nothing by threads, sums are rounded
# by how threads split them, and threads that spin while they wait slow everything down where processes share cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from infra.s3server import LoopbackS3


@pytest.fixture(scope="session")
def s3():
    """An S3 server on loopback with the bucket "tests"; its AWS_* variables are in os.environ."""
    with LoopbackS3(bucket="tests") as server, server.exported():
        yield server


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """For `--dist loadgroup`: a file's tests stay together, for their fixtures; one Ray cluster at a time.

    The group of the clusters takes longest and so comes first; the other files follow in the usual order.
    """
    for item in items:
        on_cluster = item.get_closest_marker("cluster")
        group = "cluster" if on_cluster else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("cluster") is None)
