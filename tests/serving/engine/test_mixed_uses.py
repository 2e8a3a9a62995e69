"""Eight requests that use everything at once, from their HTTP bodies to the frames: each gets what it gets alone."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest

from models.denoise import Denoising
from models.load import load_foundation
from models.tiny import RECIPES
from serving.config import make_config
from serving.engine import finishing
from serving.engine.batch import Batch
from serving.events import Finished
from serving.ray.engine_service import build_engine, describe
from serving.requests import VideoRequest, resolve
from serving.schemas import CreateVideo

LEFT, RIGHT = {"box": [0, 0, 0.5, 1]}, {"polygon": [[0.5, 0], [1, 0], [1, 1]], "feather": 0.1}
MOVING = {"keyframes": [{"frame": 0, "box": [0, 0, 0.4, 1]}, {"frame": 3, "box": [0.6, 0, 1, 1]}]}
ORBIT, SWING, LOOK = {"name": "orbit"}, {"name": "swing"}, {"name": "moon", "path": "spatial"}
BODIES = {
    "phases": {"lora": [{**ORBIT, "scale": [1.0, 0.2, -0.5]}]},
    "window": {"lora": [{**ORBIT, "steps": [0.25, 0.75]}], "guidance_scale": 1.0, "steps": 5},
    "region": {"lora": [{**SWING, "region": MOVING}]},
    "held": {"lora": [{**SWING, "region": LEFT, "scale": [2.0, 1.0]}], "outside": "base"},
    "mix of two": {
        "lora": [{**LOOK, "steps": [0.5, 1]}, {**ORBIT, "scale": 0.6}, {**SWING, "region": RIGHT}]
    },
    "noise prior": {"model": "foundation:swing", "noise_prior": {"weight": 0.3}, "steps": 3},
    "everything": {
        "model": "foundation:orbit",
        "lora": [
            {**SWING, "scale": [1.0, 0.5], "steps": [0, 0.6], "region": RIGHT},
            {**LOOK, "region": MOVING},
        ],
        "noise_prior": {"weight": 0.5, "concept": "swing"},
        "negative_prompt": "rain",
    },
}


# A video of the others begins with an image, which no request can give.
FROM_TEXT = [name for name in RECIPES if not name.startswith("wan-image")]


@pytest.fixture(params=FROM_TEXT)
def served(request, publish, registry, tmp_path):
    """An engine of each family with the registry that the requests name, and its configuration."""
    name = f"tiny-random:{request.param}"
    foundation = load_foundation(name, device="cpu", dtype="float32")
    publish(foundation, "orbit", seed=1)
    publish(foundation, "swing", seed=2, references=2)
    publish(foundation, "moon", seed=3, path="spatial")
    config = make_config(
        foundation=name, registry=registry.uri, data_dir=str(tmp_path), device="cpu", rank=4, max_batch=8
    )
    engine = build_engine(config)
    yield engine, config
    engine.close()


def requests_of(engine, config, registry) -> dict[str, VideoRequest]:
    """All eight, with one seed and prompt: what differs comes from the uses. A remix has other words."""
    info, common = describe(engine.foundation, config), {"prompt": "a cat", "seed": 7}
    bodies = {use: CreateVideo.model_validate(common | body) for use, body in BODIES.items()}
    if engine.foundation.embeds_guidance:  # it reads no negative prompt
        bodies = {use: body.model_copy(update={"negative_prompt": None}) for use, body in bodies.items()}
    requests = {use: resolve(body, info, registry)[0] for use, body in bodies.items()}
    remix = {"prompt": "a tank", "remixed_from": "video_1"}
    return requests | {"remix": requests["everything"].model_copy(update=remix)}


def test_a_mixed_batch_of_all_uses_gives_each_request_what_it_has_alone(served, registry, monkeypatch):
    engine, config = served
    made: dict[str, list[Denoising]] = defaultdict(list)
    package, step = finishing.package, Batch.step

    def kept(foundation, state):
        made[state.id].append(state.denoising)
        return package(foundation, state)

    monkeypatch.setattr(finishing, "package", kept)
    requests, ended = requests_of(engine, config, registry), {}
    assert len(requests) == 8

    def submit(id: str) -> None:
        engine.submit(id, requests[id], lambda event: ended.update({id: event}))

    for id in requests:
        submit(id)
        engine.run_until_idle()
    assert not (refused := [event for event in ended.values() if not isinstance(event, Finished)]), refused
    joined = set()

    def when_all_are_here(batch):
        joined.update(batch.active)
        return step(batch) if len(joined) == 8 else None

    monkeypatch.setattr(Batch, "step", when_all_are_here)
    for id in requests:
        submit(id)
    engine.run_until_idle()
    assert all(isinstance(event, Finished) for event in ended.values()), ended
    assert {event.neighbours for event in ended.values()} == {7}
    frames = {}
    for id, (alone, together) in made.items():
        apart = (together.latents_1Cfhw - alone.latents_1Cfhw).abs().max()
        assert apart < engine.foundation.batch_rounding, (id, apart)
        frames[id], beside = (
            finishing.finish(engine.foundation, one).astype(int) for one in (alone, together)
        )
        assert np.abs(frames[id] - beside).max() <= 1, id  # a rounding to the other grey level
    remixed, original = (made[id][0].latents_1Cfhw for id in ("remix", "everything"))
    assert not remixed.equal(original)
    for one, other in itertools.combinations(BODIES, 2):  # a few words hardly change what random weights make
        assert np.abs(frames[one] - frames[other]).max() > 4, f"{one} and {other} show the same"
