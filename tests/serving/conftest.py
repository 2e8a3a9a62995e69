"""Fixtures of the serving tests: tiny models, a registry with random adapters, job databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from postgres import postgres
from serving_helpers import Publish, random_adapter, random_noise
from sqlalchemy import create_engine, text

from infra.registry import Registry, Version, open_registry
from models.adapters.file import save_adapter
from models.adapters.noise_prior import write_noise
from models.adapters.versions import ADAPTER_FILES
from models.foundations.base import Foundation
from models.load import load_foundation
from serving.adapters import model_list
from serving.jobs.jobs import JobStore

# Two families, and one whose scheduler draws noise and whose layers take the prompt's tokens with the video's.
FAMILIES = ("tiny-random:unet3d", "tiny-random:wan", "tiny-random:cogvideox-1.5")


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def unet3d() -> Foundation:
    return load_foundation("tiny-random:unet3d")


@pytest.fixture(scope="session", params=FAMILIES)
def foundation(request: pytest.FixtureRequest) -> Foundation:
    return load_foundation(request.param)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path / "registry")


@pytest.fixture
def lists_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `/v1/models` list the registry at every call; otherwise it would use the listing of its start."""
    monkeypatch.setattr(model_list, "FRESH", 0.0)


@pytest.fixture
def publish(registry: Registry, tmp_path: Path) -> Publish:
    """publish(foundation, "orbit", seed=1) publishes a version with random weights.

    `references`: of how many it has a noise prior.
    """

    def make(foundation: Foundation, concept: str, references: int = 0, **kind) -> Version:
        folder = tmp_path / "made" / f"{concept}-{len(list(tmp_path.glob('made/*')))}"
        adapter = random_adapter(foundation, **kind)
        saved = save_adapter((folder / ADAPTER_FILES[adapter.path]).parent, adapter, foundation)
        if references:
            write_noise(folder, foundation, foundation.defaults.bucket, random_noise(foundation, references))
        return registry.publish(concept, folder, metadata=dict(saved.metadata))

    return make


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server for this test session."""
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty job database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'jobs.sqlite'}"
        return
    url = request.getfixturevalue("postgres_url")
    yield url
    sql = create_engine(url)
    with sql.begin() as connection:  # with its functions, which a dump would create again
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    sql.dispose()


@pytest.fixture
def store(url: str) -> Iterator[JobStore]:
    store = JobStore(url)
    yield store
    store.close()
