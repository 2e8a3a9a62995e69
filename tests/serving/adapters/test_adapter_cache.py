"""An adapter's tiers: verified files, packed images, slots. Each is bounded and keeps what is in use."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from serving_helpers import Bench, Memory, random_adapter, sha, until, use, video_request

from infra.errors import NotFound, StorageAway, StorageDenied, Unavailable, UserError
from infra.registry import Registry
from infra.storage.objects import object_key
from infra.storage.s3 import ObjectRefused
from models.adapters.file import read_adapter
from serving.adapters.adapter_cache import FETCHERS, AdapterCache, Claim
from serving.adapters.files import ABANDONED, IN_USE, AdapterFiles
from serving.adapters.host import HostCache
from serving.adapters.slots import SlotTable, key_of
from serving.adapters.storage_faults import StorageFault
from serving.config import ServeConfig
from serving.ray.engine_service import EngineService, describe
from serving.schemas import AdapterUsed


def used(version, path="temporal") -> AdapterUsed:
    return AdapterUsed(
        concept=version.concept, version=version.number, path=path, scale=1.0, sha256=version.adapter_sha256
    )


# --- disk ------------------------------------------------------------------------------------------------------


def test_a_file_that_was_cut_or_changed_on_disk_is_fetched_again(unet3d, registry, publish, tmp_path):
    one = used(publish(unet3d, "orbit", seed=1))
    files = AdapterFiles(registry, unet3d, tmp_path / "cache")
    expected = {name: (a.clone(), b.clone()) for name, (a, b) in files.read(one).tensors.items()}
    (file,) = (tmp_path / "cache").glob("*.safetensors")
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    for damaged in (whole[: len(whole) // 2], whole[:-1], bytes(flipped), b""):
        file.write_bytes(damaged)
        again = files.read(one).tensors
        assert all(
            torch.equal(again[name][half], expected[name][half]) for name in expected for half in (0, 1)
        )
        assert file.read_bytes() == whole


def test_an_accepted_version_can_be_had_after_it_was_removed(unet3d, registry, publish, tmp_path):
    one = used(publish(unet3d, "orbit", seed=1))
    publish(unet3d, "orbit", seed=2)
    registry.remove("orbit@1")
    assert AdapterFiles(registry, unet3d, tmp_path / "cache").read(one).sha256 == one.sha256


def test_a_damaged_object_is_tried_again_and_never_kept(unet3d, registry, publish, tmp_path):
    one = used(publish(unet3d, "orbit", seed=1))
    files = AdapterFiles(registry, unet3d, tmp_path / "cache", pause=0.0)
    key = object_key(one.sha256)
    whole = registry.storage.get(key)
    registry.storage.put(key, whole[:-10])
    with pytest.raises(UserError, match="damaged") as caught:
        files.fetch(one)
    assert caught.value.code == "object_damaged"
    assert not list((tmp_path / "cache").iterdir())

    storage, calls = registry.storage, []

    class Flaky(type(storage)):
        def get_file(self, key, path):
            calls.append(key)
            storage.put(key, whole[:-10] if len(calls) < 3 else whole)
            super().get_file(key, path)

    files = AdapterFiles(Registry(Flaky(storage.root)), unet3d, tmp_path / "cache", pause=0.0)
    assert files.read(one).sha256 == one.sha256
    assert len(calls) == 3


def test_what_is_nowhere_and_what_does_not_fit_is_said_at_once(unet3d, registry, publish, tmp_path):
    one = used(publish(unet3d, "orbit", seed=1))
    files = AdapterFiles(registry, unet3d, tmp_path / "cache")
    with pytest.raises(UserError, match="orbit@1: its file 000000000000 is not in") as caught:
        files.read(one.model_copy(update={"sha256": "0" * 64}))
    assert (type(caught.value), caught.value.code) == (NotFound, "adapter_not_found")
    with pytest.raises(UserError, match="holds a temporal adapter"):
        files.read(one.model_copy(update={"path": "spatial"}))
    with pytest.raises(UserError, match="there is no registry"):
        AdapterFiles(None, unet3d, tmp_path / "empty").read(one)


def test_the_disk_is_bounded_in_bytes_and_known_again_after_a_restart(unet3d, registry, publish, tmp_path):
    all_of_them = [used(publish(unet3d, name, seed=n)) for n, name in enumerate(("a", "b", "c"))]
    size = registry.resolve("a").files["adapter_model.safetensors"].size
    folder = tmp_path / "cache"
    files = AdapterFiles(registry, unet3d, folder, capacity=int(2.5 * size))
    for one in all_of_them:
        files.read(one)
    files.read(all_of_them[1])
    assert files.resident() == [all_of_them[2].sha256, all_of_them[1].sha256]
    assert {file.stem for file in folder.iterdir()} == set(files.resident())
    assert AdapterFiles(registry, unet3d, folder, capacity=1).resident() == files.resident(), (
        "in use, perhaps"
    )
    for one in all_of_them[1:]:
        last_used(folder, one, 2 * IN_USE)
    again = AdapterFiles(registry, unet3d, folder, capacity=1)
    assert len(again.resident()) == 1 == len(list(folder.iterdir()))


def last_used(folder, one: AdapterUsed, ago: float) -> None:
    os.utime(folder / f"{one.sha256}.safetensors", (time.time() - ago,) * 2)


def test_the_disk_of_several_engines_is_bounded_and_none_takes_what_another_is_using(
    unet3d, registry, publish, tmp_path, monkeypatch
):
    a, b, c, d = (used(publish(unet3d, name, seed=n)) for n, name in enumerate("abcd"))
    size = registry.resolve("a").files["adapter_model.safetensors"].size
    folder = tmp_path / "cache"
    one, other = (AdapterFiles(registry, unet3d, folder, capacity=int(2.5 * size)) for _ in range(2))
    one.read(a)
    other.read(b)
    other.read(c)
    assert one.resident() == other.resident() == [a.sha256, c.sha256], "its own goes: a was used a moment ago"
    last_used(folder, a, 2 * IN_USE)
    other.read(d)
    assert one.resident() == other.resident() == [c.sha256, d.sha256], (
        "a goes, though another engine brought it"
    )

    one.read(a)
    last_used(folder, a, 2 * IN_USE)
    real = read_adapter

    def reading(file, foundation):
        monkeypatch.setattr("serving.adapters.files.read_adapter", real)
        other.read(b)
        other.read(d)
        assert file.exists(), "it was taken between the look and the opening"
        return real(file, foundation)

    monkeypatch.setattr("serving.adapters.files.read_adapter", reading)
    assert one.read(a).sha256 == a.sha256


def test_what_another_engine_removes_or_left_behind_in_the_folder_is_no_hindrance(
    unet3d, registry, publish, tmp_path
):
    one, folder = used(publish(unet3d, "orbit", seed=1)), tmp_path / "cache"
    AdapterFiles(registry, unet3d, folder).read(one)
    (folder / "gone.safetensors").symlink_to(folder / "trimmed meanwhile")  # listed, and then not there
    being_written, left_behind = folder / ".tmp-new", folder / ".tmp-old"
    for file in (being_written, left_behind):
        file.write_bytes(b"half")
    os.utime(left_behind, (time.time() - 2 * ABANDONED,) * 2)
    assert AdapterFiles(registry, unet3d, folder).resident() == [one.sha256]
    assert being_written.exists()
    assert not left_behind.exists()


@pytest.mark.parametrize(
    "fault",
    [
        StorageDenied("s3://bucket: no credentials.", code="s3_no_credentials"),
        ObjectRefused("s3://bucket/prefix failed."),
        StorageAway("/mnt/registry: stale."),
    ],
    ids=lambda fault: fault.code,
)
def test_an_adapters_storage_that_is_away_is_tried_again_and_then_said_to_be_without_where_it_is(
    unet3d, registry, publish, tmp_path, monkeypatch, fault
):
    one = used(publish(unet3d, "orbit", seed=1))
    files, left = AdapterFiles(registry, unet3d, tmp_path / "cache", pause=0.0), [fault] * 3
    get_file = registry.storage.get_file

    def away(key, path):
        if left:
            raise left.pop()
        get_file(key, path)

    monkeypatch.setattr(registry.storage, "get_file", away)
    with pytest.raises(UserError) as caught:
        files.fetch(one)
    assert (type(caught.value), caught.value.code) == (StorageFault, "storage_unavailable")
    assert "bucket" not in caught.value.message
    assert "/mnt" not in caught.value.message
    left.append(fault)
    files.fetch(one)
    assert files.has(one)


# --- host ------------------------------------------------------------------------------------------------------


def key(name):
    return ("temporal", name)


def test_host_memory_is_bounded_and_the_held_stays():
    cache = HostCache(300)
    image = torch.zeros(100, dtype=torch.uint8)
    for name in "abc":
        assert cache.hold({key(name): 100})
        cache.put(key(name), image)
    cache.release([key("a"), key("b")])
    assert cache.get(key("a")) is not None  # now b is the least recently used
    assert not cache.hold({key(name): 100 for name in "xyz"}), "c is held: there is no room for three"
    assert cache.hold({key("x"): 100})
    assert cache.used == 300
    assert set(cache.resident()) == {key("a"), key("c")}
    assert not cache.hold({key("x"): 100, key("y"): 100, key("z"): 100})
    cache.release([key("x")])
    assert cache.used == 200, "room that was promised and not used is free again"
    cache.put(key("w"), image)
    assert cache.get(key("w")) is image, "what nobody holds stays as long as there is room"


# --- slots -----------------------------------------------------------------------------------------------------


@pytest.fixture
def table(unet3d):
    bank = unet3d.add_bank({"temporal": 2, "spatial": 1}, 4)
    images = {}
    for name in "abcde":
        one = use(name)
        images[key_of(one)] = bank.pack("temporal", random_adapter(unet3d, seed=ord(name)).tensors)
    return SlotTable(bank), images


def holds(table: SlotTable, name: str) -> bool:
    return key_of(use(name)) in table.resident()


def test_in_use_and_pinned_stay_and_the_unwanted_go_first(table):
    slots, images = table
    leases = {name: slots.acquire([use(name)], images) for name in "ab"}
    assert slots.acquire([use("c")], images) is None
    assert not slots.warm(key_of(use("c")), images[key_of(use("c"))])
    leases["a"].release()
    leases["b"].release()
    slots.want([key_of(use("a"))])
    assert slots.warm(key_of(use("c")), images[key_of(use("c"))]), "b is not wanted"
    assert holds(slots, "a")
    assert holds(slots, "c")
    slots.set_pinned([key_of(use("a"))])
    slots.want([key_of(use("c"))])
    assert not slots.warm(key_of(use("d")), images[key_of(use("d"))]), "warming evicts nothing that is wanted"
    assert slots.acquire([use("d")], images) is not None, "a turn does"
    assert holds(slots, "a"), "but nothing that is pinned"
    assert not holds(slots, "c")
    slots.set_pinned([])
    assert slots.acquire([use("c")], images) is not None
    assert not holds(slots, "a"), "it goes like any other again"


def test_one_slot_of_a_path_is_never_pinned(table):
    slots, _ = table
    a, b = (key_of(use(name)) for name in "ab")
    assert slots.set_pinned([a, a, b]) == slots.pinned() == {a}
    assert slots.set_pinned([b, a]) == slots.pinned() == {b}


def test_a_slot_holds_what_was_packed_bit_for_bit(unet3d, table):
    slots, images = table
    for name in "abcab":
        lease = slots.acquire([use(name)], images)
        bank = unet3d.bank
        found = bank.extract("temporal", lease.slots[0])
        expected = random_adapter(unet3d, seed=ord(name)).tensors
        assert all(
            torch.equal(found[layer][half], expected[layer][half]) for layer in expected for half in (0, 1)
        )
        lease.release()
    assert (slots.hits, slots.misses, slots.loads) == (0, 5, 5)


def test_every_copy_is_told_whether_a_turn_made_it_or_it_was_made_beside_the_steps(table):
    slots, images = SlotTable(table[0]._bank, (told := []).append), table[1]
    assert slots.warm(key_of(use("a")), images[key_of(use("a"))])
    assert slots.warm(key_of(use("a")), images[key_of(use("a"))])  # it is there
    assert len(told) == slots.loads == 1
    slots.acquire([use("a"), use("b")], images)
    assert len(told) == slots.loads == 2
    assert min(told) >= 0


def test_a_copy_that_fails_leaves_the_slot_free(table, monkeypatch):
    slots, images = table
    kept = slots.acquire([use("a")], images)
    monkeypatch.setattr(slots._bank, "load", lambda *args: (_ for _ in ()).throw(RuntimeError("no memory")))
    with pytest.raises(RuntimeError, match="no memory"):
        slots.acquire([use("a"), use("b")], images)
    monkeypatch.undo()
    assert slots.resident() == {key_of(use("a")): 1}
    kept.release()
    both = slots.acquire([use("b"), use("c")], images)
    assert {key[1] for key in slots.resident()} == {sha("b", "temporal"), sha("c", "temporal")}
    both.release()
    assert set(slots.resident().values()) == {0}


# --- all together ----------------------------------------------------------------------------------------------


class Waiter:
    """Claims, and how each ended."""

    def __init__(self, cache: AdapterCache) -> None:
        self.cache, self.told = cache, {}
        self.claims = {}

    def load(self, name, *adapters):
        claim = Claim(adapters, lambda claim, error: self.told.__setitem__(name, error), [(name, 1.0)])
        self.claims[name] = claim
        self.cache.load(claim)
        return claim

    def wait(self, *names):
        end = time.monotonic() + 60
        while not set(names) <= self.told.keys():
            assert time.monotonic() < end, f"still waiting for {set(names) - self.told.keys()}"
            time.sleep(0.001)


@pytest.fixture
def make_cache(unet3d):
    bank = unet3d.add_bank({"temporal": 2, "spatial": 1}, 4)
    made = []

    def make(source, **settings):
        made.append(AdapterCache(bank, source, **settings))
        return made[-1]

    yield make
    for one in made:
        one.shutdown()


def test_one_fetch_serves_all_who_wait_for_it(unet3d, make_cache):
    gate = threading.Event()

    class Slow(Memory):
        def fetch(self, used):
            super().fetch(used)
            assert gate.wait(60)

        def has(self, used):
            return gate.is_set()

    source = Slow(unet3d)
    waiter = Waiter(make_cache(source))
    for n in range(10):
        waiter.load(n, use("a"))
    waiter.load("b", use("b"))
    while len(source.fetched) < 2:  # ten that wait for one do not keep the other one waiting
        time.sleep(0.001)
    gate.set()
    waiter.wait(*range(10), "b")
    assert set(waiter.told.values()) == {None}
    assert len(source.fetched) == 2
    assert sorted(source.reads) == ["a", "b"]


def test_a_failure_is_told_to_all_who_wait_and_the_next_one_tries_again(unet3d, make_cache):
    gate = threading.Event()

    class Away(Memory):
        away = True

        def fetch(self, used):
            super().fetch(used)
            assert gate.wait(60)
            if self.away:
                self.fetched.remove(used.sha256)
                raise Unavailable("the registry is away.")

    source = Away(unet3d)
    waiter = Waiter(make_cache(source))
    waiter.load("first", use("a"))
    waiter.load("second", use("b"), use("a"))
    source.has = lambda used: False
    gate.set()
    waiter.wait("first", "second")
    assert isinstance(waiter.told["first"], UserError)
    assert isinstance(waiter.told["second"], UserError)
    source.away = False
    waiter.load("third", use("a"))
    waiter.wait("third")
    assert waiter.told["third"] is None


def test_many_claims_stay_within_host_memory_and_all_get_their_turn(unet3d, make_cache):
    source = Memory(unet3d)
    cache = make_cache(source, host_bytes=1)  # what the slots hold is the least
    size = unet3d.bank.slot_bytes("temporal")
    capacity = cache.host.capacity
    assert 2 * size <= capacity < 4 * size
    waiter = Waiter(cache)
    names = [f"c{n}" for n in range(12)]
    for n, name in enumerate(names):
        waiter.load(name, use(f"{n % 7}a"), use(f"{n % 5}b"))
    left = set(names)
    while left:
        end = time.monotonic() + 60
        while not left & waiter.told.keys():
            assert time.monotonic() < end
            time.sleep(0.001)
        assert cache.host.used <= capacity
        for name in left & waiter.told.keys():
            assert waiter.told[name] is None
            assert cache.images(waiter.claims[name]) is not None
            cache.release(waiter.claims[name])
            left.discard(name)
    assert set(cache.host.resident().values()) <= {0}
    assert not cache.slots._wanted


def test_a_claim_that_is_closed_on_its_way_holds_nothing(unet3d, make_cache):
    gate = threading.Event()

    class Slow(Memory):
        def read(self, used):
            assert gate.wait(60)
            return super().read(used)

    cache = make_cache(Slow(unet3d))
    waiter = Waiter(cache)
    waiter.load("gone", use("a"))
    cache.release(waiter.claims["gone"])
    gate.set()
    waiter.load("other", use("a"))
    waiter.wait("other")
    assert "gone" not in waiter.told
    cache.release(waiter.claims["other"])
    assert set(cache.host.resident().values()) <= {0}


def test_a_claim_that_is_closed_before_its_turn_keeps_nobody_waiting(unet3d, make_cache):
    gate = threading.Event()

    class Slow(Memory):
        def read(self, used):
            if used.concept.startswith("slow"):
                assert gate.wait(60)
            return super().read(used)

    source = Slow(unet3d)
    cache = make_cache(source)
    waiter = Waiter(cache)
    for n in range(2):  # both packers are busy
        waiter.load(n, use(f"slow{n}"))
    while len(cache._packing) < 2:
        time.sleep(0.001)
    waiter.load("gone", use("a"))
    while key_of(use("a")) not in cache._packing:
        time.sleep(0.001)
    cache.release(waiter.claims["gone"])
    gate.set()
    waiter.load("next", use("a"))
    waiter.wait(0, 1, "next")
    assert not cache._packing


class Slow(Memory):
    """A registry that answers when `opened` is set."""

    def __init__(self, foundation) -> None:
        super().__init__(foundation)
        self.opened = threading.Event()

    def fetch(self, used: AdapterUsed) -> None:
        assert self.opened.wait(60)
        super().fetch(used)


def test_a_cancelled_prefetch_is_not_loaded_unless_it_was_being_fetched(unet3d, make_cache):
    source = Slow(unet3d)
    cache = make_cache(source)
    futures = [cache.prefetch([use(name)]) for name in "abcdef"]
    for future in futures[:5]:
        assert future.cancel()
    source.opened.set()
    futures[5].result(60)
    assert cache.residency()[0].tier == "slot"
    until(lambda: not cache._to_fetch and not cache._to_pack)
    assert set(source.reads) <= {"f"} | set("abcd")  # four were being fetched
    assert "e" not in source.reads


class Stepwise(Memory):
    """A registry that answers one more fetch at each `answer`."""

    def __init__(self, foundation) -> None:
        super().__init__(foundation)
        self.begun: list[str] = []
        self._answers = threading.Semaphore(0)

    def fetch(self, used: AdapterUsed) -> None:
        self.begun.append(used.concept)
        assert self._answers.acquire(timeout=60)
        super().fetch(used)

    def answer(self, fetches: int = 1) -> None:
        self._answers.release(fetches)


def test_checks_wait_in_their_tenants_turn_and_not_behind_all_who_came_before(unet3d):
    source = Stepwise(unet3d)
    engine = Bench(unet3d, source).engine
    try:
        many = [
            engine.check(video_request(tenant="a", adapters=(use(f"a{n}"),))) for n in range(FETCHERS + 8)
        ]
        until(lambda: len(source.begun) == FETCHERS)
        one = engine.check(video_request(tenant="b", adapters=(use("b"),)))
        source.answer(2)  # of two turns one is the other tenant's
        until(lambda: len(source.begun) == FETCHERS + 2)
        assert set(source.begun[FETCHERS:]) == {"a4", "b"}
        source.answer(len(many))
        for future in (*many, one):
            future.result(60)
    finally:
        source.answer(100)
        engine.close()


def test_a_video_and_a_check_take_the_same_of_a_tenants_share_of_loading(unet3d):
    """Loading is counted in adapters: a large video's are no dearer than those of a check."""
    source = Stepwise(unet3d)
    bench = Bench(unet3d, source)
    engine = bench.engine
    try:
        busy = [engine.check(video_request(tenant="x", adapters=(use(f"x{n}"),))) for n in range(FETCHERS)]
        until(lambda: len(source.begun) == FETCHERS)
        for n in range(3):
            bench.submit(f"a{n}", video_request(tenant="a", steps=1000, adapters=(use(f"a{n}"),)))
            busy.append(engine.check(video_request(tenant="b", adapters=(use(f"b{n}"),))))
        for n in range(1, 7):
            source.answer()
            until(lambda n=n: len(source.begun) == FETCHERS + n)
        assert [name[0] for name in source.begun[FETCHERS:]] == list("ababab")
        source.answer(FETCHERS)
        for future in busy:
            future.result(60)
    finally:
        source.answer(100)
        engine.close()


def test_one_request_with_many_cold_adapters_takes_one_fetcher(unet3d, make_cache):
    source = Stepwise(unet3d)
    cache = make_cache(source)
    many = cache.prefetch([use(f"a{n}") for n in range(FETCHERS + 1)])
    other = cache.prefetch([use("b")])
    until(lambda: set(source.begun) == {"a0", "b"})
    source.answer(FETCHERS + 2)
    many.result(60)
    other.result(60)


def test_a_slow_registry_holds_no_thread_that_others_need(unet3d):
    async def ask() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(2))
        source = Slow(unet3d)
        service = EngineService.__new__(EngineService)
        service.engine = Bench(unet3d, source).engine
        service._info = describe(unet3d, ServeConfig())
        try:
            source.fetched.append(sha("near", "temporal"))
            slow = [service.check(video_request(adapters=(use(f"cold{n}"),))) for n in range(10)]
            slow += [service.prefetch(use(f"cold{n}")) for n in range(10)]
            waiting = [asyncio.ensure_future(one) for one in slow]
            async with asyncio.timeout(60):
                assert await service.check(video_request(adapters=(use("near"),))) is None
                refused = await service.check(video_request(width=31))
                assert refused is not None
                assert refused.code == "invalid_size"
            assert not any(one.done() for one in waiting)
            source.opened.set()
            assert await asyncio.gather(*waiting) == [None] * 10 + [[None]] * 10
        finally:
            source.opened.set()
            service.engine.close()

    asyncio.run(ask())


def pinned_in(cache: AdapterCache) -> dict[str, str]:
    """sha256 -> tier of the pinned adapters in host memory or slots."""
    return {one.sha256: one.tier for one in cache.residency() if one.pinned}


def test_a_pinned_adapter_is_loaded_into_a_slot_and_stays_there(unet3d, make_cache):
    cache = make_cache(Memory(unet3d))
    cache.prefetch([use("a"), use("b"), use("c")]).result(60)
    tier = {one.sha256: one.tier for one in cache.residency()}
    assert sorted(tier.values()) == ["host", "slot", "slot"]
    near = next(name for name in "abc" if tier[sha(name, "temporal")] == "host")
    for name in (near, "cold"):  # the other one is only in the registry
        cache.set_pinned([use(name)])
        until(lambda: set(pinned_in(cache).values()) == {"slot"})
        cache.prefetch([use(other) for other in "defg"]).result(60)
        assert pinned_in(cache) == {sha(name, "temporal"): "slot"}
    cache.set_pinned([])
    assert pinned_in(cache) == {}


def test_a_pinned_adapter_that_found_no_slot_gets_one_when_it_is_pinned_again(unet3d, make_cache):
    cache = make_cache(Memory(unet3d))
    cache.prefetch([use("a"), use("b")]).result(60)
    leases = [cache.slots.acquire([use(name)], {}) for name in "ab"]
    cache.set_pinned([use("c")])
    until(lambda: not cache._loading_pins)
    assert pinned_in(cache) == {sha("c", "temporal"): "host"}
    leases[1].release()
    cache.set_pinned([use("c")])
    until(lambda: pinned_in(cache) == {sha("c", "temporal"): "slot"})
    assert ("temporal", sha("a", "temporal")) in cache.slots.resident()
    assert not cache.host.resident()[key_of(use("c"))], "it is not held in host memory for ever"


def test_a_pinned_adapter_that_failed_to_load_is_tried_again_after_a_pause(unet3d, make_cache, monkeypatch):
    source = Memory(unet3d, lambda used: replace(random_adapter(unet3d, rank=8)))
    cache = make_cache(source)

    def keep(*names: str) -> None:
        cache.set_pinned([use(name) for name in names])
        until(lambda: not cache._loading_pins)

    for _ in range(3):
        keep("x", "x")
    assert source.reads == ["x"]
    monkeypatch.setattr("serving.adapters.adapter_cache.PIN_RETRY_PAUSE", 0.0)
    keep()  # whoever pins it anew need not wait
    keep("x")
    assert source.reads == ["x"] * 2
    assert pinned_in(cache) == {}
    source.make = source.random
    keep("x")
    assert pinned_in(cache) == {sha("x", "temporal"): "slot"}
