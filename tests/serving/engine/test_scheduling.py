"""Who is served when, and what can be asked of an engine while it runs."""

from __future__ import annotations

import asyncio
import io
import re
import threading
import time
from collections import Counter

import pytest
import torch
from PIL import Image
from serving_helpers import Bench, Memory, sha, use

from infra.errors import DeadlinePassed, UserError
from models.foundations.base import Bucket
from models.load import load_foundation
from serving.engine.budget import ForwardBudget, PeakBytes, measure
from serving.events import Admitted, Failed, Finished, Progressed
from serving.http.metrics import ENGINE
from serving.ray.engine_service import EngineService
from serving.schemas import CreateVideo


def order_of_admission(bench: Bench, requests: dict) -> list[str]:
    """Submit all at once, run, and say who was let in when."""
    order: list[str] = []
    for id, request in requests.items():
        bench.engine.submit(
            id, request, lambda event, id=id: order.append(id) if isinstance(event, Admitted) else None
        )
    while bench.engine.adapters.host.used and len(bench.engine.requests._loaded) < len(requests):
        time.sleep(0.001)
    bench.engine.run_until_idle()
    return order


def test_a_tenant_with_many_requests_does_not_hold_up_one_with_few(unet3d):
    bench = Bench(unet3d, max_batch=1)
    requests = {f"hot{n}": bench.request(n, steps=1, tenant="hot") for n in range(8)}
    requests |= {f"cold{n}": bench.request(n, steps=1, tenant="cold") for n in range(2)}
    order = order_of_admission(bench, requests)
    assert sorted(order[:4]) == ["cold0", "cold1", "hot0", "hot1"]
    assert order[4:] == [f"hot{n}" for n in range(2, 8)]


def test_an_adapter_with_many_requests_does_not_hold_up_another(unet3d):
    bench = Bench(unet3d, max_batch=1)
    bench.engine.adapters.prefetch([use("a"), use("b")]).result(60)
    requests = {f"hot{n}": bench.request(n, use("a"), steps=1) for n in range(6)}
    requests |= {f"cold{n}": bench.request(n, use("b"), steps=1) for n in range(2)}
    assert sorted(order_of_admission(bench, requests)[:4]) == ["cold0", "cold1", "hot0", "hot1"]


def test_priority_goes_first_and_the_others_still_go(unet3d):
    bench = Bench(unet3d, max_batch=1)
    requests = {f"low{n}": bench.request(n, steps=1, priority=-1) for n in range(3)}
    requests |= {f"high{n}": bench.request(n, steps=1, priority=1) for n in range(8)}
    order = order_of_admission(bench, requests)
    assert order[0] == "low0", "nobody else was owed anything yet"
    assert order[1:9] == [f"high{n}" for n in range(8)]


def test_a_deadline_that_passes_in_the_queue_is_an_answer_and_one_that_passes_later_is_none(unet3d):
    bench = Bench(unet3d, max_batch=1)
    bench.submit("first", bench.request(1, steps=4, deadline=time.time() + 0.2))
    bench.engine.tick()
    bench.submit("late", bench.request(2, use("a"), steps=1, deadline=time.time() + 0.2))
    bench.submit("patient", bench.request(3, steps=1, deadline=time.time() + 600))
    time.sleep(0.25)
    bench.engine.run_until_idle()
    assert isinstance(bench.last("late"), Failed)
    assert (type(bench.last("late").error), bench.last("late").code) == (DeadlinePassed, "deadline_passed")
    assert len(bench.events["late"]) == 1
    assert isinstance(bench.last("first"), Finished)
    assert isinstance(bench.last("patient"), Finished)
    assert bench.engine.adapters.host.resident().keys() <= {("temporal", sha("a", "temporal"))}
    assert not bench.engine.adapters.slots._wanted


def test_a_deadline_ends_a_request_while_its_adapter_is_still_on_its_way(unet3d):
    import threading

    gate = threading.Event()

    class Slow(Memory):
        def fetch(self, used):
            assert gate.wait(60)

    bench = Bench(unet3d, Slow(unet3d))
    bench.submit("late", bench.request(1, use("a"), deadline=time.time() + 0.05))
    bench.engine.run_until_idle()
    gate.set()
    assert bench.last("late").code == "deadline_passed"


def test_one_passed_too_often_gets_a_slot_while_the_other_residents_go_on(unet3d):
    bench = Bench(unet3d, max_batch=6, max_overtakes=2)
    bench.engine.adapters.prefetch([use(name) for name in "abc"]).result(60)
    for round in range(2):
        for name in "abc":
            bench.submit(f"{name}{round}", bench.request(1, use(name), steps=3))
    bench.engine.tick()
    bench.submit("cold", bench.request(2, use("d"), steps=1))
    while ("temporal", sha("d", "temporal")) not in bench.engine.adapters.host.resident():
        time.sleep(0.001)
    passed = 0
    while not bench.events["cold"]:  # hot requests wait for every slot at all times
        if bench.engine.stats().waiting < 10:
            for name in "abc":
                bench.submit(f"{name}-{passed}", bench.request(3, use(name), steps=3))
            bench.submit(f"base-{passed}", bench.request(3, steps=1))
            passed += 1
        bench.engine.tick()
        assert passed < 30
    began = {name for name in ("a", "b", "c", "base") for n in range(passed) if bench.events[f"{name}-{n}"]}
    assert {"base"} < began, "others were admitted while a slot ran dry"
    bench.engine.run_until_idle()
    assert all(isinstance(bench.last(id), Finished) for id in bench.events)


def test_a_pinned_adapter_stays_and_a_request_for_all_slots_is_told(unet3d):
    bench = Bench(unet3d)
    bench.engine.adapters.set_pinned([use("a")])
    while ("temporal", sha("a", "temporal")) not in bench.engine.adapters.slots.resident():
        time.sleep(0.001)
    bench.run(**{name: bench.request(1, use(name), steps=1) for name in "bcde"})
    bench.run(wide=bench.request(2, use("b"), use("c"), use("d"), steps=1))
    assert bench.last("wide").code == "slots_pinned"
    assert ("temporal", sha("a", "temporal")) in bench.engine.adapters.slots.resident()
    assert any(one.pinned and one.tier == "slot" for one in bench.engine.adapters.residency())
    bench.engine.adapters.set_pinned([])
    bench.run(wide=bench.request(2, use("b"), use("c"), use("d"), steps=1))
    assert isinstance(bench.last("wide"), Finished)


def test_more_adapters_than_slots_are_refused_before_anything_is_fetched(unet3d):
    bench = Bench(unet3d)
    with pytest.raises(UserError, match="4 temporal adapters and this server has 3 slots"):
        bench.engine.check(bench.request(1, *(use(name) for name in "abcd")))
    assert not bench.source.fetched


@pytest.mark.parametrize("scheduler", range(3))
def test_a_preview_shows_something_and_changes_nothing(foundation, scheduler):
    kinds = foundation.scheduler_kinds()
    if scheduler >= len(kinds):
        pytest.skip(f"{foundation.family} has {len(kinds)} schedulers")
    bench = Bench(foundation)
    request = bench.request(5, steps=3, guidance_scale=1.0, scheduler=kinds[scheduler])
    bench.run(plain=request)
    bench.submit("looked", request)
    with pytest.raises(UserError, match="no preview yet"):
        bench.engine.finisher.preview("looked")
    bench.engine.tick()
    one = bench.engine.finisher.preview("looked")
    bench.engine.run_until_idle()
    picture = Image.open(io.BytesIO(one.result(60)))
    assert (picture.format, picture.size) == ("WEBP", (request.width, request.height))
    assert bench.last("looked").mp4 == bench.last("plain").mp4
    with pytest.raises(UserError, match="not being made here"):
        bench.engine.finisher.preview("looked")


def test_however_many_look_at_a_step_it_is_decoded_once(unet3d, monkeypatch):
    gate, rendered = threading.Event(), []

    def render(foundation, x0_1Cfhw) -> bytes:
        assert gate.wait(60)
        rendered.append(x0_1Cfhw)
        return b"picture %d" % len(rendered)

    monkeypatch.setattr("serving.engine.finishing.render", render)
    bench = Bench(unet3d)
    service = EngineService.__new__(EngineService)
    service.engine, service._streams = bench.engine, {}
    bench.submit("looked", bench.request(5, steps=4))
    bench.engine.tick()

    async def look() -> None:
        several = [asyncio.create_task(service.preview("looked")) for _ in range(20)]
        await asyncio.sleep(0)  # all have begun
        await asyncio.sleep(0)
        bench.engine.tick()
        late = asyncio.create_task(service.preview("looked"))
        await asyncio.sleep(0)
        several[0].cancel()  # whoever goes takes nothing from the others
        gate.set()
        assert await asyncio.gather(*several[1:], late) == [b"picture 1"] * 20
        assert await service.preview("looked") == b"picture 2"
        assert await service.preview("looked") == b"picture 2"

    asyncio.run(look())
    bench.engine.run_until_idle()
    assert isinstance(bench.last("looked"), Finished)


@pytest.mark.parametrize("scheduler", range(3))
def test_the_estimate_of_the_last_step_is_the_result(foundation, scheduler):
    """What a preview shows approaches the video: at the end it is it (DDIM's last step leaves a trace of noise)."""
    from models.denoise import denoise_step, start
    from models.generation import GenerationParams

    kinds = foundation.scheduler_kinds()
    if scheduler >= len(kinds):
        pytest.skip(f"{foundation.family} has {len(kinds)} schedulers")
    state = start(foundation, GenerationParams(prompt="a cat", steps=3, scheduler=kinds[scheduler]))
    first = None
    while not state.done:
        denoise_step(foundation, [state])
        first = state.x0_1Cfhw if first is None else first
    scale = state.latents_1Cfhw.abs().max()
    assert (state.x0_1Cfhw - state.latents_1Cfhw).abs().max() < 0.1 * scale
    assert (first - state.latents_1Cfhw).abs().max() > (state.x0_1Cfhw - state.latents_1Cfhw).abs().max()


def test_neighbours_and_adapters_of_the_batch_are_told(unet3d):
    bench = Bench(unet3d)
    bench.engine.adapters.prefetch([use(name) for name in "ab"]).result(60)
    bench.run(alone=bench.request(1, use("a"), steps=1))
    assert (bench.last("alone").neighbours, bench.last("alone").batch_adapters) == (0, 1)
    bench.run(
        x=bench.request(1, use("a"), steps=4),
        y=bench.request(2, use("b"), steps=4),
        z=bench.request(3, steps=4),
    )
    assert {(bench.last(id).neighbours, bench.last(id).batch_adapters) for id in "xyz"} == {(2, 2)}
    progress = [event for event in bench.events["x"] if isinstance(event, Progressed)]
    assert max(event.batch for event in progress) == 3


def test_the_schedulers_that_the_api_suggests_are_there(unet3d):
    kinds = {*unet3d.scheduler_kinds(), *load_foundation("tiny-random:wan").scheduler_kinds()}
    suggested = re.findall("`(.+?)`", CreateVideo.model_fields["scheduler"].description)
    assert set(suggested) <= kinds
    assert suggested


def test_the_engine_counts_what_prometheus_wants_to_know(unet3d):
    seen: dict[str, list] = {}
    bench = Bench(
        unet3d, observe=lambda name, value, labels=None: seen.setdefault(name, []).append((value, labels))
    )
    bench.run(**{f"{name}{n}": bench.request(n, use(name), steps=1) for name in "abcd" for n in range(2)})
    bench.engine.adapters.shutdown()  # and none is being copied beside the steps any more
    stats = bench.engine.stats()
    assert stats.ended == {"finished": 8, "failed": 0, "cancelled": 0}
    assert stats.adapter_requests == {sha(name, "temporal"): 2 for name in "abcd"}
    assert stats.slot_hits + stats.slot_misses == 8
    assert stats.slot_loads >= 4
    loads = {"disk": 4, "host": 4, "slot": stats.slot_loads}
    assert {tier: count for tier, (count, _) in stats.loads.items()} == loads
    assert Counter(labels["tier"] for _, labels in seen["load_seconds"]) == loads
    assert len(stats.resident["temporal"]) == 3
    assert stats.free_slots == {"temporal": 3, "spatial": 2}
    assert (stats.waiting, stats.active, stats.finishing, stats.recompilations) == (0, 0, 0, 0)
    assert stats.steps > 0 < stats.step_seconds
    assert seen.keys() <= ENGINE.keys()
    assert ENGINE.keys() - seen.keys() == {"recompilations", "uncompiled_forwards"}
    bench.submit("waits", bench.request(1, steps=1))
    assert bench.engine.stats().waiting == 1
    assert bench.engine.stats().waiting_cost > 0
    bench.engine.run_until_idle()


# --- how much a forward takes ----------------------------------------------------------------------------------


def test_the_peak_of_bytes_counts_what_lives_at_once():
    weight = torch.zeros(1000)
    with PeakBytes() as counted:
        a = weight + 1
        b = a + 1
        del a
        c = b.view(10, 100) + 1  # a view is no memory
        del b
    assert counted.peak == 8000
    assert counted.now == c.nbytes == 4000


def test_a_batch_takes_no_more_rows_than_were_measured_to_fit(unet3d):
    bucket = unet3d.defaults.bucket
    bench = Bench(unet3d, max_batch=8)
    one = measure(unet3d, [bucket], available=1)
    assert one.rows(bucket) == 1
    four = next(n for n in range(1, 10**9, 20_000) if measure_cached(unet3d, bucket, n) >= 4)
    assert measure(unet3d, [bucket], four).rows(bucket) == 4
    sizes = []
    bench = Bench(
        unet3d,
        max_batch=8,
        batch_bytes=four,
        observe=lambda name, value, labels=None: sizes.append(value) if name == "batch_size" else None,
    )
    bench.engine.batch.warm_up()
    bench.run(**{f"r{n}": bench.request(n, steps=2) for n in range(6)})  # two rows each, with guidance
    assert max(sizes) == 2
    sizes.clear()
    bench.run(**{f"r{n}": bench.request(n, steps=2, guidance_scale=1.0) for n in range(6)})
    assert max(sizes) == 4


def measure_cached(foundation, bucket, available, known={}) -> int:  # noqa: B006
    from serving.engine.budget import forward_bytes

    if not known:
        known[1], known[2] = (forward_bytes(foundation, bucket, n) for n in (1, 2))
    each = known[2] - known[1]
    return (available - max(0, known[1] - each)) // each


def test_a_bucket_that_was_not_measured_has_its_share_of_pixels():
    budget = ForwardBudget({Bucket(8, 32, 32): 8, Bucket(16, 64, 64): 0})
    assert budget.rows(Bucket(8, 32, 32)) == 8
    assert budget.rows(Bucket(16, 64, 64)) == 1
    assert budget.rows(Bucket(4, 32, 32)) == 16
    assert budget.rows(Bucket(64, 64, 64)) == 1
