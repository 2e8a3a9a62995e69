"""Teaching over HTTP: a session's uploads, what the model will see of a clip, and a training from its start to its motion."""

from __future__ import annotations

import base64
import io
import json
import re

import pytest
from markupsafe import escape
from PIL import Image
from studio_helpers import KEY, OTHER, sign_in
from teach_helpers import API, clip, forward, stamp, start, until, upload

from serving import sessions
from serving.keys import ApiKey, hash_key

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)> 🦊"""
PAGES = ("teach", "trainings/ftjob-" + "0" * 32, "parts/trainings", "parts/teach/presets")


def test_a_server_without_trainings_says_so(studio):
    with studio() as client:
        page = client.get("/studio/teach")
        assert page.status_code == 200
        assert "This server takes no trainings" in page.text
        assert 'href="/studio/teach"' not in client.get("/studio/").text
        refused = client.post(f"{API}/v1/uploads", json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "training_off")
        for page in PAGES[1:]:
            assert client.get(f"/studio/{page}").status_code == 404, page


def test_a_training_goes_from_its_clip_to_a_video_and_its_page_says_where_it_stands(teaching):
    with teaching() as client:
        assert 'href="/studio/teach"' in client.get("/studio/").text
        page = client.get("/studio/teach").text
        assert "Nothing has been taught yet" in page
        assert "To make videos or teach motions, use the API" in page[page.index("<noscript>") :]
        id = start(client, upload(client, b"video"))
        part = until(client, id, "Waiting for a free place")
        assert 'value="0"' in part
        assert client.get(f"/studio/parts/trainings/{id}?seen={stamp(part)}").status_code == 204
        forward(client, state="running", step=4, loss=0.5, step_seconds=60.0)
        part = until(client, id, "Learning: step 4 of 10")
        assert "About 6 minutes left" in part
        assert "<svg" not in part
        forward(client, state="running", step=8, loss=0.25, step_seconds=60.0)
        part = until(client, id, "Learning: step 8 of 10")
        assert '<polyline class="raw" points="240.0,0.0 480.0,150.0">' in part
        forward(client, state="running", step=2, loss=0.6, step_seconds=60.0)
        assert 'value="80"' in until(client, id, "Learning: step 2 of 10"), "the bar does not go back"
        forward(client, state="published", step=10, loss=0.2, version="slide@1")
        part = until(client, id, "Learned")
        assert 'href="/studio/make?motion=slide@1"' in part
        assert "hx-get" not in part, "nothing is asked any more"
        listed = client.get("/studio/parts/trainings").text
        assert f'href="/studio/trainings/{id}"' in listed
        assert client.get(f"/studio/parts/trainings?seen={stamp(listed)}").status_code == 204
        assert '"name": "slide@1"' in client.get("/studio/make?motion=slide@1").text.replace("&#34;", '"')


def test_a_training_that_cannot_go_on_says_why_and_leads_back_to_its_clips(teaching):
    with teaching() as client:
        file = upload(client, b"refused", "b.mp4")
        id = start(client, file, metadata={"clips": f"{file} nonsense"})
        part = until(client, id, "Failed")
        assert "B.mp4 is not a readable video." in part
        again = re.search(r'href="/studio/(teach\?[^"]+)"', part)
        assert again is not None
        page = client.get(f"/studio/{again.group(1).replace('&amp;', '&')}").text
        assert str(escape(json.dumps([{"id": file, "name": "b.mp4", "bytes": 7}]))) in page
        assert ">a texture slides</textarea>" in page
        client.delete(f"{API}/v1/files/{file}")
        assert "1 of the clips here has been deleted" in client.get(f"/studio/teach?file={file}").text
        id = start(client, upload(client, b"video"), "other")
        until(client, id, "Waiting for a free place")
        assert client.post(f"{API}/v1/fine_tuning/jobs/{id}/cancel").status_code == 200
        assert "Cancelled" in client.get(f"/studio/trainings/{id}").text


def test_a_clip_is_shown_as_the_model_will_see_it(teaching):
    with teaching() as client:
        id = upload(client, clip(frames=20))
        seen = client.get(f"{API}/clips/{id}").json()
        assert (seen["clips"], seen["frames"], seen["width"], seen["height"], seen["fps"]) == (
            2,
            8,
            64,
            64,
            8,
        )
        pictures = [Image.open(io.BytesIO(base64.b64decode(one))) for one in seen["animations"]]
        assert [(one.format, one.size, one.n_frames) for one in pictures] == [("WEBP", (64, 64), 8)] * 2
        assert client.get(f"{API}/clips/{id}?start=1.5").json()["clips"] == 1
        short = client.get(f"{API}/clips/{id}?start=2")
        assert short.status_code == 422
        assert short.json()["error"]["message"].startswith("a.mp4 is too short: from 2 s on it has 4 frames")
        assert client.get(f"{API}/clips/{id}?start=-1").status_code == 422
        assert client.get(f"{API}/clips/file-{'0' * 32}").status_code == 404


def test_what_is_no_clip_says_so_in_the_sentence_of_the_training(teaching):
    with teaching() as client:
        text = client.get(f"{API}/clips/{upload(client, b'no video', HOSTILE + '.mp4')}")
        assert text.status_code == 422
        assert "is not a readable video" in text.json()["error"]["message"]


def test_a_file_beyond_the_limit_is_refused_before_it_is_read(teaching):
    with teaching(max_file_bytes=1000) as client:
        body = {"filename": "a.mp4", "purpose": "fine-tune", "bytes": 2 << 30, "mime_type": "video/mp4"}
        refused = client.post(f"{API}/v1/uploads", json=body)
        assert refused.status_code == 413
        assert "larger than 1000 bytes, the most that is allowed" in refused.json()["error"]["message"]
        assert client.get(f"{API}/v1/files").json()["data"] == []


def test_a_part_larger_than_other_bodies_arrives(teaching):
    with teaching() as client:
        content = b"x" * 300_000  # a body elsewhere has at most 64 KiB
        assert client.get(f"{API}/v1/files/{upload(client, content)}/content").content == content


def test_presets_say_how_long_they_take_once_that_was_measured(teaching):
    with teaching() as client:
        part = client.get("/studio/parts/teach/presets").text
        assert re.findall(r'value="(\w+)"', part) == ["quick", "balanced", "best"]
        assert "<small>840 steps</small>" in part
        assert re.search(r'value="balanced"[^>]* checked', part)
        assert "1600 steps" in client.get("/studio/parts/teach/presets?clips=2&chosen=quick").text
        id = start(client, upload(client, b"video"))
        until(client, id, "Waiting for a free place")
        forward(client, state="running", step=4)
        until(client, id, "Learning")
        forward(client, state="published", step=10, version="slide@1")
        until(client, id, "Learned")
        assert "840 steps, less than a minute" in client.get("/studio/parts/teach/presets").text
        client.engine.lost = True
        client.service._info = None
        assert "model is loading" in client.get("/studio/parts/teach/presets").text
        assert client.get("/studio/teach").status_code == 200, "the page does not wait for the engine"


def test_what_people_write_is_shown_as_text(teaching):
    with teaching() as client:
        file = upload(client, b"refused", HOSTILE + ".mp4")
        id = start(client, file, caption=HOSTILE, metadata={"clips": HOSTILE})
        until(client, id, "Failed")
        for page in (
            f"trainings/{id}",
            "teach",
            f"teach?file={file}",
            f"teach?caption={HOSTILE}&name={HOSTILE}",
        ):
            text = client.get(f"/studio/{page}").text
            assert "<script>alert" not in text, page
            assert "<img src=x" not in text, page
        assert str(escape(HOSTILE)) in client.get(f"/studio/trainings/{id}").text
        refused = client.post(
            f"{API}/v1/fine_tuning/jobs",
            json={"model": "foundation", "training_file": file, "suffix": HOSTILE},
        )
        assert refused.status_code == 422
        assert "suffix: expected 1 to 40 of a-z" in refused.json()["error"]["message"]


def test_a_drawn_path_becomes_a_clip(teaching):
    with teaching() as client:
        assert "Teach this motion" in client.get("/studio/draw").text
        drawing = {
            "points": [[0, 0.2, 0.2], [1, 0.8, 0.8]],
            "prompt": "a red star on a navy background",
            "name": "slope",
        }
        file = client.post(f"{API}/drawings/clip", json=drawing).json()
        assert file["filename"] == "slope.mp4"
        assert file["expires_at"] - file["created_at"] == 7 * 86_400
        seen = client.get(f"{API}/clips/{file['id']}").json()
        assert (seen["clips"], seen["remarks"]) == (1, [])
        for wrong in (
            {"points": [[0, 0.2, 0.2]]},
            {"name": "../x"},
            {"prompt": "a dragon"},
            {"points": [[0, 9, 9], [1, 0, 0]]},
        ):
            assert client.post(f"{API}/drawings/clip", json={**drawing, **wrong}).status_code in (400, 422), (
                wrong
            )
        assert len(client.get(f"{API}/v1/files").json()["data"]) == 1
    with teaching(files_bytes=100) as client:
        refused = client.post(f"{API}/drawings/clip", json=drawing)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "quota_exceeded")


def test_what_is_anothers_is_not_there(teaching):
    keys = [ApiKey(sha256=hash_key(key), tenant=name) for key, name in ((KEY, "alice"), (OTHER, "bob"))]
    with teaching(api_keys=keys) as client:
        for page in PAGES:
            assert client.get(f"/studio/{page}").status_code == 303, page
        headers = sign_in(client)
        file = upload(client, b"video", headers=headers)
        id = start(client, file, headers=headers)
        sign_in(client, OTHER)
        assert client.get(f"/studio/trainings/{id}").status_code == 404
        assert client.get(f"/studio/parts/trainings/{id}").status_code == 404
        assert id not in client.get("/studio/teach").text
        assert client.get(f"{API}/clips/{file}").status_code == 404
        assert file not in client.get(f"/studio/teach?file={file}").text


def test_a_session_that_ends_in_mid_upload_is_told_and_leads_back(teaching, monkeypatch: pytest.MonkeyPatch):
    with teaching(keys=(KEY,)) as client:
        headers = sign_in(client)
        body = {"filename": "a.mp4", "purpose": "fine-tune", "bytes": 10, "mime_type": "video/mp4"}
        id = client.post(f"{API}/v1/uploads", json=body, headers=headers).json()["id"]
        part = {"files": {"data": ("part", b"x" * 10)}, "data": {"number": "0"}}
        assert client.post(f"{API}/v1/uploads/{id}/parts", **part).status_code == 403, "without the token"
        monkeypatch.setattr(sessions, "LIFETIME", -1)
        late = client.post(f"{API}/v1/uploads/{id}/parts", **part, headers=headers)
        assert late.status_code == 401
        assert "session" in late.json()["error"]["message"]
        polled = {"HX-Request": "true", "HX-Current-URL": "http://127.0.0.1:8000/studio/teach?file=a"}
        to = client.get("/studio/parts/trainings", headers=polled).headers["hx-redirect"]
        assert to == "/studio/sign-in?next=%2Fstudio%2Fteach%3Ffile%3Da&ended=1"
        polled["HX-Current-URL"] = "http://evil.example//evil.example/studio/"
        assert (
            client.get("/studio/parts/trainings", headers=polled)
            .headers["hx-redirect"]
            .startswith("/studio/sign-in?next=%2Fstudio%2F&")
        )
