"""Pins hold in every engine: kept in the job database, on SQLite and on PostgreSQL, and told to whoever lives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes import INFO, FakeEngine
from serving_helpers import Publish, sha, use

from infra.errors import Conflict, UserError
from infra.registry import Registry
from serving.config import ServeConfig
from serving.engine_client import EngineLost
from serving.events import Failed
from serving.http.service import VideoService
from serving.jobs.database import Database, Pin
from serving.jobs.jobs import JobStore
from serving.jobs.pins import PinSender, PinStore
from serving.ray.engine_service import EngineService
from serving.requests import AdapterUsed
from serving.schemas import AdapterName

HERE, THERE = "f" * 64, "e" * 64  # two foundations
SLOTS = {"temporal": 8, "spatial": 8}


@pytest.fixture
def pins(store: JobStore) -> PinStore:
    return PinStore(store.database)


def names(pins: PinStore, foundation: str = HERE) -> list[str]:
    return [used.concept for used in pins.wanted(foundation)[1]]


def test_what_is_pinned_is_kept_in_order_each_once_and_by_its_content(pins: PinStore):
    assert pins.wanted(HERE) == (0, [])
    for name in "abab":
        pins.pin(HERE, [use(name)], SLOTS)
    pins.pin(HERE, [use("a").model_copy(update={"concept": "copy"})], SLOTS)
    assert pins.wanted(HERE) == (2, [use("a"), use("b")])
    pins.unpin(HERE, [use("a").model_copy(update={"concept": "copy"})])
    assert pins.wanted(HERE) == (3, [use("b")])


def test_every_change_has_a_later_revision_and_nothing_is_kept_of_what_was_pinned_long_ago(pins: PinStore):
    seen = []
    for name in "abc":
        for change in (pins.unpin, *[lambda *of: pins.pin(*of, SLOTS)] * 2, pins.unpin):
            change(HERE, [use(name)])
            seen.append(pins.wanted(HERE)[0])
    assert seen == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    with pins._database.sessions() as session:
        assert session.query(Pin).count() == 1


def test_each_foundation_and_each_path_has_its_own(pins: PinStore):
    two = {"temporal": 2, "spatial": 2}
    pins.pin(HERE, [use("a")], two)
    pins.pin(THERE, [use("b")], two)
    pins.pin(HERE, [use("look", path="spatial")], two)
    assert (names(pins), names(pins, THERE)) == (["a", "look"], ["b"])
    pins.unpin(HERE, [use("b")])
    assert names(pins, THERE) == ["b"]


def test_of_many_who_pin_at_once_as_many_do_as_leave_a_slot(pins: PinStore):
    def pin(number: int) -> UserError | None:
        try:
            return pins.pin(HERE, [use(f"c{number}")], {"temporal": 4, "spatial": 1})
        except UserError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        refused = [error for error in pool.map(pin, range(12)) if error is not None]
    assert {(type(error), error.code) for error in refused} == {(Conflict, "slots_pinned")}
    assert all("3 of 4 temporal slots are pinned" in error.message for error in refused)
    assert len(refused) == 9
    assert pins.wanted(HERE)[0] == len(names(pins)) == 3
    with pytest.raises(UserError, match="0 of 1 spatial slots"):
        pins.pin(HERE, [use("free"), use("look", path="spatial")], {"temporal": 9, "spatial": 1})
    assert "free" not in names(pins)  # all of a version's adapters, or none


def test_a_version_is_found_by_its_name_as_long_as_it_is_pinned(pins: PinStore):
    pins.pin(HERE, [use("a")], SLOTS)
    assert pins.named(HERE, "a@1", "temporal") == [use("a")]
    look = use("a", path="spatial")
    pins.pin(HERE, [look], SLOTS)
    assert pins.named(HERE, "a@1", None) == [use("a"), look]
    pins.unpin(HERE, [look])
    for foundation, name, path in [
        (HERE, "a", "temporal"),  # the latest, which the registry knows
        (HERE, "a@2", "temporal"),
        (HERE, "a@1", "spatial"),
        (THERE, "a@1", "temporal"),
    ]:
        assert pins.named(foundation, name, path) == []
    pins.unpin(HERE, [use("a")])
    assert pins.named(HERE, "a@1", "temporal") == []


# --- telling ---------------------------------------------------------------------------------------------------


class Engines:
    """Several engines behind one client, as Ray Serve's handle has them: any of them may die, and others come."""

    def __init__(self, **engines: FakeEngine | EngineService) -> None:
        self.engines = engines

    def __getattr__(self, method: str) -> Callable:
        return getattr(next(iter(self.engines.values())), method)

    async def prefetch(self, used: AdapterUsed) -> list[Failed | None]:
        return [refused for engine in self.engines.values() for refused in await engine.prefetch(used)]

    async def set_pins(self, revision: int, uses: Sequence[AdapterUsed]) -> int:
        if not self.engines:
            raise EngineLost("nobody lives")
        return sum([await engine.set_pins(revision, uses) for engine in self.engines.values()])

    async def residency(self) -> dict:
        return {
            name: held
            for engine in self.engines.values()
            for name, held in (await engine.residency()).items()
        }


async def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def last(engine: FakeEngine) -> list[str]:
    return engine.kept[-1][1] if engine.kept else []


def test_engines_that_start_later_and_ingresses_that_start_again_have_what_was_pinned(
    tmp_path: Path, monkeypatch
):
    monkeypatch.setattr("serving.jobs.pins.INTERVAL", 0.01)
    database = Database(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    pins, engines = PinStore(database), Engines(x=FakeEngine())
    engine, wanted = engines.engines["x"], [sha("a", "temporal")]

    async def info():
        return INFO

    async def run() -> None:
        ingress = asyncio.create_task(PinSender(pins, engines, info).run())
        await until(lambda: len(engine.kept) > 1)
        assert set(map(str, engine.kept)) == {"(0, [])"}
        pins.pin(INFO.fingerprint, [use("a")], SLOTS)  # through another ingress
        await until(lambda: last(engine) == wanted)
        engines.engines["y"] = later = FakeEngine()
        await until(lambda: last(later) == wanted)
        engines.engines.clear()  # all die
        await asyncio.sleep(0.05)
        engines.engines["z"] = reborn = FakeEngine()
        await until(lambda: last(reborn) == wanted)
        ingress.cancel()
        await asyncio.gather(ingress, return_exceptions=True)
        engines.engines["z"] = fresh = FakeEngine()
        again = PinSender(PinStore(database), engines, info)
        assert await again.send() == 1
        assert fresh.kept == [(1, wanted)]
        pins.unpin(INFO.fingerprint, [use("a")])
        await again.send()
        assert last(fresh) == []

    asyncio.run(run())
    database.close()


def test_a_database_that_is_away_for_a_moment_does_not_end_the_telling(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("serving.jobs.pins.INTERVAL", 0.01)
    engine, database = FakeEngine(), Database(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    pins = PinStore(database)
    read, away = pins.wanted, [True]

    def wanted(foundation: str):
        if away:
            away.pop()
            raise OSError("it is away")
        return read(foundation)

    pins.wanted = wanted  # type: ignore[method-assign]

    async def run() -> None:
        async def info():
            return INFO

        telling = asyncio.create_task(PinSender(pins, engine, info).run())
        await until(lambda: bool(engine.kept))
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)

    asyncio.run(run())
    database.close()


# --- with true engines -----------------------------------------------------------------------------------------


@pytest.fixture
def engine(registry: Registry, tmp_path: Path) -> Iterator[Callable[[str], EngineService]]:
    """engine("x"): a true one of that name."""
    made = []

    def start(name: str) -> EngineService:
        made.append(EngineService(config_of(registry, tmp_path), name=name))
        return made[-1]

    yield start
    for one in made:
        one.close()


def config_of(registry: Registry, tmp_path: Path) -> ServeConfig:
    return ServeConfig(
        foundation="tiny-random:unet3d",
        registry=registry.uri,
        data_dir=str(tmp_path / "data"),
        slots=2,
        spatial_slots=0,
        rank=4,
        max_batch=2,
        threads=1,
    )


def pinned(engine: EngineService) -> dict[str, str]:
    """sha256 -> tier."""
    return {held.sha256: held.tier for held in engine.engine.adapters.residency() if held.pinned}


def test_an_engine_keeps_the_latest_list_it_was_told_whatever_comes_late(
    engine: Callable, publish: Publish, unet3d
):
    version = publish(unet3d, "orbit")
    one = AdapterUsed(concept="orbit", version=1, path="temporal", scale=1.0, sha256=version.adapter_sha256)
    here = engine("x")

    async def run() -> None:
        await here.set_pins(2, [one])
        await until(lambda: pinned(here) == {one.sha256: "slot"})
        await here.set_pins(1, [])  # of an ingress that read before the other one wrote
        assert pinned(here) == {one.sha256: "slot"}
        await here.set_pins(3, [])
        assert pinned(here) == {}

    asyncio.run(run())


def test_a_pin_reaches_every_engine_and_the_list_tells_of_each(
    engine: Callable, publish: Publish, registry: Registry, unet3d, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr("serving.jobs.pins.INTERVAL", 0.02)
    hashes = {name: publish(unet3d, name, seed=n).adapter_sha256 for n, name in enumerate(("orbit", "swing"))}
    engines = Engines(x=engine("x"), y=engine("y"))
    orbit = AdapterName(name="orbit@1")

    async def where(service: VideoService) -> set[tuple[str, str, bool]]:
        data = (await service.catalogue.residents("", everyones=True)).data
        return {(held.engine, held.tier, held.pinned) for held in data if held.sha256 == hashes["orbit"]}

    async def run() -> None:
        service = VideoService(config_of(registry, tmp_path), engines)
        service.start()
        answer = await service.catalogue.prefetch(AdapterName(name="swing"), "")
        assert (answer.status, answer.engines) == ("prefetched", 2)
        near = (await service.catalogue.residents("", everyones=True)).data
        assert {(held.engine, held.sha256) for held in near} == {(name, hashes["swing"]) for name in "xy"}
        answer = await service.catalogue.pin(orbit, "")
        assert (answer.status, answer.engines) == ("pinned", 2)
        await until(
            lambda: (
                [*pinned(engines.engines["x"]).values(), *pinned(engines.engines["y"]).values()]
                == ["slot"] * 2
            )
        )
        shown = await service.catalogue.residents("", everyones=True)
        assert shown.engines == ["x", "y"]
        assert [(pin.concept, pin.version, pin.sha256) for pin in shown.pins] == [
            ("orbit", 1, hashes["orbit"])
        ]
        assert await where(service) == {("x", "slot", True), ("y", "slot", True)}
        with pytest.raises(UserError, match="1 of 2 temporal slots"):
            await service.catalogue.pin(AdapterName(name="swing"), "")

        await asyncio.to_thread(engines.engines.pop("x").close)
        engines.engines["z"] = await asyncio.to_thread(engine, "z")
        await until(lambda: pinned(engines.engines["z"]) == {hashes["orbit"]: "slot"})
        assert await where(service) == {("y", "slot", True), ("z", "slot", True)}

        publish(unet3d, "orbit", seed=9)
        registry.remove("orbit@1")
        assert (await service.catalogue.unpin(orbit, "")).engines == 2
        assert await where(service) == {("y", "slot", False), ("z", "slot", False)}
        assert (await service.catalogue.residents("", everyones=True)).pins == []
        await service.stop()

    asyncio.run(run())


def test_an_adapter_that_cannot_be_loaded_is_pinned_nowhere(
    engine: Callable, publish: Publish, registry: Registry, unet3d, tmp_path: Path
):
    publish(unet3d, "wide", rank=8)

    async def run() -> None:
        service = VideoService(config_of(registry, tmp_path), engine("x"))
        with pytest.raises(UserError, match="rank 8"):
            await service.catalogue.pin(AdapterName(name="wide"), "")
        assert (await service.catalogue.residents("", everyones=True)).pins == []
        await service.stop()

    asyncio.run(run())
