"""Someone's own motion in Chromium, on a desktop and on a phone: from a dropped clip to a downloaded video.

The server, the lane that trains and the engine are true; the model is the embedded one.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_helpers import KEY, SIZES, look, sign_in, window
from fakes import on_loopback
from teach_helpers import clip

from datasets.sprites.captions import drawable
from datasets.sprites.motion_sources import motion_named
from datasets.sprites.render import render_clip
from datasets.video.decode import decode
from datasets.video.writing import encode_mp4
from infra.registry import open_registry
from models.foundations.shared.fingerprint import fingerprint_folder
from models.locating import locate
from motiondirector.library.library import add_library
from motiondirector.service.trainer import batch_of, open_trainer
from motiondirector.studio.app import add_studio
from serving import sessions
from serving.config import ServeConfig
from serving.http.api import create_api
from serving.http.service import VideoService
from serving.keys import ApiKey, hash_key
from serving.ray.engine_service import EngineService
from serving.trainings import desk
from training.batch import run

pytestmark = pytest.mark.browser
LOOK = "a red star on a navy background"
LARGEST = 10 << 20  # bytes of a file; the page sends parts of 8 MiB
STEPS = 48  # the server's most, so every choice is short
DROP = """async ([content, name]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const dropped = new DataTransfer();
  dropped.items.add(new File([bytes], name, { type: "video/mp4" }));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The studio with the embedded model, one motion of its library, and a lane in this process."""
    folder = tmp_path_factory.mktemp("teaching")
    add_library(str(folder / "registry"), ["orbit"])
    config = ServeConfig(
        registry=str(folder / "registry"),
        data_dir=str(folder / "data"),
        api_keys=[ApiKey(sha256=hash_key(KEY))],
        threads=1,
        train_lanes=0,
        max_train_steps=STEPS,
        max_file_bytes=LARGEST,
    )
    registry, over = open_registry(folder / "registry"), threading.Event()
    batch = batch_of(registry, fingerprint_folder(locate(None)))
    kind = {"over": over, "device": "cpu", "every_s": 0.05}
    lane = threading.Thread(target=run.follow_batch, args=(batch, registry), kwargs=kind)
    engine = EngineService(config)
    app = create_api(VideoService(config, engine, trainer=open_trainer(config)))
    add_studio(app)
    with pytest.MonkeyPatch.context() as often:  # of so few steps, more than one is to be seen
        often.setattr(run, "FOLLOW_BEAT_S", 0.5)
        often.setattr(desk, "POLL", 0.2)
        lane.start()
        with on_loopback(app) as url:
            yield f"{url}/studio"
    over.set()
    lane.join(120)
    assert not lane.is_alive()
    engine.close()


class Person:
    """Does what a person does on a page, and counts the presses; a field that is filled in is one."""

    def __init__(self, page) -> None:
        self.page, self.presses = page, 0

    def press(self, what) -> None:
        self.presses += 1
        what.click()

    def write(self, label: str, text: str) -> None:
        self.presses += 1
        self.page.get_by_label(label, exact=True).fill(text)


def sprite_clip() -> bytes:
    frames_FHWC = render_clip(drawable(LOOK), motion_named("orbit"), 8, 96)
    return encode_mp4(frames_FHWC, 8)


@pytest.mark.parametrize("kind", list(SIZES))
def test_someone_gets_from_the_start_to_a_video_of_their_own_motion_in_eight_presses(
    browser, address: str, kind: str, tmp_path: Path
):
    with window(browser, kind) as page:
        sign_in(page, address)
        person = Person(page)
        person.press(page.get_by_role("link", name="Teach", exact=True))
        page.get_by_text(f"{STEPS} steps").first.wait_for()
        person.presses += 1  # a clip is dropped
        dropped = base64.b64encode(sprite_clip()).decode()
        page.evaluate(DROP, [dropped, f"My {kind} (1).MP4"])
        person.write("What do the clips show?", LOOK)
        page.locator(".clip img").wait_for()
        assert "One clip of 8 frames (1.0 s), 64 × 64" in page.locator(".clip .facts").inner_text()
        page.get_by_text(f"{STEPS} steps").first.wait_for()
        assert page.get_by_label("Name of the motion").input_value() == f"my-{kind}-1"
        look(page, kind, "teach")
        page.reload()  # leaving and coming back loses nothing
        page.locator(".clip img").wait_for()
        assert page.get_by_label("What do the clips show?").input_value() == LOOK
        page.get_by_text(f"{STEPS} steps").first.wait_for()
        person.press(page.get_by_role("button", name="Train", exact=True))
        page.get_by_role("heading", name=f"my-{kind}-1").wait_for()
        own = page.url
        page.locator(".chart").wait_for()
        look(page, kind, "training")
        page.get_by_role("link", name="Teach", exact=True).first.click()
        page.get_by_role("link", name=f"my-{kind}-1").wait_for()
        page.goto(own)
        person.press(page.get_by_role("link", name="Make a video with it"))
        assert page.locator("[data-name]").first.input_value() == f"my-{kind}-1@1"
        person.press(page.get_by_role("button", name="Make it"))
        page.locator("#results video").nth(1).wait_for()
        assert person.presses <= 8
        page.locator("#results .what a").first.click()
        with page.expect_download() as begun:
            page.get_by_role("link", name="Download mp4").click()
        begun.value.save_as(tmp_path / "video.mp4")
        assert decode(tmp_path / "video.mp4").frames_FHWC.shape == (8, 64, 64, 3)
        assert page.faults == []


def test_what_cannot_be_used_says_why_beside_the_clip(browser, address: str, tmp_path: Path):
    (tmp_path / "evil <img src=x onerror=alert(1)>.mp4").write_bytes(b"no video" * (9 << 17))
    (tmp_path / "large.mp4").write_bytes(b"x" * (LARGEST + 1))
    (tmp_path / "good.mp4").write_bytes(clip(frames=20))
    with window(browser, "desktop") as page:
        sign_in(page, address)
        page.get_by_role("link", name="Teach", exact=True).click()
        page.locator("#files").set_input_files(sorted(tmp_path.iterdir()))
        page.get_by_text("is not a readable video").wait_for()
        page.get_by_text(f"larger than {LARGEST} bytes").wait_for()
        page.get_by_text("2 clips of 8 frames").wait_for()
        page.get_by_label("What do the clips show?").fill("a texture")
        page.get_by_role("button", name="Train", exact=True).click()
        page.locator("#refusal").filter(has_text="cannot be used: remove it").wait_for()
        look(page, "desktop", "teach-refused")
        good = page.locator(".clip").filter(has_text="good.mp4")
        good.get_by_text("Trim, or describe").click()
        good.get_by_label("Begins at second").fill("2")
        good.get_by_label("Begins at second").press("Tab")
        good.get_by_text("is too short: from 2 s on").wait_for()
        expected = ("status of 413", "status of 422")
        assert [fault for fault in page.faults if not any(said in fault for said in expected)] == []


def test_clips_with_beginnings_and_words_of_their_own_become_one_training(
    browser, address: str, tmp_path: Path
):
    for seed, name in enumerate(("one.mp4", "two.mp4")):
        (tmp_path / name).write_bytes(clip(frames=20, seed=seed))
    with window(browser, "desktop") as page:
        sign_in(page, address)
        page.get_by_role("link", name="Teach", exact=True).click()
        page.locator("#files").set_input_files(sorted(tmp_path.iterdir()))
        one, two = (page.locator(".clip").filter(has_text=name) for name in ("one.mp4", "two.mp4"))
        two.get_by_text("2 clips of 8 frames").wait_for()
        one.get_by_text("Trim, or describe").click()
        one.get_by_label("Begins at second").fill("1.5")
        one.get_by_label("Begins at second").press("Tab")
        one.get_by_text("One clip of 8 frames").wait_for()
        two.get_by_text("Trim, or describe").click()
        two.get_by_label("What this one shows").fill("another texture <b>")
        page.get_by_label("What do the clips show?").fill("a texture")
        page.get_by_text(f"{STEPS} steps").first.wait_for()
        page.get_by_role("button", name="Train", exact=True).click()
        page.get_by_text("The files were accepted: 3 clips").wait_for()
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("link", name="Change something and try again").click()
        page.locator(".clip img").nth(1).wait_for()
        assert page.get_by_label("Name of the motion").input_value() == "one"
        assert page.faults == []


def test_a_session_that_ends_in_mid_upload_says_so(browser, address: str, monkeypatch: pytest.MonkeyPatch):
    with window(browser, "phone") as page:
        sign_in(page, address)
        page.get_by_role("link", name="Teach", exact=True).click()
        page.get_by_text(f"{STEPS} steps").first.wait_for()
        monkeypatch.setattr(sessions, "LIFETIME", -1)
        page.evaluate(DROP, [base64.b64encode(sprite_clip()).decode(), "a.mp4"])
        page.get_by_text("Your session ended before this clip had arrived").wait_for()
        with page.expect_response(lambda answer: "/parts/trainings" in answer.url and answer.status == 401):
            pass  # the list asks again meanwhile, and does not lead away
        assert page.get_by_role("dialog").get_by_text("Your session has ended").is_visible()
        assert page.get_by_text("Your session ended before this clip had arrived").is_visible()
        monkeypatch.undo()


def test_a_server_that_was_away_costs_one_part(browser, address: str):
    with window(browser, "desktop") as page:
        sign_in(page, address)
        page.get_by_role("link", name="Teach", exact=True).click()
        page.get_by_text(f"{STEPS} steps").first.wait_for()
        answers = iter(["abort", "503"])  # as of a proxy whose server restarts

        def away(route) -> None:
            match next(answers, None):
                case "abort":
                    route.abort()
                case "503":
                    route.fulfill(status=503, body="the server starts")
                case _:
                    route.continue_()

        page.route("**/parts", away)
        page.evaluate(DROP, [base64.b64encode(sprite_clip()).decode(), "a.mp4"])
        page.locator(".clip img").wait_for()
        assert next(answers, None) is None
        assert len(page.faults) == 2, "what the browser says of the two failures"


def test_a_drawn_path_is_taught_by_the_same_route(browser, address: str):
    with window(browser, "phone") as page:
        sign_in(page, address)
        page.get_by_role("link", name="Draw").click()
        frame = page.locator("#path").bounding_box()
        for share in (0.2, 0.8):
            page.mouse.click(frame["x"] + frame["width"] * share, frame["y"] + frame["height"] * share)
        page.get_by_label("Name").fill("slope")
        page.get_by_role("button", name="Teach this motion").click()
        page.locator(".clip img").wait_for()
        assert page.get_by_label("Name of the motion").input_value() == "slope"
        assert page.get_by_label("What do the clips show?").input_value() == LOOK
        page.get_by_text(f"{STEPS} steps").first.wait_for()
        page.get_by_label("What do the clips show?").fill(f"{LOOK} 🌟")
        page.get_by_role("button", name="Train", exact=True).click()
        page.get_by_text(f"{LOOK} 🌟").wait_for()
        page.route("**/parts/trainings/*", lambda route: route.abort(), times=2)  # the server restarts
        page.locator("#away").wait_for()
        page.locator("#away").wait_for(state="hidden")
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("heading", name="Cancelled").wait_for()
        assert [fault for fault in page.faults if not re.search("ERR_FAILED|^htmx:", fault)] == [], (
            "all that is said is of the two requests that failed"
        )
