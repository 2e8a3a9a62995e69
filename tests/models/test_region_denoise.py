"""Adapters with regions, phases and windows: where and when they act, alone and beside other requests."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from infra.errors import InvalidInput
from models.denoise import denoise_step, finish, routing_of, sample, start
from models.foundations.base import Bucket
from models.generation import GenerationParams, SlotUse
from models.lora.routing import Mix
from models.lora.slots import LoraSlots
from models.regions.coverage import coverage
from models.regions.region import Region

RIGHT = Region(box=(0.5, 0, 1, 1), feather=0)
LEFT = Region(box=(0, 0, 0.5, 1), feather=0)


@pytest.fixture
def banked(foundation, fill):
    """A foundation whose bank has two adapters of each path."""
    bank = foundation.add_bank({"spatial": 2, "temporal": 2}, rank=4)
    for path in ("spatial", "temporal"):
        for slot in (1, 2):
            fill(bank, path, slot, seed=10 * slot, std=0.3)
    return foundation


def request(seed=1, *uses, **settings):
    given = {"prompt": "a cat", "seed": seed, "steps": 4, **settings}
    return GenerationParams(**given, adapters=tuple(uses))


def use(slot=1, path="temporal", **settings):
    return SlotUse(path=path, slot=slot, **settings)


def layer_outputs(foundation, state, names):
    """What each of these layers gives in one forward for a request, by name."""
    seen, hooks = {}, []
    for name in names:

        def keep(_module, _args, output, name=name):
            seen.setdefault(name, output.clone())

        hooks.append(foundation.denoiser.get_submodule(name).register_forward_hook(keep))
    with torch.no_grad():
        foundation.predict(
            state.latents_1Cfhw.expand(state.text_RLD.shape[0], -1, -1, -1, -1),
            state.timesteps[:1].expand(state.text_RLD.shape[0]),
            state.text_RLD,
            routing_of(foundation, [state] * state.text_RLD.shape[0]),
        )
    for hook in hooks:
        hook.remove()
    return seen


def in_order_of_use(foundation, state):
    """The target layers in the order in which a forward calls them."""
    called, hooks = [], []
    for name in dict.fromkeys((*foundation.targets["spatial"], *foundation.targets["temporal"])):
        linear = foundation.denoiser.get_submodule(name)
        hooks.append(linear.register_forward_pre_hook(lambda *_, name=name: called.append(name)))
    with torch.no_grad():
        foundation.predict(state.latents_1Cfhw, state.timesteps[:1], state.text_RLD[:1])
    for hook in hooks:
        hook.remove()
    return called


@pytest.mark.parametrize("path", ["spatial", "temporal"])
def test_outside_a_region_the_first_adapted_layer_gives_exactly_what_the_base_gives(banked, path):
    base = start(banked, request(guidance_scale=1.0))
    first = next(name for name in in_order_of_use(banked, base) if name in banked.targets[path])
    plain = layer_outputs(banked, base, [first])[first]
    whole = start(banked, request(1, use(path=path), guidance_scale=1.0))
    part = start(banked, request(1, use(path=path, region=RIGHT), guidance_scale=1.0))
    everywhere, inside = (layer_outputs(banked, one, [first])[first] for one in (whole, part))
    layout = banked.token_layout(first, base.bucket)
    covered_RT = layout.means(coverage(RIGHT, base.bucket)).view(layout.cells_RT3.shape[:2])
    assert set(covered_RT.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(inside[covered_RT == 0], plain[covered_RT == 0])
    torch.testing.assert_close(inside[covered_RT == 1], everywhere[covered_RT == 1], atol=1e-5, rtol=1e-5)
    assert (inside[covered_RT == 1] - plain[covered_RT == 1]).abs().max() > 1e-2


def test_the_term_of_a_layer_is_multiplied_by_each_tokens_coverage(banked):
    """Half a cell covered is half the change."""
    layer = banked.targets["temporal"][0]
    bucket = banked.defaults.bucket
    narrow = Region(box=(0, 0, 0.1875, 1), feather=0)  # 6 of 32 pixels: 3/4 of an 8 pixel cell
    base, whole, part = (
        layer_outputs(banked, start(banked, request(1, *uses, guidance_scale=1.0)), [layer])[layer]
        for uses in ((), (use(),), (use(region=narrow),))
    )
    weights = banked.token_layout(layer, bucket).means(coverage(narrow, bucket)).view(base.shape[:-1])
    assert 0 < float(weights[weights > 0].min()) < 1
    expected = base + weights[..., None] * (whole - base)
    torch.testing.assert_close(part, expected, atol=1e-5, rtol=1e-5)


MOVING = Region(keyframes=[{"frame": 0, "box": (0, 0, 0.4, 1)}, {"frame": 3, "box": (0.6, 0, 1, 1)}])
POOL = [
    request(1, use(region=RIGHT)),
    request(2, guidance_scale=1.0, steps=3),
    request(3, use(1, region=MOVING, scale=[1.0, 0.3], steps=(0.0, 0.75)), use(2, "spatial")),
    request(4, use(2, scale=0.7), steps=6),
    request(5, use(1, region=LEFT), use(2, region=RIGHT, steps=(0.5, 1.0)), use(1, "spatial", region=LEFT)),
    request(6, use(2, region=RIGHT, scale=[0.5, -0.5, 1]), outside="base"),
]


def test_each_request_of_a_mixed_batch_gets_what_it_gets_alone(banked):
    """With and without regions, phases, windows and `outside`, joining and leaving at different steps."""
    alone = []
    for one in POOL:
        state = start(banked, one)
        while not state.done:
            denoise_step(banked, [state])
        alone.append(state)
    waiting, running, ended = list(enumerate(POOL)), {}, {}
    while waiting or running:
        for number, one in waiting[:2]:
            running[number] = start(banked, one)
        waiting = waiting[2:]
        denoise_step(banked, list(running.values()))
        ended |= {number: state for number, state in running.items() if state.done}
        running = {number: state for number, state in running.items() if not state.done}
    for number, expected in enumerate(alone):
        largest = expected.latents_1Cfhw.abs().max()
        apart = (ended[number].latents_1Cfhw - expected.latents_1Cfhw).abs().max()
        assert apart < 1e-4 * largest, (number, apart, largest)
        frames, wanted = (finish(banked, state).astype(int) for state in (ended[number], expected))
        assert abs(frames - wanted).max() <= 1


def test_requests_without_regions_do_not_enter_the_code_of_regions(banked, monkeypatch):
    products = []
    real = LoraSlots.forward

    def watched(self, x, y, mix, dropout, seeds):
        products.append(mix.coverage is not None)
        return real(self, x, y, mix, dropout, seeds)

    monkeypatch.setattr(LoraSlots, "forward", watched)
    merged = []
    monkeypatch.setattr(LoraSlots, "added_to", lambda self, weight, mix: merged.append(1) or weight)
    sample(banked, [request(1, use(), steps=1), request(2, use(2), steps=1)])
    assert not any(products)
    without = len(merged)
    products.clear()
    sample(banked, [request(1, use(region=RIGHT), steps=1), request(2, use(2), steps=1)])
    assert products
    assert all(products), "no layer is merged while an adapter of the batch has a region"
    assert len(merged) == without


def test_regions_are_computed_once_for_a_request(banked, monkeypatch):
    calls = []
    monkeypatch.setattr("models.regions.layers.coverage", lambda *given: calls.append(1) or coverage(*given))
    sample(banked, [request(1, use(region=RIGHT), use(1, "spatial", region=RIGHT), use(2, region=LEFT))])
    assert len(calls) == 2, "equal regions share their weights"
    state = start(banked, request(1, use(region=MOVING)))
    first, again = (routing_of(banked, [state]).temporal.coverage for _ in range(2))
    assert first.keys() == {f"temporal:{name}" for name in banked.targets["temporal"]}
    assert all(torch.equal(first[name], again[name]) for name in first)
    shared = {id(tensor) for tensor in first.values()}
    layouts = {banked.token_layout(name, state.bucket) for name in banked.targets["temporal"]}
    assert len(shared) == len(layouts), "layers with the same tokens share a tensor"


def test_a_region_over_the_whole_frame_is_no_region(banked):
    whole, none = sample(
        banked, [request(1, use(region=Region(box=(0, 0, 1, 1)))), request(1, use())], batch_size=1
    )
    assert abs(whole.astype(int) - none).max() <= 1


def test_an_adapter_in_two_neighbouring_regions_acts_as_in_both_together(banked):
    """Their soft edges add up to one."""
    left, right = (Region(box=box, feather=0.2) for box in ((0, 0, 0.4, 1), (0.4, 0, 1, 1)))
    both, none = sample(
        banked, [request(1, use(region=left), use(region=right)), request(1, use())], batch_size=1
    )
    assert abs(both.astype(int) - none).max() <= 1


def test_each_step_uses_the_scale_of_its_phase(banked):
    phased = start(banked, request(1, use(scale=[1.0, -0.5], steps=(0.25, 1.0)), steps=8))
    scales = []
    while not phased.done:
        routing = routing_of(banked, [phased])
        scales.append(0.0 if routing is None else routing.temporal.scales.item())
        denoise_step(banked, [phased])
    assert scales == [0.0, 0.0, 1.0, 1.0, 1.0, -0.5, -0.5, -0.5]


@pytest.mark.parametrize("kind", [0, 1], ids=["own scheduler", "other scheduler"])
def test_outside_all_regions_the_latents_are_the_base_models(banked, kind):
    scheduler = banked.scheduler_kinds()[kind]
    asked = request(1, use(region=RIGHT), outside="base", scheduler=scheduler)
    base, held, free = (
        start(banked, one)
        for one in (
            request(1, scheduler=scheduler),
            asked,
            asked.model_copy(update={"outside": None}),
        )
    )
    half = base.latents_1Cfhw.shape[-1] // 2
    while not base.done:
        for state in (base, held, free):
            denoise_step(banked, [state])
        outside, inside = slice(None, half), slice(half, None)
        torch.testing.assert_close(
            held.latents_1Cfhw[..., outside], base.latents_1Cfhw[..., outside], atol=1e-4, rtol=1e-4
        )
        assert (held.latents_1Cfhw - base.latents_1Cfhw)[..., inside].abs().max() > 1e-2
    assert (free.latents_1Cfhw - base.latents_1Cfhw)[..., :half].abs().max() > 1e-3, (
        "without it attention carries the adapter's influence outside"
    )
    torch.testing.assert_close(held.x0_1Cfhw[..., :half], base.x0_1Cfhw[..., :half], atol=1e-4, rtol=1e-4)


def test_outside_takes_a_row_more_for_each_row_and_nothing_without_adapters(banked):
    rows = []

    def predict(latents, *rest):
        rows.append(latents.shape[0])
        return banked.predict(latents, *rest)

    for one in (
        request(1, use(region=RIGHT), outside="base"),
        request(1, use(region=RIGHT), outside="base", guidance_scale=1.0),
        request(1, use(region=RIGHT)),
        request(1, outside="base"),
    ):
        denoise_step(banked, [start(banked, one)], predict)
    assert rows == [4, 2, 2, 2]


def test_outside_needs_a_region_for_every_adapter(banked):
    with pytest.raises(InvalidInput, match="needs a region for every adapter, and one has none"):
        start(banked, request(1, use(region=RIGHT), use(1, "spatial"), outside="base"))


def test_a_region_that_does_not_suit_the_video_is_refused_at_the_start(banked):
    with pytest.raises(InvalidInput, match="outside the frame of 32x32"):
        start(banked, request(1, use(region=Region(box=(0, 0, 40, 8), unit="pixels"))))


def test_frames_pixels_and_cells_of_a_moving_region_agree_at_every_resolution(banked):
    """A region over one frame, or one corner, weighs the tokens that stand for it and no others."""
    bucket = Bucket(banked.defaults.bucket.frames, 48, 32)
    corner = Region(box=(16, 32, 32, 48), unit="pixels", feather=0)
    boxes = [(0, 0, 1, 1) if frame == 0 else (0, 0, 16, 16) for frame in range(bucket.frames)]
    first = Region(
        keyframes=[{"frame": frame, "box": box} for frame, box in enumerate(boxes)], unit="pixels", feather=0
    )
    for path, names in banked.targets.items():
        for name in names:
            layout = banked.token_layout(name, bucket)
            for region in (corner, first):
                covered_FHW = coverage(region, bucket)
                weights_RT = layout.means(covered_FHW).view(layout.cells_RT3.shape[:2])
                for sequence, token in ((0, 0), (weights_RT.shape[0] - 1, weights_RT.shape[1] - 1)):
                    frames, rows, columns = layout.region(sequence, token)
                    cell = covered_FHW[
                        frames.start : frames.stop, rows.start : rows.stop, columns.start : columns.stop
                    ]
                    assert float(weights_RT[sequence, token]) == pytest.approx(float(cell.mean())), (
                        path,
                        name,
                    )


def test_a_bank_that_trains_takes_no_regions(foundation):
    layer = LoraSlots(nn.Linear(4, 4), 1, 2, True, torch.float32)
    layer.key = "temporal:one"
    mix = Mix.of([[1]], coverage={"temporal:one": torch.ones(1, 1, 3)})
    with pytest.raises(AssertionError, match="serving banks"):
        layer(torch.ones(1, 3, 4), torch.ones(1, 3, 4), mix, 0.0, ())
