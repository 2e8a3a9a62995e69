"""The engine: mixed batches, arrivals, cancels, failures. Frames never depend on the neighbours."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from serving_helpers import Bench, Memory, random_adapter, sha, use

from datasets.video.writing import read_metadata
from infra.errors import InvalidInput, UserError
from models.denoise import sample
from models.foundations.shared.pixels import to_uint8
from serving.engine import batch as batch_module
from serving.engine import finishing
from serving.events import Admitted, Cancelled, Event, Failed, Finished, Progressed


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[torch.Tensor, np.ndarray]]:
    """Final latents and frames by seed, before the codec."""
    kept: dict[int, tuple[torch.Tensor, np.ndarray]] = {}
    real = finishing.finish

    def keep(foundation, state):
        frames_FHWC = real(foundation, state)
        kept[state.params.seed] = (state.latents_1Cfhw[0].clone(), frames_FHWC)
        return frames_FHWC

    monkeypatch.setattr(finishing, "finish", keep)
    return kept


def test_a_request_tells_its_way_and_ends_with_a_video(unet3d):
    bench = Bench(unet3d)
    bench.run(a=bench.request(1, use("orbit")))
    kinds = [type(event) for event in bench.events["a"]]
    assert kinds == [Admitted, Progressed, Progressed, Progressed, Finished]
    finished = bench.last("a")
    assert set(finished.timings) == {"queue", "adapter_load", "denoise", "decode", "device"}
    made = read_metadata(finished.mp4)
    assert made["prompt"] == "prompt 1"
    assert made["seed"] == "1"
    assert made["concept"] == "orbit@1"
    assert sha("orbit", "temporal") in made["adapters"]
    assert made["foundation_fingerprint"] == unet3d.fingerprint
    assert bench.frames("a").shape[0] == unet3d.defaults.bucket.frames


def test_frames_are_the_same_alone_and_among_any_neighbours(foundation, kept, monkeypatch):
    """Random mixes of adapters, scales, guidance, steps, schedulers and sizes, random arrivals and cancels."""
    pixels: list[torch.Tensor] = []  # as decoded, in [-1, 1], before they are grey levels
    family, real = type(foundation).__module__, to_uint8
    monkeypatch.setattr(f"{family}.to_uint8", lambda video: pixels.append(video) or real(video))
    bench = Bench(foundation, max_batch=4)
    draw = random.Random(0)
    bucket = foundation.defaults.bucket
    other_frames = bucket.frames + (foundation.sizes.frame_step or foundation.sizes.temporal_scale)
    requests = {}
    for seed in range(12):
        adapters = [
            use(draw.choice("abcde"), scale=draw.choice([0.5, 1.0])) for _ in range(draw.randint(0, 2))
        ]
        adapters = list({used.sha256: used for used in adapters}.values())
        if draw.random() < 0.4:
            adapters.append(use(draw.choice("xy"), path="spatial", scale=0.7))
        requests[f"r{seed}"] = bench.request(
            seed,
            *adapters,
            steps=draw.randint(1, 5),
            guidance_scale=draw.choice([1.0, 3.0, 7.5]),
            scheduler=draw.choice([None, *foundation.scheduler_kinds()]),
            frames=draw.choice([bucket.frames, bucket.frames, other_frames]),
        )
    waiting = list(requests)
    cancelled = {"r3", "r8"}
    while waiting or bench.engine.requests:
        for _ in range(draw.randint(0, 2)):
            if waiting:
                id = waiting.pop(0)
                bench.submit(id, requests[id])
        bench.engine.tick()
        for id in cancelled - set(waiting):
            if draw.random() < 0.5:
                bench.engine.cancel(id)
    together = dict(kept)
    ended = {id: type(bench.last(id)) for id in requests}
    assert {id for id, kind in ended.items() if kind is Cancelled} <= cancelled
    assert all(kind in (Finished, Cancelled) for kind in ended.values())
    assert set(bench.engine.adapters.slots.resident().values()) <= {0}, "a slot is still pinned"

    alone = Bench(foundation, max_batch=1)
    for id, request in requests.items():
        if ended[id] is Finished:
            alone.run(**{id: request})
            latents, frames = together[request.seed]
            latents_alone, frames_alone = kept[request.seed]
            torch.testing.assert_close(latents, latents_alone, rtol=0, atol=1e-4)
            pixels.clear()
            foundation.decode(torch.stack([latents, latents_alone]))
            ((video, video_alone),) = pixels
            torch.testing.assert_close(video / 2, video_alone / 2, rtol=0, atol=1e-4)  # of the whole range
            assert np.abs(frames.astype(int) - frames_alone).max() <= 1  # a rounding to the other grey level


def test_adapters_scales_and_seeds_each_change_the_frames(unet3d, kept):
    bench = Bench(unet3d)
    variants = [(), (use("a"),), (use("b"),), (use("a", scale=0.5),), (use("a"), use("x", path="spatial"))]
    finals = []
    for adapters in variants:
        bench.run(one=bench.request(7, *adapters))
        finals.append(kept.pop(7)[0])
    bench.run(one=bench.request(8))
    finals.append(kept.pop(8)[0])
    for i, first in enumerate(finals):
        for second in finals[:i]:
            assert (first - second).abs().max() > 1e-3


def test_a_request_joins_a_running_batch_within_one_step(unet3d):
    bench = Bench(unet3d)
    bench.submit("first", bench.request(1, steps=6))
    bench.engine.tick()
    bench.submit("second", bench.request(2, steps=2))
    bench.engine.tick()
    assert [type(event) for event in bench.events["second"]] == [Admitted, Progressed]
    assert bench.last("first") == Progressed(2, 6, batch=2)
    bench.engine.run_until_idle()
    assert isinstance(bench.last("first"), Finished)


def test_the_batch_is_bounded(unet3d):
    sizes = []
    bench = Bench(unet3d, max_batch=2, observe=lambda name, value, labels=None: sizes.append((name, value)))
    bench.run(**{f"r{n}": bench.request(n) for n in range(5)})
    batches = [value for name, value in sizes if name == "batch_size"]
    assert max(batches) == 2
    assert all(isinstance(bench.last(f"r{n}"), Finished) for n in range(5))


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No video is decoded before this is set."""
    gate, real = threading.Event(), finishing.package

    def package(foundation, state):
        assert gate.wait(20), "nobody let it begin: it is in the way of the steps"
        return real(foundation, state)

    monkeypatch.setattr(finishing, "package", package)
    return gate


def test_a_video_is_decoded_beside_the_steps_of_the_others(unet3d, decoding):
    bench = Bench(unet3d)
    bench.submit("short", bench.request(1, steps=1))
    bench.submit("long", bench.request(2, steps=4))
    for step in range(1, 4):
        assert bench.engine.tick()
        assert bench.last("long") == Progressed(step, 4, batch=2 if step == 1 else 1)
        assert bench.last("short") == Progressed(1, 1, batch=2)
        assert bench.engine.stats().finishing == 1
    decoding.set()
    bench.engine.run_until_idle()
    assert isinstance(bench.last("short"), Finished)
    assert isinstance(bench.last("long"), Finished)


def test_no_more_begin_while_a_whole_batch_waits_to_be_decoded(unet3d, decoding):
    bench = Bench(unet3d, max_batch=2)
    for n in range(5):
        bench.submit(f"r{n}", bench.request(n, steps=1))
    assert bench.engine.tick()
    assert not bench.engine.tick(), "finished videos pile up"
    stats = bench.engine.stats()
    assert (stats.finishing, stats.active, stats.waiting) == (2, 0, 3)
    decoding.set()
    bench.engine.run_until_idle()
    assert all(isinstance(bench.last(f"r{n}"), Finished) for n in range(5))


def test_cancelling_frees_the_place_within_one_step(unet3d):
    bench = Bench(unet3d, max_batch=1)
    bench.submit("long", bench.request(1, use("a"), steps=400))
    while not bench.events["long"]:
        bench.engine.tick()
    bench.submit("next", bench.request(2, steps=1))
    bench.engine.tick()
    assert not bench.events["next"]
    assert bench.engine.cancel("long")
    bench.engine.tick()
    assert isinstance(bench.last("long"), Cancelled)
    assert isinstance(bench.events["next"][0], Admitted)
    bench.engine.run_until_idle()
    assert not bench.engine.cancel("long")


def test_slots_in_use_are_never_evicted_and_waiting_for_one_holds_no_resident_up(unet3d):
    bench = Bench(unet3d, max_batch=8)
    for name in "abc":  # all three temporal slots
        bench.submit(name, bench.request(ord(name), use(name), steps=60))
    while len(bench.engine.adapters.slots.resident()) < 3:
        bench.engine.tick()
    bench.submit("d", bench.request(1, use("d"), steps=1))
    bench.submit("again", bench.request(2, use("a"), steps=1))
    while not bench.events["again"]:
        bench.engine.tick()
    assert not bench.events["d"], "a fourth adapter got a slot while three were in use"
    bench.engine.run_until_idle()
    assert all(isinstance(bench.last(id), Finished) for id in ("a", "b", "c", "d", "again"))
    assert len(bench.engine.adapters.slots.resident()) == 3
    assert ("temporal", sha("d", "temporal")) in bench.engine.adapters.slots.resident()


def test_a_request_that_waits_for_a_slot_is_not_passed_for_ever(unet3d):
    bench = Bench(unet3d, max_batch=4, max_overtakes=3)
    for name in "abc":
        bench.submit(name, bench.request(1, use(name), steps=2))
    while len(bench.engine.adapters.slots.resident()) < 3:
        bench.engine.tick()
    bench.submit("cold", bench.request(2, use("d"), steps=1))
    while sha("d", "temporal") not in {one.sha256 for one in bench.engine.adapters.residency()}:
        time.sleep(0.001)  # from here on it waits for a slot alone
    hot: list[str] = []

    def finished() -> int:
        return sum(isinstance(bench.last(one), Finished) for one in hot if bench.events[one])

    while not bench.events["cold"]:  # hot requests keep every slot pinned at all times
        # What has finished is counted, not ticks: while an adapter is read, a tick does nothing.
        while len(hot) - finished() < 6:
            for name in "abc":
                hot.append(f"{name}{len(hot)}")
                bench.submit(hot[-1], bench.request(3, use(name), steps=2))
        bench.engine.tick()
        assert finished() < 60
    bench.engine.run_until_idle()
    assert isinstance(bench.last("cold"), Finished)


def test_a_cold_adapter_does_not_delay_a_request_whose_adapter_is_here(unet3d):
    gate = threading.Event()

    class Slow(Memory):
        def fetch(self, used):
            if used.concept.startswith("cold"):
                assert gate.wait(60)
            super().fetch(used)

    bench = Bench(unet3d, Slow(unet3d))
    bench.run(before=bench.request(9, use("a"), steps=1))
    for n in range(8):  # more than are fetched at once
        bench.submit(f"cold{n}", bench.request(1, use(f"cold{n}"), steps=1))
    bench.submit("hot", bench.request(2, use("a"), steps=1))
    while not isinstance(([None, *bench.events["hot"]])[-1], Finished):
        bench.engine.tick()
    assert not any(bench.events[f"cold{n}"] for n in range(8))
    gate.set()
    bench.engine.run_until_idle()
    assert all(isinstance(bench.last(f"cold{n}"), Finished) for n in range(8))


def test_an_adapter_that_cannot_be_had_fails_its_request_alone(unet3d):
    class Broken(Memory):
        def read(self, used):
            raise InvalidInput("it is broken.", code="invalid_adapter")

    bench = Bench(unet3d, Broken(unet3d))
    bench.run(bad=bench.request(1, use("a")), good=bench.request(2))
    assert isinstance(bench.last("bad"), Failed)
    error = bench.last("bad").error
    assert (type(error), error.message, error.code) == (InvalidInput, "it is broken.", "invalid_adapter")
    assert isinstance(bench.last("good"), Finished)


def test_an_adapter_of_too_high_a_rank_is_refused_by_name(unet3d):
    bench = Bench(unet3d, Memory(unet3d, lambda used: random_adapter(unet3d, rank=8)))
    with pytest.raises(InvalidInput, match="a@1 has rank 8, and this server's slots hold at most 4"):
        bench.engine.check(bench.request(1, use("a"))).result(60)


@pytest.mark.parametrize(
    ("rank", "way_out"), [(1024, "start the server with --rank 1024"), (5120, "concepts export")]
)
def test_an_adapter_of_whole_layers_is_refused_with_a_way_that_there_is(unet3d, rank, way_out):
    whole = replace(random_adapter(unet3d), rank=rank)
    bench = Bench(unet3d, Memory(unet3d, lambda used: whole))
    with pytest.raises(UserError, match=f"a@1 has rank {rank}, .* hold at most 4; .*{way_out}"):
        bench.engine.check(bench.request(1, use("a"))).result(60)


def test_a_step_that_fails_ends_only_the_guilty_request(unet3d, monkeypatch):
    bench = Bench(unet3d)
    real = batch_module.denoise_step

    def fragile(foundation, batch, predict):
        if any(state.params.seed == 13 for state in batch):
            raise FloatingPointError("thirteen")
        real(foundation, batch, predict)

    monkeypatch.setattr(batch_module, "denoise_step", fragile)
    bench.run(good=bench.request(1, use("a")), bad=bench.request(13, use("b")), fine=bench.request(2))
    assert bench.last("bad").code == "internal_error"
    assert isinstance(bench.last("good"), Finished)
    assert isinstance(bench.last("fine"), Finished)
    assert set(bench.engine.adapters.slots.resident().values()) <= {0}


def test_latents_that_are_not_finite_are_an_error_and_no_black_video(unet3d, monkeypatch):
    bench = Bench(unet3d, Memory(unet3d, lambda used: random_adapter(unet3d, scale=1e30)))
    bench.run(bad=bench.request(1, use("a")))
    assert bench.last("bad").code == "not_finite"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 30}, "width 30"),
        ({"width": 33}, "even width"),
        ({"scheduler": "euler-of-nowhere"}, "expected one of"),
    ],
)
def test_a_request_this_model_cannot_make_is_refused_with_a_sentence(unet3d, wrong, message):
    bench = Bench(unet3d)
    with pytest.raises(InvalidInput, match=message):
        bench.engine.check(bench.request(1, **wrong))


def test_the_engine_runs_in_its_own_thread_and_stops(unet3d):
    import queue

    bench = Bench(unet3d)
    events: queue.Queue[Event] = queue.Queue()
    bench.engine.start()
    bench.engine.submit("a", bench.request(1, use("a")), events.put)
    while not isinstance(event := events.get(timeout=60), Finished):
        assert isinstance(event, Admitted | Progressed)
    bench.engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        bench.engine.submit("b", bench.request(2), events.put)


def test_an_adapter_with_a_step_window_acts_in_the_first_steps_alone_or_among_neighbours(foundation, kept):
    """As models.denoise makes it of the same settings; without a window nothing changes."""
    half = [use("a", until=0.5), use("x", path="spatial", until=0.25)]
    bench = Bench(foundation, max_batch=4)
    windowed, whole = (
        bench.request(1, *half, steps=4),
        bench.request(1, use("a"), use("x", path="spatial"), steps=4),
    )
    direct = [one.in_slots([1, 1]) for one in (windowed, whole)]
    for used in windowed.adapters:
        foundation.bank.write(used.path, 1, bench.source.random(used).tensors)
    expected, always = sample(foundation, direct, batch_size=1)
    assert np.abs(expected.astype(int) - always).max() > 8, "the window is seen in the frames"

    bench = Bench(foundation, max_batch=4)
    bench.run(alone=windowed)
    alone = kept[1][1].astype(int)
    neighbours = {
        "base": bench.request(2, steps=3),
        "same": bench.request(3, use("a"), steps=5),
        "other": bench.request(4, use("b", until=0.75), steps=4, guidance_scale=1.0),
    }
    bench.submit("base", neighbours["base"])
    bench.engine.tick()  # so that the steps of the requests are not the same ones
    bench.run(**{id: one for id, one in neighbours.items() if id != "base"}, together=windowed)
    finished = bench.last("together")
    assert isinstance(finished, Finished)
    assert finished.neighbours > 0
    assert "steps=0/0.5" in read_metadata(finished.mp4)["adapters"]
    assert np.abs(alone - expected).max() <= 1
    assert np.abs(kept[1][1].astype(int) - expected).max() <= 1
