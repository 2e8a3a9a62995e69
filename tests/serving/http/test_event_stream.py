"""A job's events over a true HTTP connection: each change once, resumable, bounded, with previews."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fakes import FakeEngine, on_loopback

from infra.errors import Conflict, Throttled
from serving.config import ServeConfig
from serving.events import Failed
from serving.http import event_stream
from serving.http.api import create_api
from serving.http.event_stream import Streams
from serving.http.service import VideoService
from serving.jobs import dispatcher
from serving.keys import hash_key


@dataclass
class Server:
    http: httpx.Client
    engine: FakeEngine
    service: VideoService

    def create(self) -> str:
        return self.http.post("/v1/videos", json={"prompt": "x"}).json()["id"]

    def wait(self, id: str, status: str) -> None:
        while self.http.get(f"/v1/videos/{id}").json()["status"] != status:
            time.sleep(0.01)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(event_stream, "POLL", 0.02)
    monkeypatch.setattr(event_stream, "PREVIEW_PAUSE", 0.0)
    monkeypatch.setattr(dispatcher, "NOTE_INTERVAL", 0.0)
    engine = FakeEngine(held=True)
    service = VideoService(ServeConfig(data_dir=str(tmp_path), max_streams=2), engine)
    with (
        on_loopback(create_api(service)) as url,
        httpx.Client(base_url=url, timeout=30, trust_env=False) as http,
    ):
        yield Server(http, engine, service)
        engine.release()


def read(lines: Iterator[str]) -> Iterator[dict]:
    """The events of a stream as {"event", "id", "data"}; comments as {"comment"}."""
    event: dict = {}
    for line in lines:
        if line.startswith(":"):
            yield {"comment": line[1:].strip()}
        elif line:
            name, _, value = line.partition(": ")
            event[name] = json.loads(value) if name == "data" else value
        elif event:
            if "event" in event:
                yield event
            event = {}


def test_every_change_is_told_once_up_to_the_end(server: Server):
    id = server.create()
    with server.http.stream("GET", f"/v1/videos/{id}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        events = []
        for event in read(response.iter_lines()):
            events.append(event)
            server.engine.reached += 1  # a step for each event that has been seen
    names = [event["event"] for event in events]
    assert names[-1] == "video.completed"
    assert names.count("video.completed") == 1
    assert "video.in_progress" in names
    progress = [event["data"]["progress"] for event in events]
    assert progress == sorted(progress)
    assert len({event["id"] for event in events}) == len(events)
    assert events[-1]["data"] == server.http.get(f"/v1/videos/{id}").json()


def test_who_comes_back_is_not_told_again_and_who_saw_the_end_need_not(server: Server):
    id = server.create()
    server.wait(id, "in_progress")
    with server.http.stream("GET", f"/v1/videos/{id}/events") as response:
        first = next(read(response.iter_lines()))
    assert first["event"] == "video.in_progress"
    server.engine.release()
    server.wait(id, "completed")
    resumed = {"Last-Event-ID": first["id"]}
    with server.http.stream("GET", f"/v1/videos/{id}/events", headers=resumed) as response:
        [last] = read(response.iter_lines())
    assert last["event"] == "video.completed"
    seen = server.http.get(f"/v1/videos/{id}/events", headers={"Last-Event-ID": last["id"]})
    assert (seen.status_code, seen.content) == (204, b"")


def test_previews_come_when_asked_for_and_there_is_something_to_see(server: Server):
    id = server.create()
    pictures, steps = [], []
    with server.http.stream("GET", f"/v1/videos/{id}/events?previews=true") as response:
        for event in read(response.iter_lines()):
            steps.append(event["event"])
            if event["event"] == "video.preview":
                pictures.append(event["data"])
                server.engine.picture = Failed(Conflict("nothing to be seen yet.", code="no_preview"))
                server.engine.release()
    [picture] = pictures
    assert base64.b64decode(picture["image"]) == b"RIFF-a-webp"
    assert (picture["id"], picture["media_type"]) == (id, "image/webp")
    assert steps[-1] == "video.completed"


def test_a_quiet_stream_is_kept_alive_by_comments(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(event_stream, "HEARTBEAT", 0.01)
    id = server.create()
    with server.http.stream("GET", f"/v1/videos/{id}/events") as response:
        assert any("comment" in event for event in read(response.iter_lines()))


@pytest.mark.parametrize(
    ("how", "ends"),
    [
        ("cancel", {"video.cancelled"}),
        ("delete", {"video.cancelled", "video.deleted"}),
    ],  # it is cancelled first
)
def test_a_job_that_is_taken_away_ends_its_stream(server: Server, how: str, ends: set[str]):
    id = server.create()
    server.wait(id, "in_progress")
    with server.http.stream("GET", f"/v1/videos/{id}/events") as response:
        events = read(response.iter_lines())
        next(events)
        if how == "cancel":
            server.http.post(f"/v1/videos/{id}/cancel")
        else:
            server.http.delete(f"/v1/videos/{id}")
        assert [one["event"] for one in events][-1] in ends


def test_streams_are_bounded_and_one_that_is_left_makes_room(server: Server):
    id = server.create()
    path = f"/v1/videos/{id}/events"
    with server.http.stream("GET", path) as first, server.http.stream("GET", path) as second:
        both = [
            read(response.iter_lines()) for response in (first, second)
        ]  # one that is dropped closes its stream
        for events in both:
            next(events)
        refused = server.http.get(path)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "too_many_streams"
        assert int(refused.headers["retry-after"]) >= 1
    end = time.monotonic() + 30
    while server.service.streams.open:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_one_key_cannot_take_all_streams_where_there_are_others(tmp_path: Path):
    assert [Streams(8, lambda n=tenants: n).share for tenants in (0, 1, 2, 3, 4, 9)] == [8, 8, 4, 3, 2, 2]
    assert Streams(1, lambda: 9).share == 1
    hashes = [hash_key(f"key-number-{n}-long-enough") for n in range(9)]
    service = VideoService(
        ServeConfig(data_dir=str(tmp_path), max_streams=8, api_key_hashes=hashes), FakeEngine()
    )
    service.store.close()
    some = service.streams
    with ExitStack() as stack:
        stack.enter_context(some.one("a"))
        some.check("a")
        with some.one("a"):
            with pytest.raises(Throttled, match="2 event streams of this API key"):
                some.check("a")
            some.check("b")
        some.check("a")
        for tenant in "abbccdd":
            stack.enter_context(some.one(tenant))
        with pytest.raises(Throttled, match="too many event streams are open"):
            some.check("e")
    assert some.open == 0
    some.check("e")


def test_the_events_of_no_job_are_404(server: Server):
    response = server.http.get("/v1/videos/video_none/events")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "video_not_found"
