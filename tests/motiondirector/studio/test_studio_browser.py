"""The whole story in Debian's Chromium, on a desktop and on a phone: from the sign-in to a downloaded video.

`make test-browser` runs it. With STUDIO_SCREENSHOTS=FOLDER it leaves the pictures of docs/studio.md there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser_helpers import KEY, SIZES, look, sign_in, window
from fakes import on_loopback

from datasets.sprites.motion_sources import read_trajectory
from datasets.video.decode import decode
from motiondirector.library.library import add_library
from motiondirector.service.trainer import open_trainer
from motiondirector.studio.app import add_studio
from serving import sessions
from serving.config import ServeConfig
from serving.http.api import create_api
from serving.http.service import VideoService
from serving.keys import ApiKey, hash_key
from serving.ray.engine_service import EngineService

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The studio with the embedded model and its library."""
    folder = tmp_path_factory.mktemp("browser")
    add_library(str(folder / "registry"))
    config = ServeConfig(
        registry=str(folder / "registry"),
        data_dir=str(folder / "data"),
        api_keys=[ApiKey(sha256=hash_key(KEY))],
        threads=1,
        train_lanes=0,
    )
    engine = EngineService(config)
    app = create_api(VideoService(config, engine, trainer=open_trainer(config)))
    add_studio(app)
    with on_loopback(app) as url:
        yield f"{url}/studio"
    engine.close()


@pytest.mark.parametrize("kind", list(SIZES))
def test_someone_new_gets_from_the_start_to_a_video_and_on_from_there(
    browser, address: str, kind: str, tmp_path: Path
):
    with window(browser, kind) as page:
        sign_in(page, address)
        assert page.locator(".motion").count() == 12
        look(page, kind, "motions")

        page.get_by_role("button", name="a green heart on a beige checkerboard").click()
        page.get_by_role("button", name="Try orbit on the prompt").click()  # the second click of the story
        page.locator("[data-base-of] video").wait_for()
        page.locator(".stage-row > .take video").wait_for()
        page.get_by_label("Show the measured path").check()
        page.locator("canvas.over:not([hidden])").nth(1).wait_for()
        look(page, kind, "video")
        with page.expect_download() as begun:
            page.get_by_role("link", name="Download mp4").click()
        begun.value.save_as(tmp_path / "video.mp4")
        assert decode(tmp_path / "video.mp4").frames_FHWC.shape == (8, 64, 64, 3)
        page.get_by_text("Copy as curl").click()
        page.get_by_role("button", name="Copy", exact=True).last.click()
        page.get_by_text("Copied").wait_for()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith("motiondirector generate")
        assert "orbit@1" in copied

        page.get_by_label("The same motion and seed").fill("a white moon on a navy background")
        page.get_by_role("button", name="Remix").click()
        page.get_by_role("heading", name="a white moon").wait_for()
        page.get_by_role("link", name="Change something").click()
        one_motion_in_a_part_of_the_frame(page)
        look(page, kind, "make")
        page.get_by_label("How many").select_option("8")
        page.get_by_role("button", name="Make it").click()
        page.locator("#results .take").nth(8).wait_for()
        page.locator("#results [data-cancel]").last.click()
        page.get_by_text("Cancelled").wait_for()
        page.locator("#results video").nth(7).wait_for()
        look(page, kind, "results")
        page.reload()
        page.locator("#results .take").nth(8).wait_for()

        page.get_by_role("link", name="Videos", exact=True).click()
        look(page, kind, "videos")
        for box in page.locator(".choose input").all()[1:5]:
            box.check()
        page.get_by_role("button", name="Compare the chosen").click()
        page.locator(".board video").nth(3).wait_for()
        look(page, kind, "compare")
        assert page.faults == []


def one_motion_in_a_part_of_the_frame(page) -> None:
    """Drag a box over the frame, and say how strongly the motion acts."""
    assert page.get_by_label("What should be seen?").input_value() == "a white moon on a navy background"
    page.get_by_text("When and where it acts").click()
    frame = page.locator("[data-region]")
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.1 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.9 * box["height"], steps=4)
    page.mouse.up()
    assert page.get_by_label("Only in a part of the frame").is_checked()
    edges = [int(page.locator(f"[data-edge='{edge}']").input_value()) for edge in range(4)]
    assert edges == pytest.approx([25, 10, 75, 90], abs=1)
    page.get_by_label("Strength as a number").fill("1.3")
    page.get_by_text("stronger").wait_for()


@pytest.mark.parametrize("kind", list(SIZES))
def test_a_path_is_drawn_seen_moving_and_saved_for_the_command_line(
    browser, address: str, kind: str, tmp_path: Path
):
    with window(browser, kind) as page:
        sign_in(page, address)
        page.get_by_role("link", name="Draw").click()
        frame = page.locator("#path").bounding_box()
        for step in range(9):
            turn = 2 * math.pi * step / 9
            page.mouse.click(
                frame["x"] + frame["width"] * (0.5 + 0.33 * math.cos(turn)),
                frame["y"] + frame["height"] * (0.5 + 0.25 * math.sin(turn)),
            )
        page.get_by_label("Back to the start").check()
        page.locator("#path").focus()
        page.keyboard.press("ArrowUp")
        page.wait_for_selector("#preview[src^='blob:']")
        page.get_by_label("Point 2: size").fill("1.4")
        page.get_by_label("Point 2: size").press("Tab")
        look(page, kind, "draw")
        page.get_by_label("Name").fill("my-loop")
        with page.expect_download() as begun:
            page.get_by_role("button", name="Save as JSON").click()
        begun.value.save_as(tmp_path / begun.value.suggested_filename)
        assert begun.value.suggested_filename == "my-loop.json"
        saved = json.loads((tmp_path / "my-loop.json").read_text())
        assert len(saved) == 10
        assert saved[0][1:3] == saved[-1][1:3]
        assert saved[1][3] == 1.4
        assert len(read_trajectory(tmp_path / "my-loop.json").path(np.linspace(0, 1, 8))["x"]) == 8
        page.get_by_role("button", name="Start over").click()
        page.locator("#load").set_input_files(tmp_path / "my-loop.json")
        page.locator("#points tbody tr").nth(9).wait_for()
        page.get_by_label("What moves").fill("a dragon on a hill")
        page.get_by_label("What moves").press("Tab")
        page.locator("#drawing-refused").filter(has_text="dragon").wait_for()
        assert [fault for fault in page.faults if "status of 400" not in fault] == [], (
            "the dragon alone is refused"
        )


def test_a_session_that_ends_says_so_and_leads_back(browser, address: str, monkeypatch: pytest.MonkeyPatch):
    with window(browser, "desktop") as page:
        sign_in(page, address)
        monkeypatch.setattr(sessions, "LIFETIME", -1)
        page.get_by_role("button", name="Try orbit on the prompt").click()
        page.get_by_role("dialog").get_by_text("Your session has ended").wait_for()
        monkeypatch.undo()
        page.get_by_role("link", name="Sign in").click()
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(re.compile(r"/studio/$"))
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("API key").wait_for()


def test_without_scripts_a_page_says_what_can_be_had(browser, address: str):
    with window(browser, "phone", java_script_enabled=False) as page:
        page.goto(address)
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Sign in").click()
        said = page.locator("noscript p")  # Playwright finds no text in a noscript
        said.wait_for()
        assert "This browser runs no scripts here" in said.inner_text()
        page.get_by_role("link", name="Videos", exact=True).click()
        assert page.get_by_role("heading", name="Your videos").is_visible()
