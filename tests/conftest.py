"""Fixtures that more than one room's tests use."""

import os

import pytest

# Before torch is loaded: threads that spin while they wait slow everything down where processes share cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from infra.s3server import LoopbackS3


@pytest.fixture(scope="session")
def s3():
    """An S3 server on loopback with the bucket "tests"; its AWS_* variables are in os.environ."""
    with LoopbackS3(bucket="tests") as server, server.exported():
        yield server
