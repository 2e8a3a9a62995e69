"""Videos that start from a noise prior, in the engine: the same frames as elsewhere, alone and among others."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from serving_helpers import Bench, Memory, prior, use, video_request

from datasets.video.writing import read_metadata
from infra.errors import InvalidInput, UserError
from models.denoise import sample
from models.generation import GenerationParams, InvertedNoise
from serving.engine import finishing
from serving.engine.request_state import Stage
from serving.events import Failed, Finished


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Frames by prompt, before the codec."""
    kept: dict[str, np.ndarray] = {}
    real = finishing.finish

    def keep(foundation, state):
        kept[state.params.prompt] = real(foundation, state)
        return kept[state.params.prompt]

    monkeypatch.setattr(finishing, "finish", keep)
    return kept


def test_a_noise_prior_gives_the_same_frames_alone_among_neighbours_and_in_models_denoise(foundation, kept):
    bench = Bench(foundation)
    orbit, weight = prior("orbit"), 0.5
    bench.run(
        plain=bench.request(3, prompt="plain"),
        one=bench.request(3, prompt="one", noise_prior=orbit),
        other=bench.request(4, use("a"), prompt="other", noise_prior=prior("swing", 0.2)),
        guided=bench.request(5, use("b"), prompt="guided", guidance_scale=1.0, steps=4),
    )
    assert all(isinstance(bench.last(id), Finished) for id in ("plain", "one", "other", "guided"))
    together = dict(kept)
    Bench(foundation).run(one=bench.request(3, prompt="one", noise_prior=orbit))
    assert np.abs(kept["one"].astype(int) - together["one"]).max() <= 1
    noise = bench.source.read_noise(orbit).noise_NCfhw[3 % 2].float()  # seed 3 picks the second reference
    given = InvertedNoise(weight=weight, noise_Cfhw=noise, source="x")
    request = GenerationParams(prompt="one", seed=3, steps=3, guidance_scale=4.0, noise_prior=given)
    [expected] = sample(foundation, [request])
    assert np.abs(kept["one"].astype(int) - expected).max() <= 1
    assert np.abs(together["plain"].astype(int) - together["one"]).max() > 4


def test_the_metadata_of_a_video_name_its_noise_prior(unet3d):
    bench = Bench(unet3d)
    bench.run(with_prior=bench.request(1, noise_prior=prior("orbit", 0.25)), without=bench.request(1))
    made = read_metadata(bench.last("with_prior").mp4)
    assert made["noise_prior"] == f"orbit@1:{prior('orbit').sha256}*0.25"
    assert "noise_prior" not in read_metadata(bench.last("without").mp4)


def test_a_request_keeps_no_noise_prior_once_it_runs(unet3d):
    bench = Bench(unet3d)
    bench.submit("one", bench.request(1, noise_prior=prior("orbit"), steps=6))
    while not bench.events["one"]:
        bench.engine.tick()
    state = bench.engine.requests.get("one")
    assert state.stage is Stage.RUNNING
    assert state.claim.noise is None
    bench.engine.run_until_idle()


def test_a_noise_prior_is_fetched_once_for_all_who_wait_for_it(unet3d):
    gate = threading.Event()

    class Slow(Memory):
        def fetch(self, used):
            assert gate.wait(20)
            super().fetch(used)

    source = Slow(unet3d)
    bench = Bench(unet3d, source)
    for n in range(3):
        bench.submit(f"r{n}", bench.request(n, use("a"), noise_prior=prior("orbit"), steps=1))
    time.sleep(0.05)
    gate.set()
    bench.engine.run_until_idle()
    assert sorted(source.fetched) == sorted({prior("orbit").sha256, use("a").sha256})
    assert all(isinstance(bench.last(f"r{n}"), Finished) for n in range(3))


def test_a_noise_prior_that_cannot_be_read_ends_its_request_and_no_other(unet3d):
    class Bad(Memory):
        def read_noise(self, used):
            if used.concept == "bad":
                raise InvalidInput("bad@1: noise prior x: it is not one.", code="invalid_noise_prior")
            return super().read_noise(used)

    bench = Bench(unet3d, Bad(unet3d))
    bad, good = prior("bad"), prior("good")
    bench.run(
        bad=bench.request(1, use("a"), noise_prior=bad),
        good=bench.request(2, use("a"), noise_prior=good),
        plain=bench.request(3, use("a")),
    )
    assert isinstance(bench.last("bad"), Failed)
    assert bench.last("bad").code == "invalid_noise_prior"
    assert isinstance(bench.last("good"), Finished)
    assert isinstance(bench.last("plain"), Finished)
    with pytest.raises(UserError, match="it is not one"):
        bench.engine.check(bench.request(1, noise_prior=bad)).result(60)
    bench.engine.check(bench.request(1, noise_prior=good)).result(60)


def test_a_stored_prior_of_another_size_fails_its_request_alone(unet3d):
    bench = Bench(unet3d)
    bucket = unet3d.defaults.bucket
    bench.run(
        one=bench.request(1, noise_prior=prior("orbit"), frames=bucket.frames + 1), two=bench.request(2)
    )
    assert bench.last("one").code == "noise_prior_size"
    assert isinstance(bench.last("two"), Finished)


def test_a_stored_request_survives_its_json():
    request = video_request(noise_prior=prior("orbit", 0.3), remixed_from="video_1")
    assert type(request).model_validate_json(request.model_dump_json()) == request
    older = request.model_dump(mode="json", exclude={"noise_prior", "remixed_from"})
    assert type(request).model_validate(older) == video_request()


def test_no_tensor_comes_out_of_a_stored_request():
    told = video_request().model_dump(mode="json")
    told["noise_prior"] = {"weight": 1.0, "noise_Cfhw": [[1.0]], "source": "x"}
    with pytest.raises(ValueError, match="concept"):
        type(video_request()).model_validate(told)


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_outside_0_to_1_is_refused(weight):
    with pytest.raises(ValueError, match="weight"):
        InvertedNoise(weight=weight, noise_Cfhw=torch.zeros(1), source="x")
