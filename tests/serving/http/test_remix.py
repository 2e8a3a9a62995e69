"""`POST /v1/videos/{id}/remix`: the same video with another prompt, for its owner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fakes import INFO, FakeEngine, api_over
from fastapi.testclient import TestClient
from sqlalchemy import update

from infra.errors import NotFound
from infra.registry import ADAPTER_FILE, Registry
from serving.client import Client
from serving.jobs.database import Job
from serving.keys import ApiKey, hash_key

ALICE, ALICES_OTHER, BOB, READER = (
    f"a-key-of-{name}-0123456789" for name in ("alice", "alice-too", "bob", "reader")
)
KEYS = [
    ApiKey(sha256=hash_key(ALICE), tenant="alice", max_priority=2),
    ApiKey(sha256=hash_key(ALICES_OTHER), tenant="alice"),
    ApiKey(sha256=hash_key(BOB), tenant="bob", requests_per_minute=1),
    ApiKey(sha256=hash_key(READER), tenant="alice", scopes=("videos:read",)),
]
pytestmark = pytest.mark.usefixtures("lists_anew")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(held=True)


@pytest.fixture
def api(tmp_path: Path, registry: Registry, engine: FakeEngine) -> Iterator[TestClient]:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / ADAPTER_FILE).write_bytes(b"an adapter")
    registry.publish("orbit", tmp_path / "files", metadata={"foundation_fingerprint": INFO.fingerprint})
    settings = {"data_dir": str(tmp_path / "data"), "registry": registry.uri, "api_keys": KEYS}
    secret = "whsec_" + "c2VjcmV0" * 5
    with api_over(engine, webhook_networks=["127.0.0.1/32"], webhook_secret=secret, **settings) as client:
        yield client


def bearer(key: str = ALICE, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", **more}


def create(api: TestClient, **body) -> dict:
    response = api.post("/v1/videos", json={"prompt": "a bear", **body}, headers=bearer())
    assert response.status_code == 200, response.text
    return response.json()


def remix(api: TestClient, id: str, key: str = ALICE, body: dict | None = None, **headers: str):
    sent = {"prompt": "a tank"} if body is None else body
    return api.post(f"/v1/videos/{id}/remix", json=sent, headers=bearer(key, **headers))


def ended(api: TestClient, id: str) -> dict:
    while (video := api.get(f"/v1/videos/{id}", headers=bearer()).json())["status"] != "completed":
        pass
    return video


def test_a_remix_differs_in_its_prompt_alone(api: TestClient, engine: FakeEngine, registry: Registry):
    asked = {
        "model": "foundation:orbit",
        "lora": [{"name": "orbit@1", "scale": 0.5, "until": 0.4}],
        "seed": 7,
        "steps": 3,
        "guidance_scale": 2.5,
        "negative_prompt": "rain",
        "scheduler": "ddim",
        "size": "64x32",
        "frames": 5,
        "priority": 2,
        "deadline": 900.0,
    }
    first = create(api, **asked)
    engine.release()
    ended(api, first["id"])
    registry.remove("orbit@1")  # the versions of the first are used, whatever there is now
    answer = remix(api, first["id"])
    assert answer.status_code == 200, answer.text
    second = answer.json()
    assert second["id"] != first["id"]
    assert second["remixed_from_video_id"] == first["id"]
    assert first["remixed_from_video_id"] is None
    assert second["prompt"] == "a tank"
    same = (
        "model", "adapters", "seed", "steps", "guidance_scale", "negative_prompt", "scheduler", "size", "frames",
        "seconds", "priority", "noise_prior",
    )  # fmt: skip
    assert {name: second[name] for name in same} == {name: first[name] for name in same}
    assert second["deadline"] is None
    assert ended(api, second["id"])["remixed_from_video_id"] == first["id"]
    before, after = engine.seen
    changed = {"prompt": "a tank", "deadline": None, "remixed_from": first["id"]}
    assert after == before.model_copy(update=changed)
    third = remix(api, second["id"]).json()
    assert third["remixed_from_video_id"] == second["id"]


def test_a_remix_keeps_regions_and_windows_and_the_warnings_about_them(api: TestClient, engine: FakeEngine):
    region = {"box": [0, 0, 0.5, 1]}
    first = create(
        api,
        lora=[{"name": "orbit", "region": region, "steps": [0.9, 1], "scale": [1, 0.5]}],
        outside="base",
        steps=4,
    )
    [warning] = first["warnings"]
    assert warning.startswith("none of the 4 steps uses orbit@1")
    second = remix(api, first["id"]).json()
    assert second["adapters"] == first["adapters"]
    assert second["outside"] == "base"
    assert second["warnings"] == [warning]
    engine.release()
    ended(api, second["id"])
    before, after = engine.seen
    assert after.adapters == before.adapters
    assert after.adapters[0].region is not None
    assert (after.adapters[0].steps, after.adapters[0].scale) == ((0.9, 1.0), (1.0, 0.5))


def test_a_job_that_waits_or_was_cancelled_can_be_remixed(api: TestClient):
    first = create(api, seed=3)
    assert remix(api, first["id"]).json()["seed"] == 3
    api.post(f"/v1/videos/{first['id']}/cancel", headers=bearer())
    assert remix(api, first["id"]).json()["seed"] == 3


def test_a_drawn_seed_is_the_same_in_the_remix(api: TestClient):
    first = create(api)
    assert remix(api, first["id"]).json()["seed"] == first["seed"]


def test_anothers_video_and_one_that_is_not_there_are_404(api: TestClient):
    first = create(api)
    for id, key in ((first["id"], BOB), ("video_" + "0" * 32, ALICE)):
        answer = remix(api, id, key)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "video_not_found")
    assert remix(api, first["id"], ALICES_OTHER).status_code == 200, "another key of the same tenant"
    answer = remix(api, first["id"], READER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_scope")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": "x" * 2001}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "x", "seed": 8}, "seed"),
    ],
)
def test_a_remix_has_a_prompt_and_nothing_else(api: TestClient, body: dict, param: str):
    answer = remix(api, create(api)["id"], body=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == param


def test_a_remix_may_be_sent_as_a_form(api: TestClient):
    id = create(api)["id"]
    answer = api.post(f"/v1/videos/{id}/remix", files={"prompt": (None, "a tank")}, headers=bearer())
    assert answer.json()["prompt"] == "a tank"


def test_a_repeated_remix_is_the_same_job(api: TestClient):
    one, other = create(api)["id"], create(api)["id"]
    first, again = (remix(api, one, **{"Idempotency-Key": "k"}) for _ in range(2))
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    answer = remix(api, other, **{"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_conflict")


def test_the_priority_is_what_the_key_may_ask_for_and_the_quota_counts(api: TestClient):
    first = create(api, priority=2)
    assert remix(api, first["id"], ALICES_OTHER).json()["priority"] == 0
    bobs = api.post("/v1/videos", json={"prompt": "x"}, headers=bearer(BOB)).json()
    answer = remix(api, bobs["id"], BOB)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_exceeded")


def test_the_webhook_is_called_for_a_remix_too(api: TestClient):
    first = create(api, webhook_url="http://127.0.0.1:9/hook")
    assert remix(api, first["id"]).json()["webhook_url"] == "http://127.0.0.1:9/hook"


def test_a_video_of_a_foundation_that_is_not_served_any_more_is_a_conflict(api: TestClient):
    first = create(api)
    with api.service.store.database.sessions.begin() as session:
        job = session.query(Job).filter_by(id=first["id"]).one()
        request = {**job.request, "foundation": "e" * 64}
        session.execute(update(Job).where(Job.id == first["id"]).values(request=request))
    answer = remix(api, first["id"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "foundation_mismatch")
    assert "eeeeeeeeeeee" in answer.json()["error"]["message"]


def test_a_server_of_smaller_videos_refuses_a_remix_of_a_larger_one(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
):
    first = create(api)
    smaller = INFO.model_copy(update={"max_pixels": 100})
    monkeypatch.setattr(api.service, "_info", smaller)
    answer = remix(api, first["id"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "too_large")


def test_our_client_remixes(api: TestClient):
    first = create(api)

    def send(request: httpx.Request) -> httpx.Response:
        answer = api.request(
            request.method, request.url.path, content=request.content, headers=request.headers
        )
        return httpx.Response(answer.status_code, content=answer.content)

    with Client("http://127.0.0.1:8000", api_key=ALICE, transport=httpx.MockTransport(send)) as client:
        video = client.remix(first["id"], "a tank", idempotency_key="k")
        assert (video.prompt, video.remixed_from_video_id) == ("a tank", first["id"])
        assert client.remix(first["id"], "a tank", idempotency_key="k").id == video.id
        with pytest.raises(NotFound, match="video_"):
            client.remix("video_" + "0" * 32, "a tank")
