"""Concepts of tenants: each sees its own, everyone's, and what is shared with it; others' are not there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fakes import INFO, FakeEngine, api_over
from fastapi.testclient import TestClient

from infra.errors import InvalidInput
from infra.registry import ADAPTER_FILE, Registry
from serving.keys import ApiKey, hash_key
from serving.tenants.namespaces import MAX_NAME, Namespace, private_name, split_name

KEYS = {name: f"a-key-of-{name}-0123456789" for name in ("alice", "bob", "carol")}
pytestmark = pytest.mark.usefixtures("lists_anew")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def api(tmp_path: Path, registry: Registry, engine: FakeEngine) -> Iterator[TestClient]:
    scopes = ("videos:read", "videos:write", "concepts", "adapters")
    keys = [ApiKey(sha256=hash_key(key), tenant=name, scopes=scopes) for name, key in KEYS.items()]
    with api_over(engine, data_dir=str(tmp_path / "data"), registry=registry.uri, api_keys=keys) as client:
        publish(client, registry, tmp_path, "", "orbit")
        yield client


def publish(api: TestClient, registry: Registry, folder: Path, tenant: str, concept: str) -> str:
    """Publish a version as a lane does; returns its name in the registry."""
    files = folder / "files"
    files.mkdir(exist_ok=True)
    (files / ADAPTER_FILE).write_bytes(f"{tenant} {concept} {len(list(registry.pointers()))}".encode())
    name = api.service.tenants.registry_name(tenant, concept)  # type: ignore[attr-defined]
    return registry.publish(name, files, metadata={"foundation_fingerprint": INFO.fingerprint}).ref


def ask(api: TestClient, tenant: str, method: str, path: str, body: object = None) -> httpx.Response:
    return api.request(method, path, json=body, headers={"Authorization": f"Bearer {KEYS[tenant]}"})


def listed(api: TestClient, tenant: str) -> dict[str, str]:
    """The concepts that a tenant is shown, and whose each is."""
    answer = ask(api, tenant, "GET", "/v1/models").json()["data"]
    return {model["id"].removeprefix("foundation:"): model["owned_by"] for model in answer[1:]}


def create(api: TestClient, tenant: str, name: str) -> httpx.Response:
    return ask(api, tenant, "POST", "/v1/videos", {"prompt": "x", "model": f"foundation:{name}"})


# --- names -----------------------------------------------------------------------------------------------------


def test_a_name_in_the_registry_and_back():
    id = "0123456789abcdef"
    assert split_name(private_name(id, "car.turn-2")) == (id, "car.turn-2")
    assert split_name("car.turn-2") == (None, "car.turn-2")
    longest = "a" * MAX_NAME
    assert len(private_name(id, longest)) == 64
    for wrong in ("A", "", "a..b", longest + "a", private_name(id, "orbit")[:MAX_NAME]):
        with pytest.raises(InvalidInput):
            private_name(id, wrong)


def test_own_names_come_first_then_everyones_then_shared_ones_in_their_order():
    mine, first, second = "0" * 16, "1" * 16, "2" * 16
    space = Namespace(mine, (private_name(second, "orbit"), private_name(first, "orbit")))
    assert list(space.candidates("orbit")) == [
        private_name(mine, "orbit"),
        "orbit",
        private_name(second, "orbit"),
        private_name(first, "orbit"),
    ]
    assert list(space.candidates(private_name(mine, "orbit"))) == []
    assert space.seen(private_name(first, "swing")) is None
    assert space.seen(private_name(first, "orbit")) == "orbit"


# --- what a tenant sees ----------------------------------------------------------------------------------------


def test_a_concept_is_its_tenants_own_until_it_is_shared(api: TestClient, registry: Registry, tmp_path: Path):
    publish(api, registry, tmp_path, "alice", "secret-walk")
    own = publish(api, registry, tmp_path, "alice", "orbit")
    assert listed(api, "alice") == {"orbit@1": "you", "secret-walk@1": "you"}
    assert listed(api, "bob") == {"orbit@1": "motiondirector"}
    for name in ("secret-walk", "secret-wal", own.partition("@")[0]):
        refused = create(api, "bob", name)
        assert refused.status_code == 404
        assert refused.json()["error"]["message"] == (
            f"concept {name} is not in the registry; GET /v1/models lists what there is."
        )
    assert "did you mean secret-walk" in create(api, "alice", "secret-wal").json()["error"]["message"]
    video = create(api, "alice", "orbit").json()
    assert video["model"] == "foundation:orbit@1"
    theirs = create(api, "bob", "orbit").json()
    assert video["adapters"][0]["concept"] == theirs["adapters"][0]["concept"] == "orbit"
    assert video["adapters"][0]["sha256"] != theirs["adapters"][0]["sha256"]
    id = own.split(".")[0]
    assert id not in str(video) + str(listed(api, "alice"))


def test_a_share_is_seen_at_once_and_can_be_taken_back(api: TestClient, registry: Registry, tmp_path: Path):
    publish(api, registry, tmp_path, "alice", "walk")
    path = "/v1/models/foundation:walk/share"
    answer = ask(api, "alice", "POST", path, {"tenants": ["bob"]})
    assert answer.json() == {
        "id": "foundation:walk",
        "object": "model.share",
        "tenants": ["bob"],
        "all": False,
    }
    assert listed(api, "bob")["walk@1"] == "others"
    assert "walk@1" not in listed(api, "carol")
    assert ask(api, "alice", "GET", "/v1/models/foundation:walk").json()["shared_with"] == ["bob"]
    assert ask(api, "bob", "GET", "/v1/models/foundation:walk").json()["shared_with"] is None
    video = create(api, "bob", "walk").json()
    assert ask(api, "alice", "POST", path, {"all": True}).status_code == 200
    assert listed(api, "carol")["walk@1"] == "others"
    assert ask(api, "alice", "POST", path, {}).status_code == 200
    assert "walk@1" not in listed(api, "bob") | listed(api, "carol")
    assert create(api, "bob", "walk").status_code == 404
    assert ask(api, "bob", "POST", f"/v1/videos/{video['id']}/remix", {"prompt": "y"}).status_code == 404


def test_a_tenant_that_does_not_exist_is_answered_like_one_that_does(
    api: TestClient, registry: Registry, tmp_path: Path
):
    publish(api, registry, tmp_path, "alice", "walk")
    for name in ("bob", "nobody"):
        answer = ask(api, "alice", "POST", "/v1/models/foundation:walk/share", {"tenants": [name]})
        assert (answer.status_code, answer.json()["tenants"]) == (200, [name])
        shown = ask(api, "alice", "GET", "/v1/models/foundation:walk").json()
        assert shown["shared_with"] == [name]


def test_others_concepts_cannot_be_told_from_absent_ones(api: TestClient, registry: Registry, tmp_path: Path):
    publish(api, registry, tmp_path, "alice", "walk")
    calls = [
        ("GET", "/v1/models/foundation:{}", None),
        ("DELETE", "/v1/models/foundation:{}", None),
        ("POST", "/v1/models/foundation:{}/share", {"all": True}),
        ("POST", "/v1/adapters/prefetch", {"name": "{}"}),
        ("POST", "/v1/adapters/pin", {"name": "{}"}),
        ("POST", "/v1/adapters/unpin", {"name": "{}@1"}),
    ]
    for method, path, body in calls:
        told = []
        for name in ("walk", "wadi"):
            sent = {
                key: value.format(name) if key == "name" else value for key, value in (body or {}).items()
            }
            answer = ask(api, "bob", method, path.format(name), sent if body else None)
            told.append((answer.status_code, answer.text.replace(name, "NAME")))
        assert told[0] == told[1], path
        assert told[0][0] == 404, path
    assert ask(api, "bob", "DELETE", "/v1/models/foundation:orbit").status_code == 404, "everyone's"


def test_pins_of_tenants_are_kept_apart(api: TestClient, registry: Registry, tmp_path: Path):
    publish(api, registry, tmp_path, "alice", "walk")
    publish(api, registry, tmp_path, "bob", "walk")
    for tenant in ("alice", "bob"):
        assert ask(api, tenant, "POST", "/v1/adapters/pin", {"name": "walk"}).json()["concept"] == "walk"
    shown = {t: ask(api, t, "GET", "/v1/adapters").json()["pins"] for t in KEYS}
    assert [len(pins) for pins in shown.values()] == [1, 1, 0]
    assert shown["alice"][0]["sha256"] != shown["bob"][0]["sha256"]
    assert shown["alice"][0]["concept"] == "walk"
    assert ask(api, "alice", "POST", "/v1/adapters/unpin", {"name": "walk@1"}).status_code == 200
    assert len(ask(api, "bob", "GET", "/v1/adapters").json()["pins"]) == 1
    assert ask(api, "alice", "GET", "/v1/adapters").json()["pins"] == []
    pins = api.service.catalogue._pins  # type: ignore[attr-defined]
    revision, _ = pins.wanted(INFO.fingerprint)
    assert ask(api, "bob", "DELETE", "/v1/models/foundation:walk").status_code == 200
    after, left = pins.wanted(INFO.fingerprint)
    assert (after > revision, left) == (True, []), "engines take a list only if its revision has grown"


# --- deletion --------------------------------------------------------------------------------------------------


def test_a_deleted_concept_is_gone_and_its_accepted_videos_are_made(
    api: TestClient, registry: Registry, tmp_path: Path, engine: FakeEngine
):
    name = publish(api, registry, tmp_path, "alice", "walk").partition("@")[0]
    ask(api, "alice", "POST", "/v1/adapters/pin", {"name": "walk"})
    engine.held = True
    video = create(api, "alice", "walk").json()
    sha256 = video["adapters"][0]["sha256"]
    eraser = api.service._eraser  # type: ignore[attr-defined]
    answer = ask(api, "alice", "DELETE", "/v1/models/foundation:walk")
    assert answer.json() == {"id": "foundation:walk", "object": "model", "deleted": True}
    assert create(api, "alice", "walk").status_code == 404
    assert ask(api, "alice", "DELETE", "/v1/models/foundation:walk").status_code == 404
    assert ask(api, "alice", "GET", "/v1/adapters").json()["pins"] == []
    asyncio.run(eraser.sweep(grace=0.0))
    assert registry.storage.exists(f"objects/{sha256[:2]}/{sha256}"), "a job still needs it"
    engine.release()
    with api.stream(
        "GET", f"/v1/videos/{video['id']}/events", headers={"Authorization": f"Bearer {KEYS['alice']}"}
    ) as events:
        assert "video.completed" in events.read().decode()
    asyncio.run(eraser.sweep(grace=0.0))
    left = [info.key for info in registry.storage.list()]
    assert not any(name in key or sha256 in key for key in left)
    assert sha256 in engine.forgotten
    remix = ask(api, "alice", "POST", f"/v1/videos/{video['id']}/remix", {"prompt": "y"})
    assert remix.status_code == 404
