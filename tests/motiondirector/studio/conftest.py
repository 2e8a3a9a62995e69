"""Fixtures of the studio's tests, with two motions of the library in the registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from studio_helpers import Studio

from motiondirector.library.library import add_library


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("studio") / "registry"
    add_library(str(folder), ["orbit", "tilt"])
    return str(folder)


@pytest.fixture
def studio(tmp_path: Path, library: str) -> Studio:
    return Studio(tmp_path, library)


@pytest.fixture
def open_studio(studio: Studio) -> Iterator[TestClient]:
    """A studio without keys."""
    with studio() as client:
        yield client
