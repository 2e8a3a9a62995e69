"""A registry, a results storage or a name server that hangs holds up whoever needs it, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes import FakeEngine

from infra.errors import NotFound, Unavailable, UserError
from infra.storage import FolderStorage
from serving.config import ServeConfig
from serving.http import catalogue
from serving.http.auth import Caller
from serving.http.service import VideoService
from serving.jobs.database import Job
from serving.jobs.webhooks import PER_TENANT
from serving.keys import ApiKey
from serving.schemas import AdapterName, CreateVideo
from serving.threads import LISTS_EACH, READS_EACH

CALLER = Caller()
MANY = 20  # more than there are threads of any kind
PLAIN = CreateVideo(prompt="x")


class Hang:
    """What answers nobody until the test is over; counts who has come."""

    def __init__(self) -> None:
        self.over, self.calls = threading.Event(), 0

    def wait(self) -> None:
        self.calls += 1
        assert self.over.wait(300)

    def __call__(self, *_: object, **__: object) -> None:
        self.wait()
        raise OSError("too late")

    resolve = numbers = versions = __call__  # a registry's, and its model list's
    storage = None
    listed_a_moment_ago = contextlib.nullcontext

    @property
    def model_list(self) -> Hang:
        return self

    def refresh_names(self) -> None:
        """It lists nothing ahead."""


@pytest.fixture
def hang() -> Iterator[Hang]:
    hang = Hang()
    yield hang
    hang.over.set()


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, hang: Hang, scene: Callable) -> None:
    """Play a scene with a service whose registry hangs and whose loop has threads for the database alone."""
    monkeypatch.setattr("serving.http.service.open_concepts", lambda uri, memory: hang)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        config = ServeConfig(data_dir=str(folder), registry="x", webhook_secret="whsec_" + "c2VjcmV0" * 5)
        service = VideoService(config, FakeEngine())
        service.start()
        try:
            async with asyncio.timeout(300):
                await scene(service)
        finally:
            hang.over.set()
            await service.stop()

    asyncio.run(main())


async def called(hang: Hang, times: int = 1) -> None:
    while hang.calls < times:
        await asyncio.sleep(0.002)


async def made(service: VideoService) -> Job:
    """A video, from its request to its end."""
    job, _ = await service.create(PLAIN, CALLER)
    while (job := await service.get(job.id, "")).state != "completed":
        await asyncio.sleep(0.002)
    return job


def begun(*calls) -> list[asyncio.Task]:
    return [asyncio.create_task(call) for call in calls]


async def gone(tasks: list[asyncio.Task]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_a_registry_that_hangs_holds_up_only_requests_that_name_a_concept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: Hang
):
    async def scene(service: VideoService) -> None:
        orbit = CreateVideo(prompt="x", model="foundation:orbit")
        waiting = begun(*(service.create(orbit, CALLER) for _ in range(MANY)))
        waiting += begun(*(service.catalogue.models("") for _ in range(MANY)))
        await called(hang, READS_EACH + LISTS_EACH)
        await made(service)
        assert not any(task.done() for task in waiting)
        await gone(waiting)

    run(tmp_path, monkeypatch, hang, scene)


def test_one_tenant_that_reads_the_registry_leaves_it_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: Hang
):
    greedy, other = Caller(ApiKey(sha256="a" * 64)), Caller(ApiKey(sha256="b" * 64))

    async def scene(service: VideoService) -> None:
        orbit = CreateVideo(prompt="x", model="foundation:orbit")
        waiting = begun(*(service.create(orbit, greedy) for _ in range(MANY)))
        waiting += begun(
            *(service.catalogue.pin(AdapterName(name="orbit"), greedy.tenant) for _ in range(MANY))
        )
        waiting += begun(*(service.catalogue.models(greedy.tenant) for _ in range(MANY)))
        await called(hang, READS_EACH + LISTS_EACH)
        hang.numbers = lambda *_: (_ for _ in ()).throw(NotFound("there is no orbit."))  # type: ignore[method-assign]
        hang.versions = lambda: []  # type: ignore[method-assign]
        with pytest.raises(UserError, match="there is no orbit"):
            await service.create(orbit, other)
        assert b'"foundation"' in await service.catalogue.models(other.tenant)
        assert not any(task.done() for task in waiting)
        assert hang.calls == READS_EACH + LISTS_EACH
        await gone(waiting)

    run(tmp_path, monkeypatch, hang, scene)


def test_lists_of_all_concepts_leave_the_registry_to_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: Hang
):
    async def scene(service: VideoService) -> None:
        waiting = begun(*(service.catalogue.models("") for _ in range(MANY)))
        await called(hang)
        hang.resolve = lambda name: (_ for _ in ()).throw(NotFound("there is no orbit."))  # type: ignore[method-assign]
        with pytest.raises(UserError, match="there is no orbit"):
            await service.create(CreateVideo(prompt="x", model="foundation:orbit"), CALLER)
        assert not any(task.done() for task in waiting)
        await gone(waiting)

    run(tmp_path, monkeypatch, hang, scene)


def test_whoever_waits_for_the_registry_hears_that_it_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: Hang
):
    monkeypatch.setattr(catalogue, "REGISTRY_TIMEOUT", 0.0)

    async def scene(service: VideoService) -> None:
        for call in (
            service.create(CreateVideo(prompt="x", lora=[{"name": "orbit"}]), CALLER),
            service.catalogue.models(""),
            service.catalogue.pin(AdapterName(name="orbit"), ""),
        ):
            with pytest.raises(UserError, match="registry did not answer") as caught:
                await call
            assert (type(caught.value), caught.value.code) == (Unavailable, "registry_slow")

    run(tmp_path, monkeypatch, hang, scene)


def looked_up(monkeypatch: pytest.MonkeyPatch, hang: Hang) -> list[str]:
    """Let the names of slow.example hang and others be a public address's; those that have been asked for."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **_: object) -> list:
        asked.append(host)
        if host.endswith("slow.example"):
            hang.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", port))]

    monkeypatch.setattr("serving.jobs.addresses.RESOLVE_TIMEOUT", 300.0)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_one_tenants_slow_names_leave_threads_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: Hang
):
    async def scene(service: VideoService) -> None:
        asked = looked_up(monkeypatch, hang)
        check = service._webhooks.check
        waiting = begun(*(check(f"https://{n}.slow.example/", "a") for n in range(MANY)))
        await called(hang, PER_TENANT)
        await check("https://quick.example/", "b")
        assert len(asked) == PER_TENANT + 1
        await gone(waiting)  # who asked has gone; the look-ups have not
        again = begun(check("https://5.slow.example/", "a"))
        await check("https://quick.example/", "b")
        assert len(asked) == PER_TENANT + 2
        hang.over.set()  # the name servers answer
        await asyncio.gather(*again)
        await check("https://quick.example/", "a")

    run(tmp_path, monkeypatch, hang, scene)


def test_names_of_requests_hold_up_no_webhook_that_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: Hang
):
    async def scene(service: VideoService) -> None:
        asked = looked_up(monkeypatch, hang)
        check = service._webhooks.check
        waiting = begun(
            *(check(f"https://{n}.slow.example/", f"tenant{n // PER_TENANT}") for n in range(MANY))
        )
        await called(hang, 16)  # every thread that such names have
        job = service.store.add({}, model="foundation", webhook_url="https://due.example/")
        service.store.fail(job.id, code="c", message="m")
        while "due.example" not in asked:
            await asyncio.sleep(0.002)
        assert not any(task.done() for task in waiting)
        await gone(waiting)

    monkeypatch.setattr("serving.jobs.addresses.CheckedBackend.connect_tcp", refuse)
    run(tmp_path, monkeypatch, hang, scene)


async def refuse(*_: object, **__: object) -> None:
    """What a connection comes to here."""
    raise OSError("there is no way out of this test")


def test_a_results_storage_that_hangs_holds_up_only_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: Hang
):
    async def scene(service: VideoService) -> None:
        job = await made(service)
        monkeypatch.setattr(FolderStorage, "get", hang)
        waiting = begun(*(service.content(job.id, "") for _ in range(MANY)))
        await called(hang, 2)
        assert (await service.create(PLAIN, CALLER))[1]
        assert len((await service.page("", None, 10, "desc"))[0]) == 2
        assert not any(task.done() for task in waiting)
        await gone(waiting)

    run(tmp_path, monkeypatch, hang, scene)


def test_a_name_server_that_hangs_holds_up_only_webhooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: Hang
):
    monkeypatch.setattr("serving.jobs.addresses.RESOLVE_TIMEOUT", 300.0)

    async def scene(service: VideoService) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", hang)
        told = CreateVideo(prompt="x", webhook_url="https://slow.example/")
        waiting = begun(*(service.create(told, CALLER) for _ in range(MANY)))
        await called(hang, 2)
        await made(service)
        assert not any(task.done() for task in waiting)
        await gone(waiting)

    run(tmp_path, monkeypatch, hang, scene)
