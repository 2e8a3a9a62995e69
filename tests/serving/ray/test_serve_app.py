"""The true application: `motiondirector serve` on Ray Serve, asked over HTTP, its replicas killed, stopped by Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from served import Server, served
from serving_helpers import random_adapter

from datasets.video.decode import decode
from infra.errors import InvalidInput, Unavailable, UserError
from infra.registry import open_registry
from models.adapters.file import save_adapter
from models.load import load_foundation
from serving.client import Client
from serving.config import ServeConfig
from serving.jobs.jobs import JobStore
from serving.local import generate
from serving.schemas import CreateVideo

pytestmark = pytest.mark.cluster
FOUNDATION = "tiny-random:unet3d"
CONCEPTS = ("orbit", "swing", "bounce")
PLACES = 4  # --max-batch
SHORT = {"steps": 3, "guidance_scale": 3.0}
KILLED = CreateVideo(model="foundation:orbit", prompt="p", seed=3, steps=60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    foundation = load_foundation(FOUNDATION)
    registry = open_registry(folder / "registry")
    for seed, concept in enumerate(CONCEPTS):
        saved = save_adapter(folder / concept, random_adapter(foundation, seed=seed), foundation)
        registry.publish(concept, folder / concept, metadata=dict(saved.metadata))
    options = {
        "--foundation": FOUNDATION,
        "--slots": "2",
        "--max-batch": str(PLACES),
        "--max-replicas": "2",
        "--target-seconds": "30",
    }
    with served(str(folder / "registry"), folder / "data", options) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def test_concurrent_requests_for_different_concepts_each_get_their_own_video(server: Server):
    """More concepts than slots, all at once; each mp4 is the one its request gives alone."""
    wanted = [
        (model, seed) for model in ("foundation", *(f"foundation:{c}" for c in CONCEPTS)) for seed in (1, 2)
    ]

    def make(model: str, seed: int) -> tuple[str, bytes]:
        with Client(server.url) as client:
            body = CreateVideo(model=model, prompt="a bear", seed=seed, **SHORT)
            video = client.wait(client.create(body).id)
            return video.model, client.content(video.id)

    with ThreadPoolExecutor(len(wanted)) as pool:
        together = list(pool.map(lambda pair: make(*pair), wanted))
    for (model, seed), (full, mp4) in zip(wanted, together, strict=True):
        assert full == (model if model == "foundation" else f"{model}@1")
        alone = decode(make(model, seed)[1]).frames_FHWC.astype(int)
        assert abs(decode(mp4).frames_FHWC - alone).mean() < 1.0
    assert len({mp4 for _, mp4 in together}) == len(wanted)


def test_the_same_video_with_a_server_and_without_one(server: Server, tmp_path: Path):
    """`generate` twice: bytes equal, so frames and metadata are."""
    made = []
    for name, where in {
        "served": ["--server", server.url],
        "local": ["--registry", str(server.registry), "--foundation", FOUNDATION],
    }.items():
        out = tmp_path / f"{name}.mp4"
        options = ["--prompt", "a bear", "--concept", "orbit", "--seed", "7", "--steps", "3", "-o", str(out)]
        done = subprocess.run(
            [sys.executable, "-m", "motiondirector", "generate", *options, *where],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        assert "seed 7" in done.stdout
        made.append(out.read_bytes())
    assert decode(made[0]).frames_FHWC.tolist() == decode(made[1]).frames_FHWC.tolist()
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"prompt": "x"', 400, "invalid_json"),
        (b'{"prompt": "x", "model": "foundation:nothing"}', 404, "concept_not_found"),
        (b'{"prompt": "x", "size": "30x32"}', 422, "invalid_size"),
        (b'{"prompt": "x", "steps": -1}', 422, "invalid_value"),
        (b'{"prompt": "' + b"x" * 10_000 + b'"}', 422, "invalid_value"),
        (b'{"prompt": "' + b"x" * 100_000 + b'"}', 413, "too_large"),
    ],
)
def test_a_bad_request_gets_its_sentence_through_ray_serve_too(
    server: Server, body: bytes, status: int, code: str
):
    headers = {"content-type": "application/json"}
    response = httpx.post(
        f"{server.url}/v1/videos", content=body, headers=headers, timeout=60, trust_env=False
    )
    assert response.status_code == status, response.text
    assert response.json()["error"]["code"] == code


def test_a_broken_adapter_published_while_it_runs_is_refused(server: Server, client: Client, tmp_path: Path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x80\x04 a pickle")
    open_registry(server.registry).publish("broken", tmp_path, metadata={})
    with pytest.raises(InvalidInput, match="pickle"):
        client.create(CreateVideo(prompt="x", model="foundation:broken"))


def test_models_health_and_the_openapi_page_answer(server: Server, client: Client):
    ids = {model.id for model in client.models().data}
    assert {"foundation", *(f"foundation:{concept}@1" for concept in CONCEPTS)} <= ids
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert httpx.get(server.url + path, timeout=30, trust_env=False).status_code == 200


@pytest.fixture(scope="module")
def alone(server: Server) -> np.ndarray:
    """The frames of `KILLED` from an engine that nobody kills."""
    config = ServeConfig(
        foundation=FOUNDATION, registry=str(server.registry), data_dir=str(server.data / "alone")
    )
    return decode(generate(KILLED, config)[0]).frames_FHWC.astype(int)


@pytest.mark.parametrize("deployment", ["engine", "ingress"])
def test_jobs_outlive_a_killed_replica_and_complete_once(
    server: Server, client: Client, alone: np.ndarray, deployment: str
):
    """SIGKILL in mid-run: every accepted job completes, once, with the frames its seed says."""
    store = JobStore(f"sqlite:///{server.data / 'jobs.sqlite'}")
    before = store.count()
    jobs = [client.create(KILLED) for _ in range(3)]
    while store.get(jobs[0].id).state == "queued":
        time.sleep(0.01)
    [replica] = server.replicas(deployment)
    replica.send_signal(signal.SIGKILL)
    assert store.get(jobs[0].id).state == "in_progress"
    for job in jobs:
        assert client.wait(job.id).status == "completed"
        assert abs(decode(client.content(job.id)).frames_FHWC - alone).mean() < 1.0
    ended = {job.id: store.get(job.id).finished_at for job in jobs}
    if deployment == "engine":
        assert max(store.get(job.id).attempts for job in jobs) >= 1, "it was killed too late to matter"
    time.sleep(1.0)  # for whoever would end one again
    assert {job.id: store.get(job.id).finished_at for job in jobs} == ended
    assert store.count() == {**before, "completed": before.get("completed", 0) + len(jobs)}
    store.close()
    [again] = server.replicas(deployment)
    assert again.pid != replica.pid


def pinned_in(client: Client) -> dict[str, set[str]]:
    """Engine -> `concept@version` of what is pinned and in a slot there."""
    try:
        shown = client.residents()
    except Unavailable:  # the only engine was killed a moment ago
        return {}
    names = {pin.sha256: f"{pin.concept}@{pin.version}" for pin in shown.pins}
    slots = [held for held in shown.data if held.pinned and held.tier == "slot"]
    return {
        engine: {names[held.sha256] for held in slots if held.engine == engine} for engine in shown.engines
    }


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not true():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_running_job_that_is_cancelled_gives_its_place_to_the_next(client: Client):
    """Every place of the engine is taken; the next one ends while the others are still being made."""
    jobs = [client.create(CreateVideo(prompt="a bear", steps=500)) for _ in range(PLACES)]
    until(lambda: all(client.retrieve(job.id).status == "in_progress" for job in jobs))
    quick = client.create(CreateVideo(prompt="a bear", steps=1))
    shown = client.retrieve(jobs[0].id).progress
    until(lambda: client.retrieve(jobs[0].id).progress > shown)  # steps before which it might have begun
    assert client.retrieve(quick.id).status == "queued"
    *others, cancelled = jobs  # the last to begin: it would not be the first to end by itself
    assert client.cancel(cancelled.id).status == "cancelled"
    assert client.wait(quick.id).status == "completed"
    assert {client.retrieve(job.id).status for job in others} == {"in_progress"}
    assert client.retrieve(cancelled.id).status == "cancelled"
    for job in others:
        client.cancel(job.id)


@pytest.mark.slow
def test_more_work_than_one_engine_does_in_time_starts_another_and_each_video_is_what_it_is_alone(
    server: Server, client: Client, alone: np.ndarray
):
    """The second has what was pinned when there was one."""
    assert client.pin("swing").engines == 1
    until(lambda: list(pinned_in(client).values()) == [{"swing@1"}])
    assert len(server.replicas("engine")) == 1
    jobs = [client.create(CreateVideo(prompt="a bear", steps=500)) for _ in range(120)]
    until(lambda: len(server.replicas("engine")) == 2)
    for job in jobs:
        with contextlib.suppress(UserError):  # 409: it has ended by now
            client.cancel(job.id)
    until(lambda: list(pinned_in(client).values()) == [{"swing@1"}] * 2)
    videos = [client.create(KILLED) for _ in range(6)]
    for video in videos:
        client.wait(video.id)
        assert abs(decode(client.content(video.id)).frames_FHWC - alone).mean() < 1.0


def test_a_pin_outlives_an_engine_and_all_let_go_of_it(server: Server, client: Client):
    client.pin("swing")
    until(lambda: set(map(frozenset, pinned_in(client).values())) == {frozenset({"swing@1"})})
    before = pinned_in(client)
    server.replicas("engine")[0].send_signal(signal.SIGKILL)
    until(lambda: len(before.keys() - (after := pinned_in(client)).keys()) == 1 and len(after) == len(before))
    until(lambda: set(map(frozenset, pinned_in(client).values())) == {frozenset({"swing@1"})})
    assert client.unpin("swing").engines == len(before)
    shown = client.residents()
    assert shown.pins == []
    assert not any(held.pinned for held in shown.data)


def test_ctrl_c_stops_it_cleanly_and_leaves_no_process(server: Server):
    """Last: it ends the server."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(90) == 0, "".join(server.output)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
    assert "Traceback" not in "".join(server.output)
