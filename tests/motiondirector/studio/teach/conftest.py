"""Fixtures: a studio whose server takes trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient
from trainers import FakeTrainer

from serving.trainings import desk

Teaching = Callable[..., Any]


@pytest.fixture
def teaching(studio, monkeypatch: pytest.MonkeyPatch) -> Teaching:
    """Opens a studio with a trainer that a test brings forward; `client.trainer` is it."""
    monkeypatch.setattr(desk, "POLL", 0.02)

    @contextmanager
    def opened(**settings: Any) -> Iterator[TestClient]:
        trainer = FakeTrainer()
        with studio(trainer=trainer, **settings) as client:
            client.trainer = trainer
            yield client

    return opened
