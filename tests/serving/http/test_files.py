"""Files over HTTP: uploaded piece by piece, bounded before they are read, and seen by their owner alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEngine
from fastapi.testclient import TestClient
from trainers import FakeTrainer

from serving.config import ServeConfig
from serving.http.api import create_api
from serving.http.service import VideoService
from serving.keys import ApiKey, hash_key

LOCAL = {"client": ("127.0.0.1", 50000), "base_url": "http://127.0.0.1:8000"}
ALICE, BOB = "the-key-of-alice-0123", "the-key-of-bob-012345"
Serve = Callable[..., TestClient]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    clients = []

    def start(**settings) -> TestClient:
        keys = [ApiKey(sha256=hash_key(key), tenant=name) for key, name in ((ALICE, "alice"), (BOB, "bob"))]
        config = ServeConfig(data_dir=str(tmp_path / "data"), api_keys=keys, train_lanes=0, **settings)
        service = VideoService(config, FakeEngine(), trainer=FakeTrainer())
        client = TestClient(create_api(service), raise_server_exceptions=False, **LOCAL)
        client.__enter__()
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def send(api: TestClient, content: bytes, name: str = "a.mp4", key: str = ALICE, **fields: str):
    form = {"purpose": "fine-tune", **fields}
    return api.post("/v1/files", files={"file": (name, content)}, data=form, headers=bearer(key))


def left(folder: Path) -> list[str]:
    """Every file of the server's disk but the database's."""
    return sorted(
        path.name for path in folder.rglob("*") if path.is_file() and "jobs.sqlite" not in path.name
    )


def test_a_file_comes_and_goes(serve: Serve, tmp_path: Path):
    api = serve()
    content = bytes(range(256)) * 9000  # larger than what is collected before it is written
    sent = send(
        api,
        content,
        "../über clips.zip",
        **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"},
    )
    assert sent.status_code == 200, sent.text
    file = sent.json()
    assert (file["bytes"], file["filename"], file["purpose"]) == (
        len(content),
        "über clips.zip",
        "fine-tune",
    )
    assert file["expires_at"] == file["created_at"] + 3600
    id = file["id"]
    assert api.get(f"/v1/files/{id}", headers=bearer(ALICE)).json() == file
    assert api.get("/v1/files", headers=bearer(ALICE)).json()["data"] == [file]
    got = api.get(f"/v1/files/{id}/content", headers=bearer(ALICE))
    assert got.content == content
    assert got.headers["x-content-type-options"] == "nosniff"
    assert left(tmp_path / "data") == [id]
    for method, path in (
        ("GET", f"/v1/files/{id}"),
        ("GET", f"/v1/files/{id}/content"),
        ("DELETE", f"/v1/files/{id}"),
    ):
        for path_of in (path, path.replace(id, "file-" + "0" * 32)):
            answer = api.request(method, path_of, headers=bearer(BOB))
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "file_not_found"
    assert api.get("/v1/files", headers=bearer(BOB)).json()["data"] == []
    assert api.delete(f"/v1/files/{id}", headers=bearer(ALICE)).json() == {
        "id": id,
        "object": "file",
        "deleted": True,
    }
    assert api.get(f"/v1/files/{id}", headers=bearer(ALICE)).status_code == 404
    assert left(tmp_path / "data") == []


def test_pages_of_files(serve: Serve):
    api = serve()
    ids = [send(api, b"x", f"{n}.mp4").json()["id"] for n in range(3)]
    page = api.get("/v1/files?limit=2", headers=bearer(ALICE)).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([ids[2], ids[1]], True)
    page = api.get(f"/v1/files?limit=2&after={ids[1]}", headers=bearer(ALICE)).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([ids[0]], False)
    page = api.get("/v1/files?purpose=vision", headers=bearer(ALICE)).json()
    assert page["data"] == []


@pytest.mark.parametrize(
    ("call", "status", "code"),
    [
        (lambda api: send(api, b"", "a.mp4"), 422, "empty_file"),
        (lambda api: send(api, b"x", purpose="assistants"), 422, "invalid_purpose"),
        (lambda api: send(api, b"x" * 70_000, note="n" * 5000), 422, "invalid_form"),
        (lambda api: send(api, b"x", **{"expires_after[seconds]": "9"}), 422, "invalid_expiry"),
        (lambda api: send(api, b"x" * 200_001), 413, "too_large"),
        (lambda api: api.post("/v1/files", json={}, headers=bearer(ALICE)), 415, "unsupported_media_type"),
        (lambda api: api.post("/v1/files", data={"purpose": "fine-tune"}, headers=bearer(ALICE)), 415, None),
        (
            lambda api: api.post("/v1/files", files=[("file", b"x"), ("file", b"y")], headers=bearer(ALICE)),
            422,
            "invalid_form",
        ),
    ],
)
def test_forms_that_are_refused_leave_nothing(
    serve: Serve, tmp_path: Path, call: Any, status: int, code: str | None
):
    api = serve(max_file_bytes=100_000)
    answer = call(api)
    assert answer.status_code == status, answer.text
    assert code is None or answer.json()["error"]["code"] == code
    assert left(tmp_path / "data") == []
    assert api.get("/v1/files", headers=bearer(ALICE)).json()["data"] == []


def ask(app, headers: dict[str, str], pieces: list[dict]) -> tuple[int, dict, int]:
    """Send a request by hand: (status, answer, pieces of the body that were read)."""
    sent: list[dict] = []
    taken = 0

    async def receive() -> dict:
        nonlocal taken
        taken += 1
        return pieces[taken - 1]

    async def answer(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/files",
        "raw_path": b"/v1/files",
        "query_string": b"",
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    try:
        asyncio.run(app(scope, receive, answer))
    except Exception as error:  # the client is gone
        return 0, {"error": type(error).__name__}, taken
    body = b"".join(one.get("body", b"") for one in sent[1:])
    return sent[0]["status"], json.loads(body), taken


def test_an_upload_beyond_the_quota_is_refused_by_its_length_alone(serve: Serve, tmp_path: Path):
    api = serve(files_bytes=1 << 30)
    form = {"Content-Type": "multipart/form-data; boundary=b", **bearer(ALICE)}
    status, answer, read = ask(api.app, {**form, "Content-Length": str(10 << 30)}, [])
    assert (status, answer["error"]["code"], read) == (413, "too_large", 0)
    status, answer, read = ask(api.app, {**form, "Content-Length": str((1 << 30) + 1)}, [])
    assert (status, answer["error"]["code"], read) == (403, "quota_exceeded", 0)
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    pieces = [{"type": "http.request", "body": part, "more_body": True} for part in (head, b"x" * 1000)]
    status, answer, _ = ask(
        api.app, {**form, "Content-Length": "5000"}, [*pieces, {"type": "http.disconnect"}]
    )
    assert status in (0, 400), answer  # cut off
    assert left(tmp_path / "data") == []
    assert api.get("/v1/files", headers=bearer(ALICE)).json()["data"] == []


def test_files_and_bytes_of_a_tenant_are_bounded_and_of_another_are_not(serve: Serve):
    api = serve(files_count=2)
    for _ in range(2):
        assert send(api, b"x").status_code == 200
    refused = send(api, b"x")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "quota_exceeded")
    assert send(api, b"x", key=BOB).status_code == 200
    id = api.get("/v1/files", headers=bearer(ALICE)).json()["data"][0]["id"]
    api.delete(f"/v1/files/{id}", headers=bearer(ALICE))
    assert send(api, b"x").status_code == 200


def begin(api: TestClient, size: int, key: str = ALICE):
    body = {"filename": "big.zip", "purpose": "fine-tune", "bytes": size, "mime_type": "application/zip"}
    return api.post("/v1/uploads", json=body, headers=bearer(key))


def part(api: TestClient, id: str, data: bytes, key: str = ALICE, **fields: str):
    return api.post(f"/v1/uploads/{id}/parts", files={"data": ("x", data)}, data=fields, headers=bearer(key))


def test_a_large_file_arrives_in_parts_in_any_order(serve: Serve, tmp_path: Path):
    api = serve()
    pieces = [bytes([n]) * 1000 for n in range(3)]
    id = begin(api, 3000).json()["id"]
    sent = {n: part(api, id, pieces[n], number=str(n), sha256=sha256(pieces[n]).hexdigest()) for n in (2, 0)}
    assert part(api, id, pieces[2], number="2").json() == sent[2].json()  # again: the same part
    other = part(api, id, b"other", number="2")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "part_conflict")
    wrong = part(api, id, pieces[1], sha256="0" * 64)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "checksum_mismatch")
    api = serve()  # another ingress; who resumes asks what has arrived
    shown = api.get(f"/v1/uploads/{id}", headers=bearer(ALICE)).json()
    assert ([one["number"] for one in shown["parts"]], shown["status"]) == ([2, 0], "pending")
    ids = {one["number"]: one["id"] for one in shown["parts"]}
    complete = f"/v1/uploads/{id}/complete"
    early = api.post(complete, json={"part_ids": [ids[0], ids[2]]}, headers=bearer(ALICE))
    assert (early.status_code, early.json()["error"]["code"]) == (422, "incomplete_upload")
    ids[1] = part(api, id, pieces[1]).json()["id"]
    more = part(api, id, b"x")
    assert (more.status_code, more.json()["error"]["code"]) == (422, "too_many_bytes")
    order = [ids[n] for n in range(3)]
    whole = b"".join(pieces)
    for wrong, code in (
        ({"part_ids": order, "md5": "0" * 32}, "checksum_mismatch"),
        ({"part_ids": [*order, "part_0"]}, "unknown_part"),
        ({"part_ids": [order[0], *order]}, "unknown_part"),
    ):
        answer = api.post(complete, json=wrong, headers=bearer(ALICE))
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, code)
    for method, path in (
        ("GET", f"/v1/uploads/{id}"),
        ("POST", f"/v1/uploads/{id}/cancel"),
        ("POST", complete),
    ):
        assert api.request(method, path, json={"part_ids": order}, headers=bearer(BOB)).status_code == 404
    assert part(api, id, b"x", key=BOB).status_code == 404
    for _ in range(2):  # the second time it is complete already
        done = api.post(
            complete, json={"part_ids": order, "md5": md5(whole).hexdigest()}, headers=bearer(ALICE)
        )
        assert (done.status_code, done.json()["status"]) == (200, "completed"), done.text
    file = done.json()["file"]
    assert (file["filename"], file["bytes"]) == ("big.zip", 3000)
    assert api.get(f"/v1/files/{file['id']}/content", headers=bearer(ALICE)).content == whole
    assert left(tmp_path / "data") == [file["id"]]
    assert part(api, id, b"x").json()["error"]["code"] == "upload_completed"


def test_an_upload_that_is_given_up_leaves_nothing_and_frees_its_room(serve: Serve, tmp_path: Path):
    api = serve(files_bytes=5000)
    id = begin(api, 3000).json()["id"]
    part(api, id, b"x" * 1000)
    refused = begin(api, 3000)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "quota_exceeded")
    assert api.get("/v1/files", headers=bearer(ALICE)).json()["data"] == []
    cancelled = api.post(f"/v1/uploads/{id}/cancel", headers=bearer(ALICE))
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert part(api, id, b"x").json()["error"]["code"] == "upload_not_found"
    assert left(tmp_path / "data") == []
    assert begin(api, 5000).status_code == 200
    assert begin(api, 10 << 30).json()["error"]["code"] == "too_large"


def test_a_server_that_trains_nothing_says_so(tmp_path: Path):
    service = VideoService(ServeConfig(data_dir=str(tmp_path)), FakeEngine())
    with TestClient(create_api(service), **LOCAL) as api:
        for path in ("/v1/files", "/v1/fine_tuning/jobs"):
            answer = api.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "training_off")
