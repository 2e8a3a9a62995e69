"""The official `openai` client against a server with a true engine: create, poll, list, download, delete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from fakes import on_loopback
from serving_helpers import Publish

from datasets.video.decode import decode
from datasets.video.writing import read_metadata
from infra.registry import Registry
from serving.config import ServeConfig
from serving.http.api import create_api
from serving.http.service import VideoService
from serving.keys import ApiKey, hash_key
from serving.ray.engine_service import EngineService

KEY = "a-key-for-the-openai-client"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def client(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[openai.OpenAI]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    key = ApiKey(sha256=hash_key(KEY), requests_per_minute=4)
    config = ServeConfig(
        foundation="tiny-random:unet3d",
        registry=registry.uri,
        data_dir=str(tmp_path),
        slots=2,
        api_keys=[key],
    )
    engine = EngineService(config)
    with on_loopback(create_api(VideoService(config, engine))) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    engine.close()


@pytest.mark.usefixtures("lists_anew")
def test_it_creates_polls_lists_downloads_and_deletes(client: openai.OpenAI, publish: Publish, unet3d):
    publish(unet3d, "orbit")
    publish(unet3d, "swing", seed=2)
    lora = [{"name": "swing", "scale": 0.5}]
    video = client.videos.create_and_poll(
        model="foundation:orbit",
        prompt="a bear",
        seconds="1",
        size="32x32",
        extra_body={"seed": 7, "steps": 2, "guidance_scale": 3.0, "lora": lora},
        poll_interval_ms=20,
    )
    assert (video.status, video.progress, video.object) == ("completed", 100, "video")
    assert (video.model, video.size, video.seconds, video.error) == ("foundation:orbit@1", "32x32", "1", None)
    assert (video.seed, video.steps) == (7, 2)  # what OpenAI's model does not know comes along
    assert [use["concept"] for use in video.adapters] == ["orbit", "swing"]
    frames = decode(client.videos.download_content(video.id).read()).frames_FHWC
    assert frames.shape == (unet3d.defaults.fps, 32, 32, 3)
    second = client.videos.create(prompt="a tank", extra_body={"steps": 1})
    assert [one.id for one in client.videos.list(limit=1)] == [second.id, video.id], (
        "it asks for the next page itself"
    )
    assert client.videos.delete(video.id).deleted is True
    with pytest.raises(openai.NotFoundError) as caught:
        client.videos.retrieve(video.id)
    assert caught.value.code == "video_not_found"
    assert {model.id for model in client.models.list()} >= {"foundation", "foundation:orbit@1"}


@pytest.mark.usefixtures("lists_anew")
def test_it_remixes_a_video_that_started_from_a_noise_prior(
    client: openai.OpenAI, publish: Publish, registry: Registry, unet3d
):
    publish(unet3d, "orbit", references=1)
    asked = {"seed": 7, "steps": 2, "noise_prior": {"weight": 0.3}}
    first = client.videos.create_and_poll(
        model="foundation:orbit", prompt="a bear", extra_body=asked, poll_interval_ms=20
    )
    assert first.status == "completed"
    assert (first.noise_prior["concept"], first.noise_prior["weight"]) == ("orbit", 0.3)
    assert first.remixed_from_video_id is None
    registry.remove("orbit@1")
    queued = client.videos.remix(first.id, prompt="a tank")
    assert (queued.status, queued.prompt, queued.remixed_from_video_id) == ("queued", "a tank", first.id)
    second = client.videos.poll(queued.id, poll_interval_ms=20)
    assert second.status == "completed"
    same = ("model", "seed", "steps", "size", "frames", "adapters", "noise_prior")
    assert [getattr(second, name) for name in same] == [getattr(first, name) for name in same]
    made = [read_metadata(client.videos.download_content(one.id).read()) for one in (first, second)]
    differing = {name for name in made[0] if made[0][name] != made[1][name]}
    assert differing == {"prompt"}
    with pytest.raises(openai.NotFoundError) as caught:
        client.videos.remix("video_" + "0" * 32, prompt="a tank")
    assert caught.value.code == "video_not_found"


def test_refusals_are_its_own_errors(client: openai.OpenAI):
    asked = {"prompt": "a bear", "extra_body": {"steps": 1}, "extra_headers": {"Idempotency-Key": "one"}}
    assert client.videos.create(**asked).id == client.videos.create(**asked).id
    with pytest.raises(openai.ConflictError) as conflict:
        client.videos.create(**{**asked, "prompt": "a tank"})
    assert conflict.value.code == "idempotency_conflict"
    with pytest.raises(openai.UnprocessableEntityError) as invalid:
        client.videos.create(prompt="a bear", extra_body={"steps": 0})
    assert (invalid.value.code, invalid.value.param) == ("invalid_value", "steps")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="another-key-of-nobody").videos.list()
    for _ in range(3):
        client.videos.create(prompt="a bear", extra_body={"steps": 1})
    with pytest.raises(openai.RateLimitError) as limited:
        client.videos.create(prompt="a bear", extra_body={"steps": 1})
    assert int(limited.value.response.headers["retry-after"]) >= 1
    assert json.loads(limited.value.response.text)["error"]["type"] == "rate_limit_error"
