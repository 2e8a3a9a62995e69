"""What is erased is nowhere: not in the storage, not in the database, not in a cache."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fakes import INFO, FakeEngine, api_over
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from infra.erasure import erase_versions, hashes_of
from infra.registry import ADAPTER_FILE, Registry
from infra.storage.objects import object_key, put_named
from motiondirector.cli import build
from serving.jobs.jobs import JobStore
from serving.keys import ApiKey, hash_key
from serving.tenants import api_keys

ADMIN, BOB = "the-key-of-the-platform-0123", "the-key-of-bob-0123456789"
pytestmark = pytest.mark.usefixtures("lists_anew")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "FRESH", 0.0)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def api(tmp_path: Path, registry: Registry, engine: FakeEngine) -> Iterator[TestClient]:
    keys = [
        ApiKey(sha256=hash_key(ADMIN), tenant="platform", role="admin"),
        ApiKey(sha256=hash_key(BOB), tenant="bob", role="owner"),
    ]
    data = str(tmp_path / "data")
    with api_over(engine, data_dir=data, registry=registry.uri, api_keys=keys) as client:
        yield client


def ask(api: TestClient, key: str, method: str, path: str, body: object = None) -> httpx.Response:
    return api.request(method, path, json=body, headers={"Authorization": f"Bearer {key}"})


def publish(registry: Registry, folder: Path, name: str, content: str) -> str:
    """A version of two files, of which every concept has the second; returns the hash of the first."""
    files = folder / "files"
    files.mkdir(exist_ok=True)
    (files / ADAPTER_FILE).write_text(content)
    (files / "note.txt").write_text("the same in all")
    return registry.publish(name, files, metadata={"foundation_fingerprint": INFO.fingerprint}).adapter_sha256


def video_of(api: TestClient, key: str, **body: object) -> dict:
    """A completed video."""
    video = ask(api, key, "POST", "/v1/videos", {"prompt": "zebra-crossing", **body}).json()
    headers = {"Authorization": f"Bearer {key}"}
    with api.stream("GET", f"/v1/videos/{video['id']}/events", headers=headers) as events:
        assert "video.completed" in events.read().decode()
    return video


def places_of(root: Path, database: Path, *words: str) -> list[str]:
    """Where any of the words is: paths and contents of files, and rows of tables but the audit log."""
    found = [
        str(path.relative_to(root))
        for path in sorted(root.rglob("*"))
        if any(word in str(path.relative_to(root)) for word in words)
        or (
            path.is_file()
            and path.suffix not in (".sqlite", ".sqlite-wal", ".sqlite-shm")
            and any(word.encode() in path.read_bytes() for word in words)
        )
    ]
    with sqlite3.connect(database) as connection:
        lines = [line for line in connection.iterdump() if not line.startswith('INSERT INTO "audit_log"')]
    return found + [line for line in lines if any(word in line for word in words)]


def test_nothing_of_an_erased_tenant_is_left(
    api: TestClient, registry: Registry, tmp_path: Path, engine: FakeEngine
):
    service = api.service  # type: ignore[attr-defined]
    key = ask(api, ADMIN, "POST", "/v1/keys", {"tenant": "alice-inc", "role": "owner"}).json()
    name = service.tenants.registry_name("alice-inc", "walk")
    sha256 = publish(registry, tmp_path, name, "alices walk")
    registry.add_metrics(registry.resolve(name), {"motion": 1.0})
    bobs = publish(registry, tmp_path, service.tenants.registry_name("bob", "walk"), "bobs walk")
    video = video_of(api, key["key"], model="foundation:walk", seed=1)
    ask(api, key["key"], "POST", "/v1/models/foundation:walk/share", {"tenants": ["bob"]})
    ask(api, ADMIN, "POST", "/v1/tenants/alice-inc", {"videos_per_day": 9})
    kept = video_of(api, BOB, model="foundation:walk", prompt="a bear")
    id = service.tenants.find("alice-inc").id
    words = ("alice-inc", id, "zebra-crossing", "alices walk", sha256, video["id"], key["id"])
    database = tmp_path / "data" / "jobs.sqlite"
    assert len(places_of(tmp_path, database, *words)) > 6, "the search finds what there is"

    assert ask(api, BOB, "DELETE", "/v1/tenants/alice-inc").status_code == 403
    assert ask(api, ADMIN, "DELETE", "/v1/tenants/alice-inc").status_code == 200
    assert ask(api, key["key"], "GET", "/v1/videos").status_code == 401
    for _ in range(2):  # the first erases the concept, the second completes it
        asyncio.run(service._eraser.sweep(grace=0.0))
    (tmp_path / "files" / ADAPTER_FILE).unlink()
    assert places_of(tmp_path, database, *words) == []
    assert sha256 in engine.forgotten
    assert ask(api, BOB, "GET", f"/v1/videos/{kept['id']}/content").status_code == 200
    assert registry.storage.exists(object_key(bobs))
    version = registry.resolve(service.tenants.registry_name("bob", "walk"))
    assert registry.read(version, "note.txt") == b"the same in all", "a file that others have stays"
    log = ask(api, ADMIN, "GET", "/v1/audit").json()["data"]
    assert [(entry["action"], entry["tenant"]) for entry in log[:2]] == [
        ("tenant.erased", id),
        ("tenant.erase", id),
    ]
    assert "alice-inc" not in str(log)


def test_the_command_erases_a_tenant_without_a_server(tmp_path: Path, registry: Registry):
    from serving.tenants.tenants import Tenants

    data = tmp_path / "data"
    (data / "adapters").mkdir(parents=True)
    store = JobStore(f"sqlite:///{data / 'jobs.sqlite'}")
    name = Tenants(store.database).registry_name("alice-inc", "walk")
    sha256 = publish(registry, tmp_path, name, "alices walk")
    store.add({"prompt": "zebra-crossing"}, model="foundation:walk@1", tenant="alice-inc")
    store.close()
    (data / "adapters" / f"{sha256}.safetensors").write_text("alices walk")
    command = ["tenants", "erase", "alice-inc", "--yes", "--registry", registry.uri, "--data-dir", str(data)]
    done = CliRunner().invoke(build(), command)
    assert done.exit_code == 0, done.output
    (tmp_path / "files" / ADAPTER_FILE).unlink()
    words = ("alice-inc", name.split(".")[0], "zebra-crossing", "alices walk", sha256)
    assert places_of(tmp_path, data / "jobs.sqlite", *words) == []
    for file in data.glob("jobs.sqlite*"):  # also not in pages that are free
        assert not any(word.encode() in file.read_bytes() for word in words), file
    again = CliRunner().invoke(build(), command)
    assert "there is no tenant 'alice-inc'" in str(again.exception)


def test_a_file_that_a_version_published_meanwhile_needs_is_kept(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    publish(registry, tmp_path, "one", "one")
    one = registry.resolve("one")
    shared = object_key(one.files["note.txt"].sha256)
    get_file, delete = registry.storage.get_file, registry.storage.delete

    def published_meanwhile(key: str, path: Path) -> None:
        if key == shared:  # the erasure has looked at all versions, and removes this file next
            publish(registry, tmp_path, "two", "two")
        get_file(key, path)

    with monkeypatch.context() as patch:
        patch.setattr(registry.storage, "get_file", published_meanwhile)
        erase_versions(registry, [("one", 1)], hashes_of(one))
    assert registry.read(registry.resolve("two"), "note.txt") == b"the same in all"
    assert [info.key for info in registry.storage.list("concepts/one/")] == []
    erase_versions(registry, [("one", 1)], hashes_of(one))  # repeated, after a crash
    assert registry.read(registry.resolve("two"), "note.txt") == b"the same in all"

    def erased_meanwhile(*given: object) -> dict:
        files = put_named(*given)  # type: ignore[arg-type]
        delete(shared)
        return files

    with monkeypatch.context() as patch:
        patch.setattr("infra.registry.put_named", erased_meanwhile)
        publish(registry, tmp_path, "three", "three")
    assert registry.read(registry.resolve("three"), "note.txt") == b"the same in all"
