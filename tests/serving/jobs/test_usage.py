"""Usage and quotas: a job counts once, however often it is ended, and limits hold in the transaction that accepts."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import FakeEngine, api_over

from infra.errors import Throttled
from infra.registry import Registry
from serving.jobs import usage
from serving.jobs.database import Delivery
from serving.jobs.jobs import IllegalTransition, JobStore
from serving.jobs.quotas import check_training
from serving.jobs.usage import UsageLog
from serving.keys import ApiKey, hash_key
from serving.tenants.tenants import Tenants

KEY, OTHER, ADMIN = "alices-key-0123456789", "bobs-key-0123456789", "platform-key-0123456789"
RESULT = {"key": "x.mp4", "sha256": "c" * 64, "size": 7, "expires_at": 4e9}


def started(store: JobStore, tenant: str) -> str:
    request = {"frames": 4, "steps": 20}
    id = store.add(request, model="foundation:orbit@1", tenant=tenant).id
    store.start(id)
    return id


def test_a_job_that_several_processes_end_is_counted_once(store: JobStore):
    id, log = started(store, "alice"), UsageLog(store.database)
    store.complete(id, **RESULT, timings={"denoise": 3.0, "device": 1.5})
    with pytest.raises(IllegalTransition):
        store.complete(id, **RESULT, timings={"device": 99.0})
    failed = started(store, "alice")
    store.fail(failed, code="x", message="x")
    store.delete(id)
    for _ in range(3):
        log.record_training("alice", "ftjob-1", 300, 12.5, "foundation:walk@1")
    totals = {total.kind: total for total in log.totals()}
    video, training = totals["video"], totals["training"]
    assert (video.jobs, video.frames, video.steps, video.device_seconds, video.bytes) == (1, 4, 20, 1.5, 7)
    assert (training.jobs, training.steps, training.device_seconds) == (1, 300, 12.5)
    assert [(row.model, row.day) for row in log.by_day("alice")] == [
        ("foundation:walk@1", usage.today()),
        ("foundation:orbit@1", usage.today()),
    ]
    assert log.by_day("bob") == []
    assert log.by_day(None, first="9999-01-01") == []


def test_an_end_that_is_not_committed_counts_nothing(store: JobStore, monkeypatch: pytest.MonkeyPatch):
    job = store.add({}, model="foundation", tenant="alice", webhook_url="https://example.com")
    store.start(job.id)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Delivery, "of", crash)  # after the usage is written, in the same transaction
        with pytest.raises(KeyboardInterrupt):
            store.complete(job.id, **RESULT, timings={})
    log = UsageLog(store.database)
    assert log.totals() == []
    store.complete(job.id, **RESULT, timings={})
    assert [total.jobs for total in log.totals()] == [1]


def test_trainings_have_quotas(store: JobStore):
    Tenants(store.database).limit("alice", trainings_per_day=3, trainings_at_once=2)
    log = UsageLog(store.database)
    with store.database.exclusive() as session:
        check_training(session, "alice", 1)
        check_training(session, "bob", 99)
        with pytest.raises(Throttled, match="2 at once"):
            check_training(session, "alice", 2)
    for n in range(2):
        log.record_training("alice", f"ftjob-{n}", 1, 1.0, "m")
    with store.database.exclusive() as session:
        check_training(session, "alice", 0)
        with pytest.raises(Throttled, match="daily quota of trainings is 3"):
            check_training(session, "alice", 1)


def test_quotas_are_refusals_and_usage_is_shown_to_its_tenant_alone(tmp_path: Path, registry: Registry):
    keys = [
        ApiKey(sha256=hash_key(KEY), tenant="alice"),
        ApiKey(sha256=hash_key(OTHER), tenant="bob"),
        ApiKey(sha256=hash_key(ADMIN), tenant="platform", role="admin"),
    ]
    with api_over(FakeEngine(), data_dir=str(tmp_path / "data"), registry=registry.uri, api_keys=keys) as api:

        def ask(key: str, method: str, path: str, body: object = None):
            return api.request(method, path, json=body, headers={"Authorization": f"Bearer {key}"})

        limited = ask(ADMIN, "POST", "/v1/tenants/alice", {"videos_per_day": 2, "max_priority": 0})
        assert limited.json()["limits"]["videos_per_day"] == 2
        for _ in range(2):
            id = ask(KEY, "POST", "/v1/videos", {"prompt": "x"}).json()["id"]
            with api.stream(
                "GET", f"/v1/videos/{id}/events", headers={"Authorization": f"Bearer {KEY}"}
            ) as events:
                events.read()
            assert ask(KEY, "DELETE", f"/v1/videos/{id}").status_code == 200
        refused = ask(KEY, "POST", "/v1/videos", {"prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
        assert 0 < int(refused.headers["retry-after"]) <= 86_400
        assert ask(OTHER, "POST", "/v1/videos", {"prompt": "x"}).status_code == 200
        ask(ADMIN, "POST", "/v1/tenants/alice", {"storage_bytes": 0, "videos_per_day": None})
        full = ask(KEY, "POST", "/v1/videos", {"prompt": "x"})
        assert "you store 0 bytes, and your quota is 0" in full.json()["error"]["message"]

        told = ask(KEY, "GET", "/v1/usage").json()
        [row] = told["data"]
        assert (row["jobs"], row["frames"], row["steps"], row["kind"]) == (2, 8, 8, "video")
        assert told["limits"]["storage_bytes"] == 0
        assert ask(KEY, "GET", "/v1/usage?tenant=bob").json()["data"] == [row]
        lines = ask(KEY, "GET", "/v1/usage?format=csv").text.splitlines()
        assert lines[0] == "day,kind,model,jobs,frames,steps,device_seconds,bytes"
        assert lines[1] == f"{usage.today()},video,foundation,2,8,8,0.0,{row['bytes']}"
        metrics = ask(ADMIN, "GET", "/metrics").text
        assert 'motiondirector_usage_frames{kind="video",tenant="alice"} 8.0' in metrics
        assert ask(KEY, "POST", "/v1/tenants/alice", {"storage_bytes": None}).status_code == 403
