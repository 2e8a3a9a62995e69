"""The studio's pages: safe, there at once, and true to what the API says."""

from __future__ import annotations

import re
from html import escape

import pytest
from fakes import FakeEngine
from fastapi.testclient import TestClient
from studio_helpers import SpriteEngine, ended

from infra.registry import open_registry

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)> {{ 7*7 }} 🦊"""
ORBIT = {"model": "foundation:orbit", "prompt": HOSTILE, "seed": 3}


def make(client: TestClient, **body) -> dict:
    answer = client.post("/studio/api/v1/videos", json={"prompt": "a star", "seed": 1, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def pages_with(id: str) -> list[str]:
    pages = ["", "make", "make?motion=orbit@1", "draw", "teach", "videos", "compare", "usage", "nowhere"]
    return [
        *pages,
        "parts/library",
        f"videos/{id}",
        f"make?from={id}&id={id}",
        f"compare?id={id}",
        f"parts/videos/{id}",
        f"parts/videos/{id}/code",
    ]


def test_no_page_runs_or_loads_what_is_not_the_studios(open_studio: TestClient):
    id = make(open_studio, **ORBIT)["id"]
    ended(open_studio, id)
    for page in pages_with(id):
        answer = open_studio.get(f"/studio/{page}")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy, page
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        text = answer.text
        assert not re.search(r"<script(?![^>]*\ssrc=)", text), "no inline script"
        assert not re.search(r"<[^>]+\s(on\w+|style)=", re.sub(r'"[^"]*"', '""', text)), (
            "nor handlers nor styles"
        )
        assert "<style" not in text
        links = re.findall(r'\s(?:src|href|action|hx-get)="([^"]*)"', text)
        assert links or page.startswith("parts")
        assert [link for link in links if not link.startswith(("/studio/", "#", "/docs"))] == []


def test_what_people_write_is_shown_as_text(open_studio: TestClient):
    id = make(open_studio, **ORBIT)["id"]
    ended(open_studio, id)
    for page in (f"videos/{id}", "videos", f"make?from={id}", f"compare?id={id}", f"parts/videos/{id}"):
        text = open_studio.get(f"/studio/{page}").text
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "49" not in re.findall(r"onerror[^🦊]*🦊", text)
        assert escape("<script>alert(1)</script>") in text


def test_what_a_concept_says_of_itself_is_shown_as_text(studio, tmp_path, library):
    source, target = open_registry(library), open_registry(tmp_path / "hostile")
    version = source.resolve("orbit")
    files = source.pull(version, tmp_path / "pulled")
    target.publish(
        "evil", files, metadata={**version.metadata, "about": HOSTILE}, metrics={"evaluation": [HOSTILE]}
    )
    with studio(registry=str(tmp_path / "hostile")) as client:
        text = client.get("/studio/parts/library").text
        assert escape("<script>alert(1)</script>") in text
        assert "<script>alert" not in text
        assert "Not measured yet" in text


def test_the_library_shows_what_the_api_offers(open_studio: TestClient, library):
    listed = {model["concept"]: model for model in open_studio.get("/v1/models").json()["data"]}
    orbit = listed["orbit"]
    assert orbit["about"] == "The object runs once around a circle."
    assert orbit["fidelity"] == pytest.approx(0.97, abs=0.01)
    assert orbit["preview"] is True
    assert listed[None]["preview"] is False
    registry = open_registry(library)
    mp4 = registry.read(registry.resolve("orbit"), "preview.mp4")
    answer = open_studio.get("/studio/api/v1/models/foundation:orbit@1/preview")
    assert answer.content == mp4
    assert answer.headers["cache-control"] == "no-store"
    part = open_studio.get("/v1/models/foundation:orbit/preview", headers={"Range": "bytes=0-1"})
    assert (part.status_code, part.content) == (206, mp4[:2])
    for wrong in ("foundation", "foundation:nothing", "foundation:orbit@9", "other:orbit", "foundation:../x"):
        assert open_studio.get(f"/v1/models/{wrong}/preview").status_code in (404, 422), wrong
    text = open_studio.get("/studio/parts/library").text
    assert "Follows its clip very closely" in text
    assert text.count("data-try-motion=") == 2


def test_no_page_waits_for_an_engine_and_the_library_asks_again(studio):
    engine = FakeEngine()
    engine.lost = True
    with studio(engine) as client:
        for page in ("", "make", "draw", "videos", "compare"):
            assert client.get(f"/studio/{page}").status_code == 200, page
        part = client.get("/studio/parts/library")
        assert part.status_code == 200
        assert "model is loading" in part.text
        assert 'hx-trigger="load delay:3s"' in part.text
        engine.lost = False
        assert "No motion has been published" in client.get("/studio/parts/library").text


def test_a_page_says_in_which_state_a_video_is(studio):
    with studio(SpriteEngine(studio.fingerprint, held=True)) as client:
        first = make(client)["id"]
        text = client.get(f"/studio/videos/{first}").text
        assert 'data-status="' in text
        assert "<progress" in text
        assert "data-cancel" in text
        assert f"/api/v1/videos/{first}/content" in text, "the download is there for when it is done"
        client.post(f"/studio/api/v1/videos/{first}/cancel")
        assert "Cancelled" in client.get(f"/studio/parts/videos/{first}").text


def test_the_history_has_everything_in_pages(open_studio: TestClient):
    ids = [make(open_studio, seed=number)["id"] for number in range(30)]
    page = open_studio.get("/studio/videos").text
    more = re.search(r'hx-get="(/studio/parts/videos\?after=[^"]+)"', page).group(1)
    rest = open_studio.get(more).text
    shown = re.findall(r'name="id" value="([^"]+)"', page + rest)
    assert shown == ids[::-1]
    assert "hx-get" not in rest


def test_errors_are_pages_with_a_way_on(open_studio: TestClient):
    missing = open_studio.get("/studio/videos/video_nothing")
    assert missing.status_code == 404
    assert 'href="/studio/videos"' in missing.text
    assert open_studio.get("/studio/static/../app.py").status_code == 404
    assert open_studio.get("/studio/parts/videos/x?look=other").status_code == 422
    assert open_studio.get("/studio").headers["location"] == "/studio/"
    assert open_studio.get("/studio/static/htmx/htmx.min.js").status_code == 200
    beyond = open_studio.get("/studio/compare?" + "&".join(f"id={number}" for number in range(13)))
    assert beyond.status_code == 422
