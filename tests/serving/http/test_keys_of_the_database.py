"""Keys in the job database: made, replaced and refused at once, by whom it may be, for roles that they have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fakes import FakeEngine, api_over
from fastapi.testclient import TestClient
from sqlalchemy import select, text
from typer.testing import CliRunner

from infra.errors import NotFound
from infra.registry import Registry
from motiondirector.cli import build
from serving.jobs.jobs import JobStore
from serving.jobs.tenant_tables import AuditEntry
from serving.keys import ApiKey, hash_key
from serving.tenants import api_keys
from serving.tenants.api_keys import KeyRing, KeyStore

ADMIN = "the-key-of-the-platform-0123"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "FRESH", 0.0)


@pytest.fixture
def api(tmp_path: Path, registry: Registry) -> Iterator[TestClient]:
    keys = [ApiKey(sha256=hash_key(ADMIN), tenant="platform", role="admin")]
    with api_over(
        FakeEngine(), data_dir=str(tmp_path / "data"), registry=registry.uri, api_keys=keys
    ) as client:
        yield client


def ask(api: TestClient, key: str, method: str, path: str, body: object = None) -> httpx.Response:
    return api.request(method, path, json=body, headers={"Authorization": f"Bearer {key}"})


def make(api: TestClient, by: str = ADMIN, **body: object) -> dict:
    answer = ask(api, by, "POST", "/v1/keys", body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def works(api: TestClient, key: str) -> bool:
    return ask(api, key, "GET", "/v1/videos").status_code == 200


def test_a_key_works_from_its_creation_to_its_end(api: TestClient):
    key = make(api, tenant="alice", role="owner")
    assert works(api, key["key"])
    new = ask(api, key["key"], "POST", f"/v1/keys/{key['id']}/rotate", {}).json()
    assert (works(api, key["key"]), works(api, new["key"])) == (False, True)
    newer = ask(api, new["key"], "POST", f"/v1/keys/{new['id']}/rotate", {"keep_old": 600}).json()
    assert works(api, new["key"])
    assert ask(api, newer["key"], "DELETE", f"/v1/keys/{new['id']}").status_code == 200
    assert (works(api, new["key"]), works(api, newer["key"])) == (False, True)
    assert ask(api, newer["key"], "DELETE", f"/v1/keys/{new['id']}").status_code == 404, "refused already"
    shown = ask(api, newer["key"], "GET", "/v1/keys").json()["data"]
    assert [one["id"] for one in shown] == [key["id"], new["id"], newer["id"]]
    assert "md_" not in str(shown)


def test_roles_go_no_further_than_they_say(api: TestClient):
    keys = {role: make(api, tenant="alice", role=role)["key"] for role in ("viewer", "member", "owner")}
    calls = {
        "viewer": ("GET", "/v1/videos", None),
        "member": ("POST", "/v1/videos", {"prompt": "x"}),
        "owner": ("GET", "/v1/keys", None),
        "admin": ("GET", "/metrics", None),
    }
    allowed = {
        role: [kind for kind, call in calls.items() if ask(api, key, *call).status_code == 200]
        for role, key in keys.items()
    }
    assert allowed == {
        "viewer": ["viewer"],
        "member": ["viewer", "member"],
        "owner": ["viewer", "member", "owner"],
    }
    for body in ({"role": "admin"}, {"tenant": "bob"}, {"tenant": "nobody"}):
        refused = ask(api, keys["owner"], "POST", "/v1/keys", body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_admin")


def test_an_owner_has_the_keys_of_its_own_tenant_alone(api: TestClient):
    alice, bob = (make(api, tenant=name, role="owner") for name in ("alice", "bob"))
    for method, path in (("DELETE", "/v1/keys/{}"), ("POST", "/v1/keys/{}/rotate")):
        told = [
            ask(api, alice["key"], method, path.format(id), {} if method == "POST" else None)
            for id in (bob["id"], "key_" + "0" * 16)
        ]
        assert [answer.status_code for answer in told] == [404, 404]
        assert told[0].text.replace(bob["id"], "") == told[1].text.replace("key_" + "0" * 16, "")
    assert [one["tenant"] for one in ask(api, alice["key"], "GET", "/v1/keys?tenant=bob").json()["data"]] == [
        "alice"
    ]
    assert works(api, bob["key"])


def test_the_first_key_closes_a_server_that_had_none(tmp_path: Path):
    with api_over(FakeEngine(), data_dir=str(tmp_path)) as api:
        assert api.get("/v1/videos").status_code == 200
        key = api.post("/v1/keys", json={"role": "owner"}).json()
        assert api.get("/v1/videos").status_code == 401
        assert works(api, key["key"])
        assert ask(api, key["key"], "DELETE", f"/v1/keys/{key['id']}").status_code == 200
        assert api.get("/v1/videos").status_code == 401, "it stays closed without any key"


def test_the_command_line_makes_keys_that_a_running_server_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    run, app = CliRunner(), build()

    def keys(*arguments: str) -> dict:
        done = run.invoke(app, ["keys", *arguments, "--data-dir", str(tmp_path)])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout) if "--json" in arguments else {}

    key = keys("create", "alice", "--role", "viewer", "--json")
    with api_over(FakeEngine(), data_dir=str(tmp_path)) as api:
        assert works(api, key["key"])
        new = keys("rotate", key["id"], "--json")
        assert (works(api, key["key"]), works(api, new["key"])) == (False, True)
        keys("revoke", new["id"])
        assert not works(api, new["key"])
    listed = keys("list", "--json")
    assert [one["id"] for one in listed] == [key["id"], new["id"]]
    assert all("key" not in one for one in listed)


def test_the_database_has_hashes_alone_and_a_log_that_nobody_changes(store: JobStore):
    keys = KeyStore(store.database)
    secret, row = keys.create("alice", "owner", actor="command line")
    keys.revoke(row.id, actor="command line")
    with pytest.raises(NotFound):
        keys.rotate(row.id, actor="command line")
    assert KeyRing(store.database, []).find(secret) is None
    with store.database.sessions() as session:
        entries = session.scalars(select(AuditEntry)).all()
    assert [(entry.action, entry.subject) for entry in entries] == [
        ("key.create", row.id),
        ("key.revoke", row.id),
    ]
    for change in ("UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log"):
        with pytest.raises(Exception, match="append-only"), store.database.sessions.begin() as session:
            session.execute(text(change))
    with store.database.sessions() as session:
        found = session.execute(text("SELECT * FROM api_keys")).mappings().all()
    assert secret not in str(found)
