"""A tenant uploads clips, has a motion learned and uses it, with the official client: true ingest, training and engine."""

from __future__ import annotations

import io
import json
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openai
import pytest
from fakes import on_loopback
from serving_helpers import until

from datasets.video.decode import decode
from datasets.video.writing import encode_mp4
from infra.errors import Conflict, InvalidInput
from infra.registry import Registry
from infra.storage import open_storage
from models.foundations.base import Foundation
from motiondirector.service.trainer import batch_of, open_trainer
from serving.client import Client
from serving.config import ServeConfig
from serving.http.api import create_api
from serving.http.service import VideoService
from serving.keys import ApiKey, hash_key
from serving.ray.engine_service import EngineService
from serving.trainings import desk
from serving.trainings.schemas import CreateTraining
from training.batch.run import follow_batch

sys.path.append(str(Path(__file__).parents[2] / "docs" / "examples"))

import tenant

ALICE, BOB = "the-key-of-alice-0123", "the-key-of-bob-012345"
SHORT = {"steps": 2, "rank": 4}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@dataclass
class House:
    """A server, clients of two tenants, and what is behind it."""

    alice: openai.OpenAI
    bob: openai.OpenAI
    registry: Registry
    results: Path


@pytest.fixture
def house(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(desk, "POLL", 0.05)
    keys = [ApiKey(sha256=hash_key(key), tenant=name) for key, name in ((ALICE, "alice"), (BOB, "bob"))]
    config = ServeConfig(
        foundation="tiny-random:unet3d",
        registry=registry.uri,
        data_dir=str(tmp_path / "data"),
        slots=2,
        api_keys=keys,
        train_lanes=0,
        max_train_steps=1000,
    )
    engine = EngineService(config)
    with on_loopback(create_api(VideoService(config, engine, trainer=open_trainer(config)))) as url:
        alice, bob = (openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) for key in (ALICE, BOB))
        yield House(alice, bob, registry, tmp_path / "data")
    engine.close()


@pytest.fixture
def lane(registry: Registry, unet3d: Foundation) -> Iterator[None]:
    """A lane that follows the service's batch, in this process."""
    over = threading.Event()
    batch = batch_of(registry, unet3d.fingerprint)
    thread = threading.Thread(
        target=follow_batch, args=(batch, registry), kwargs={"over": over, "device": "cpu", "every_s": 0.05}
    )
    thread.start()
    yield
    over.set()
    thread.join(60)
    assert not thread.is_alive()


def video(seed: int = 0, seconds: float = 1.0) -> bytes:
    """A texture that slides."""
    picture = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    picture = np.kron(picture, np.ones((8, 8, 1), np.uint8))
    return encode_mp4(np.stack([np.roll(picture, 4 * i, 1) for i in range(round(8 * seconds))]), 8)


def packed(entries: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return target.getvalue()


def followed(client: openai.OpenAI, id: str) -> list[dict]:
    """The events of a training, as server-sent events until it ends."""
    answer = client._client.get(
        f"{client.base_url}fine_tuning/jobs/{id}/events?stream=true",
        headers={"Authorization": f"Bearer {client.api_key}"},
        timeout=120,
    )
    return [
        json.loads(line.removeprefix("data: "))
        for line in answer.text.splitlines()
        if line.startswith("data: ")
    ]


@pytest.mark.usefixtures("lane")
def test_a_tenant_learns_a_motion_watches_it_and_uses_it(house: House, tmp_path: Path):
    client = house.alice
    table = "file,caption\nb.mp4,another texture slides\n"
    archive = packed({"a.mp4": video(1), "b.mp4": video(2), "captions.csv": table.encode()})
    file = client.files.create(file=("clips.zip", archive), purpose="fine-tune")
    assert (file.bytes, file.status, client.files.retrieve(file.id)) == (len(archive), "processed", file)
    assert client.files.content(file.id).read() == archive
    job = client.fine_tuning.jobs.create(
        model="foundation",
        training_file=file.id,
        suffix="slide",
        seed=3,
        metadata={"who": "me"},
        method={"type": "motion", "motion": {"hyperparameters": SHORT}},  # type: ignore[typeddict-item]
        extra_body={"caption": "a texture slides"},
        extra_headers={"Idempotency-Key": "one"},
    )
    assert (job.status, job.fine_tuned_model, job.seed) == ("validating_files", None, 3)
    events = followed(client, job.id)
    job = client.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.error, job.metadata) == ("succeeded", None, {"who": "me"}), job
    assert events[-1]["message"].startswith("The training has succeeded")
    assert "4 clips" in events[1]["message"]
    listed = [one.id for one in client.fine_tuning.jobs.list_events(job.id, limit=2)]
    assert listed == [one["id"] for one in reversed(events)], "it asks for the next page itself"
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job.id)
    assert (checkpoint.fine_tuned_model_checkpoint, checkpoint.step_number) == (job.fine_tuned_model, 2)
    assert [one.id for one in client.fine_tuning.jobs.list()] == [job.id]

    assert job.fine_tuned_model == "foundation:slide@1"
    (concept,) = house.registry.concepts()
    assert concept.name.startswith("t-")
    version = house.registry.resolve(concept.name)
    assert version.metadata["captions"] == ["a texture slides", "another texture slides"]
    assert (version.metadata["config"]["seed"], version.metadata["config"]["rank"]) == (3, 4)
    made = client.videos.create_and_poll(
        model=job.fine_tuned_model, prompt="a bear", extra_body={"steps": 1}, poll_interval_ms=20
    )
    assert made.status == "completed"
    assert decode(client.videos.download_content(made.id).read()).frames_FHWC.shape[1:] == (32, 32, 3)

    assert client.files.delete(file.id).deleted
    stored = [info.key for info in open_storage(house.results).list() if "/" in info.key]
    assert [
        key for key in stored if key.startswith(("files/", "trainings/", "uploads/", "validations/"))
    ] == []
    assert list(house.bob.fine_tuning.jobs.list()) == []
    assert [model.id for model in house.bob.models.list()] == ["foundation"]
    with pytest.raises(openai.NotFoundError):
        house.bob.videos.create(model=job.fine_tuned_model, prompt="a bear")
    for call in (
        lambda: house.bob.fine_tuning.jobs.retrieve(job.id),
        lambda: house.bob.fine_tuning.jobs.cancel(job.id),
        lambda: house.bob.fine_tuning.jobs.list_events(job.id),
        lambda: house.bob.files.retrieve(file.id),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    # the same clips with the same settings, by the script of docs/service.md: the version that is there
    (tmp_path / "clips.zip").write_bytes(archive)
    again = tenant.learn(
        client, tmp_path / "clips.zip", suffix="slide", caption="a texture slides", seed=3, **SHORT
    )
    assert again == job.fine_tuned_model
    assert list(client.files.list()) == []


def test_what_cannot_be_learned_says_why(house: House):
    client = house.alice
    file = client.files.create(file=("a.mp4", video()), purpose="fine-tune")
    asked = {"model": "foundation", "training_file": file.id, "suffix": "slide"}
    refused = {
        "steps": {"hyperparameters": {"steps": 0}},
        "at most 1000": {"hyperparameters": {"steps": 1001}},
        "'workers' is decided by the server": {"hyperparameters": {"workers": 64}},
        "unknown training setting 'n_epochs'": {"hyperparameters": {"n_epochs": 3}},
        "but this server trains with at most": {"hyperparameters": {"height": 4096, "width": 4096}},
        "unknown model 'sora-2'": {"model": "sora-2"},
        "a training starts from `foundation`": {"model": "foundation:orbit"},
        "training_file: there is no file": {"training_file": "file-" + "0" * 32},
        "suffix: expected 1 to": {"suffix": "../x"},
        "the method is appearance, but `motion` is given": {"method": {"type": "appearance", "motion": {}}},
        "metadata: expected at most": {"metadata": {str(n): "x" for n in range(17)}},
        "caption: String should have": {"extra_body": {"caption": "x" * 2001}},
        "validation_file": {"validation_file": file.id},
    }
    for said, wrong in refused.items():
        with pytest.raises(openai.APIStatusError) as caught:
            client.fine_tuning.jobs.create(**{**asked, **wrong})
        assert said in caught.value.message, (said, caught.value.message)
        assert caught.value.status_code in (404, 422)
    assert list(client.fine_tuning.jobs.list()) == []

    job = client.fine_tuning.jobs.create(**asked)  # no caption anywhere
    with pytest.raises(openai.ConflictError):
        client.fine_tuning.jobs.create(**asked)
    followed(client, job.id)
    ended = client.fine_tuning.jobs.retrieve(job.id)
    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error.message.startswith("a.mp4: no caption: give `caption` in the request")
    bomb = client.files.create(file=("bomb.zip", packed({"../a.mp4": video()})), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(**{**asked, "training_file": bomb.id})
    followed(client, job.id)
    ended = client.fine_tuning.jobs.retrieve(job.id)
    assert ended.error is not None
    assert (ended.error.code, ended.error.param) == ("unusable_archive", "training_file")
    assert ended.error.message.startswith("bomb.zip: '../a.mp4' leads out of the archive")


def test_a_training_is_paused_and_resumed(house: House, unet3d: Foundation, request: pytest.FixtureRequest):
    client = house.alice
    file = client.files.create(file=("a.mp4", video()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="foundation",
        training_file=file.id,
        suffix="slide",
        method={"type": "motion", "motion": {"hyperparameters": SHORT}},  # type: ignore[typeddict-item]
        extra_body={"caption": "a texture slides"},
    )
    while client.fine_tuning.jobs.retrieve(job.id).status == "validating_files":
        pass
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    assert [one.status for one in client.fine_tuning.jobs.list()] == ["paused"]
    with pytest.raises(openai.NotFoundError):
        house.bob.fine_tuning.jobs.resume(job.id)
    batch = batch_of(house.registry, unet3d.fingerprint)
    until(lambda: [record.paused for record in batch.records()] in ([], [True]))
    request.getfixturevalue("lane")
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    followed(client, job.id)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "succeeded"
    with pytest.raises(openai.ConflictError):
        client.fine_tuning.jobs.pause(job.id)


def test_a_training_that_waits_is_cancelled(house: House):
    client = house.alice
    file = client.files.create(file=("a.mp4", video()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="foundation", training_file=file.id, suffix="slide", extra_body={"caption": "a texture slides"}
    )
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert followed(client, job.id)[-1]["message"] == "The training was cancelled."


@pytest.mark.usefixtures("lane")
def test_our_own_client_uploads_in_parts_resumes_trains_and_downloads(house: House, tmp_path: Path):
    content = video()
    (tmp_path / "a.mp4").write_bytes(content)
    (tmp_path / "b.mp4").write_bytes(content + b"x")

    class Gone(Exception):
        pass

    told: list[tuple[str, int, int]] = []

    def until_half(id: str, sent: int, total: int) -> None:
        told.append((id, sent, total))
        if sent > total // 2:
            raise Gone

    with Client(str(house.alice.base_url).removesuffix("/v1/"), api_key=ALICE) as client:
        with pytest.raises(Gone):
            client.upload_in_parts(tmp_path / "a.mp4", part=1000, on_progress=until_half)
        id, sent, total = told[-1]
        assert (sent < total, total) == (True, len(content))
        with pytest.raises(InvalidInput, match="is of a file with"):
            client.upload_in_parts(tmp_path / "b.mp4", resume=id, part=1000)
        file = client.upload_in_parts(
            tmp_path / "a.mp4", resume=id, part=1000, on_progress=lambda *one: told.append(one)
        )
        assert told[-1] == (id, total, total)
        client.download(file.id, tmp_path / "c.mp4")
        assert (tmp_path / "c.mp4").read_bytes() == content
        assert [one.id for one in client.files()] == [file.id]
        body = CreateTraining(
            model="foundation",
            training_file=file.id,
            suffix="slide",
            caption="a texture slides",
            hyperparameters={"steps": 1, "rank": 2},
        )
        job = client.train(body, idempotency_key="one")
        events: list[str] = []
        ended = client.wait_for_training(job.id, on_event=lambda event: events.append(event.type))
        assert ended.fine_tuned_model is not None
        assert "metrics" in events or ended.trained_steps == 1
        assert [one.id for one in client.trainings()] == [job.id]
        again = client.train(body)
        client.cancel_training(again.id)
        with pytest.raises(Conflict, match="was cancelled"):
            client.wait_for_training(again.id)
