"""The service as it is run, on Ray Serve, its registry and its videos in S3, while replicas are killed and the registry errs.

SIGKILL of the engine's and of the ingress's process, clients that hang up, cancels, deletes; the registry's objects refused, cut
short or late by a proxy before the S3 server. `make soak` runs the size that the name says: 500 requests over 64 adapters.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from faults import Cut, Proxy, Refuse, faulty
from served import Server, served
from serving_helpers import alone, mixed_body, random_adapter, same_video

from infra.registry import open_registry
from infra.storage import open_storage
from models.adapters.file import save_adapter
from models.load import load_foundation
from serving.config import ServeConfig
from serving.jobs.jobs import JobStore
from serving.requests import VideoRequest

REQUESTS, ADAPTERS = map(int, os.environ.get("MOTIONDIRECTOR_SOAK", "60x12").split("x"))
PATIENCE = 300 + 2 * REQUESTS  # seconds
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(2 * PATIENCE)]
FOUNDATION = "tiny-random:unet3d"


class Late:
    """Forward, after a while."""

    def answer(self, handler, body):
        time.sleep(0.5)
        handler.send(*handler.forward(body))


def unwell(proxy: Proxy) -> Counter:
    """Every fourth answer of the registry's objects is an error, cut short or late: how many of each there were."""
    draw, struck = random.Random(11), Counter()
    kinds = (Refuse(500, "InternalError"), Refuse(503, "SlowDown"), Cut(), Late())

    def next_fault(method: str, path: str):
        with proxy.lock:
            if method != "GET" or "registry" not in path or draw.random() >= 0.25:
                return None
            fault = draw.choice(kinds)
            struck[type(fault).__name__] += 1
            return fault

    proxy.next_fault = next_fault
    return struck


@pytest.fixture(scope="module")
def registry(s3, tmp_path_factory: pytest.TempPathFactory) -> str:
    """With c0, c1, ..., published while all is well."""
    folder, foundation = tmp_path_factory.mktemp("adapters"), load_foundation(FOUNDATION)
    uri = f"{s3.uri}/soak-registry"
    for n in range(ADAPTERS):
        adapter = random_adapter(foundation, seed=n, rank=1 + n % 4)
        saved = save_adapter(folder / f"c{n}", adapter, foundation)
        open_registry(uri).publish(f"c{n}", folder / f"c{n}", metadata=dict(saved.metadata))
    return uri


@pytest.fixture(scope="module")
def server(s3, registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = {
        "--foundation": FOUNDATION,
        "--results": f"{s3.uri}/soak-videos",
        "--slots": "6",
        "--rank": "4",
        "--max-batch": "6",
        "--max-queue": str(REQUESTS),
    }
    with faulty(s3.endpoint) as proxy:
        struck = unwell(proxy)
        through = {"AWS_ENDPOINT_URL": proxy.endpoint}
        with served(registry, tmp_path_factory.mktemp("data"), options, through) as server:
            yield server
        assert set(struck) == {"Refuse", "Cut", "Late"}, f"the registry was hardly ill: {struck}"


class Caller:
    """Asks again while nobody answers, or the answer is that somebody is away just now."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def __call__(self, method: str, path: str, **kind) -> httpx.Response:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                answer = await self.http.request(method, path, **kind)
                if answer.status_code < 500:
                    return answer
                told = answer.text
            except httpx.TransportError as error:
                told = repr(error)
            assert time.monotonic() < end, told
            await asyncio.sleep(0.5)

    async def hang_up(self, path: str) -> None:
        """Ask for a job's events, and be gone before it ends."""
        asked = asyncio.create_task(self.http.get(path))
        await asyncio.sleep(0.2)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)


def kill(server: Server, deployment: str) -> None:
    for replica in server.replicas(deployment):
        replica.send_signal(signal.SIGKILL)


async def drive(server: Server, end_of: Callable[[str], str]) -> dict[str, dict | None]:
    """Ask for everything; the final answer of each accepted job by its id (None: deleted), its mp4 too."""
    draw, accepted, deleted = random.Random(5), [], set()
    kills = {REQUESTS // 4: "engine", REQUESTS // 2: "ingress", 3 * REQUESTS // 4: "engine"}
    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as http:
        call, hung_up = Caller(http), []
        for number in range(REQUESTS):
            headers, asked = (
                {"Idempotency-Key": f"soak-{number}"},
                mixed_body(number, draw, ADAPTERS, steps=(2, 20)),
            )
            answers = [await call("POST", "/v1/videos", json=asked, headers=headers) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
            [id] = {answer.json()["id"] for answer in answers}
            accepted.append(id)
            victim, fate = draw.choice(accepted), draw.random()
            if fate < 0.08:
                answer = await call("POST", f"/v1/videos/{victim}/cancel")
                assert answer.status_code in (200, 404, 409), answer.text
            elif fate < 0.12:
                answer = await call("DELETE", f"/v1/videos/{victim}")
                assert answer.status_code in (200, 404), answer.text
                deleted.add(victim)
            elif fate < 0.25:
                hung_up.append(asyncio.create_task(call.hang_up(f"/v1/videos/{id}/events")))
            if number in kills:
                kill(server, kills[number])
        await asyncio.gather(*hung_up)
        finals: dict[str, dict | None] = {}
        end = time.monotonic() + PATIENCE
        while len(finals) < len(accepted):
            assert time.monotonic() < end, Counter(map(end_of, accepted))
            for id in accepted:
                if id not in finals:
                    answer = await call("GET", f"/v1/videos/{id}")
                    if id in deleted:
                        assert answer.status_code == 404
                        finals[id] = None
                    elif answer.json()["status"] in ("completed", "failed", "cancelled"):
                        finals[id] = answer.json()
            await asyncio.sleep(0.5)
        for id, final in finals.items():
            if final and final["status"] == "completed":
                answer = await call("GET", f"/v1/videos/{id}/content")
                assert answer.status_code == 200
                final["mp4"] = answer.content
    return finals


def test_every_accepted_job_ends_once_as_itself_though_its_server_is_killed(
    server: Server, s3, tmp_path: Path
):
    before = {name: {r.pid for r in server.replicas(name)} for name in ("engine", "ingress")}
    store = JobStore(f"sqlite:///{server.data / 'jobs.sqlite'}")
    finals = asyncio.run(drive(server, lambda id: store.get(id).state))
    for name, pids in before.items():
        assert pids, name
        assert not pids & {replica.pid for replica in server.replicas(name)}, f"{name} was not killed"

    kinds = Counter(final["status"] if final else "deleted" for final in finals.values())
    assert sum(kinds.values()) == len(finals) == REQUESTS
    assert kinds["completed"] > REQUESTS / 2, kinds
    assert {state: count for state, count in store.count().items() if count} == {
        state: count for state, count in kinds.items() if state != "deleted"
    }
    for final in finals.values():
        if final and final["status"] == "failed":
            assert final["error"]["code"] in ("object_damaged", "storage_unavailable"), final
    done = {id: final["mp4"] for id, final in finals.items() if final and final["status"] == "completed"}
    assert len(set(done.values())) == len(done), "two requests got one answer"
    kept = [info.key for info in open_storage(f"{s3.uri}/soak-videos").list() if info.key.endswith(".mp4")]
    assert len(kept) == len(done), "a result of nobody, or one that is missing"

    # Each is what it is alone: drawn at random, made again by an engine that nobody disturbs.
    chosen = random.Random(1).sample(sorted(done), min(12, len(done)))
    requests = {id: VideoRequest.model_validate(store.get(id).request) for id in chosen}
    store.close()
    quiet = ServeConfig(foundation=FOUNDATION, registry=server.registry, data_dir=str(tmp_path / "quiet"))
    for id, mp4 in asyncio.run(alone(quiet, requests)).items():
        assert same_video(done[id], mp4), requests[id]
