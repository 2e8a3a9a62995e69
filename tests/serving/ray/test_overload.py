"""Ten times what a service can take: the rest hears so at once, and what was accepted is as if nothing else had come.

Nothing is timed. The engine makes the steps that a test lets it make, so what is answered before it may make the next
one has not waited for it; and when a video was made is told in the engine's steps.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import httpx
from fakes import FakeEngine
from serving_helpers import Publish, alone, same_video

from serving.config import ServeConfig
from serving.engine.engine import Engine
from serving.events import Failed, Listener, Progressed
from serving.http.api import create_api
from serving.http.service import VideoService
from serving.ray.engine_service import EngineService
from serving.requests import VideoRequest

BATCH, QUEUE, STEPS = 2, 6, 4
CAPACITY = BATCH + QUEUE  # requests that the service takes at once
PATIENCE = 300  # seconds for what never comes


class Pace:
    """Holds an engine's thread to the steps it is allowed, and notes in which of them each request was denoised."""

    def __init__(self, engine: Engine) -> None:
        self.steps_of: dict[int, list[int]] = defaultdict(list)  # seed -> numbers of the engine's steps
        self._allowed, self._change, self._engine = 0.0, threading.Condition(), engine
        tick, submit = engine.tick, engine.submit

        def held() -> bool:
            with self._change:
                self._change.wait_for(lambda: self.steps < self._allowed)
            return tick()

        def watched(id: str, request: VideoRequest, listener: Listener) -> None:
            def listen(event) -> None:
                if isinstance(event, Progressed):
                    self.steps_of[request.seed].append(self.steps)
                listener(event)

            submit(id, request, listen)

        engine.tick, engine.submit = held, watched  # type: ignore[method-assign]

    @property
    def steps(self) -> int:
        """That were made."""
        return self._engine.stats().steps

    def allow(self, steps: float) -> None:
        with self._change:
            self._allowed = steps
            self._change.notify_all()


def body(number: int) -> dict:
    return {
        "prompt": f"prompt {number}",
        "seed": number,
        "steps": STEPS if number < BATCH else 1 + number % 3,
        "guidance_scale": 3.0 if number % 2 else 1.0,
        "lora": [{"name": f"c{number % 3}@1"}] if number % 4 else [],
    }


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.02)


def web(service: VideoService) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_api(service))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=PATIENCE)


def assert_full(answer: httpx.Response) -> None:
    assert answer.status_code == 429, answer.text
    assert answer.json()["error"]["code"] == "queue_full"
    assert int(answer.headers["retry-after"]) >= 1


@dataclass
class Made:
    """What came of the requests that were accepted, by seed, in the order of acceptance."""

    requests: dict[int, VideoRequest]
    steps_of: dict[int, list[int]]
    mp4: dict[int, bytes]


def assert_no_step_is_lost(made: Made) -> None:
    """Each video is denoised in successive steps of the engine, once in each: nothing sets it aside or begins it again.

    In which steps is not said: creations that come at once reach the engine in any order, and a video whose adapter is still
    read leaves its place to others.
    """
    for seed, request in made.requests.items():
        steps = made.steps_of[seed]
        assert steps == list(range(steps[0], steps[0] + request.steps)), made.steps_of


async def serve(config: ServeConfig, bodies: list[dict], *, overload: bool) -> Made:
    """A service with that many requests: all that come after the first batch at once, or only those it can take."""
    engine = EngineService(config)
    pace, stats, service = Pace(engine.engine), engine.engine.stats, VideoService(config, engine)
    service.start()
    try:
        async with asyncio.timeout(PATIENCE), web(service) as http:

            async def ask(body: dict) -> httpx.Response:
                return await http.post("/v1/videos", json=body)

            for first in bodies[:BATCH]:
                assert (await ask(first)).status_code == 200
            await until(lambda: stats().waiting == BATCH)
            pace.allow(1)
            await until(lambda: service.store.count() == {"in_progress": BATCH} and pace.steps == 1)

            # The engine is within its second step as long as this lasts.
            busy = {"in_progress": BATCH, "queued": QUEUE}
            if overload:
                half = (BATCH + QUEUE + len(bodies)) // 2
                answers = await asyncio.gather(*map(ask, bodies[BATCH:half]))
                refused = [answer for answer in answers if answer.status_code != 200]
                assert len(answers) - len(refused) == QUEUE
            else:
                refused = []
                for other in bodies[BATCH:]:
                    assert (await ask(other)).status_code == 200
            assert (pace.steps, service.store.count()) == (1, busy)
            await until(lambda: stats().waiting == QUEUE)

            # It computes, and no video can end yet.
            pace.allow(STEPS - 1)
            if overload:
                refused += await asyncio.gather(*map(ask, bodies[half:]))
                assert service.store.count() == busy
                assert len(refused) == len(bodies) - CAPACITY
                for answer in refused:
                    assert_full(answer)
            await until(lambda: pace.steps == STEPS - 1)
            pace.allow(math.inf)
            await until(lambda: service.store.count() == {"completed": CAPACITY})

            jobs = service.store.page(order="asc", limit=100)[0]
            requests = [VideoRequest.model_validate(job.request) for job in jobs]
            contents = [await http.get(f"/v1/videos/{job.id}/content") for job in jobs]
            return Made(
                {request.seed: request for request in requests},
                dict(pace.steps_of),
                {request.seed: mp4.content for request, mp4 in zip(requests, contents, strict=True)},
            )
    finally:
        pace.allow(math.inf)
        await service.stop()
        await asyncio.to_thread(engine.close)


def test_ten_times_what_it_takes_is_refused_at_once_and_what_is_accepted_loses_no_step(
    publish: Publish, registry, unet3d, tmp_path
):
    for n in range(3):
        publish(unet3d, f"c{n}", seed=n)

    def config(name: str) -> ServeConfig:
        return ServeConfig(
            foundation="tiny-random:unet3d",
            registry=registry.uri,
            data_dir=str(tmp_path / name),
            slots=4,
            spatial_slots=0,
            rank=4,
            max_batch=BATCH,
            max_queue=QUEUE,
            threads=1,
        )

    bodies = [body(number) for number in range(11 * CAPACITY)]
    overloaded = asyncio.run(serve(config("overloaded"), bodies, overload=True))
    accepted = [bodies[seed] for seed in overloaded.requests]
    calm = asyncio.run(serve(config("calm"), accepted, overload=False))
    assert overloaded.requests == calm.requests
    for made in (overloaded, calm):
        assert_no_step_is_lost(made)
    requests = {str(seed): request for seed, request in overloaded.requests.items()}
    for seed, mp4 in asyncio.run(alone(config("alone"), requests)).items():
        assert same_video(overloaded.mp4[int(seed)], mp4), requests[seed]


def test_of_many_at_once_those_too_many_do_not_wait_for_what_is_found_out_of_the_others(
    tmp_path, monkeypatch
):
    """An engine that looks for an adapter far away holds up whom the queue has room for, and nobody else."""
    monkeypatch.setattr("serving.http.service.ENGINE_TIMEOUT", PATIENCE)

    class Looking(FakeEngine):
        def __init__(self) -> None:
            super().__init__()
            self.looks, self.found = 0, asyncio.Event()

        async def check(self, request: VideoRequest) -> Failed | None:
            self.looks += 1
            await self.found.wait()
            return None

    async def run() -> None:
        engine = Looking()
        service = VideoService(ServeConfig(data_dir=str(tmp_path), max_queue=QUEUE), engine)
        async with asyncio.timeout(PATIENCE), web(service) as http:
            asked = [
                asyncio.create_task(http.post("/v1/videos", json={"prompt": "x"})) for _ in range(10 * QUEUE)
            ]
            await until(lambda: sum(task.done() for task in asked) == 9 * QUEUE)
            for task in asked:
                if task.done():
                    assert_full(task.result())
            assert service.store.count() == {}
            await until(lambda: engine.looks == QUEUE)
            engine.found.set()
            answers = await asyncio.gather(*asked)
            assert sum(answer.status_code == 200 for answer in answers) == QUEUE
            assert service.store.count() == {"queued": QUEUE}
            assert_full(await http.post("/v1/videos", json={"prompt": "x"}))
            service.store.cancel(service.store.page()[0][0].id)
            assert (await http.post("/v1/videos", json={"prompt": "x"})).status_code == 200
            assert engine.looks == QUEUE + 1, "nobody was asked about the others"
        await service.stop()

    asyncio.run(run())
