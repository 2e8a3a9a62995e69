import uuid

import pytest

from infra.storage import open_storage


@pytest.fixture(params=["folder", "s3"])
def storage(request, tmp_path):
    """An empty storage: a folder and S3."""
    if request.param == "folder":
        return open_storage(tmp_path / "store")
    return open_storage(f"{request.getfixturevalue('s3').uri}/{uuid.uuid4().hex}")
