"""The API's further promises, over an engine whose pace the test sets: keys, quotas, repeats, forms, metrics, adapters."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes import INFO, FakeEngine
from fastapi.testclient import TestClient
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update
from sqlalchemy.exc import OperationalError
from starlette.types import Message

from infra.errors import StorageDenied, UserError
from infra.files import UnusablePath
from infra.registry import Registry
from infra.storage import open_storage
from infra.storage.s3 import BucketNotFound
from models.adapters.file import WEIGHTS_FILE
from models.regions.region import Region
from serving.config import ServeConfig
from serving.http.api import create_api
from serving.http.errors import BodyLimit
from serving.http.service import VideoService
from serving.jobs.database import Job
from serving.jobs.dispatcher import result_key
from serving.keys import ApiKey, hash_key
from serving.requests import VideoRequest

LOCAL = {"client": ("127.0.0.1", 50000), "base_url": "http://127.0.0.1:8000"}
ADMIN, USER, READER = "admin-key-0123456789", "user-key-0123456789", "reader-key-0123456789"
KEYS = [
    ApiKey(
        sha256=hash_key(ADMIN), scopes=("videos:read", "videos:write", "adapters", "metrics"), max_priority=2
    ),
    ApiKey(sha256=hash_key(USER), concurrency=2, requests_per_minute=3),
    ApiKey(sha256=hash_key(READER), scopes=("videos:read",)),
]
Serve = Callable[..., TestClient]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(held=True)


@pytest.fixture
def serve(tmp_path: Path, registry: Registry, engine: FakeEngine) -> Iterator[Serve]:
    """serve(max_queue=3): a client of a server with this configuration."""
    clients = []

    def start(**settings) -> TestClient:
        config = ServeConfig(data_dir=str(tmp_path / "data"), registry=registry.uri, **settings)
        service = VideoService(config, engine)
        client = TestClient(create_api(service), raise_server_exceptions=False, **LOCAL)
        client.__enter__()
        client.service = service  # type: ignore[attr-defined]
        clients.append(client)
        return client

    yield start
    engine.release()
    for client in clients:
        client.__exit__(None, None, None)


def refused(response, status: int, code: str) -> dict:
    """The error, in the one shape."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    assert set(response.json()["error"]) == {"message", "type", "code", "param"}
    assert response.json()["error"]["code"] == code
    return response.json()["error"]


def samples(text: str) -> dict[tuple, float]:
    """{(name, label values ...): value} of an exposition."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[(sample.name, *sample.labels.values())] = sample.value
    return found


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(serve: Serve, engine: FakeEngine):
    api = serve(max_queue=2, max_batch=1)
    for _ in range(4):  # what an engine is given; these leave the queue
        id = api.post("/v1/videos", json={"prompt": "x"}).json()["id"]
        while api.get(f"/v1/videos/{id}").json()["status"] == "queued":
            pass
    for _ in range(2):
        assert api.post("/v1/videos", json={"prompt": "x"}).json()["status"] == "queued"
    engine.lost = True  # nothing may be asked of an engine for a refusal
    response = api.post("/v1/videos", json={"prompt": "x"})
    error = refused(response, 429, "queue_full")
    assert error["type"] == "rate_limit_error"
    assert int(response.headers["retry-after"]) >= 1


def test_quotas_are_a_keys_own(serve: Serve):
    api = serve(api_keys=KEYS)
    for _ in range(2):
        assert api.post("/v1/videos", json={"prompt": "x"}, headers=bearer(USER)).status_code == 200
    response = api.post("/v1/videos", json={"prompt": "x"}, headers=bearer(USER))
    refused(response, 429, "concurrency_exceeded")
    assert int(response.headers["retry-after"]) >= 1
    assert api.post("/v1/videos", json={"prompt": "x"}, headers=bearer(ADMIN)).status_code == 200
    for video in api.get("/v1/videos", headers=bearer(USER)).json()["data"]:
        assert api.post(f"/v1/videos/{video['id']}/cancel", headers=bearer(USER)).status_code == 200
    assert api.post("/v1/videos", json={"prompt": "x"}, headers=bearer(USER)).status_code == 200
    response = api.post("/v1/videos", json={"prompt": "x"}, headers=bearer(USER))
    refused(response, 429, "rate_exceeded")
    assert 1 <= int(response.headers["retry-after"]) <= 20


def test_a_tenant_keeps_its_jobs_and_its_quotas_from_key_to_key(serve: Serve):
    old, new, other = "an-old-key-0123456789", "a-new-key-0123456789", "another-key-0123456789"
    quota = {"tenant": "alice", "concurrency": 1}
    both = [ApiKey(sha256=hash_key(key), **quota) for key in (old, new)]
    api = serve(api_keys=[*both, ApiKey(sha256=hash_key(other))])
    asked = api.post("/v1/videos", json={"prompt": "x"}, headers=bearer(old))
    id = asked.json()["id"]
    refused(api.post("/v1/videos", json={"prompt": "x"}, headers=bearer(new)), 429, "concurrency_exceeded")
    assert api.get(f"/v1/videos/{id}", headers=bearer(new)).json()["id"] == id
    refused(api.get(f"/v1/videos/{id}", headers=bearer(other)), 404, "video_not_found")
    rotated = serve(api_keys=[both[1]])
    refused(rotated.get(f"/v1/videos/{id}", headers=bearer(old)), 401, "invalid_api_key")
    assert [video["id"] for video in rotated.get("/v1/videos", headers=bearer(new)).json()["data"]] == [id]


def test_a_scope_that_a_key_lacks_is_403(serve: Serve, engine: FakeEngine):
    api = serve(api_keys=KEYS)
    refused(api.post("/v1/videos", json={"prompt": "x"}, headers=bearer(READER)), 403, "missing_scope")
    assert engine.seen == []
    assert api.get("/v1/videos", headers=bearer(READER)).status_code == 200
    assert api.get("/v1/models", headers=bearer(READER)).status_code == 200
    for path in ("/metrics", "/v1/adapters"):
        refused(api.get(path), 401, "invalid_api_key")
        refused(api.get(path, headers=bearer(USER)), 403, "missing_scope")
        assert api.get(path, headers=bearer(ADMIN)).status_code == 200
    refused(api.post("/v1/adapters/pin", json={"name": "a"}, headers=bearer(USER)), 403, "missing_scope")


def test_priority_and_deadline_reach_the_engine_and_a_key_bounds_the_priority(
    serve: Serve, engine: FakeEngine
):
    api = serve(api_keys=KEYS)
    body = {"prompt": "x", "priority": 1, "deadline": 100.0}
    refused(api.post("/v1/videos", json=body, headers=bearer(USER)), 403, "priority_not_allowed")
    video = api.post("/v1/videos", json=body, headers=bearer(ADMIN)).json()
    assert video["priority"] == 1
    assert abs(video["deadline"] - video["created_at"] - 100) <= 1
    engine.release()
    ended(api, video["id"], bearer(ADMIN))
    [request] = engine.seen
    assert (request.priority, request.tenant) == (1, KEYS[0].tenant)
    assert request.deadline == pytest.approx(video["deadline"], abs=1)


def test_an_engine_is_asked_in_the_callers_turn_and_one_that_loads_too_long_is_said_to(
    serve: Serve, engine: FakeEngine, publish_two: list[str], monkeypatch: pytest.MonkeyPatch
):
    api, checked = serve(api_keys=KEYS), []

    async def never(request: VideoRequest) -> None:
        checked.append(request)
        await asyncio.Event().wait()

    engine.check = never  # type: ignore[method-assign]
    monkeypatch.setattr("serving.http.service.ENGINE_TIMEOUT", 0.01)
    body = {"prompt": "x", "priority": 1, "lora": [{"name": publish_two[0]}]}
    response = api.post("/v1/videos", json=body, headers=bearer(ADMIN))
    assert "the registry is slow" in refused(response, 503, "adapter_slow")["message"]
    assert "retry-after" in response.headers
    response = api.post("/v1/videos", json={"prompt": "x"}, headers=bearer(ADMIN))
    refused(response, 503, "engine_unavailable")
    assert [(one.tenant, one.priority) for one in checked] == [(KEYS[0].tenant, 1), (KEYS[0].tenant, 0)]


def ended(api: TestClient, id: str, headers: dict[str, str] | None = None) -> dict:
    for _ in range(3000):
        video = api.get(f"/v1/videos/{id}", headers=headers).json()
        if video["status"] not in ("queued", "in_progress"):
            return video
    raise AssertionError(video)


def test_a_repeated_request_is_the_same_job(serve: Serve):
    api = serve(api_keys=KEYS)
    headers = {**bearer(USER), "Idempotency-Key": "8e03978e-40d5-43e8-bc93-6894a57f9324"}
    first = api.post("/v1/videos", json={"prompt": "x"}, headers=headers)
    again = api.post("/v1/videos", json={"prompt": "x"}, headers=headers)
    assert first.json()["id"] == again.json()["id"]
    assert first.json()["seed"] == again.json()["seed"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    refused(api.post("/v1/videos", json={"prompt": "y"}, headers=headers), 409, "idempotency_conflict")
    elsewhere = {**headers, **bearer(ADMIN)}
    assert api.post("/v1/videos", json={"prompt": "y"}, headers=elsewhere).json()["id"] != first.json()["id"]
    form = api.post("/v1/videos", files={"prompt": (None, "x")}, headers=headers)
    assert form.json()["id"] == first.json()["id"], "the same request, written as a form"
    bad = {**headers, "Idempotency-Key": "a b"}
    refused(api.post("/v1/videos", json={"prompt": "x"}, headers=bad), 422, "invalid_idempotency_key")


def test_of_two_who_delete_a_video_at_once_neither_hears_of_an_error(serve: Serve, engine: FakeEngine):
    engine.release()
    api = serve()
    path = f"/v1/videos/{api.post('/v1/videos', json={'prompt': 'x'}).json()['id']}"
    while api.get(path).json()["status"] != "completed":
        pass
    store, both = api.service.store, threading.Barrier(2, timeout=30)
    delete = store.delete

    def delete_at_once(id: str) -> None:
        both.wait()  # each has looked the job up by now
        delete(id)

    store.delete = delete_at_once
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(api.delete, [path, path]))
    assert [answer.status_code for answer in answers] == [200, 200], answers[-1].text
    refused(api.get(path), 404, "video_not_found")


def test_queue_positions_are_told(serve: Serve):
    api = serve(max_batch=1)  # four in the engine's hands
    ids = [api.post("/v1/videos", json={"prompt": "x"}).json()["id"] for _ in range(6)]
    end, shown = time.monotonic() + 30, {}
    while [shown[id]["queue_position"] for id in shown] != [None] * 4 + [0, 1]:
        assert time.monotonic() < end, shown
        shown = {video["id"]: video for video in api.get("/v1/videos?order=asc").json()["data"]}
    assert list(shown) == ids
    assert api.get(f"/v1/videos/{ids[5]}").json()["queue_position"] == 1
    assert shown[ids[0]]["batch_neighbours"] is None


def test_forms_as_openais_clients_send_them(serve: Serve, publish_two: list[str]):
    api = serve()
    fields = {
        "prompt": "x",
        "seconds": "0.5",
        "size": "32x32",
        "seed": "7",
        "guidance_scale": "2.5",
        "steps": "3",
    }
    video = api.post("/v1/videos", files={name: (None, value) for name, value in fields.items()}).json()
    assert (video["seed"], video["steps"], video["guidance_scale"]) == (7, 3, 2.5)
    assert (video["frames"], video["size"]) == (4, "32x32")
    lora = [
        ("lora[][name]", "one"),
        ("lora[][scale]", "0.5"),
        ("lora[][until]", "0.25"),
        ("lora[][name]", "two"),
        ("lora[][scale]", "1"),
        ("lora[][until]", "1"),
    ]
    bracketed = api.post(
        "/v1/videos", files=[(name, (None, value)) for name, value in [("prompt", "x"), *lora]]
    )
    as_json = json.dumps(
        [{"name": "one", "scale": 0.5, "until": 0.25}, {"name": "two", "scale": 1, "until": 1}]
    )
    texted = api.post("/v1/videos", data={"prompt": "x", "lora": as_json})
    for response in (bracketed, texted):
        assert [
            (a["concept"], a["path"], a["scale"], a.get("steps")) for a in response.json()["adapters"]
        ] == [
            ("one", "temporal", 0.5, [0, 0.25]),
            ("one", "spatial", 0.5, [0, 0.25]),
            ("two", "temporal", 1.0, [0, 1]),
            ("two", "spatial", 1.0, [0, 1]),
        ]


@pytest.fixture
def publish_two(registry: Registry, tmp_path: Path) -> list[str]:
    """Two concepts whose files nobody opens here."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / WEIGHTS_FILE).write_bytes(b"weights")
    (tmp_path / "files" / "spatial").mkdir()
    (tmp_path / "files" / "spatial" / WEIGHTS_FILE).write_bytes(b"looks")
    metadata = {"foundation_fingerprint": INFO.fingerprint}
    return [registry.publish(name, tmp_path / "files", metadata=metadata).ref for name in ("one", "two")]


@pytest.mark.parametrize(
    ("files", "status", "code"),
    [
        ([("prompt", (None, "x")), ("steps", (None, "many"))], 422, "invalid_value"),
        ([("prompt", (None, "x")), ("prompt", (None, "y"))], 422, "invalid_value"),
        ([("prompt", (None, "x")), ("lora", (None, "[{"))], 400, "invalid_json"),
        (
            [("prompt", (None, "x")), ("lora[][name]", (None, "a")), ("lora[][evil]", (None, "1"))],
            422,
            "unknown_field",
        ),
        (
            [
                ("prompt", (None, "x")),
                ("lora[][name]", (None, "a")),
                ("lora[][name]", (None, "b")),
                ("lora[][scale]", (None, "1")),
            ],
            422,
            "invalid_value",
        ),
        ([("prompt", (None, "x")), ("input_reference", ("a.png", b"png"))], 422, "unreadable_image"),
        ([("prompt", (None, "x")), ("video", ("a.png", b"png"))], 422, "invalid_form"),
        ([(f"f{n}", (None, "x")) for n in range(100)], 422, "invalid_form"),
        ([("prompt", (None, "x" * 70_000))], 413, "too_large"),
    ],
    ids=range(9),
)
def test_a_form_that_makes_no_sense_is_refused(serve: Serve, files: list, status: int, code: str):
    api = serve()
    refused(api.post("/v1/videos", files=files), status, code)
    assert api.get("/v1/videos").json()["data"] == []


def test_another_content_type_is_415(serve: Serve):
    response = serve().post("/v1/videos", content=b"<a/>", headers={"content-type": "application/xml"})
    refused(response, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "rebound.example:8000"}],
    ids=["cross-site", "opaque", "rebound"],
)
def test_without_keys_a_web_page_in_a_local_browser_is_not_this_machine(
    serve: Serve, headers: dict[str, str]
):
    api = serve()
    refused(api.post("/v1/videos", files={"prompt": (None, "x")}, headers=headers), 403, "loopback_only")
    assert api.get("/v1/videos", headers={"Origin": "http://localhost:3000"}).status_code == 200


def test_adapters_are_prefetched_pinned_and_let_go_by_name(
    serve: Serve, engine: FakeEngine, registry: Registry, publish_two: list[str], tmp_path: Path
):
    api = serve()
    engine.engines = 3
    version = registry.resolve("one")
    sha256 = version.files[WEIGHTS_FILE].sha256
    looks = version.files[f"spatial/{WEIGHTS_FILE}"].sha256
    for action in ("pin", "unpin"):
        both = api.post(f"/v1/adapters/{action}", json={"name": "one"}).json()
        assert both["adapters"] == [
            {"path": "temporal", "sha256": sha256},
            {"path": "spatial", "sha256": looks},
        ]
        assert engine.kept[-1][1] == ([sha256, looks] if action == "pin" else [])
    for action, status in {"prefetch": "prefetched", "pin": "pinned", "unpin": "unpinned"}.items():
        answer = api.post(f"/v1/adapters/{action}", json={"name": "one", "path": "temporal"}).json()
        assert answer == {
            "object": "adapter",
            "concept": "one",
            "version": 1,
            "path": "temporal",
            "sha256": sha256,
            "adapters": [{"path": "temporal", "sha256": sha256}],
            "status": status,
            "engines": 3,
        }
        shown = api.get("/v1/adapters").json()
        assert [pin["concept"] for pin in shown["pins"]] == (["one"] if action == "pin" else [])
        assert engine.kept[-1][1] == ([sha256] if action == "pin" else [])
    assert engine.prefetched == [sha256, looks, sha256, sha256]
    names = [registry.publish(f"c{n}", folder_of(tmp_path, n), metadata={}).ref for n in range(4)]
    for name in names[:3]:
        assert api.post("/v1/adapters/pin", json={"name": name}).status_code == 200
    refused(api.post("/v1/adapters/pin", json={"name": names[3]}), 409, "slots_pinned")
    refused(api.post("/v1/adapters/pin", json={"name": "nothing"}), 404, "concept_not_found")
    refused(api.post("/v1/adapters/pin", json={"name": "one", "force": True}), 422, "unknown_field")
    shown = api.get("/v1/adapters").json()
    assert shown["engines"] == ["engine0", "engine1", "engine2"]
    [resident] = shown["data"]
    assert (resident["engine"], resident["tier"], resident["pinned"]) == ("engine0", "slot", True)
    engine.lost = True
    assert api.post("/v1/adapters/unpin", json={"name": names[0]}).json()["engines"] == 0, (
        "they hear of it later"
    )
    assert len(api.get("/v1/adapters").json()["pins"]) == 2


def folder_of(tmp_path: Path, number: int) -> Path:
    """Files of a version that nobody opens, its own."""
    folder = tmp_path / f"files{number}"
    folder.mkdir()
    (folder / WEIGHTS_FILE).write_bytes(f"weights {number}".encode())
    return folder


def test_metrics_tell_of_jobs_requests_and_adapters_and_made_up_names_make_no_series(
    serve: Serve, engine: FakeEngine, publish_two: list[str]
):
    api = serve()
    engine.release()
    done = ended(api, api.post("/v1/videos", json={"prompt": "x", "model": "foundation:one"}).json()["id"])
    assert done["status"] == "completed"
    engine.held = True
    api.post("/v1/videos", json={"prompt": "x"})
    for number in range(5):
        api.get(f"/v1/none/{number}")
        api.get(f"/v1/videos/video_{number}")
    response = api.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    found = samples(response.text)
    assert found["motiondirector_jobs", "completed"] == 1
    assert found["motiondirector_jobs_accepted_total",] == 2
    assert found["motiondirector_jobs_ended_total", "completed"] == 1
    assert found["motiondirector_adapter_requests_total", "one@1"] == 1
    assert found["motiondirector_job_seconds_count", "denoise"] == 1
    assert found["motiondirector_http_requests_total", "GET", "unmatched", "404"] == 5
    assert found["motiondirector_http_requests_total", "GET", "/v1/videos/{id}", "404"] == 5
    assert found["motiondirector_http_requests_total", "POST", "/v1/videos", "200"] == 2
    assert {"motiondirector_queue_length", "motiondirector_queue_age_seconds"} <= {name for name, *_ in found}


def test_our_own_fault_is_500_in_the_one_shape_and_counted(serve: Serve, monkeypatch):
    api = serve()

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(api.service.store, "page", broken)  # type: ignore[attr-defined]
    error = refused(api.get("/v1/videos"), 500, "internal_error")
    assert "secret" not in error["message"]
    found = samples(api.get("/metrics").text)
    assert found["motiondirector_http_requests_total", "GET", "/v1/videos", "500"] == 1


def test_a_database_that_is_away_is_503_with_retry_after_and_not_ready(serve: Serve, monkeypatch):
    api = serve()

    def away(*_: object, **__: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("the server closed the connection"))

    monkeypatch.setattr(api.service.store, "page", away)  # type: ignore[attr-defined]
    monkeypatch.setattr(api.service.store.database, "ping", away)  # type: ignore[attr-defined]
    for path in ("/v1/videos", "/readyz"):
        response = api.get(path)
        refused(response, 503, "database_unavailable")
        assert response.headers["retry-after"] == "5"
    assert api.get("/healthz").status_code == 200


@pytest.mark.usefixtures("lists_anew")
@pytest.mark.parametrize(
    "fault",
    [
        StorageDenied("S3 at http://inside refused the credentials.", code="s3_wrong_credentials"),
        BucketNotFound("S3 bucket 'inside' does not exist."),
        StorageDenied("reading /mnt/inside: not permitted."),
        UnusablePath("reading /mnt/inside: a loop."),
    ],
    ids=lambda fault: fault.code,
)
def test_faults_of_the_servers_storages_are_not_the_callers_and_only_the_log_says_where_they_are(
    serve: Serve, engine: FakeEngine, publish_two: list[str], monkeypatch, caplog, fault: UserError
):
    engine.release()
    api = serve()
    id = api.post("/v1/videos", json={"prompt": "x"}).json()["id"]
    assert ended(api, id)["status"] == "completed"

    def broken(*_: object, **__: object) -> None:
        raise fault

    for storage in (api.service._registry.storage, api.service._results):  # type: ignore[attr-defined]
        for call in ("list", "get", "delete"):
            monkeypatch.setattr(storage, call, broken)
    for response in (
        api.post("/v1/videos", json={"prompt": "x", "model": "foundation:one"}),
        api.get("/v1/models"),
        api.get(f"/v1/videos/{id}/content"),
        api.delete(f"/v1/videos/{id}"),
    ):
        error = refused(response, 503, "storage_unavailable")
        assert "inside" not in error["message"]
        assert response.headers["retry-after"] == "5"
    assert caplog.text.count(fault.message) == 4
    monkeypatch.undo()
    assert api.get(f"/v1/videos/{id}/content").content == b"mp4 of x"


def test_a_deleted_job_leaves_no_video_though_its_row_knew_of_none(
    serve: Serve, engine: FakeEngine, monkeypatch
):
    """The video was stored, and then the database did not answer."""
    api = serve()
    id = api.post("/v1/videos", json={"prompt": "x"}).json()["id"]
    stored = threading.Event()

    def away(*_: object, **__: object) -> None:
        stored.set()
        raise OperationalError("UPDATE", {}, Exception("the server closed the connection"))

    monkeypatch.setattr(api.service.store, "complete", away)  # type: ignore[attr-defined]
    engine.release()
    assert stored.wait(30)
    results = api.service._results  # type: ignore[attr-defined]
    assert results.exists(result_key(id))
    assert api.delete(f"/v1/videos/{id}").status_code == 200
    assert not results.exists(result_key(id))


@pytest.fixture(params=["folder", "s3"])
def results(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a server keeps its videos; nothing is there yet."""
    if request.param == "folder":
        return str(tmp_path / "videos")
    return f"{request.getfixturevalue('s3').uri}/{uuid.uuid4().hex}"


def test_a_video_is_kept_and_deleted_with_its_job_or_when_its_time_is_over_in_a_folder_and_in_s3(
    serve: Serve, engine: FakeEngine, results: str, monkeypatch
):
    monkeypatch.setattr("serving.jobs.dispatcher.SWEEP_INTERVAL", 0.05)
    api, storage = serve(results=results), open_storage(results)

    def keys() -> set[str]:
        return {found.key for found in storage.list()}

    def until(true: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not true():
            assert time.monotonic() < end
            time.sleep(0.01)

    engine.release()
    kept, deleted = (api.post("/v1/videos", json={"prompt": x}).json()["id"] for x in ("one", "other"))
    for id in (kept, deleted):
        until(lambda id=id: api.get(f"/v1/videos/{id}").json()["status"] == "completed")
    assert keys() == {result_key(kept), result_key(deleted)}
    assert api.get(f"/v1/videos/{kept}/content").content == b"mp4 of one"
    assert api.get(f"/v1/videos/{deleted}/content").content == b"mp4 of other"

    assert api.delete(f"/v1/videos/{deleted}").status_code == 200
    assert keys() == {result_key(kept)}
    refused(api.get(f"/v1/videos/{deleted}/content"), 404, "video_not_found")

    with api.service.store.database.sessions.begin() as session:  # type: ignore[attr-defined]
        session.execute(update(Job).values(expires_at=time.time()))
    until(lambda: keys() == set())
    refused(api.get(f"/v1/videos/{kept}/content"), 404, "video_expired")
    assert api.get(f"/v1/videos/{kept}").json()["status"] == "completed"


def test_an_engine_that_is_away_is_not_ready_though_it_was(serve: Serve, engine: FakeEngine):
    api = serve()
    assert api.get("/readyz").json()["foundation"] == "fake"
    engine.lost = True
    refused(api.get("/readyz"), 503, "engine_unavailable")
    response = api.post("/v1/videos", json={"prompt": "x"})
    refused(response, 503, "engine_unavailable")
    assert "retry-after" in response.headers


def test_two_servers_on_one_database_share_the_work_and_answer_for_each_other(
    serve: Serve, engine: FakeEngine
):
    first, second = serve(), serve()
    id = first.post("/v1/videos", json={"prompt": "x"}).json()["id"]
    for _ in range(1000):
        if second.get(f"/v1/videos/{id}").json()["status"] == "in_progress":
            break
    engine.release()
    assert ended(second, id)["status"] == "completed"
    assert second.get(f"/v1/videos/{id}/content").content == b"mp4 of x"
    assert len(engine.seen) == 1


BODIES = ("/v1/videos", "/v1/adapters/prefetch", "/v1/adapters/pin", "/v1/adapters/unpin")


def dripped(api: TestClient, path: str, headers: dict[str, str]) -> tuple[int, dict, int]:
    """A body of which only the first byte comes: (status, error, times that more of it was waited for)."""
    sent: list[Message] = []
    waited = 0

    async def receive() -> Message:
        nonlocal waited
        waited += 1
        if waited == 1:
            return {"type": "http.request", "body": b"{", "more_body": True}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": LOCAL["client"],
    }
    asyncio.run(asyncio.wait_for(api.app(scope, receive, send), 60))
    return sent[0]["status"], json.loads(sent[1]["body"])["error"], waited


@pytest.mark.parametrize("path", BODIES)
def test_a_body_is_not_read_before_the_key(serve: Serve, path: str):
    api = serve(api_keys=KEYS)
    refused(api.post(path, content=b"{"), 401, "invalid_api_key")
    refused(api.post(path, content=b"{", headers=bearer(READER)), 403, "missing_scope")
    refused(api.post(path, content=b"{", headers=bearer(ADMIN)), 400, "invalid_json")
    status, error, waited = dripped(api, path, {"content-type": "application/json"})
    assert (status, error["code"], waited) == (401, "invalid_api_key", 0)


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
def test_a_body_that_does_not_come_is_not_waited_for_for_ever(
    serve: Serve, kind: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("serving.http.errors.BODY_TIMEOUT", 0.05)
    api = serve(api_keys=KEYS)
    for path in BODIES if kind == "application/json" else BODIES[:1]:
        status, error, _ = dripped(api, path, {"content-type": kind, **bearer(ADMIN)})
        assert (status, error["code"]) == (408, "body_timeout")


def test_whoever_has_sent_the_body_may_stay_longer(monkeypatch: pytest.MonkeyPatch):
    """An event stream waits for its client's going by the same `receive`."""
    monkeypatch.setattr("serving.http.errors.BODY_TIMEOUT", 0.01)
    heard = []

    async def main() -> None:
        left = [{"type": "http.request", "body": b"{}", "more_body": False}]
        gone = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, gone.set)

        async def receive() -> Message:
            if left:
                return left.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def app(_scope, receive, _send) -> None:
            heard.extend([(await receive())["type"] for _ in range(2)])

        await BodyLimit(app)({"type": "http"}, receive, None)  # type: ignore[arg-type]

    asyncio.run(main())
    assert heard == ["http.request", "http.disconnect"]


def test_a_step_window_reaches_the_engine_and_one_that_is_none_is_refused(
    serve: Serve, engine: FakeEngine, publish_two: list[str]
):
    api = serve()
    for wrong in (
        *({"until": until} for until in (0, 1.5, -1, "0.5")),
        *({"steps": steps} for steps in ([0.5, 0.5], [0, 1.5], [-1, 1], ["0", 1], [0.5], 0.5)),
        {"steps": [0.5, 1], "until": 0.5},
    ):
        body = {"prompt": "x", "lora": [{"name": "one", **wrong}]}
        refused(api.post("/v1/videos", json=body), 422, "invalid_value")
    engine.release()
    for given in (
        {"until": 0.5},
        {"steps": [0, 0.5]},
    ):  # as clients wrote it before there was `steps`, and since
        body = {"prompt": "x", "lora": [{"name": "one", "path": "temporal", **given}]}
        video = api.post("/v1/videos", json=body).json()
        assert [(one["path"], one["steps"]) for one in video["adapters"]] == [("temporal", [0, 0.5])]
        ended(api, video["id"])
        assert [(use.scale, use.steps) for use in engine.seen[-1].adapters] == [(1.0, (0.0, 0.5))]


def image(height: int, width: int, value: int = 255) -> str:
    buffer = io.BytesIO()
    Image.new("L", (width, height), value).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_regions_phases_and_outside_reach_the_engine_as_they_were_asked_for(
    serve: Serve, engine: FakeEngine, publish_two: list[str]
):
    api = serve()
    engine.release()
    moving = {"keyframes": [{"frame": 0, "box": [0, 0, 0.5, 1]}, {"frame": 3, "box": [0.5, 0, 1, 1]}]}
    lora = [
        {"name": "one", "path": "temporal", "scale": [1, 0.5], "steps": [0, 0.75], "region": moving},
        {"name": "two", "path": "temporal", "region": {"mask": image(32, 32), "feather": 0.1}},
    ]
    body = {"prompt": "x", "lora": lora, "outside": "base"}
    video = api.post("/v1/videos", json=body).json()
    assert video["outside"] == "base"
    assert video["warnings"] == []
    first, second = video["adapters"]
    assert (first["scale"], first["steps"]) == ([1, 0.5], [0, 0.75])
    assert Region.model_validate(first["region"]) == Region.model_validate(moving)
    [digest] = second["region"]["mask"]
    assert digest.startswith("sha256:"), "answers do not repeat the images"
    ended(api, video["id"])
    seen = engine.seen[-1]
    assert seen.outside == "base"
    assert [use.scale for use in seen.adapters] == [(1.0, 0.5), 1.0]
    assert [use.region for use in seen.adapters] == [
        Region.model_validate(moving),
        Region(mask=[image(32, 32)], feather=0.1),
    ]
    plain = api.post("/v1/videos", json={"prompt": "x", "lora": [{"name": "one"}]}).json()
    assert "outside" not in plain
    assert not {"region", "steps", "until"} & plain["adapters"][0].keys()


def test_what_is_changed_or_without_effect_is_said_in_the_warnings(serve: Serve, publish_two: list[str]):
    api = serve()
    lora = [
        {"name": "one", "region": {"mask": image(8, 16)}},
        {"name": "two", "steps": [0.3, 0.4]},
    ]
    video = api.post("/v1/videos", json={"prompt": "x", "steps": 4, "lora": lora}).json()
    assert video["warnings"] == [
        "the region of one: the mask of 16x8 was scaled to the video's 32x32.",
        "none of the 4 steps uses two@1: its `steps` or `scale` leave none.",
    ]


@pytest.mark.parametrize(
    ("region", "sentence"),
    [
        ({}, "exactly one of"),
        ({"box": [0, 0, 1]}, r"region.box: expected \[left, top, right, bottom\]"),
        ({"box": [0, 0, 1.5, 1]}, "fractions from 0 to 1"),
        ({"box": ["0", 0, 1, 1]}, "valid number"),
        (
            {"box": [0, 0, 33, 8], "unit": "pixels"},
            r"the region of one: .* outside the frame of 32x32 pixels",
        ),
        ({"polygon": [[0, 0], [1, 1], [1, 0], [0, 1]]}, "crosses itself"),
        ({"polygon": [[0, 0], [0.5, 0.5], [1, 1]]}, "is empty"),
        ({"keyframes": [{"frame": 4, "box": [0, 0, 1, 1]}]}, "frames are 0 to 3"),
        ({"keyframes": [{"frame": n, "box": [0, 0, 1, 1]} for n in (2, 1)]}, "increasing order"),
        ({"mask": [image(8, 8)] * 3}, "3 frames and the video 4"),
        ({"mask": image(8, 8, 0)}, "black everywhere"),
        ({"mask": image(1, 2000)}, "at most 1024 frames, 1024 pixels a side"),
        ({"mask": "/etc/passwd"}, "PNG or GIF in base64"),
        ({"mask": "http://127.0.0.1/mask.png"}, "PNG or GIF in base64"),
        ({"mask": "A" * 50_000}, "at most 43692 characters"),
        ({"mask": "sha256:" + "0" * 64}, "given by its hash"),
        ({"box": [0, 0, 1, 1], "feather": -1}, "greater than or equal to 0"),
    ],
)
def test_a_region_that_cannot_be_is_refused_in_one_sentence(
    serve: Serve, engine: FakeEngine, publish_two: list[str], region: dict, sentence: str
):
    api = serve()
    answer = api.post("/v1/videos", json={"prompt": "x", "lora": [{"name": "one", "region": region}]})
    assert answer.status_code == 422, answer.text
    message = answer.json()["error"]["message"]
    assert re.search(sentence, message), message
    assert message.count("\n") == 0
    assert engine.seen == []


def test_a_file_is_no_region_over_http(serve: Serve, publish_two: list[str]):
    lora = [{"name": "one", "region": {"file": "/etc/passwd"}}]
    error = refused(serve().post("/v1/videos", json={"prompt": "x", "lora": lora}), 422, "unknown_field")
    assert error["param"] == "lora.0.region.file"


def test_outside_without_a_region_for_every_adapter_is_refused(serve: Serve, publish_two: list[str]):
    api = serve()
    box = {"box": [0, 0, 0.5, 1]}
    for body in (
        {"lora": [{"name": "one", "region": box}, {"name": "two"}]},
        {"model": "foundation:two", "lora": [{"name": "one", "region": box}]},
    ):
        answer = api.post("/v1/videos", json={"prompt": "x", "outside": "base", **body})
        assert "needs a region for every adapter" in refused(answer, 422, "invalid_region")["message"]
    refused(api.post("/v1/videos", json={"prompt": "x", "outside": "black"}), 422, "invalid_value")


def test_adapters_are_named_in_json(serve: Serve):
    api = serve()
    error = refused(api.post("/v1/adapters/pin", json={"name": 1}), 422, "invalid_value")
    assert error["param"] == "name"
    error = refused(api.post("/v1/adapters/pin", json={"name": "a", "slot": 1}), 422, "unknown_field")
    assert error["param"] == "slot"
    refused(api.post("/v1/adapters/pin", data={"name": "a"}), 415, "unsupported_media_type")


def test_the_openapi_page_describes_the_body_of_a_request(serve: Serve):
    schema = serve().get("/openapi.json").json()
    body = schema["paths"]["/v1/videos"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data", "application/x-www-form-urlencoded"}
    name = body["application/json"]["schema"]["$ref"].split("/")[-1]
    assert "prompt" in schema["components"]["schemas"][name]["required"]
    fields = schema["components"]["schemas"]["LoraUse"]["properties"]
    assert {"scale", "steps", "region", "until"} <= set(fields)
    assert "part of the denoising steps" in fields["steps"]["description"]
    assert fields["until"]["deprecated"] is True
    number, several = fields["scale"]["anyOf"]
    assert (number["minimum"], number["maximum"]) == (-4, 4)
    assert several["items"] == number
    assert {"box", "polygon", "mask", "keyframes"} <= set(
        schema["components"]["schemas"]["Region"]["properties"]
    )
    for path in BODIES[1:]:
        [(kind, content)] = schema["paths"][path]["post"]["requestBody"]["content"].items()
        assert kind == "application/json"
        assert "name" in schema["components"]["schemas"][content["schema"]["$ref"].split("/")[-1]]["required"]
