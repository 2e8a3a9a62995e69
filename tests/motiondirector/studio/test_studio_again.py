"""Made again: a video's request from its answer, beside the base model's, from code; paths that are drawn and measured."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shlex

import pytest
from fakes import FakeEngine
from fastapi.testclient import TestClient
from PIL import Image
from studio_helpers import ended

from infra.registry import open_registry
from motiondirector.api.lora import parse_text
from motiondirector.studio.again import as_command, as_curl, as_python, body_of
from motiondirector.studio.data import measured
from serving.events import Finished
from serving.schemas import CreateVideo, Video

PROMPT = 'it\'s "a" star --seed 5 $HOME\n`x`'
BODY = {
    "prompt": PROMPT,
    "seed": 5,
    "steps": 3,
    "guidance_scale": 2.5,
    "negative_prompt": "grain",
    "outside": "base",
    "lora": [
        {
            "name": "orbit",
            "scale": [1.0, 0.5],
            "steps": [0.25, 1],
            "region": {"box": [0, 0, 0.5, 1], "feather": 0.1},
        },
        {"name": "tilt@1", "scale": -0.5, "region": {"polygon": [[0.6, 0], [1, 0], [1, 1]]}},
    ],
}


@pytest.fixture
def made(open_studio: TestClient) -> Video:
    answer = open_studio.post("/studio/api/v1/videos", json=BODY)
    assert answer.status_code == 200, answer.text
    return Video.model_validate(answer.json())


def test_the_body_of_a_video_makes_the_same_video(open_studio: TestClient, made: Video):
    again = open_studio.post("/studio/api/v1/videos", json=body_of(made)).json()
    open_studio.engine.release()
    for field in (
        "prompt",
        "seed",
        "size",
        "frames",
        "steps",
        "guidance_scale",
        "negative_prompt",
        "adapters",
        "outside",
    ):
        assert again[field] == json.loads(made.model_dump_json())[field], field


def test_code_says_the_same_in_every_language(made: Video):
    curl = shlex.split(as_curl(made, "http://here", has_keys=True), comments=True)
    assert json.loads(curl[curl.index("-d") + 1]) == body_of(made)
    assert "Authorization: Bearer $MOTIONDIRECTOR_API_KEY" in curl
    command = shlex.split(as_command(made, "http://here"))
    options = dict(zip(command[2::2], command[3::2], strict=True))
    assert options["--prompt"] == PROMPT
    loras = [command[at + 1] for at, word in enumerate(command) if word == "--lora"]
    assert CreateVideo.model_validate({"prompt": "x", "lora": [parse_text(one) for one in loras]}).lora == (
        CreateVideo.model_validate(body_of(made)).lora
    )
    asked = {}

    class Videos:
        def create_and_poll(self, **fields):
            asked.update(fields)
            raise StopIteration

    class OpenAI:
        def __init__(self, **_):
            self.videos = Videos()

    code = as_python(made, "http://here", has_keys=False).replace("from openai import OpenAI\n", "")
    with pytest.raises(StopIteration):
        exec(code, {"OpenAI": OpenAI})
    assert asked["prompt"] == PROMPT
    assert asked["extra_body"]["lora"] == body_of(made)["lora"]


def test_the_base_models_video_is_made_once_and_again_when_it_is_gone(open_studio: TestClient, made: Video):
    other = open_studio.post("/studio/api/v1/videos", json={**BODY, "lora": [], "outside": None}).json()
    base = open_studio.post(f"/studio/api/videos/{made.id}/base").json()
    assert base["adapters"] == []
    assert (base["prompt"], base["seed"], base["steps"]) == (PROMPT, 5, 3)
    assert open_studio.post(f"/studio/api/videos/{other['id']}/base").json()["id"] == base["id"]
    ended(open_studio, base["id"])
    open_studio.service.store.forget_result(base["id"])  # as when it has expired
    anew = open_studio.post(f"/studio/api/videos/{made.id}/base").json()
    assert anew["id"] != base["id"]
    assert open_studio.post(f"/studio/api/videos/{made.id}/base").json()["id"] == anew["id"]


def test_one_stream_follows_many_videos_to_their_ends(open_studio: TestClient):
    ids = [
        open_studio.post("/studio/api/v1/videos", json={"prompt": f"{number}"}).json()["id"]
        for number in range(4)
    ]
    told = open_studio.get("/studio/api/events", params={"id": [*ids, ids[0]]}).text
    assert [told.count(f'"id":"{id}"') >= 1 for id in ids] == [True] * 4
    assert told.count("event: video.completed") == 4
    assert open_studio.service.streams.open == 0
    assert open_studio.get("/studio/api/events", params={"id": [ids[0], "video_x"]}).status_code == 404
    assert open_studio.get("/studio/api/events").status_code == 422


def test_a_drawn_path_is_shown_as_a_training_would_see_it(open_studio: TestClient):
    drawing = {"points": [[0, 0.2, 0.3], [1, 0.8, 0.7, 1.5, 0.5]], "frames": 6}
    answer = open_studio.post("/studio/api/drawings/preview", json=drawing)
    picture = Image.open(io.BytesIO(answer.content))
    assert (picture.format, picture.n_frames, picture.size) == ("WEBP", 6, (128, 128))

    def refused(**change) -> str:
        answer = open_studio.post("/studio/api/drawings/preview", json={**drawing, **change})
        assert answer.status_code in (400, 422), answer.text
        return answer.json()["error"]["message"]

    assert "point 1" in refused(points=[[0, 0.5, 0.5], [1, 0.5, None]]) or "points.1" in refused(
        points=[[0, 0.5, 0.5], [1, 0.5, None]]
    )
    assert "t must increase" in refused(points=[[1, 0.5, 0.5], [0, 0.5, 0.5]])
    assert "frame widths" in refused(points=[[0, 9, 0.5], [1, 0.5, 0.5]])
    assert "at most 256" in refused(points=[[number, 0.5, 0.5] for number in range(257)])
    assert "at least 2" in refused(points=[[0, 0.5, 0.5]])
    assert "dragon" in refused(prompt="a dragon")


def test_the_path_of_a_video_is_measured_where_the_tracker_knows_what_it_sees(studio, library):
    registry = open_registry(library)
    path = measured(registry.read(registry.resolve("orbit"), "preview.mp4"))
    assert (path.frames, path.found) == (8, 8)
    assert all(0 < number < 1 for point in path.points for number in point)
    with studio(FakeEngine()) as client:
        id = client.post("/studio/api/v1/videos", json={"prompt": "x"}).json()["id"]
        ended(client, id)
        answer = client.get(f"/studio/api/videos/{id}/path")
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "not_measurable"


def test_a_comparison_is_exported_as_one_page_that_needs_no_server(studio, library):
    registry = open_registry(library)
    mp4 = registry.read(registry.resolve("orbit"), "preview.mp4")

    class Films(FakeEngine):
        async def generate(self, id, request):
            async for event in super().generate(id, request):
                yield dataclasses.replace(event, mp4=mp4) if isinstance(event, Finished) else event

    with studio(Films()) as client:
        ids = [
            client.post("/studio/api/v1/videos", json={"prompt": f"<b>{n}</b>"}).json()["id"]
            for n in range(2)
        ]
        for id in ids:
            ended(client, id)
        answer = client.get("/studio/compare.html", params={"id": ids})
        assert "attachment" in answer.headers["content-disposition"]
        assert answer.text.count('src="data:image/webp;base64,') == 2
        assert "&lt;b&gt;0&lt;/b&gt;" in answer.text
        assert "http" not in re.sub(r'"data:[^"]*"', "", answer.text)
        assert client.get("/studio/compare.html", params={"id": [*ids, "video_x"]}).status_code == 404
        assert client.get("/studio/compare.html").status_code == 422
