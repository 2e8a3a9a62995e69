"""The registry as callers see it: asked in vain it costs little, gone it is missed, and nobody learns where it is."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import INFO, FakeEngine, api_over
from fastapi.testclient import TestClient
from serving_helpers import until, use

from infra.errors import DamagedData, NotFound, UserError
from infra.registry import ADAPTER_FILE, Registry, similar
from infra.storage import FolderStorage
from infra.storage.objects import object_key
from serving.adapters import model_list
from serving.adapters.concepts import Concepts
from serving.adapters.files import AdapterFiles
from serving.adapters.storage_faults import StorageFault
from serving.jobs import disk_space as room_module
from serving.keys import ApiKey, hash_key

KEY = "a-key-of-many-random-characters"
pytestmark = pytest.mark.usefixtures("lists_anew")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(held=True)


@pytest.fixture
def api(tmp_path: Path, registry: Registry, engine: FakeEngine) -> Iterator[TestClient]:
    for name in ("orbit", "swing", "orbits"):
        make(registry, tmp_path, name)
    registry.remove("swing@1")
    with api_over(engine, data_dir=str(tmp_path / "data"), registry=registry.uri) as client:
        client.get("/v1/models")  # it has seen what there is
        yield client


def make(registry: Registry, folder: Path, name: str) -> None:
    (folder / "files").mkdir(exist_ok=True)
    (folder / "files" / ADAPTER_FILE).write_bytes(name.encode())
    registry.publish(name, folder / "files", metadata={"foundation_fingerprint": INFO.fingerprint})


def ask(api: TestClient, concept: str):
    return api.post("/v1/videos", json={"prompt": "x", "model": f"foundation:{concept}"})


def test_a_registry_that_is_unmounted_is_503_and_no_unknown_concept(api: TestClient, registry: Registry):
    folder = Path(registry.uri)
    away = folder.with_name("away")
    for leaves_a_mount_point in (False, True):
        folder.rename(away)
        if leaves_a_mount_point:
            folder.mkdir()
        answers = [ask(api, "orbit"), ask(api, "nothing"), api.get("/v1/models")]
        answers += [
            api.post(f"/v1/adapters/{what}", json={"name": "orbit"}) for what in ("pin", "prefetch", "unpin")
        ]
        for answer in answers:
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable"), (
                answer.text
            )
            assert "retry-after" in answer.headers
            assert str(folder) not in answer.text
        assert api.post("/v1/videos", json={"prompt": "x"}).status_code == 200, "the foundation needs none"
        if leaves_a_mount_point:
            folder.rmdir()
        away.rename(folder)
        assert ask(api, "orbit").status_code == 200


@pytest.mark.parametrize("leaves_a_mount_point", [False, True])
def test_a_server_that_starts_while_its_registry_is_unmounted_answers_503(
    tmp_path: Path, registry: Registry, engine: FakeEngine, leaves_a_mount_point: bool
):
    settings = {"data_dir": str(tmp_path / "data"), "registry": registry.uri}
    make(registry, tmp_path, "orbit")
    with api_over(engine, **settings) as api:
        assert ask(api, "orbit").status_code == 200
    folder = Path(registry.uri)
    away = folder.rename(folder.with_name("away"))
    if leaves_a_mount_point:
        folder.mkdir()
    with api_over(engine, **settings) as api:
        for answer in (ask(api, "orbit"), ask(api, "nothing"), api.get("/v1/models")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
            assert str(folder) not in answer.text
        assert api.post("/v1/videos", json={"prompt": "x"}).status_code == 200, (
            "the foundation needs no registry"
        )
        if leaves_a_mount_point:
            folder.rmdir()
        away.rename(folder)
        assert ask(api, "orbit").status_code == 200
        assert ask(api, "nothing").json()["error"]["code"] == "concept_not_found"


def test_a_concept_of_a_missing_folder_is_503_and_of_an_empty_folder_404(
    tmp_path: Path, registry: Registry, engine: FakeEngine
):
    other = tmp_path / "other"
    other.mkdir()
    make(registry, tmp_path, "orbit")
    for folder, code in (
        (registry.uri, None),
        (other, "concept_not_found"),
        (tmp_path / "none", "storage_unavailable"),
    ):
        with api_over(engine, data_dir=str(tmp_path / "data"), registry=str(folder)) as api:
            assert (ask(api, "orbit").json()["error"] or {}).get("code") == code, folder
            assert api.get("/v1/models").status_code == 200, (
                "a server may start before the first concept exists"
            )


def test_a_marker_that_cannot_be_written_fails_no_request(
    tmp_path: Path, registry: Registry, engine: FakeEngine
):
    make(registry, tmp_path, "orbit")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "registries").write_text("no folder")
    with api_over(engine, data_dir=str(tmp_path / "data"), registry=registry.uri) as api:
        assert ask(api, "orbit").status_code == 200
        shutil.rmtree(registry.uri)
        assert ask(api, "orbit").status_code == 503


@pytest.mark.parametrize("leaves_a_mount_point", [False, True])
def test_a_video_in_an_unmounted_results_folder_is_503_and_not_expired(
    tmp_path: Path, engine: FakeEngine, leaves_a_mount_point: bool
):
    results = tmp_path / "results"
    with api_over(engine, data_dir=str(tmp_path / "data"), results=str(results)) as api:
        engine.release()
        id = api.post("/v1/videos", json={"prompt": "x"}).json()["id"]
        video = f"/v1/videos/{id}/content"
        until(lambda: api.get(video).status_code == 200)
        away = results.rename(tmp_path / "away")
        if leaves_a_mount_point:
            results.mkdir()
        answer = api.get(video)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
        assert str(results) not in answer.text
        if leaves_a_mount_point:
            (results / "of another job.mp4").write_bytes(b"mp4")  # now it counts as mounted
            assert api.get(video).json()["error"]["code"] == "video_expired"
            shutil.rmtree(results)
        away.rename(results)
        assert api.get(video).status_code == 200


def test_a_registry_in_which_nothing_was_ever_is_just_empty(
    tmp_path: Path, registry: Registry, engine: FakeEngine
):
    Path(registry.uri).mkdir()
    with api_over(engine, data_dir=str(tmp_path / "data"), registry=registry.uri) as api:
        assert ask(api, "orbit").json()["error"]["code"] == "concept_not_found"
        assert len(api.get("/v1/models").json()["data"]) == 1
        make(registry, tmp_path, "orbit")
        assert ask(api, "orbit").status_code == 200
        registry.remove("orbit")
        assert ask(api, "orbit").json()["error"]["code"] == "concept_not_found"
        assert api.get("/v1/models").status_code == 200


def test_an_adapters_file_in_a_registry_that_is_away_is_503_and_one_that_is_lost_404(
    tmp_path: Path, registry: Registry, unet3d
):
    make(registry, tmp_path, "orbit")
    sha256 = registry.resolve("orbit").adapter_sha256
    files = AdapterFiles(registry, unet3d, tmp_path / "cache", pause=0.0)
    wanted = use("orbit").model_copy(update={"sha256": sha256})
    lost = use("orbit").model_copy(update={"sha256": "0" * 64})
    with pytest.raises(UserError) as caught:
        files.fetch(lost)
    assert (type(caught.value), caught.value.code) == (NotFound, "adapter_not_found")
    assert registry.uri not in caught.value.message
    Path(registry.uri, object_key(sha256)).write_bytes(b"damaged")
    with pytest.raises(UserError) as caught:
        files.fetch(wanted)
    assert (type(caught.value), caught.value.code) == (DamagedData, "object_damaged")
    assert registry.uri not in caught.value.message
    shutil.rmtree(registry.uri)
    with pytest.raises(StorageFault):
        files.fetch(wanted)


def test_no_error_says_where_the_registry_is(api: TestClient, registry: Registry, tmp_path: Path):
    Path(registry.uri, "concepts/orbits/versions/1.json").write_bytes(b"{")
    gone = Path(registry.uri, "concepts/gone/versions/1.json")
    gone.parent.mkdir(parents=True)
    gone.symlink_to(tmp_path / "nothing")
    seen = {}
    for concept in (
        "nothing",
        "orbit@7",
        "swing",
        "swing@1",
        "orbits",
        "gone",
        "Orbit",
        "../orbit",
        "orbit@0",
    ):
        answers = [ask(api, concept)]
        for what in ("pin", "prefetch", "unpin"):
            answers.append(api.post(f"/v1/adapters/{what}", json={"name": concept}))
        for answer in answers:
            assert answer.status_code >= 400
            assert str(tmp_path) not in answer.text, answer.text
        seen[concept] = answers[0].json()["error"]["code"]
    assert seen["orbits"] == "object_damaged"
    assert {seen[name] for name in ("nothing", "swing")} == {"concept_not_found"}
    listed = api.get("/v1/models")
    assert listed.status_code == 502
    assert str(tmp_path) not in listed.text


# --- asking for what is not there ------------------------------------------------------------------------------


def test_who_asks_for_absent_concepts_has_nothing_listed_and_still_a_hint(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
):
    listed: list[str] = []
    before = FolderStorage.list

    def list_(self, prefix: str = ""):
        listed.append(prefix)
        return before(self, prefix)

    monkeypatch.setattr(FolderStorage, "list", list_)
    for n in range(20):
        message = ask(api, f"orbit{n}").json()["error"]["message"]
        assert "did you mean orbit" in message
    assert "concepts/" not in listed
    assert len(listed) == 40, "the versions of that name alone, published and removed"


def test_names_are_listed_anew_in_a_while(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
):
    make(registry, tmp_path, "orbit")
    concepts = Concepts(registry.storage)
    monkeypatch.setattr(concepts, "refresh_names", concepts.model_list.refresh)
    assert concepts.near("orbt") == ["orbit"]
    make(registry, tmp_path, "swing")
    assert concepts.near("swin") == []
    monkeypatch.setattr(model_list, "NAMES_FRESH", 0.0)
    assert concepts.near("swin") == ["swing"]


def test_similar_names_are_found_and_others_are_not():
    names = ["car-turn", "orbit", "orbits", "walk"]
    assert similar("orbti", names)[0] == "orbit"
    assert similar("carturn", names) == ["car-turn"]
    assert similar("zzz", names) == []


def test_what_is_refused_is_counted_as_asked(tmp_path: Path, registry: Registry, engine: FakeEngine):
    make(registry, tmp_path, "orbit")
    key = ApiKey(sha256=hash_key(KEY), requests_per_minute=4)
    settings = {"data_dir": str(tmp_path / "data"), "registry": registry.uri, "api_keys": [key]}
    with api_over(engine, **settings) as api:
        api.headers["Authorization"] = f"Bearer {KEY}"
        engine.lost = True
        assert api.post("/v1/videos", json={"prompt": "x"}).status_code == 503, "our fault is not counted"
        engine.lost = False
        assert [ask(api, "nothing").status_code for _ in range(3)] == [404] * 3
        assert api.post("/v1/videos", json={"prompt": "x"}).status_code == 200
        refused = [ask(api, "nothing"), api.post("/v1/videos", json={"prompt": "x"})]
        for answer in refused:
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_exceeded")


# --- room ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", ["data", "results"])
def test_a_server_whose_disk_is_full_is_not_ready(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, full: str
):
    (tmp_path / "results").mkdir()
    reserved: list[str] = []
    real, now_full = os.posix_fallocate, True

    def posix_fallocate(descriptor: int, offset: int, length: int) -> None:
        where = os.path.dirname(os.readlink(f"/proc/self/fd/{descriptor}"))
        reserved.append(where)
        if now_full and where == str(tmp_path / full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", posix_fallocate)
    settings = {"data_dir": str(tmp_path / "data"), "results": str(tmp_path / "results")}
    with api_over(engine, **settings) as api:
        answers = [api.get("/readyz") for _ in range(5)]
        for answer in answers:
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
            assert "is full" in answer.json()["error"]["message"]
            assert str(tmp_path) not in answer.text
        assert len(reserved) <= 2, "who asks often has nothing written"
        assert api.get("/healthz").status_code == 200
        monkeypatch.setattr(room_module, "FRESH", 0.0)
        now_full = False
        assert api.get("/readyz").status_code == 200
        assert set(reserved) == {str(tmp_path / "data"), str(tmp_path / "results")}
    assert not list(tmp_path.rglob("tmp*"))
