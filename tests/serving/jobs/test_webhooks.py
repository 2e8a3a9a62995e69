"""Webhooks: one call for each end, signed, repeated until it is heard, never lost, sent nowhere it must not go."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import FakeEngine, Receiver, receiver
from fastapi.testclient import TestClient
from openai import InvalidWebhookSignatureError, OpenAI
from pydantic import SecretStr
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from serving.config import ServeConfig
from serving.http.api import create_api
from serving.http.service import VideoService
from serving.jobs import dispatcher, webhooks
from serving.jobs.addresses import parse_networks
from serving.jobs.database import Delivery
from serving.jobs.jobs import JobStore
from serving.jobs.webhooks import Deliveries, Webhooks
from serving.keys import ApiKey, hash_key

SECRET = "whsec_" + "c2VjcmV0" * 5
OTHER = "whsec_" + "b3RoZXJz" * 5
LOOPBACK = ["127.0.0.0/8"]
LOCAL = {"client": ("127.0.0.1", 50000), "base_url": "http://127.0.0.1:8000"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(webhooks, "POLL", 0.02)


@pytest.fixture
def target() -> Iterator[Receiver]:
    with receiver() as one:
        yield one


def add(store: JobStore, url: str, tenant: str = "") -> str:
    """A job with a webhook that has just failed."""
    id = store.add({}, model="foundation", tenant=tenant, webhook_url=url).id
    store.fail(id, code="c", message="m")
    return id


def send(store: JobStore, until: Callable[[], bool], **settings) -> list[str]:
    """Run a sender until then; the outcomes of its attempts."""
    outcomes: list[str] = []
    given = {"keys": [], "secret": SecretStr(SECRET), "allowed": parse_networks(LOOPBACK), **settings}

    async def main() -> None:
        task = asyncio.create_task(Webhooks(store.database, observe=outcomes.append, **given).run())
        end = time.monotonic() + 30
        while not until():
            assert time.monotonic() < end, outcomes
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    return outcomes


def rows(store: JobStore) -> list[Delivery]:
    with store.database.sessions() as session:
        return list(session.scalars(select(Delivery)))


def finished(store: JobStore) -> bool:
    return all(row.next_at is None for row in rows(store))


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_each_end_is_told_once_in_a_form_that_openais_client_verifies(
    store: JobStore, target: Receiver, end: str
):
    id = store.add({}, model="foundation", webhook_url=target.url).id
    silent = store.add({}, model="foundation").id
    for one in (id, silent):
        store.start(one)
        if end == "completed":
            store.complete(one, key="k", sha256="0" * 64, size=1, timings={}, expires_at=0.0)
        elif end == "failed":
            store.fail(one, code="c", message="m")
        else:
            store.cancel(one)
    assert send(store, lambda: finished(store)) == ["delivered"]
    [(path, headers, body)] = target.got
    assert path == "/hook"
    client = OpenAI(api_key="none", webhook_secret=SECRET)
    event = client.webhooks.unwrap(body, headers)
    assert (event.type, event.data.id, event.object) == (f"video.{end}", id, "event")
    assert headers["webhook-id"] == event.id == json.loads(body)["id"]
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.unwrap(body.replace(id.encode(), b"video_other"), headers)
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.unwrap(body, headers, secret=OTHER)


def test_a_call_that_fails_is_repeated_under_the_same_id_until_it_is_heard(store: JobStore, target: Receiver):
    target.statuses = [500, 307, 204]
    add(store, target.url)
    assert send(store, lambda: finished(store)) == ["repeated", "repeated", "delivered"]
    assert len({headers["webhook-id"] for _, headers, _ in target.got}) == 1
    assert len({body for _, _, body in target.got}) == 1
    [row] = rows(store)
    assert (row.attempts, row.error) == (3, None)
    assert row.delivered_at is not None


def test_it_is_given_up_after_the_last_pause_or_when_the_receiver_is_gone(store: JobStore, target: Receiver):
    target.statuses = [503] * 4
    add(store, target.url)
    assert send(store, lambda: finished(store)) == ["repeated"] * 3 + ["given_up"]
    assert "503" in rows(store)[0].error
    target.statuses = [410]
    add(store, target.url)
    assert send(store, lambda: finished(store)) == ["given_up"]


def test_nobody_there_is_a_failed_attempt(store: JobStore):
    with receiver() as gone:
        url = gone.url
    add(store, url)
    assert send(store, lambda: finished(store))[-1] == "given_up"
    assert "Connect" in rows(store)[0].error


def test_an_address_that_is_not_allowed_any_more_is_not_called(store: JobStore, target: Receiver):
    add(store, target.url)
    assert send(store, lambda: finished(store), allowed=())[-1] == "given_up"
    assert target.got == []
    assert "not a public address" in rows(store)[0].error


def test_each_tenant_has_its_own_secret(store: JobStore, target: Receiver):
    key = ApiKey(sha256=hash_key("some-long-random-key"), webhook_secret=SecretStr(OTHER))
    add(store, target.url, tenant=key.tenant)
    send(store, lambda: finished(store), keys=[key])
    [(_, headers, body)] = target.got
    client = OpenAI(api_key="none")
    client.webhooks.verify_signature(body, headers, secret=OTHER)
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.verify_signature(body, headers, secret=SECRET)


def test_two_senders_never_take_the_same_call_and_one_that_died_is_stood_in_for(store: JobStore):
    for _ in range(6):
        add(store, "http://127.0.0.1:1/")
    deliveries = Deliveries(store.database)
    taken = [deliveries.take() for _ in range(6)]
    assert len({one.id for one in taken}) == 6
    assert deliveries.take() is None
    with store.database.sessions.begin() as session:  # a lease later
        session.execute(update(Delivery).values(next_at=Delivery.next_at - webhooks.LEASE - 1))
    again = [deliveries.take() for _ in range(6)]
    assert {one.id for one in again} == {one.id for one in taken}
    assert deliveries.take() is None
    deliveries.finish(again[0], error=None, pause=None)
    deliveries.forget(time.time() + 1)
    assert len(rows(store)) == 5


def test_a_receiver_that_hangs_holds_up_nobody_elses_calls(store: JobStore, monkeypatch: pytest.MonkeyPatch):
    called: list[str] = []
    answers: dict[str, asyncio.Event] = {}

    async def post(url: str, *_: object, **__: object) -> int:
        called.append(url)
        if url.startswith("https://slow"):
            await answers.setdefault(url, asyncio.Event()).wait()
        return 200

    monkeypatch.setattr(webhooks, "post", post)
    monkeypatch.setattr(webhooks, "AT_ONCE", webhooks.PER_TENANT + 1)
    for n in range(10):
        add(store, f"https://slow{n}.example/", tenant="a")
    for n in range(3):  # one after the other in the one place that is left
        add(store, f"https://quick{n}.example/", tenant="b")

    def slow() -> list[str]:
        return [url for url in called if "slow" in url]

    def until() -> bool:
        if not all(f"https://quick{n}.example/" in called for n in range(3)):
            assert len(slow()) <= webhooks.PER_TENANT
            return False
        for url in slow()[:1]:  # one of them answers: the next is called, whatever the others do
            answers[url].set()
        return len(slow()) > webhooks.PER_TENANT

    outcomes = send(store, until)
    assert outcomes == ["delivered"] * 4
    assert len(slow()) == webhooks.PER_TENANT + 1


def test_a_call_whose_outcome_cannot_be_written_down_is_made_again(
    store: JobStore, target: Receiver, monkeypatch: pytest.MonkeyPatch
):
    real, failures = Deliveries.finish, [OperationalError("", {}, Exception("away"))]

    def finish(self, *args, **kwargs) -> None:
        if failures:
            raise failures.pop()
        real(self, *args, **kwargs)

    monkeypatch.setattr(Deliveries, "finish", finish)
    monkeypatch.setattr(webhooks, "LEASE", 0.1)
    add(store, target.url)
    assert send(store, lambda: finished(store)) == ["delivered"] * 2
    assert len({headers["webhook-id"] for _, headers, _ in target.got}) == 1


def serve(folder: Path, engine: FakeEngine, **settings) -> TestClient:
    config = ServeConfig(data_dir=str(folder), **settings)
    return TestClient(create_api(VideoService(config, engine)), **LOCAL)


def test_a_request_with_a_webhook_is_told_of_its_end(tmp_path: Path, target: Receiver):
    with serve(tmp_path, FakeEngine(), webhook_secret=SECRET, webhook_networks=LOOPBACK) as api:
        video = api.post("/v1/videos", json={"prompt": "x", "webhook_url": target.url}).json()
        assert video["webhook_url"] == target.url
        target.wait(1)
        [(_, _, body)] = target.got
        assert json.loads(body)["data"] == {"id": video["id"], "status": "completed"}
        end = time.monotonic() + 30
        while 'webhook_attempts_total{outcome="delivered"} 1.0' not in api.get("/metrics").text:
            assert time.monotonic() < end


def test_the_sender_looks_for_calls_at_a_jobs_end_and_not_at_each_step(
    tmp_path: Path, target: Receiver, monkeypatch: pytest.MonkeyPatch
):
    looks: list[float] = []
    take = Deliveries.take

    def counted(self, *args) -> Delivery | None:
        looks.append(time.monotonic())
        return take(self, *args)

    monkeypatch.setattr(Deliveries, "take", counted)
    monkeypatch.setattr(webhooks, "POLL", 300.0)  # nobody looks who is not woken
    monkeypatch.setattr(dispatcher, "NOTE_INTERVAL", 0.0)
    engine = FakeEngine(held=True, steps=8)
    with serve(tmp_path, engine, webhook_secret=SECRET, webhook_networks=LOOPBACK) as api:
        paths = []
        for prompt in "xy":
            body = {"prompt": prompt, "webhook_url": target.url}
            paths.append(f"/v1/videos/{api.post('/v1/videos', json=body).json()['id']}")
        for step in range(1, 7):
            engine.reached = step
            while any(api.get(path).json()["progress"] < 100 * step // 8 for path in paths):
                pass
        assert len(looks) == 1  # as it began
        api.post(f"{paths[0]}/cancel")
        target.wait(1)
        engine.release()
        target.wait(2)
    told = {json.loads(body)["data"]["status"] for _, _, body in target.got}
    assert told == {"cancelled", "completed"}


@pytest.mark.parametrize(
    ("url", "settings", "code"),
    [
        ("http://127.0.0.1:9/", {"webhook_secret": SECRET}, "webhook_refused"),
        ("https://169.254.169.254/latest", {"webhook_secret": SECRET}, "webhook_refused"),
        ("https://localhost/", {"webhook_secret": SECRET}, "webhook_refused"),
        ("gopher://example.org/", {"webhook_secret": SECRET}, "webhook_refused"),
        ("http://127.0.0.1:9/", {"webhook_networks": LOOPBACK}, "webhook_unsigned"),
    ],
)
def test_a_webhook_that_could_not_be_delivered_is_refused_at_once(
    tmp_path: Path, url: str, settings: dict, code: str
):
    with serve(tmp_path, FakeEngine(), **settings) as api:
        response = api.post("/v1/videos", json={"prompt": "x", "webhook_url": url})
        assert (response.status_code, response.json()["error"]["code"]) == (422, code)
        assert api.get("/v1/videos").json()["data"] == []
