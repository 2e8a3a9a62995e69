"""The studio over an engine that finishes at once, and a person who uses it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fakes import INFO, FakeEngine, api_over
from fastapi.testclient import TestClient

from infra.registry import open_registry
from motiondirector.studio.app import add_studio
from serving.keys import ApiKey, hash_key

KEY, OTHER = "the-key-of-a-person-0123", "the-key-of-another-4567"


class SpriteEngine(FakeEngine):
    """Says that it has the embedded model."""

    def __init__(self, fingerprint: str, **kind: Any) -> None:
        super().__init__(**kind)
        self.info = INFO.model_copy(update={"name": "sprites", "fingerprint": fingerprint, "rank": 32})

    async def describe(self):
        await super().describe()
        return self.info


class Studio:
    """Opens the studio, each time with a database of its own."""

    def __init__(self, folder: Path, registry: str) -> None:
        self._folder, self._registry, self._number = folder, registry, 0
        version = open_registry(registry).resolve("orbit")
        self.fingerprint = version.metadata["foundation_fingerprint"]

    @contextmanager
    def __call__(self, engine: FakeEngine | None = None, keys: tuple[str, ...] = (), **settings: Any):
        self._number += 1
        engine = engine or SpriteEngine(self.fingerprint)
        settings.setdefault("api_keys", [ApiKey(sha256=hash_key(key)) for key in keys])
        settings = {"registry": self._registry, "data_dir": str(self._folder / str(self._number)), **settings}
        with api_over(engine, **settings) as client:
            add_studio(client.app)
            client.engine = engine  # type: ignore[attr-defined]
            yield client


def sign_in(client: TestClient, key: str = KEY) -> dict[str, str]:
    """Sign in; the headers that a page's scripts send with a change."""
    answer = client.post("/studio/sign-in", data={"key": key, "next": "/studio/videos"})
    assert answer.status_code == 303, answer.text
    return {"X-CSRF-Token": client.get("/studio/").text.split('data-csrf="')[1].split('"')[0]}


def ended(client: TestClient, id: str) -> dict[str, Any]:
    """The video, once it has ended."""
    until = time.monotonic() + 30
    while True:
        video = client.get(f"/studio/api/v1/videos/{id}").json()
        if video["status"] not in ("queued", "in_progress"):
            return video
        assert time.monotonic() < until, video
        time.sleep(0.01)
