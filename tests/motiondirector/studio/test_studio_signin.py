"""Sessions of the studio: who gets in, what a session may do, and how it ends."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from fakes import FakeEngine
from studio_helpers import KEY, OTHER, sign_in

from infra.errors import Unauthorized, UserError
from serving import sessions
from serving.keys import ApiKey, hash_key
from serving.sessions import SESSION_SECRET_VARIABLE, Sessions, kept_secret, new_secret, read_session_secret
from serving.tenants import api_keys

PAGES = (
    "/studio/",
    "/studio/make",
    "/studio/draw",
    "/studio/videos",
    "/studio/compare",
    "/studio/parts/library",
)


def test_every_page_leads_to_the_sign_in_and_from_there_back(studio):
    with studio(keys=(KEY,)) as client:
        for page in PAGES:
            answer = client.get(page)
            assert answer.status_code == 303
            assert answer.headers["location"].startswith("/studio/sign-in?next=%2Fstudio%2F")
        assert client.get("/studio/make?motion=orbit").headers["location"].endswith("make%3Fmotion%3Dorbit")
        assert client.get("/studio/videos", headers={"HX-Request": "true"}).headers["hx-redirect"]
        refused = client.post("/studio/sign-in", data={"key": "not-a-key"})
        assert refused.status_code == 401
        assert "not one of the server" in refused.text
        assert not client.cookies
        answer = client.post("/studio/sign-in", data={"key": f" {KEY} ", "next": "/studio/make?motion=orbit"})
        assert answer.headers["location"] == "/studio/make?motion=orbit"
        cookie = answer.headers["set-cookie"]
        assert {"HttpOnly", "Path=/studio", "SameSite=lax"} <= set(cookie.split("; "))
        assert "Secure" not in cookie
        assert KEY not in cookie
        assert hash_key(KEY) not in cookie
        assert [client.get(page).status_code for page in PAGES] == [200] * len(PAGES)
        behind_tls = client.post("/studio/sign-in", data={"key": KEY}, headers={"X-Forwarded-Proto": "https"})
        assert "Secure" in behind_tls.headers["set-cookie"]


@pytest.mark.parametrize(
    "address", ["https://evil.example/", "//evil.example", "/studio//evil.example", "/\\evil", "/docs"]
)
def test_the_way_back_leads_nowhere_else(studio, address: str):
    with studio(keys=(KEY,)) as client:
        assert (
            client.post("/studio/sign-in", data={"key": KEY, "next": address}).headers["location"]
            == "/studio/"
        )


def test_a_change_needs_the_sessions_token_and_the_studios_own_page(studio):
    with studio(keys=(KEY,)) as client:
        token = sign_in(client)
        body = {"prompt": "a bear"}

        def asked(headers: dict[str, str]) -> tuple[int, str]:
            answer = client.post("/studio/api/v1/videos", json=body, headers=headers)
            return answer.status_code, (answer.json().get("error") or {}).get("code", "")

        assert asked({}) == (403, "csrf_token")
        assert asked({"X-CSRF-Token": "0" * 32}) == (403, "csrf_token")
        assert asked({**token, "Sec-Fetch-Site": "cross-site"}) == (403, "cross_site")
        assert asked({**token, "Origin": "https://evil.example"}) == (403, "cross_site")
        assert asked({**token, "Sec-Fetch-Site": "same-origin"}) == (200, "")
        assert client.get("/studio/api/v1/videos").status_code == 200
        assert client.get("/v1/videos").status_code == 401, "the session counts in the studio alone"
        assert (
            client.post(
                "/studio/sign-in", data={"key": KEY}, headers={"Sec-Fetch-Site": "cross-site"}
            ).status_code
            == 403
        )


def test_videos_and_event_streams_need_nothing_but_the_cookie(studio):
    with studio(keys=(KEY, OTHER)) as client:
        token = sign_in(client)
        id = client.post("/studio/api/v1/videos", json={"prompt": "a bear"}, headers=token).json()["id"]
        assert "video.completed" in client.get(f"/studio/api/events?id={id}").text
        assert client.get(f"/studio/api/v1/videos/{id}/content").content == b"mp4 of a bear"
        sign_in(client, OTHER)
        for path in (
            "api/events?id={}",
            "api/v1/videos/{}/content",
            "videos/{}",
            "compare?id={}",
            "make?from={}",
        ):
            assert client.get(f"/studio/{path.format(id)}").status_code == 404, path


def test_a_session_ends_with_its_time_with_its_key_and_with_a_press(studio, monkeypatch):
    with studio(keys=(KEY, OTHER)) as client:
        sign_in(client)
        monkeypatch.setattr(sessions, "LIFETIME", -1)
        assert "ended=1" in client.get("/studio/videos").headers["location"]
        assert "has ended" in client.get(client.get("/studio/videos").headers["location"]).text
        assert client.get("/studio/api/v1/videos").json()["error"]["code"] == "session_ended"
        monkeypatch.undo()
        client.post("/studio/sign-out", data={"csrf_token": "forged"})
        assert client.get("/studio/videos").status_code == 200, "another site signs nobody out"
        token = sign_in(client)["X-CSRF-Token"]
        assert (
            client.post("/studio/sign-out", data={"csrf_token": token}).headers["location"]
            == "/studio/sign-in"
        )
        assert client.get("/studio/videos").status_code == 303
        sign_in(client)
        monkeypatch.setattr(api_keys, "FRESH", 0.0)
        client.service.keys.fixed[:] = [ApiKey(sha256=hash_key(OTHER))]
        assert "ended=1" in client.get("/studio/videos").headers["location"]


def test_a_cookie_of_another_secret_or_another_text_is_refused():
    ours = Sessions(new_secret())
    cookie = ours.start("key_1")
    assert ours.key_of(cookie) == "key_1"
    assert ours.csrf_token(cookie) != ours.csrf_token(ours.start("key_1"))
    for forged in ("", "x", cookie[:-1], cookie + "x", Sessions(new_secret()).start("key_1")):
        with pytest.raises(Unauthorized):
            ours.key_of(forged)


def test_a_key_of_the_database_signs_in_until_it_is_revoked(studio, monkeypatch):
    monkeypatch.setattr(api_keys, "FRESH", 0.0)
    with studio() as client:
        text, row = client.service.key_store.create("alice", "member", actor="test")
        assert client.get("/studio/videos").status_code == 303
        token = sign_in(client, text)
        assert client.post("/studio/api/v1/videos", json={"prompt": "x"}, headers=token).status_code == 200
        client.service.key_store.revoke(row.id, actor="test")
        assert "ended=1" in client.get("/studio/videos").headers["location"]


def test_a_key_sees_what_its_scopes_allow(studio):
    keys = [ApiKey(sha256=hash_key(KEY), scopes=("adapters",))]
    with studio(api_keys=keys) as client:
        token = sign_in(client)
        assert client.get("/studio/").status_code == 200
        page = client.get("/studio/videos")
        assert page.status_code == 403
        assert "lacks the scope" in page.text
        assert client.post("/studio/api/v1/videos", json={"prompt": "x"}, headers=token).status_code == 403


def test_without_keys_nobody_signs_in_and_only_this_machine_is_answered(studio):
    with studio(FakeEngine()) as client:
        assert client.get("/studio/sign-in").headers["location"] == "/studio/"
        page = client.get("/studio/")
        assert "Sign out" not in page.text
        assert client.post("/studio/api/v1/videos", json={"prompt": "x"}).status_code == 200
        elsewhere = client.get("/studio/", headers={"Host": "evil.example"})
        assert elsewhere.status_code == 403
        assert "own machine" in elsewhere.text
        assert (
            client.post(
                "/studio/api/v1/videos", json={"prompt": "x"}, headers={"Origin": "https://evil.example"}
            ).status_code
            == 403
        )


def test_the_secret_outlives_a_restart_and_is_its_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = kept_secret(tmp_path / "data")
    assert kept_secret(tmp_path / "data") == first
    file = tmp_path / "data" / "session-secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("cut")
    with pytest.raises(UserError, match="delete it"):
        kept_secret(tmp_path / "data")
    monkeypatch.setenv(SESSION_SECRET_VARIABLE, "short")
    with pytest.raises(UserError, match="5 characters"):
        read_session_secret()
    monkeypatch.setenv(SESSION_SECRET_VARIABLE, "s" * 32)
    assert read_session_secret().get_secret_value() == "s" * 32
