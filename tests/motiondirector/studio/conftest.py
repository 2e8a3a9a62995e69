"""Fixtures of the studio's tests, with two motions of the library in the registry."""

from __future__ import annotations

import shutil
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


@pytest.fixture(scope="session")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found, "no Chromium is installed; `apt-get install chromium`, or leave these tests out (make test)"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()
