"""torch.compile: whatever is mixed after warm-up, nothing is compiled again, and the frames stay what they are."""

from __future__ import annotations

import random

import pytest
import torch
from serving_helpers import Bench, Memory, random_adapter, use
from torch._dynamo.utils import counters
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

import models.lora.bank
from infra.errors import UserError
from models.denoise import denoise_step, start
from models.foundations.base import Bucket
from models.foundations.wan.wan import lora_targets
from models.generation import GenerationParams, SlotUse
from models.load import load_foundation
from models.lora.routing import PATHS, Mix, Routing
from models.regions.region import Region
from serving.config import ServeConfig
from serving.engine.budget import example, forward_bytes
from serving.engine.compiled import CompiledForward, up_to
from serving.events import Finished
from serving.ray.engine_service import build_engine


@pytest.fixture(autouse=True)
def _no_graphs_of_others():
    """Graphs belong to code, which tests share."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def smallest():
    """One block: what is traced is short."""
    foundation = load_foundation("tiny-random:wan")
    foundation.denoiser.blocks = foundation.denoiser.blocks[:1]
    foundation.targets = lora_targets(foundation.denoiser)
    return foundation


def test_nothing_is_compiled_after_warm_up(smallest):
    source = Memory(
        smallest,
        lambda used: random_adapter(smallest, rank=1 + ord(used.concept) % 4, seed=ord(used.concept)),
    )
    bench = Bench(smallest, source, max_batch=2, compile="eager", slots={"temporal": 2, "spatial": 0})
    compiled = bench.engine.batch.compiled
    assert compiled.sizes == {smallest.defaults.bucket: [1, 2, 4]}
    assert compiled.kinds == [(0, 0), (0, 1), (0, 2)]
    bench.engine.batch.warm_up()
    assert compiled.graphs == 9
    graphs = counters["stats"]["unique_graphs"]
    draw, window = random.Random(0), random.Random(1)
    states = {}
    for n in range(10):  # ranks 1 to 4, more adapters than slots, one to four rows, any scale and step window
        adapters = {draw.choice("abcde"): draw.uniform(-1, 1) for _ in range(draw.randint(0, 2))}
        request = bench.request(
            n,
            *(use(name, scale=scale, until=window.choice([0.5, 1.0])) for name, scale in adapters.items()),
            steps=draw.randint(1, 3),
            guidance_scale=draw.choice([1.0, 3.0]),
            scheduler=draw.choice(smallest.scheduler_kinds()),
        )
        states[f"r{n}"] = request
    bench.run(**states)
    assert all(isinstance(bench.last(id), Finished) for id in states)
    stats = bench.engine.stats()
    assert stats.slot_loads > 5, "slots were overwritten"
    assert (stats.recompilations, stats.uncompiled_forwards) == (0, 0)
    assert counters["stats"]["unique_graphs"] == graphs, "torch counts none either"

    request = GenerationParams(prompt="a cat", guidance_scale=1.0, steps=2)
    plain, through = start(smallest, request), start(smallest, request)
    denoise_step(smallest, [plain])
    denoise_step(smallest, [through], compiled)
    torch.testing.assert_close(plain.latents_1Cfhw, through.latents_1Cfhw, rtol=0, atol=1e-5)

    first_half = SlotUse(
        path="temporal", slot=1, until=0.5
    )  # of a request whose neighbour is at another step
    params = request.model_copy(update={"steps": 4, "adapters": (first_half,)})
    pairs = [[start(smallest, params), start(smallest, request)] for _ in range(2)]
    for batch, predict in zip(pairs, (None, compiled), strict=True):
        denoise_step(smallest, batch[1:], predict)
        denoise_step(smallest, batch, predict)
        while not batch[0].done:
            denoise_step(smallest, batch[:1], predict)
    (plain, _), (through, _) = pairs
    torch.testing.assert_close(plain.latents_1Cfhw, through.latents_1Cfhw, rtol=0, atol=1e-4)
    always = start(smallest, params.model_copy(update={"adapters": (SlotUse(path="temporal", slot=1),)}))
    while not always.done:
        denoise_step(smallest, [always], compiled)
    assert (always.latents_1Cfhw - through.latents_1Cfhw).abs().max() > 1e-2, "the window shows"
    assert compiled.graphs == 9

    other = bench.request(1, frames=9, steps=1)  # a size that was not named runs, and is counted
    bench.run(other=other)
    assert isinstance(bench.last("other"), Finished)
    stats = bench.engine.stats()
    assert (stats.recompilations, stats.uncompiled_forwards) == (0, 1)

    region = Region(box=(0, 0, 0.5, 1))  # also one whose neighbour has a region
    pair = [bench.request(n, use("a", **acts), steps=1) for n, acts in enumerate(({"region": region}, {}))]
    bench.run(part=pair[0], whole=pair[1])
    assert all(isinstance(bench.last(id), Finished) for id in ("part", "whole"))
    stats = bench.engine.stats()
    assert (stats.recompilations, stats.uncompiled_forwards) == (0, 2)
    assert compiled.graphs == 9


def test_no_forward_is_larger_than_was_measured_to_fit(smallest):
    """Neither as shapes are compiled, nor as rows are rounded up: three fit, so three are not made four."""
    bucket = smallest.defaults.bucket
    one, two = (forward_bytes(smallest, bucket, rows) for rows in (1, 2))
    bench = Bench(
        smallest,
        max_batch=4,
        compile="eager",
        batch_bytes=one + int(2.5 * (two - one)),
        slots={"temporal": 0, "spatial": 0},
    )
    rows, compiled = [], bench.engine.batch.compiled

    def seen(forward):
        def one(latents, *given):
            rows.append(len(latents))
            return forward(latents, *given)

        return one

    compiled._run, smallest.predict = seen(compiled._run), seen(smallest.predict)
    bench.engine.batch.warm_up()
    assert compiled.sizes == {bucket: [1, 2, 3]}
    bench.run(**{f"r{n}": bench.request(n, guidance_scale=1.0) for n in range(5)})
    assert max(rows) == 3
    assert bench.engine.stats().uncompiled_forwards == 0
    bench.run(guided=bench.request(5), other=bench.request(6))  # two rows each
    assert max(rows) == 3
    assert bench.engine.stats().uncompiled_forwards == 0
    assert all(isinstance(bench.last(id), Finished) for id in bench.events)


def test_the_sizes_to_compile_for_are_configured(tmp_path):
    settings = {
        "foundation": "tiny-random:unet3d",
        "data_dir": str(tmp_path),
        "compile": True,
        "max_batch": 1,
    }
    engine = build_engine(ServeConfig(**settings, warm_sizes=["8x32x32", "4x64x48"]))
    assert engine.batch.compiled.sizes == {Bucket(8, 32, 32): [1, 2], Bucket(4, 64, 48): [1, 2]}
    with pytest.raises(UserError, match="height 33"):
        build_engine(ServeConfig(**settings, warm_sizes=["8x32x32", "4x33x32"]))


def test_a_unet_is_one_graph_a_kind_of_mix_whatever_is_in_the_slots(monkeypatch):
    """Both paths, ranks 1 to 4, any scale, slots overwritten in between: the answers are the uncompiled ones."""
    foundation = load_foundation("tiny-random:unet3d")
    bank = foundation.add_bank({"temporal": 2, "spatial": 2}, 4)
    bucket = Bucket(2, 32, 32)
    compiled = CompiledForward(foundation, [bucket], max_rows=2, max_adapters=2, backend="eager")
    latents, *given, _ = example(foundation, bucket, 2, None)
    latents = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    draw = random.Random(0)

    def mix(width: int) -> Mix:
        slots = [draw.choices([0, 1, 2], k=width) for _ in range(2)]
        return Mix.of([[draw.randint(1, 2), *row[1:]] for row in slots], [[draw.uniform(0.5, 1)] * width] * 2)

    def mixed(n: int) -> Routing:
        for path in PATHS:
            adapter = random_adapter(foundation, path=path, rank=1 + draw.randrange(4), seed=n)
            bank.load(path, 1 + n // 2 % 2, bank.pack(path, adapter.tensors))
        return (
            Routing(temporal=mix(1)) if n % 2 else Routing(spatial=mix(draw.randint(1, 2)), temporal=mix(2))
        )

    with torch.no_grad():
        in_the_layer, ways = models.lora.bank.in_the_layer, set()

        def seen(*args):
            made = in_the_layer(*args)
            ways.add("beside the layer" if made is None else "in its weight")
            return made

        with monkeypatch.context() as patch:
            patch.setattr(models.lora.bank, "in_the_layer", seen)
            before = foundation.predict(latents, *given, mixed(0))
        assert ways == {"beside the layer", "in its weight"}, "both ways are traced"
        for n in range(8):
            routing = mixed(n)
            expected = foundation.predict(latents, *given, routing)
            assert (expected - before).abs().max() > 1e-3, "what is mixed shows"
            torch.testing.assert_close(
                compiled(latents, *given, routing),
                expected,
                rtol=1e-5,
                atol=1e-5 * float(expected.abs().max()),
            )
            before = expected
            assert compiled.graphs == min(n + 1, 2)
    assert compiled.eager == 0


def test_inductor_shows_the_frames_that_are_made_uncompiled(smallest, monkeypatch):
    """`serve --compile` as it is; one shape, for each costs seconds."""
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("on a CPU torch.compile makes C++, and there is no compiler of it here: install g++")
    # Here: processes that compile beside this one would import torch first.
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)
    made = {}
    for compile in (False, True):
        bench = Bench(smallest, max_batch=1, compile=compile, slots={"temporal": 1, "spatial": 0})
        bench.run(one=bench.request(3, use("a"), steps=2, guidance_scale=1.0))
        made[compile] = bench.frames("one").astype(int)
    assert bench.engine.batch.compiled.graphs == 1
    assert bench.engine.stats().uncompiled_forwards == 0
    assert abs(made[True] - made[False]).mean() < 0.1
    assert made[True].std() > 1, "there is something to see"


def test_sizes_are_powers_of_two_and_the_most():
    assert [up_to(n) for n in (1, 2, 3, 8, 12)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 12]]
