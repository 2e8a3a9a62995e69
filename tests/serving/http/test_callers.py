"""Every route, asked by every kind of caller: nobody gets further than its key allows, and nobody is sent elsewhere."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FakeEngine, api_over
from fastapi.testclient import TestClient

from infra.errors import Throttled
from infra.registry import Registry
from serving.http import pages
from serving.http.bodies import Bodies
from serving.http.event_stream import EventStream, Streams
from serving.keys import ROLES, ApiKey, hash_key
from serving.tenants import api_keys

SCOPES = ("videos:read", "videos:write", "concepts", "keys", "adapters", "metrics", "admin")
BODY = {"prompt": "x"}
# every route -> the scope it wants ("any": a key is enough; None: not even that), and what is sent
ROUTES: dict[tuple[str, str], tuple[str | None, dict | None]] = {
    ("POST", "/v1/videos"): ("videos:write", BODY),
    ("GET", "/v1/videos"): ("videos:read", None),
    ("GET", "/v1/videos/{id}"): ("videos:read", None),
    ("GET", "/v1/videos/{id}/content"): ("videos:read", None),
    ("GET", "/v1/videos/{id}/events"): ("videos:read", None),
    ("POST", "/v1/videos/{id}/cancel"): ("videos:write", None),
    ("POST", "/v1/videos/{id}/remix"): ("videos:write", BODY),
    ("DELETE", "/v1/videos/{id}"): ("videos:write", None),
    ("POST", "/v1/videos/characters"): ("videos:write", BODY),
    ("GET", "/v1/videos/characters/{id}"): ("videos:read", None),
    ("POST", "/v1/files"): ("videos:write", BODY),
    ("GET", "/v1/files"): ("videos:read", None),
    ("GET", "/v1/files/{id}"): ("videos:read", None),
    ("GET", "/v1/files/{id}/content"): ("videos:read", None),
    ("DELETE", "/v1/files/{id}"): ("videos:write", None),
    ("POST", "/v1/uploads"): ("videos:write", BODY),
    ("GET", "/v1/uploads/{id}"): ("videos:read", None),
    ("POST", "/v1/uploads/{id}/parts"): ("videos:write", BODY),
    ("POST", "/v1/uploads/{id}/complete"): ("videos:write", BODY),
    ("POST", "/v1/uploads/{id}/cancel"): ("videos:write", None),
    ("POST", "/v1/fine_tuning/jobs"): ("videos:write", BODY),
    ("GET", "/v1/fine_tuning/jobs"): ("videos:read", None),
    ("GET", "/v1/fine_tuning/jobs/{id}"): ("videos:read", None),
    ("POST", "/v1/fine_tuning/jobs/{id}/cancel"): ("videos:write", None),
    ("POST", "/v1/fine_tuning/jobs/{id}/pause"): ("videos:write", None),
    ("POST", "/v1/fine_tuning/jobs/{id}/resume"): ("videos:write", None),
    ("GET", "/v1/fine_tuning/jobs/{id}/events"): ("videos:read", None),
    ("GET", "/v1/fine_tuning/jobs/{id}/checkpoints"): ("videos:read", None),
    ("GET", "/v1/adapters"): ("adapters", None),
    ("POST", "/v1/adapters/prefetch"): ("adapters", {"name": "orbit"}),
    ("POST", "/v1/adapters/pin"): ("adapters", {"name": "orbit"}),
    ("POST", "/v1/adapters/unpin"): ("adapters", {"name": "orbit"}),
    ("GET", "/v1/models"): ("any", None),
    ("GET", "/v1/models/{model}"): ("any", None),
    ("DELETE", "/v1/models/{model}"): ("concepts", None),
    ("POST", "/v1/models/{model}/share"): ("concepts", {"all": True}),
    ("GET", "/v1/keys"): ("keys", None),
    ("POST", "/v1/keys"): ("keys", {}),
    ("POST", "/v1/keys/{key}/rotate"): ("keys", {}),
    ("DELETE", "/v1/keys/{key}"): ("keys", None),
    ("GET", "/v1/tenants"): ("admin", None),
    ("POST", "/v1/tenants/{tenant}"): ("admin", {}),
    ("DELETE", "/v1/tenants/{tenant}"): ("admin", None),
    ("GET", "/v1/usage"): ("videos:read", None),
    ("GET", "/v1/audit"): ("admin", None),
    ("GET", "/v1/models/{model}/preview"): ("any", None),
    ("GET", "/metrics"): ("metrics", None),
    ("GET", "/healthz"): (None, None),
    ("GET", "/readyz"): (None, None),
    ("GET", "/docs"): (None, None),
    ("GET", "/docs/{name}"): (None, None),
    ("GET", "/openapi.json"): (None, None),
}
OWNER, OTHER = "the-owner-of-the-video-0123", "another-tenant-0123456789"


def key_of(scope: str) -> str:
    return f"a-key-for-{scope}-0123456789"


@pytest.fixture(autouse=True)
def _keys_are_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "FRESH", 0.0)


@pytest.fixture
def api(tmp_path: Path, registry: Registry) -> Iterator[TestClient]:
    keys = [ApiKey(sha256=hash_key(key_of(scope)), scopes=(scope,)) for scope in SCOPES]  # type: ignore[arg-type]
    keys += [ApiKey(sha256=hash_key(key), scopes=SCOPES) for key in (OWNER, OTHER)]
    with api_over(
        FakeEngine(held=True), data_dir=str(tmp_path / "data"), registry=registry.uri, api_keys=keys
    ) as client:
        yield client


def filled(template: str, id: str = "x") -> str:
    """The path of a route. The tenant and the key exist nowhere."""
    named = {
        "{id}": id,
        "{name}": "start.js",
        "{model}": "foundation:orbit",
        "{key}": "key_0",
        "{tenant}": "nobody",
    }
    for name, value in named.items():
        template = template.replace(name, value)
    return template


def bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def routes_of(app) -> set[tuple[str, str]]:
    """Every (method, path) that the application answers, documented or not."""
    found, left = set(), list(app.routes)
    while left:
        route = left.pop()
        if hasattr(route, "original_router"):
            left += route.original_router.routes
        elif hasattr(route, "methods"):
            found |= {(method, route.path) for method in route.methods if method != "HEAD"}
    return found


def test_every_route_lets_through_whom_it_should_and_nobody_else(api: TestClient):
    assert routes_of(api.app) == set(ROUTES), "a new route says here who may use it"
    id = api.post("/v1/videos", json=BODY, headers=bearer(OWNER)).json()["id"]
    kinds: dict[str, str | None] = {"nobody": None, "a wrong key": "not-a-key-of-anybody"}
    kinds |= {scope: key_of(scope) for scope in SCOPES}
    for (method, template), (wanted, body) in ROUTES.items():
        path = filled(template, id)
        for kind, key in kinds.items():
            status = api.request(method, path, json=body, headers=bearer(key)).status_code
            if wanted is None:
                expected = status not in (401, 403)
            elif kind in ("nobody", "a wrong key"):
                expected = status == 401
            elif wanted not in ("any", kind):
                expected = status == 403
            else:  # another tenant's video is not there
                expected = status == 404 if "{id}" in template else status not in (401, 403)
            assert expected, (method, template, kind, status)
        if "{id}" in template:
            status = api.request(method, path, json=body, headers=bearer(OTHER)).status_code
            assert status == 404, template
    assert api.get(f"/v1/videos/{id}", headers=bearer(OWNER)).status_code == 200


@pytest.mark.parametrize("route", list(ROUTES), ids=" ".join)
def test_each_role_goes_as_far_on_each_route_as_it_says(api: TestClient, route: tuple[str, str]):
    """Also with a key that was revoked a moment ago, and on what belongs to another tenant."""
    method, template = route
    wanted, body = ROUTES[route]
    keys = api.service.key_store  # type: ignore[attr-defined]
    made = {
        role: keys.create("bob", role, actor="test")[0] for role in ("viewer", "member", "owner", "admin")
    }
    revoked, row = keys.create("bob", "admin", actor="test")
    assert api.get("/v1/videos", headers=bearer(revoked)).status_code == 200
    keys.revoke(row.id, actor="test")
    id = api.post("/v1/videos", json=BODY, headers=bearer(OWNER)).json()["id"]

    def status(key: str | None) -> int:
        return api.request(method, filled(template, id), json=body, headers=bearer(key)).status_code

    for key in (None, revoked, "not-a-key-of-anybody"):
        assert (status(key) == 401) == (wanted is not None), key
    for role, key in made.items():
        allowed = wanted in (None, "any") or wanted in ROLES[role]
        found = status(key)
        assert (found == 403) == (not allowed), role
        assert found != 401, role
        if allowed and "{id}" in template:
            assert found == 404, "another tenant's, whatever the role"
    assert api.get(f"/v1/videos/{id}", headers=bearer(OWNER)).json()["status"] in ("queued", "in_progress")


def test_nobody_is_redirected_to_a_host_that_he_named(api: TestClient):
    for template in sorted({template for _, template in ROUTES}):
        path = filled(template)
        for asked in (f"{path}/", f"/{path}"):
            answer = api.get(asked, headers={"Host": "evil.example", **bearer(OWNER)})
            assert "location" not in answer.headers, asked
            assert not answer.is_redirect
    assert api.get("/v1/videos/", headers=bearer(OWNER)).status_code == 404


# --- the page for people ---------------------------------------------------------------------------------------


def test_the_page_for_people_loads_nothing_from_elsewhere(api: TestClient):
    page = api.get("/docs")
    links = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert len(links) == 3
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for link in links:
        assert "//" not in link
        found = api.get(f"/{link}")
        assert found.status_code == 200
        assert found.headers["content-type"].startswith(("text/javascript", "text/css"))
        plain = api.get(f"/{link}", headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == found.content
    bundle = gzip.decompress(pages.packed("swagger-ui-bundle.js"))
    assert b"SwaggerUIBundle" in bundle
    for gone in ("/redoc", "/docs/oauth2-redirect", "/docs/LICENSE", "/docs/..%2fpages.py"):
        answer = api.get(gone)
        assert answer.status_code == 404, gone
        assert set(answer.json()) == {"error"}


# --- shares ----------------------------------------------------------------------------------------------------


def test_of_many_streams_that_begin_at_once_as_many_open_as_may():
    """They are refused as the answer begins: between the look and the place nobody else comes."""

    async def main() -> None:
        streams, over, began = Streams(8, lambda: 1), asyncio.Event(), 0

        async def events():
            yield b"data: x\n\n"
            await over.wait()

        async def one() -> bool:
            nonlocal began

            async def send(message) -> None:
                nonlocal began
                began += message["type"] == "http.response.start"
                await asyncio.sleep(0)

            async def receive():
                await over.wait()
                return {"type": "http.disconnect"}

            try:
                await EventStream(events(), streams, "a")({"type": "http"}, receive, send)
            except Throttled:
                return False
            return True

        asked = [asyncio.create_task(one()) for _ in range(40)]
        while sum(task.done() for task in asked) < 32 or began < 8:
            await asyncio.sleep(0)
        assert (began, streams.open) == (8, 8)
        over.set()
        assert sum(await asyncio.gather(*asked)) == 8
        assert streams.open == 0

    asyncio.run(main())


def test_unfinished_bodies_of_a_tenant_are_bounded_and_others_are_not_held_up(api: TestClient):
    bodies = api.service.bodies = Bodies(each=2)  # type: ignore[attr-defined]
    tenant = hash_key(OWNER)[:16]
    with bodies.one(tenant), bodies.one(tenant):
        for method, path in (route for route, (_, body) in ROUTES.items() if body is not None):
            answer = api.request(method, filled(path), content=b"{", headers=bearer(OWNER))
            assert (answer.status_code, answer.headers.get("retry-after")) == (429, "1"), path
            assert answer.json()["error"]["code"] == "too_many_bodies"
        assert api.post("/v1/videos", json=BODY, headers=bearer(OTHER)).status_code == 200
        assert api.get("/v1/videos", headers=bearer(OWNER)).status_code == 200
    assert api.post("/v1/videos", json=BODY, headers=bearer(OWNER)).status_code == 200
