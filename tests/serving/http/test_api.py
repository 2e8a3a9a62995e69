"""The HTTP API over an engine in this process: shapes, states, refusals, keys."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.torch import save_file
from serving_helpers import Publish, random_adapter

from datasets.video.decode import decode
from datasets.video.writing import read_metadata
from infra.registry import Registry
from models.adapters.file import WEIGHTS_FILE, save_adapter
from models.foundations.base import Foundation
from models.load import load_foundation
from serving.config import ServeConfig
from serving.http.api import create_api
from serving.http.errors import MAX_BODY
from serving.http.service import VideoService
from serving.keys import hash_key
from serving.ray.engine_service import EngineService

FOUNDATION = "tiny-random:unet3d"
LOOPBACK = {"client": ("127.0.0.1", 50000), "base_url": "http://127.0.0.1:8000"}


@pytest.fixture
def config(tmp_path: Path, registry: Registry) -> ServeConfig:
    return ServeConfig(
        foundation=FOUNDATION, registry=registry.uri, data_dir=str(tmp_path / "data"), max_batch=4, slots=4
    )


@pytest.fixture
def api(config: ServeConfig) -> Iterator[TestClient]:
    engine = EngineService(config)
    with TestClient(create_api(VideoService(config, engine)), **LOOPBACK) as client:
        client.engine = engine  # type: ignore[attr-defined]
        yield client
    engine.close()


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One API for all the requests that must be refused and leave nothing."""
    folder = tmp_path_factory.mktemp("untouched")
    config = ServeConfig(
        foundation=FOUNDATION,
        registry=str(folder / "registry"),
        data_dir=str(folder / "data"),
        max_batch=4,
        slots=4,
    )
    engine = EngineService(config)
    with TestClient(create_api(VideoService(config, engine)), **LOOPBACK) as client:
        yield client
    engine.close()


def test_words_that_the_text_encoder_does_not_read_are_named_in_the_answer(untouched: TestClient):
    long = "a bear " + "that walks along a wide path " * 12 + "in a green forest"
    for prompt, negative, warnings in (("a bear", "", 0), (long, "", 1), (long, long, 2)):
        body = {"model": "foundation", "prompt": prompt, "negative_prompt": negative, "guidance_scale": 3}
        made = untouched.post("/v1/videos", json=body).json()
        assert len(made["warnings"]) == warnings
        for warning in made["warnings"]:
            assert warning.endswith("in a green forest'")
        assert untouched.get(f"/v1/videos/{made['id']}").json()["warnings"] == made["warnings"]
        untouched.delete(f"/v1/videos/{made['id']}")


def ended(api: TestClient, id: str) -> dict:
    """The job once it has ended."""
    for _ in range(600):
        video = api.get(f"/v1/videos/{id}").json()
        if video["status"] not in ("queued", "in_progress"):
            return video
        time.sleep(0.05)
    raise AssertionError(f"{video} never ended")


def refusal(response, status: int, code: str, *, param: str | None = None) -> str:
    """The message of an error, which must have the one shape."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(response.json()) == {"error"}
    assert set(error) == {"message", "type", "code", "param"}
    assert error["code"] == code
    if param is not None:
        assert error["param"] == param
    return error["message"]


def test_a_video_is_asked_for_polled_downloaded_and_deleted(api, publish: Publish, unet3d):
    version = publish(unet3d, "orbit")
    asked = {"model": "foundation:orbit", "prompt": "a bear", "seed": 7, "steps": 2, "guidance_scale": 3.0}
    response = api.post("/v1/videos", json=asked)
    assert response.status_code == 200
    video = response.json()
    assert video["object"] == "video"
    assert video["status"] == "queued"
    assert video["model"] == "foundation:orbit@1"
    assert video["seed"] == 7
    assert video["error"] is None
    assert video["completed_at"] is None
    assert abs(video["created_at"] - time.time()) < 60

    done = ended(api, video["id"])
    assert done["status"] == "completed", done
    assert done["progress"] == 100
    assert done["expires_at"] > done["completed_at"] >= done["created_at"]
    assert done["adapters"] == [
        {"concept": "orbit", "version": 1, "path": "temporal", "scale": 1.0, "sha256": version.adapter_sha256}
    ]
    assert all(done["timings"][stage] >= 0 for stage in ("queue", "adapter_load", "denoise", "decode"))

    content = api.get(f"/v1/videos/{video['id']}/content")
    assert content.headers["content-type"] == "video/mp4"
    frames = decode(content.content).frames_FHWC
    bucket = unet3d.defaults.bucket
    assert frames.shape == (bucket.frames, bucket.height, bucket.width, 3)
    assert done["size"] == f"{bucket.width}x{bucket.height}"
    assert float(done["seconds"]) == pytest.approx(bucket.frames / unet3d.defaults.fps)
    made = read_metadata(content.content)
    assert made["concept"] == "orbit@1"
    assert version.adapter_sha256 in made["adapters"]

    deleted = api.delete(f"/v1/videos/{video['id']}")
    assert deleted.json() == {"id": video["id"], "object": "video.deleted", "deleted": True}
    refusal(api.get(f"/v1/videos/{video['id']}"), 404, "video_not_found")
    refusal(api.get(f"/v1/videos/{video['id']}/content"), 404, "video_not_found")


def test_jobs_are_listed_newest_first_in_pages(api):
    ids = [api.post("/v1/videos", json={"prompt": f"p{n}", "steps": 1}).json()["id"] for n in range(3)]
    page = api.get("/v1/videos", params={"limit": 2}).json()
    assert page["object"] == "list"
    assert [video["id"] for video in page["data"]] == [ids[2], ids[1]]
    assert page["has_more"] is True
    assert (page["first_id"], page["last_id"]) == (ids[2], ids[1])
    rest = api.get("/v1/videos", params={"after": page["last_id"]}).json()
    assert [video["id"] for video in rest["data"]] == [ids[0]]
    assert rest["has_more"] is False
    oldest = api.get("/v1/videos", params={"order": "asc", "limit": 1}).json()
    assert oldest["data"][0]["id"] == ids[0]
    refusal(api.get("/v1/videos", params={"after": "video_none"}), 404, "video_not_found")
    refusal(api.get("/v1/videos", params={"limit": 0}), 422, "invalid_value", param="limit")


@pytest.mark.usefixtures("lists_anew")
def test_models_are_the_foundation_and_its_own_concepts(api, publish: Publish, unet3d):
    publish(unet3d, "orbit")
    publish(unet3d, "orbit", seed=2)
    publish(load_foundation("tiny-random:wan"), "of-another")
    models = api.get("/v1/models").json()
    assert [model["id"] for model in models["data"]] == [
        "foundation",
        "foundation:orbit@1",
        "foundation:orbit@2",
    ]
    assert {model["foundation_fingerprint"] for model in models["data"]} == {unet3d.fingerprint}


def test_a_job_keeps_the_version_it_was_accepted_with(api, publish: Publish, unet3d):
    publish(unet3d, "orbit", seed=1)
    asked = {"model": "foundation:orbit", "prompt": "a bear", "seed": 7, "steps": 1}
    first = api.post("/v1/videos", json=asked).json()
    publish(unet3d, "orbit", seed=2)
    second = api.post("/v1/videos", json=asked).json()
    assert ended(api, first["id"])["model"] == "foundation:orbit@1"
    assert ended(api, second["id"])["model"] == "foundation:orbit@2"
    mp4s = [api.get(f"/v1/videos/{video['id']}/content").content for video in (first, second)]
    assert not np.array_equal(*[decode(mp4).frames_FHWC for mp4 in mp4s])


def test_adapters_compose_and_seconds_become_frames(api, publish: Publish, unet3d):
    publish(unet3d, "orbit", seed=1)
    publish(unet3d, "swing", seed=2)
    asked = {
        "model": "foundation:orbit",
        "prompt": "a bear",
        "steps": 1,
        "seconds": "1",
        "lora": [{"name": "swing@1", "scale": 0.5}],
    }
    video = ended(api, api.post("/v1/videos", json=asked).json()["id"])
    assert video["status"] == "completed", video
    assert video["frames"] == unet3d.defaults.fps
    assert [(a["concept"], a["scale"]) for a in video["adapters"]] == [("orbit", 1.0), ("swing", 0.5)]


@pytest.mark.usefixtures("lists_anew")
def test_an_appearance_alone_is_a_version_that_is_listed_used_prefetched_and_pinned(
    api, publish: Publish, unet3d
):
    look = publish(unet3d, "look", path="spatial", seed=3)
    publish(unet3d, "orbit", seed=1)
    models = {model["id"]: model for model in api.get("/v1/models").json()["data"]}
    assert {id: model["gives"] for id, model in models.items()} == {
        "foundation": [],
        "foundation:look@1": ["appearance"],
        "foundation:orbit@1": ["motion"],
    }
    assert models["foundation:look@1"]["sha256"] == look.adapter_sha256

    asked = {"prompt": "a bear", "seed": 7, "steps": 1}
    named = [
        {**asked, "lora": [{"name": "look"}]},
        {**asked, "model": "foundation:look"},
        {**asked, "lora": [{"name": "look", "path": "spatial"}]},
    ]
    mp4s = []
    for body in (asked, *named):
        video = ended(api, api.post("/v1/videos", json=body).json()["id"])
        assert video["status"] == "completed", video
        assert [(a["path"], a["sha256"]) for a in video["adapters"]] == (
            [] if body is asked else [("spatial", look.adapter_sha256)]
        )
        mp4s.append(decode(api.get(f"/v1/videos/{video['id']}/content").content).frames_FHWC)
    assert not np.array_equal(mp4s[0], mp4s[1])
    assert all(np.array_equal(mp4s[1], other) for other in mp4s[2:])

    for name, path, other in (("look", "temporal", "motion"), ("orbit", "spatial", "appearance")):
        refused = api.post("/v1/videos", json={**asked, "lora": [{"name": name, "path": path}]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "adapter_path_not_found")
        assert f"{name}@1 has no {path} adapter ({other})" in refused.json()["error"]["message"]
    for action, status in (("prefetch", "prefetched"), ("pin", "pinned")):
        done = api.post(f"/v1/adapters/{action}", json={"name": "look"}).json()
        assert (done["status"], done["path"], done["sha256"]) == (status, "spatial", look.adapter_sha256)


def test_an_absent_seed_is_drawn_and_reported_and_gives_the_same_video_again(api):
    first = ended(api, api.post("/v1/videos", json={"prompt": "a bear", "steps": 1}).json()["id"])
    again = {"prompt": "a bear", "steps": 1, "seed": first["seed"]}
    second = ended(api, api.post("/v1/videos", json=again).json()["id"])
    mp4s = [api.get(f"/v1/videos/{video['id']}/content").content for video in (first, second)]
    assert mp4s[0] == mp4s[1]


def test_content_of_an_unfinished_or_cancelled_job_is_a_conflict(api):
    id = api.post("/v1/videos", json={"prompt": "a bear", "steps": 500}).json()["id"]
    assert "poll" in refusal(api.get(f"/v1/videos/{id}/content"), 409, "video_not_completed")
    cancelled = api.post(f"/v1/videos/{id}/cancel")
    assert cancelled.json()["status"] == "cancelled"
    assert api.post(f"/v1/videos/{id}/cancel").json()["status"] == "cancelled"
    refusal(api.get(f"/v1/videos/{id}/content"), 409, "video_not_completed")
    for _ in range(200):  # the engine lets go within a step
        if not api.engine.engine.requests:
            break
        time.sleep(0.02)
    assert not api.engine.engine.requests


def test_a_finished_job_cannot_be_cancelled_and_a_running_one_can_be_deleted(api):
    done = ended(api, api.post("/v1/videos", json={"prompt": "a bear", "steps": 1}).json()["id"])
    refusal(api.post(f"/v1/videos/{done['id']}/cancel"), 409, "video_ended")
    long = api.post("/v1/videos", json={"prompt": "a bear", "steps": 500}).json()["id"]
    assert api.delete(f"/v1/videos/{long}").json()["deleted"] is True
    refusal(api.get(f"/v1/videos/{long}"), 404, "video_not_found")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "invalid_value", "prompt"),
        ({"prompt": ""}, "invalid_value", "prompt"),
        ({"prompt": " \n"}, "invalid_value", None),
        ({"prompt": "x" * 10_000}, "invalid_value", "prompt"),
        ({"prompt": "a\u0000b"}, "invalid_value", "prompt"),
        ({"prompt": 3}, "invalid_value", "prompt"),
        ({"prompt": "x", "steps": -3}, "invalid_value", "steps"),
        ({"prompt": "x", "steps": 0}, "invalid_value", "steps"),
        ({"prompt": "x", "steps": 10**9}, "invalid_value", "steps"),
        ({"prompt": "x", "steps": "20"}, "invalid_value", "steps"),
        ({"prompt": "x", "steps": 2.5}, "invalid_value", "steps"),
        ({"prompt": "x", "seed": -1}, "invalid_value", "seed"),
        ({"prompt": "x", "frames": 0}, "invalid_value", "frames"),
        ({"prompt": "x", "frames": 4, "seconds": 1}, "invalid_value", None),
        ({"prompt": "x", "seconds": "soon"}, "invalid_value", "seconds"),
        ({"prompt": "x", "seconds": -1}, "invalid_value", "seconds"),
        ({"prompt": "x", "size": "huge"}, "invalid_value", "size"),
        ({"prompt": "x", "size": "-8x8"}, "invalid_value", "size"),
        ({"prompt": "x", "size": "99999x8"}, "invalid_value", "size"),
        ({"prompt": "x", "size": "30x32"}, "invalid_size", None),
        ({"prompt": "x", "size": "1024x1024"}, "too_large", None),
        ({"prompt": "x", "scheduler": "euler-of-nowhere"}, "invalid_scheduler", None),
        ({"prompt": "x", "stpes": 3}, "unknown_field", "stpes"),
        ({"prompt": "x", "lora": [{"name": "a", "weight": 1}]}, "unknown_field", "lora.0.weight"),
        ({"prompt": "x", "lora": [{"name": "a", "path": "sideways"}]}, "invalid_value", "lora.0.path"),
        ({"prompt": "x", "lora": [{"name": "a"}] * 9}, "invalid_value", "lora"),
        ({"prompt": "x", "model": "foundation:../etc/passwd"}, "invalid_concept", None),
        ({"prompt": "x", "model": "foundation:orbit@latest"}, "invalid_version", None),
        ([1, 2], "invalid_value", None),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_and_leaves_nothing(untouched, body, code, param):
    message = refusal(untouched.post("/v1/videos", json=body), 422, code, param=param)
    assert message.endswith(".")
    assert len(message) < 400
    assert untouched.get("/v1/videos").json()["data"] == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"prompt=a bear", b"\xff\xfe", b'{"prompt": "x"', b"[" * 20_000], ids=range(6)
)
def test_json_that_is_not_json_is_400_in_the_same_shape(untouched, body):
    response = untouched.post("/v1/videos", content=body, headers={"content-type": "application/json"})
    refusal(response, 400, "invalid_json")


def test_numbers_json_does_not_know_are_refused(untouched):
    for body in ('{"prompt": "x", "guidance_scale": NaN}', '{"prompt": "x", "guidance_scale": Infinity}'):
        response = untouched.post("/v1/videos", content=body, headers={"content-type": "application/json"})
        refusal(response, 422, "invalid_value", param="guidance_scale")


def test_half_a_unicode_character_is_refused(untouched):
    body = json.dumps({"prompt": "\ud800"})
    response = untouched.post("/v1/videos", content=body, headers={"content-type": "application/json"})
    refusal(response, 422, "invalid_value", param="prompt")


def test_a_body_beyond_the_limit_is_413_whatever_it_claims(api):
    def chunks() -> Iterator[bytes]:
        for _ in range(MAX_BODY // 1024 + 1):
            yield b" " * 1024

    refusal(api.post("/v1/videos", content=chunks()), 413, "too_large")


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("sora-2", "model_not_found"),
        ("foundation:", "model_not_found"),
        ("foundation:nothing", "concept_not_found"),
        ("foundation:orbit@7", "version_not_found"),
    ],
)
def test_an_unknown_model_or_concept_is_404(api, publish: Publish, unet3d, model, code):
    publish(unet3d, "orbit")
    refusal(api.post("/v1/videos", json={"prompt": "x", "model": model}), 404, code)


def test_unknown_routes_and_methods_have_the_same_error_shape(api):
    refusal(api.get("/v1/nothing"), 404, "not_found")
    refusal(api.put("/v1/videos"), 405, "method_not_allowed")


def test_an_adapter_for_another_foundation_is_refused(api, publish: Publish):
    publish(load_foundation("tiny-random:wan"), "foreign")
    message = refusal(
        api.post("/v1/videos", json={"prompt": "x", "model": "foundation:foreign"}),
        409,
        "foundation_mismatch",
    )
    assert "another foundation" in message


def malformed(folder: Path, foundation: Foundation, kind: str) -> Path:
    """An adapter folder with one fault."""
    folder.mkdir()
    good = save_adapter(folder, random_adapter(foundation), foundation)
    file = folder / WEIGHTS_FILE
    prefix = foundation.adapter_key_prefix
    tensors = {}
    for name, (a, b) in good.tensors.items():
        tensors[f"{prefix}{name}.lora_A.weight"], tensors[f"{prefix}{name}.lora_B.weight"] = a, b
    key = next(iter(tensors))
    if kind == "pickle":
        file.write_bytes(pickle.dumps({"x": 1}))
    elif kind == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "nan":
        tensors[key][0, 0] = float("nan")
        save_file(tensors, file, metadata=good.metadata)
    elif kind == "wrong shape":
        tensors[key] = tensors[key][:, :-1].contiguous()
        save_file(tensors, file, metadata=good.metadata)
    elif kind == "unknown key":
        save_file({**tensors, "evil.weight": tensors[key].clone()}, file, metadata=good.metadata)
    elif kind == "missing layers":
        save_file(dict(list(tensors.items())[:2]), file, metadata=good.metadata)
    elif kind == "foreign fingerprint":
        save_file(tensors, file, metadata={**good.metadata, "foundation_fingerprint": "0" * 64})
    return folder


@pytest.mark.parametrize(
    "kind",
    [
        "pickle",
        "truncated",
        "empty",
        "nan",
        "wrong shape",
        "unknown key",
        "missing layers",
        "foreign fingerprint",
    ],
)
def test_a_malformed_adapter_is_refused_before_it_may_load(api, registry: Registry, tmp_path, unet3d, kind):
    registry.publish("broken", malformed(tmp_path / "broken", unet3d, kind), metadata={})
    response = api.post("/v1/videos", json={"prompt": "x", "model": "foundation:broken"})
    code = "foundation_mismatch" if kind == "foreign fingerprint" else "invalid_adapter"
    assert "broken@1" in refusal(response, 422, code)
    assert api.get("/v1/videos").json()["data"] == []
    good = ended(api, api.post("/v1/videos", json={"prompt": "x", "steps": 1}).json()["id"])
    assert good["status"] == "completed"


def test_a_rank_beyond_the_slots_and_more_adapters_than_slots_are_refused(api, publish: Publish, unet3d):
    publish(unet3d, "wide", rank=40)
    refusal(api.post("/v1/videos", json={"prompt": "x", "model": "foundation:wide"}), 422, "rank_too_large")
    for number in range(5):
        publish(unet3d, f"c{number}", seed=number)
    lora = [{"name": f"c{number}"} for number in range(5)]
    refusal(api.post("/v1/videos", json={"prompt": "x", "lora": lora}), 422, "too_many_adapters")


def test_health_and_the_openapi_page(api):
    assert api.get("/healthz").json() == {"status": "ok"}
    assert api.get("/readyz").json()["status"] == "ready"
    assert "swagger" in api.get("/docs").text.lower()
    paths = api.get("/openapi.json").json()["paths"]
    assert {"/v1/videos", "/v1/videos/{id}", "/v1/videos/{id}/content", "/v1/models"} <= set(paths)


def test_with_keys_every_request_needs_one_and_sees_its_own_jobs_only(config):
    keys = ["first-key-0123456789", "second-key-0123456789"]
    config = config.model_copy(update={"api_key_hashes": [hash_key(key) for key in keys]})
    engine = EngineService(config)
    with TestClient(create_api(VideoService(config, engine)), client=("203.0.113.9", 1)) as api:
        refusal(api.get("/v1/videos"), 401, "invalid_api_key")
        for wrong in (
            "Bearer nonsense",
            "Basic first-key-0123456789",
            "Bearer ",
            f"Bearer {hash_key(keys[0])}",
        ):
            refusal(api.get("/v1/videos", headers={"Authorization": wrong}), 401, "invalid_api_key")
        first, second = ({"Authorization": f"Bearer {key}"} for key in keys)
        id = api.post("/v1/videos", json={"prompt": "x", "steps": 1}, headers=first).json()["id"]
        assert api.get(f"/v1/videos/{id}", headers=first).status_code == 200
        refusal(api.get(f"/v1/videos/{id}", headers=second), 404, "video_not_found")
        refusal(api.delete(f"/v1/videos/{id}", headers=second), 404, "video_not_found")
        assert api.get("/v1/videos", headers=second).json()["data"] == []
        assert api.get("/healthz").status_code == 200
    engine.close()


def test_without_keys_only_this_machine_is_answered(config):
    engine = EngineService(config)
    with TestClient(create_api(VideoService(config, engine)), client=("203.0.113.9", 1)) as api:
        refusal(api.get("/v1/videos"), 403, "loopback_only")
    engine.close()


def test_a_registry_that_is_away_is_503_and_the_foundation_still_serves(
    api, registry, tmp_path, publish, unet3d
):
    publish(unet3d, "orbit")
    folder = Path(registry.uri.removeprefix("file://"))
    folder.rename(tmp_path / "away")
    folder.write_text("not a folder any more")
    response = api.post("/v1/videos", json={"prompt": "x", "model": "foundation:orbit"})
    assert response.status_code in (404, 422, 503), response.text
    assert set(response.json()) == {"error"}
    done = ended(api, api.post("/v1/videos", json={"prompt": "x", "steps": 1}).json()["id"])
    assert done["status"] == "completed"


def test_a_motion_acts_in_the_steps_that_its_version_says_unless_a_request_says_otherwise(
    api, registry: Registry, unet3d, tmp_path: Path
):
    save_adapter(tmp_path / "half", random_adapter(unet3d, seed=1), unet3d)
    registry.publish("half", tmp_path / "half", metadata={"config": {"acts_until": 0.5}})
    registry.publish("whole", tmp_path / "half", metadata={})

    def made(**use) -> tuple[list | None, np.ndarray]:
        asked = {"prompt": "a bear", "seed": 3, "steps": 2, "guidance_scale": 1.0, "lora": [use]}
        done = ended(api, api.post("/v1/videos", json=asked).json()["id"])
        mp4 = api.get(f"/v1/videos/{done['id']}/content").content
        return done["adapters"][0].get("steps"), decode(mp4).frames_FHWC

    said, by_default = made(name="half")
    assert said == [0.0, 0.5]
    said, asked_for = made(name="whole", steps=[0, 0.5])
    assert said == [0.0, 0.5]
    assert np.array_equal(by_default, asked_for)
    said, all_steps = made(name="half", steps=[0, 1])
    assert said == [0.0, 1.0]
    assert np.array_equal(all_steps, made(name="whole")[1])
    assert not np.array_equal(all_steps, by_default)


def test_a_version_of_two_adapters_is_used_with_both_unless_a_request_names_one(
    api, registry: Registry, unet3d, tmp_path: Path
):
    both = random_adapter(unet3d, seed=1), random_adapter(unet3d, path="spatial", seed=2)
    for adapter, folder in zip(both, (tmp_path / "pair", tmp_path / "pair" / "spatial"), strict=True):
        save_adapter(folder, adapter, unet3d, metadata={"method": "coupled"})
    registry.publish("pair", tmp_path / "pair", metadata={"method": "coupled"})

    def made(**body) -> tuple[list, np.ndarray, dict]:
        asked = {"prompt": "a bear", "seed": 3, "steps": 2, "guidance_scale": 1.0, **body}
        done = ended(api, api.post("/v1/videos", json=asked).json()["id"])
        mp4 = api.get(f"/v1/videos/{done['id']}/content").content
        used = [(use["path"], use["scale"]) for use in done["adapters"]]
        return used, decode(mp4).frames_FHWC.astype(int), read_metadata(mp4)

    used, whole, said = made(model="foundation:pair")
    assert used == [("temporal", 1.0), ("spatial", 1.0)]
    assert said["concept"] == "pair@1"
    assert made(lora=[{"name": "pair", "scale": 0.5}])[0] == [("temporal", 0.5), ("spatial", 0.5)]
    parts = [{"name": "pair", "path": path} for path in ("temporal", "spatial")]
    used, named, _ = made(lora=parts)
    assert used == [("temporal", 1.0), ("spatial", 1.0)]
    assert np.array_equal(whole, named)
    for part in parts:
        used, half, _ = made(lora=[part])
        assert used == [(part["path"], 1.0)]
        assert np.abs(whole - half).mean() > 1  # what is the same is equal: 3.0 and 13.7 were measured
