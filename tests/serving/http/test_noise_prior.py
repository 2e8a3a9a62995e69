"""`noise_prior` over HTTP: names a concept of the registry; whatever does not fit is refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import INFO, FakeEngine, api_over
from fastapi.testclient import TestClient

from infra.registry import ADAPTER_FILE, Registry
from models.adapters.versions import noise_file
from models.sizes import Bucket

SIZE = Bucket(INFO.frames, INFO.height, INFO.width)
pytestmark = pytest.mark.usefixtures("lists_anew")


def make(registry: Registry, folder: Path, name: str, fingerprint: str = INFO.fingerprint, noise: str = ""):
    """A version with a noise prior of this content, if any; the ingress does not read the file itself."""
    files = folder / f"files-{name}-{noise}"
    files.mkdir()
    (files / ADAPTER_FILE).write_bytes(name.encode())
    if noise:
        (files / "noise_prior").mkdir()
        (files / noise_file(SIZE)).write_bytes(noise.encode())
    return registry.publish(name, files, metadata={"foundation_fingerprint": fingerprint})


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def api(tmp_path: Path, registry: Registry, engine: FakeEngine) -> Iterator[TestClient]:
    make(registry, tmp_path, "orbit", noise="first")
    make(registry, tmp_path, "orbit", noise="second")
    make(registry, tmp_path, "bare")
    make(registry, tmp_path, "foreign", fingerprint="e" * 64, noise="x")
    with api_over(engine, data_dir=str(tmp_path / "data"), registry=registry.uri) as client:
        yield client


def ask(api: TestClient, **body):
    return api.post("/v1/videos", json={"prompt": "x", **body})


def test_a_noise_prior_is_pinned_to_its_version_and_shown(api, engine, registry):
    video = ask(api, noise_prior={"concept": "orbit@1", "weight": 0.3}).json()
    entry = registry.resolve("orbit@1").files[noise_file(SIZE)]
    pinned = {"weight": 0.3, "concept": "orbit", "version": 1, "sha256": entry.sha256}
    assert video["noise_prior"] == pinned
    assert video["adapters"] == []
    while api.get(f"/v1/videos/{video['id']}").json()["status"] != "completed":
        pass
    [request] = engine.seen
    assert request.noise_prior.model_dump() == pinned
    assert ask(api).json()["noise_prior"] is None


def test_without_a_concept_it_is_that_of_the_model(api):
    for model, version in (("foundation:orbit@1", 1), ("foundation:orbit", 2)):
        video = ask(api, model=model, noise_prior={"weight": 1}).json()
        assert (video["noise_prior"]["concept"], video["noise_prior"]["version"]) == ("orbit", version)
        assert video["adapters"][0]["version"] == version
    error = ask(api, noise_prior={"weight": 0.5}).json()["error"]
    assert error["code"] == "noise_prior_missing"
    assert error["message"].startswith("noise_prior needs a concept, because `model` names none")


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        ({"concept": "nothing", "weight": 0.5}, 404, "concept_not_found", "concept nothing is not in the registry"),
        ({"concept": "orbit@9", "weight": 0.5}, 404, "version_not_found", "was never published"),
        ({"concept": "../etc", "weight": 0.5}, 422, "invalid_concept", "concept name"),
        ({"concept": "bare", "weight": 0.5}, 422, "noise_prior_missing", "bare@1 has no noise prior; name a version"),
        ({"concept": "foreign", "weight": 0.5}, 409, "foundation_mismatch", "foreign@1 was trained on another"),
        ({"concept": "orbit", "weight": 1.1}, 422, "invalid_value", "less than or equal to 1"),
        ({"concept": "orbit", "weight": -0.1}, 422, "invalid_value", "greater than or equal to 0"),
        ({"concept": "orbit", "weight": "0.5"}, 422, "invalid_value", "number"),
        ({"concept": "orbit"}, 422, "invalid_value", "Field required"),
        ({"clip": "a.mp4", "weight": 0.5}, 422, "unknown_field", "clip"),
        ({"concept": "orbit", "weight": 0.5, "sha256": "0" * 64}, 422, "unknown_field", "sha256"),
        ("orbit", 422, "invalid_value", "noise_prior"),
    ],
)  # fmt: skip
def test_what_is_no_noise_prior_here_is_refused_in_one_sentence(api, engine, body, status, code, said):
    response = ask(api, noise_prior=body)
    assert response.status_code == status, response.text
    assert response.json()["error"]["code"] == code
    assert said in json.dumps(response.json()["error"])
    assert engine.seen == []


def test_a_video_of_another_size_than_the_prior_is_refused(api):
    response = ask(api, frames=8, noise_prior={"concept": "orbit", "weight": 0.5})
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["code"] == "noise_prior_size"
    assert (
        "orbit@2 has a noise prior for 4x32x32 (frames, height, width), but the video is 8x32x32"
        in error["message"]
    )


def test_forms_say_it_as_openais_clients_do_or_as_json_text(api):
    def form(**fields: str):
        return api.post("/v1/videos", files={name: (None, value) for name, value in fields.items()})

    nested = form(prompt="x", **{"noise_prior[concept]": "orbit", "noise_prior[weight]": "0.3"})
    assert (nested.json()["noise_prior"]["weight"], nested.json()["noise_prior"]["version"]) == (0.3, 2)
    text = form(prompt="x", noise_prior='{"concept": "orbit", "weight": 0.3}')
    assert text.json()["noise_prior"] == nested.json()["noise_prior"]
    twice = api.post(
        "/v1/videos", files=[("prompt", (None, "x")), *[("noise_prior[weight]", (None, "0.3"))] * 2]
    )
    assert "more than once" in twice.json()["error"]["message"]
    wrong = form(prompt="x", **{"noise_prior[concept]": "orbit", "noise_prior[weight]": "much"})
    assert wrong.json()["error"]["param"] == "noise_prior.weight"


def test_an_absent_prior_leaves_the_hash_of_a_repeated_body_as_it_was():
    from serving.schemas import CreateVideo

    assert "noise_prior" not in CreateVideo(prompt="x").model_dump(mode="json")
