"""The list of all versions: each pointer is read once, however large the registry and whoever waits."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes import INFO, FakeEngine

from infra.errors import UserError
from infra.registry import ADAPTER_FILE, Registry
from infra.storage import FolderStorage
from serving.adapters import model_list
from serving.adapters.concepts import Concepts
from serving.adapters.model_list import ModelListCache
from serving.config import ServeConfig
from serving.http import catalogue
from serving.http.service import VideoService

pytestmark = pytest.mark.usefixtures("lists_anew")


class Storage(FolderStorage):
    """Counts what is asked of it; with `gate` closed, objects are not answered."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.listed, self.read, self.gate = 0, Counter[str](), threading.Event()
        self.gate.set()

    def list(self, prefix: str = ""):
        self.listed += 1
        return super().list(prefix)

    def get(self, key: str) -> bytes:
        self.read[key] += 1
        assert self.gate.wait(60)
        return super().get(key)


@pytest.fixture
def storage(registry: Registry) -> Storage:
    return Storage(Path(registry.uri))


@pytest.fixture
def publish(registry: Registry, tmp_path: Path):
    """publish("orbit"): a version of a file that nobody opens here."""
    (tmp_path / "files").mkdir()

    def make(concept: str, fingerprint: str | None = INFO.fingerprint) -> str:
        (tmp_path / "files" / ADAPTER_FILE).write_bytes(concept.encode())
        metadata = {} if fingerprint is None else {"foundation_fingerprint": fingerprint}
        return registry.publish(concept, tmp_path / "files", metadata=metadata).ref

    return make


def test_each_version_is_read_once_and_what_there_is_is_listed_once(registry, storage: Storage, publish):
    names = [publish(f"c{n:02d}") for n in range(20)] + [publish("c19")]
    registry.add_metrics(registry.resolve("c03"), {"motion": 0.5})
    models = ModelListCache(Registry(storage))
    seen = models.versions()
    assert [one.ref for one in seen] == names
    assert storage.listed == 1
    assert sorted(storage.read) == [f"concepts/{one.concept}/versions/{one.number}.json" for one in seen]
    assert seen[3].sha256 == registry.resolve("c03").adapter_sha256
    assert seen[3].created == int(registry.resolve("c03").created_at.timestamp())
    assert models.versions() == seen
    assert storage.listed == 2
    registry.remove("c05@1")
    new = publish("b")
    assert [one.ref for one in models.versions()] == [new, *(name for name in names if name != "c05@1")]
    assert set(storage.read.values()) == {1}
    assert len(models._known) == len(names)  # what was removed is not kept


def test_a_damaged_pointer_is_said_and_the_others_are_not_read_again(storage: Storage, publish):
    for name in "abc":
        publish(name)
    pointer = storage.path("concepts/b/versions/1.json")
    whole = pointer.read_bytes()
    pointer.write_bytes(b"{")
    models = ModelListCache(Registry(storage))
    with pytest.raises(UserError, match="damaged"):
        models.versions()
    pointer.write_bytes(whole)
    assert [one.ref for one in models.versions()] == ["a@1", "b@1", "c@1"]
    assert storage.read["concepts/a/versions/1.json"] == 1


def test_a_list_that_takes_long_goes_on_and_the_next_who_asks_has_it(
    tmp_path: Path, storage: Storage, publish, monkeypatch: pytest.MonkeyPatch
):
    ours = [publish("a"), publish("b", None)]
    publish("of-another", "0" * 64)
    monkeypatch.setattr("serving.http.service.open_concepts", lambda uri, memory: Concepts(storage))

    async def main() -> None:
        service = VideoService(ServeConfig(data_dir=str(tmp_path / "data"), registry="x"), FakeEngine())
        storage.gate.clear()
        with monkeypatch.context() as patch:
            patch.setattr(catalogue, "REGISTRY_TIMEOUT", 0.01)
            while not storage.read:
                with pytest.raises(UserError) as caught:
                    await service.catalogue.models("")
                assert caught.value.code == "registry_slow"
        storage.gate.set()
        models = json.loads(await service.catalogue.models(""))["data"]
        assert [model["id"] for model in models] == ["foundation", *(f"foundation:{ref}" for ref in ours)]
        assert set(storage.read.values()) == {1}
        service.store.close()

    asyncio.run(main())


def test_many_who_ask_within_a_second_are_answered_by_one_list(
    storage: Storage, publish, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(model_list, "FRESH", 60.0)
    for n in range(3):
        publish(f"c{n}")
    models = ModelListCache(Registry(storage))
    storage.gate.clear()
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(models.versions) for _ in range(12)]
        while not storage.read:
            time.sleep(0.005)
        storage.gate.set()
        lists = [one.result() for one in asked]
    assert storage.listed == 1
    assert all(one is lists[0] for one in lists)
    assert list(models.names) == ["c0", "c1", "c2"]


def test_what_is_answered_is_written_once_while_nothing_changes(
    tmp_path: Path, storage: Storage, publish, monkeypatch: pytest.MonkeyPatch
):
    publish("a")
    monkeypatch.setattr("serving.http.service.open_concepts", lambda uri, memory: Concepts(storage))

    async def main() -> None:
        service = VideoService(ServeConfig(data_dir=str(tmp_path / "data"), registry="x"), FakeEngine())
        first = await service.catalogue.models("")
        assert await service.catalogue.models("") is first
        publish("b")
        assert [model["id"] for model in json.loads(await service.catalogue.models(""))["data"]] == [
            "foundation",
            "foundation:a@1",
            "foundation:b@1",
        ]
        service.store.close()

    asyncio.run(main())
