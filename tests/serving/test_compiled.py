"""torch.compile: whatever is mixed after warm-up, nothing is compiled again, and the frames stay what they are."""

from __future__ import annotations

import random

import pytest
import torch
from serving_helpers import Bench, Memory, random_adapter, use
from torch._dynamo.utils import counters

from models.denoise import GenerationRequest, denoise_step, start
from models.load import load_foundation
from models.wan import lora_targets
from serving.compiled import up_to
from serving.events import Finished


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
    compiled = bench.engine._compiled
    assert compiled.sizes == [1, 2, 4]
    assert compiled.kinds == [(0, 0), (0, 1), (0, 2)]
    bench.engine.warm_up()
    assert compiled.graphs == 9
    graphs = counters["stats"]["unique_graphs"]
    draw = random.Random(0)
    states = {}
    for n in range(10):  # ranks 1 to 4, more adapters than slots, one to four rows, any scale
        adapters = {draw.choice("abcde"): draw.uniform(-1, 1) for _ in range(draw.randint(0, 2))}
        request = bench.request(
            n,
            *(use(name, scale=scale) for name, scale in adapters.items()),
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

    request = GenerationRequest("a cat", guidance_scale=1.0, num_inference_steps=2)
    plain, through = start(smallest, request), start(smallest, request)
    denoise_step(smallest, [plain])
    denoise_step(smallest, [through], compiled)
    torch.testing.assert_close(plain.latents_1Cfhw, through.latents_1Cfhw, rtol=0, atol=1e-5)

    other = bench.request(1, frames=9, steps=1)  # a size that was not named runs, and is counted
    bench.run(other=other)
    assert isinstance(bench.last("other"), Finished)
    stats = bench.engine.stats()
    assert (stats.recompilations, stats.uncompiled_forwards) == (0, 1)


def test_sizes_are_powers_of_two_and_the_most():
    assert [up_to(n) for n in (1, 2, 3, 8, 12)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 12]]
