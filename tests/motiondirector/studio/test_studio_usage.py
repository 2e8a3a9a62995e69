"""What people do beside making: see what they used, keep a video as a GIF, share and delete motions of their own."""

from __future__ import annotations

import io

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from studio_helpers import KEY, OTHER, ended, sign_in

from datasets.video.writing import encode_mp4
from infra.registry import open_registry
from motiondirector.studio.export import gif_of
from serving.adapters import model_list
from serving.keys import ApiKey, hash_key


def test_the_page_of_usage_shows_what_the_visitor_used(studio):
    keys = [ApiKey(sha256=hash_key(key), tenant=name) for key, name in ((KEY, "alice"), (OTHER, "bob"))]
    with studio(api_keys=keys) as client:
        assert client.get("/studio/usage").status_code == 303
        headers = sign_in(client)
        assert "Nothing was used" in client.get("/studio/usage").text
        body = {"prompt": "a star", "seed": 1, "model": "foundation:orbit"}
        ended(client, client.post("/studio/api/v1/videos", json=body, headers=headers).json()["id"])
        page = client.get("/studio/usage").text
        assert "1 video (" in page
        assert "<td>foundation:orbit@1</td>" in page
        assert client.get("/studio/usage?days=0").status_code == 422
        sign_in(client, OTHER)
        assert "Nothing was used" in client.get("/studio/usage").text


def test_a_video_becomes_a_gif_of_its_own_size_and_pace():
    frames_FHWC = np.zeros((6, 32, 48, 3), np.uint8)
    frames_FHWC[:, :, :, 0] = np.arange(6)[:, None, None] * 40
    gif = Image.open(io.BytesIO(gif_of("a", encode_mp4(frames_FHWC, 8))))
    assert (gif.format, gif.size, gif.n_frames, gif.info["duration"]) == ("GIF", (48, 32), 6, 120)


def test_a_gif_of_what_is_not_done_is_refused(open_studio: TestClient):
    assert open_studio.get("/studio/videos/video_nothing/gif").status_code == 404


def test_a_motion_of_ones_own_is_shared_and_deleted_from_the_library(
    studio, library: str, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(model_list, "FRESH", 0.0)
    keys = [ApiKey(sha256=hash_key(key), tenant=name) for key, name in ((KEY, "alice"), (OTHER, "bob"))]
    source, own = open_registry(library), open_registry(tmp_path / "own")
    version = source.resolve("orbit")
    files = source.pull(version, tmp_path / "pulled")
    own.publish("orbit", files, metadata=version.metadata)
    with studio(api_keys=keys, registry=str(tmp_path / "own")) as client:
        headers = sign_in(client)
        name = client.service.tenants.registry_name("alice", "mine")
        own.publish(name, files, metadata=version.metadata)
        page = client.get("/studio/parts/library").text
        assert page.count("data-share=") == 1, "orbit is not hers"
        assert 'data-share="foundation:mine"' in page
        shared = client.post(
            "/studio/api/v1/models/foundation%3Amine/share", json={"tenants": ["bob"]}, headers=headers
        )
        assert shared.status_code == 200, shared.text
        assert 'value="bob"' in client.get("/studio/parts/library").text
        others = sign_in(client, OTHER)
        page = client.get("/studio/parts/library").text
        assert "shared with you" in page
        assert "data-share=" not in page
        assert client.delete("/studio/api/v1/models/foundation%3Amine", headers=others).status_code in (
            403,
            404,
        )
        headers = sign_in(client)
        assert client.delete("/studio/api/v1/models/foundation%3Amine", headers=headers).status_code == 200
        assert "mine" not in client.get("/studio/parts/library").text
