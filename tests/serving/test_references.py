"""Images and characters of videos, with the official client: true images, trainings and engine."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
from fakes import on_loopback
from PIL import Image

from datasets.video.decode import decode
from datasets.video.writing import encode_mp4, read_metadata
from infra.registry import Registry
from infra.storage import open_storage
from models.foundations.base import Foundation
from motiondirector.service.trainer import batch_of, open_trainer
from serving.client import Client
from serving.config import ServeConfig
from serving.http.api import create_api
from serving.http.learning import references
from serving.http.service import VideoService
from serving.keys import ApiKey, hash_key
from serving.ray.engine_service import EngineService
from serving.schemas import CreateVideo, InputReference
from serving.trainings import desk
from training.batch.run import follow_batch

ALICE, BOB = "the-key-of-alice-0123", "the-key-of-bob-012345"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
Serve = Callable[..., openai.OpenAI]


@pytest.fixture
def serve(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """serve("tiny-random:unet3d", trains=True) starts a server and returns alice's client."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(desk, "POLL", 0.05)
    monkeypatch.setattr(references, "POLL", 0.05)
    keys = [ApiKey(sha256=hash_key(key), tenant=name) for key, name in ((ALICE, "alice"), (BOB, "bob"))]
    ends: list[Callable[[], object]] = []

    def start(foundation: str, *, trains: bool) -> openai.OpenAI:
        config = ServeConfig(
            foundation=foundation,
            registry=registry.uri,
            data_dir=str(tmp_path / "data"),
            slots=2,
            spatial_slots=2,
            api_keys=keys,
            train_lanes=0 if trains else None,
            reference_steps=2,
        )
        engine = EngineService(config)
        trainer = open_trainer(config) if trains else None
        running = on_loopback(create_api(VideoService(config, engine, trainer=trainer)))
        url = running.__enter__()
        ends.extend((lambda: running.__exit__(None, None, None), engine.close))
        return openai.OpenAI(base_url=f"{url}/v1", api_key=ALICE, max_retries=0)

    yield start
    for end in ends:
        end()


@pytest.fixture
def lane(registry: Registry, unet3d: Foundation) -> Iterator[Callable[[], None]]:
    """lane() starts a lane that follows the service's batch, in this process."""
    over = threading.Event()
    batch = batch_of(registry, unet3d.fingerprint)
    thread = threading.Thread(
        target=follow_batch, args=(batch, registry), kwargs={"over": over, "device": "cpu", "every_s": 0.05}
    )
    yield thread.start
    over.set()
    if thread.ident is not None:
        thread.join(60)
    assert not thread.is_alive()


def picture(size: tuple[int, int] = (48, 40), seed: int = 0) -> Image.Image:
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def saved(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def clip(seed: int = 0) -> bytes:
    pixels = np.asarray(picture((64, 48), seed))
    return encode_mp4(np.stack([np.roll(pixels, 4 * index, 1) for index in range(8)]), 8)


def data_url(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def referring(asked: dict, **reference: str) -> dict:
    """The same request with a reference as an object, which the client takes in `extra_body` alone."""
    return {**asked, "extra_body": {**asked["extra_body"], "input_reference": reference}}


def kept(folder: Path) -> list[str]:
    keys = [info.key for info in open_storage(folder).list()]
    return [key for key in keys if key.startswith(("files/", "trainings/", "arriving/", "validations/"))]


def test_an_image_is_learned_once_and_shown_by_every_video_that_names_it(
    serve: Serve, lane: Callable[[], None], tmp_path: Path
):
    client, image = serve("tiny-random:unet3d", trains=True), saved(picture())
    asked = {"prompt": "a moon", "extra_body": {"steps": 1, "seed": 3}}
    first = client.videos.create(**asked, input_reference=("moon.png", image))
    second = client.videos.create(**referring(asked, image_url=data_url(image)))
    waiting = [client.videos.retrieve(one.id) for one in (first, second)]
    (training,) = client.fine_tuning.jobs.list()
    assert [(one.status, one.learning) for one in waiting] == [("queued", [training.id])] * 2
    assert client.videos.list().data[0].id == second.id
    lane()
    made = [client.videos.poll(one.id, poll_interval_ms=20) for one in (first, second)]
    assert [(one.status, one.progress, one.learning) for one in made] == [("completed", 100, [])] * 2
    (use,) = made[0].adapters
    assert (use["path"], use["concept"][:6], use["version"]) == ("spatial", "image-", 1)
    assert made[0].adapters == made[1].adapters
    tags = [read_metadata(client.videos.download_content(one.id).read()) for one in made]
    assert tags[0] == tags[1]
    assert use["sha256"] in tags[0]["adapters"]
    # again, as a file of the tenant: nothing more is learned, and the file stays
    file = client.files.create(file=("moon.png", image), purpose="vision")
    third = client.videos.create(**referring(asked, file_id=file.id))
    assert (third.learning, third.adapters) == ([], made[0].adapters)
    remixed = client.videos.poll(client.videos.remix(first.id, prompt="a sun").id, poll_interval_ms=20)
    assert (remixed.status, remixed.adapters) == ("completed", made[0].adapters)
    assert [one.id for one in client.fine_tuning.jobs.list()] == [training.id]
    assert [one.id for one in client.files.list()] == [file.id]
    bob = client.with_options(api_key=BOB)
    with pytest.raises(openai.NotFoundError):
        bob.videos.create(**referring(asked, file_id=file.id))
    own = bob.videos.create(**asked, input_reference=("moon.png", image))
    assert len(own.learning) == 1, "what alice learned is not bob's"
    assert bob.videos.delete(own.id).deleted
    bob.fine_tuning.jobs.cancel(own.learning[0])


def test_a_character_is_learned_from_a_clip_and_named_by_requests(
    serve: Serve, lane: Callable[[], None], tmp_path: Path
):
    client = serve("tiny-random:unet3d", trains=True)
    mossy = client.videos.create_character(name="Mossy, the fox", video=("mossy.mp4", clip()))
    assert (mossy.name, mossy.status, mossy.model) == ("Mossy, the fox", "validating_files", None)
    asked = {
        "prompt": "Mossy, the fox, is dancing",
        "extra_body": {"steps": 1, "characters": [{"id": mossy.id}]},
    }
    early = client.videos.create(**asked)
    assert (early.status, early.learning) == ("queued", [mossy.training])
    with pytest.raises(openai.ConflictError) as conflict:
        client.videos.create_character(name="Mossy! The Fox", video=("other.mp4", clip(1)))
    assert conflict.value.code == "character_exists"
    lane()
    assert client.videos.poll(early.id, poll_interval_ms=20).status == "completed"
    mossy = client.videos.get_character(mossy.id)
    assert (mossy.status, mossy.model) == ("succeeded", "foundation:mossy-the-fox@1")
    late = client.videos.create_and_poll(**asked, poll_interval_ms=20)
    assert late.status == "completed"
    assert [(use["concept"], use["path"]) for use in late.adapters] == [("mossy-the-fox", "spatial")]
    (training,) = client.fine_tuning.jobs.list()
    assert (training.id, training.method.type) == (mossy.training, "appearance")
    with pytest.raises(openai.ConflictError):
        client.videos.create_character(name="mossy the fox", video=("other.mp4", clip(1)))
    bob = client.with_options(api_key=BOB)
    for call in (lambda: bob.videos.get_character(mossy.id), lambda: bob.videos.create(**asked)):
        with pytest.raises(openai.NotFoundError) as missing:
            call()
        assert missing.value.code == "character_not_found"
    end = threading.Event()
    while kept(tmp_path / "data") and not end.wait(0.05):  # the desk clears up after the end
        pass
    assert list(client.files.list()) == []


def test_our_own_client_sends_images_and_clips(serve: Serve, tmp_path: Path):
    url = str(serve("tiny-random:unet3d", trains=True).base_url).removesuffix("/v1/")
    (tmp_path / "moon.png").write_bytes(saved(picture()))
    (tmp_path / "moon.mp4").write_bytes(clip())
    body = CreateVideo(
        prompt="a moon", steps=1, guidance_scale=1.5, input_reference=InputReference(caption="a round moon")
    )
    with Client(url, api_key=ALICE) as client:
        video = client.create(body, image=tmp_path / "moon.png", idempotency_key="one")
        assert client.create(body, image=tmp_path / "moon.png", idempotency_key="one").id == video.id
        assert (video.guidance_scale, len(video.learning)) == (1.5, 1)
        assert client.training(video.learning[0]).caption == "a round moon"
        character = client.create_character("Moon", tmp_path / "moon.mp4", caption="a moon")
        assert client.character(character.id).name == "Moon"
        for training in client.trainings():
            client.cancel_training(training.id)


def test_what_shows_nothing_is_refused_and_leaves_nothing(serve: Serve, tmp_path: Path):
    client = serve("tiny-random:unet3d", trains=True)
    turned = picture((40, 30))
    turned.getexif()[0x0112] = 6
    moving = saved(picture(), "gif", save_all=True, append_images=[picture(seed=1)])
    refused = {
        "1x1 pixels do not cover 32x32": saved(picture((1, 1))),
        "30000x1; sides may have at most": saved(picture((30_000, 1))),
        "has 2 frames, so it is no still image": moving,
        "is not an image that can be read here": b"\0" * 64,
        # 40x30 pixels, but 30x40 as people see it: too narrow
        "30x40 pixels do not cover 32x32": saved(turned, "jpeg", exif=turned.getexif()),
    }
    for said, image in refused.items():
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            client.videos.create(prompt="a moon", input_reference=("a.png", image))
        assert said in caught.value.message
        assert caught.value.message.startswith("Error code: 422") or "input_reference" in caught.value.message
    for wrong in (
        {"image_url": "https://example.com/a.png"},
        {"image_url": "data:image/png;base64,????"},
        {"image_url": "data:text/html,hello"},
        {"file_id": "file-1", "image_url": data_url(b"")},
        {"caption": "a moon"},
    ):
        with pytest.raises(openai.UnprocessableEntityError):
            client.videos.create(prompt="a moon", extra_body={"input_reference": wrong})
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.videos.create_character(name=" ", video=("a.mp4", clip()))
    assert caught.value.param == "name"
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.videos.create(
            prompt="a moon", input_reference=("a.png", saved(picture())), extra_body={"steps": 10_000}
        )
    assert caught.value.param == "steps"
    assert list(client.fine_tuning.jobs.list()) == []
    assert list(client.videos.list()) == []
    assert kept(tmp_path / "data") == []


def test_a_job_fails_if_its_image_is_not_learned(serve: Serve):
    client = serve("tiny-random:unet3d", trains=True)
    seen = Image.new("RGBA", (48, 40), (255, 0, 0, 128))
    video = client.videos.create(prompt="a moon", input_reference=("a.png", saved(seen)))
    assert [text for text in video.warnings if "black" in text], (
        "what is transparent is put on black, and that is said"
    )
    client.fine_tuning.jobs.cancel(video.learning[0])
    ended = client.videos.poll(video.id, poll_interval_ms=20)
    assert (ended.status, ended.error.code) == ("failed", "reference_failed")
    assert "input_reference was not learned" in ended.error.message


def test_an_image_to_video_model_begins_with_the_image(serve: Serve, tmp_path: Path):
    client, image = serve("tiny-random:wan-image", trains=False), saved(picture((80, 80)))
    asked = {"prompt": "a moon", "extra_body": {"steps": 1, "seed": 3}}
    first = client.videos.create_and_poll(**asked, input_reference=("moon.png", image), poll_interval_ms=20)
    assert (first.status, first.learning, first.adapters) == ("completed", [], [])
    mp4 = client.videos.download_content(first.id).read()
    assert len(read_metadata(mp4)["image"]) == 64
    again = client.videos.poll(client.videos.remix(first.id, prompt="a moon").id, poll_interval_ms=20)
    assert again.status == "completed"
    frames = [decode(client.videos.download_content(one.id).read()).frames_FHWC for one in (first, again)]
    assert np.array_equal(*frames)
    other = client.videos.create_and_poll(
        **asked, input_reference=("sun.png", saved(picture((80, 80), 1))), poll_interval_ms=20
    )
    assert not np.array_equal(frames[0], decode(client.videos.download_content(other.id).read()).frames_FHWC)
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.videos.create(prompt="a moon")
    assert "begin with an image, and none was given" in caught.value.message
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.videos.create(prompt="a moon", input_reference=("a.png", saved(picture((1, 1)))))
    assert caught.value.code == "image_too_small"
    assert len(kept(tmp_path / "data")) == 2
