"""A window of the browser on a desktop and on a phone, and what must be true of every page in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEY = "the-key-of-a-person-0123"
SIZES = {"desktop": {"width": 1280, "height": 860}, "phone": {"width": 390, "height": 844}}
LOOKS = {"desktop": "light", "phone": "dark"}
SERIOUS = ("serious", "critical")
PATIENCE = 90_000  # milliseconds, for a video on a busy machine


@contextmanager
def window(browser, kind: str, **options) -> Iterator:
    """A window of a kind, in which no script may fail and nothing may be blocked."""
    context = browser.new_context(
        viewport=SIZES[kind], color_scheme=LOOKS[kind], accept_downloads=True, **options
    )
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page, faults = context.new_page(), []
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.faults = faults
    try:
        yield page
    except BaseException:
        if folder := os.environ.get("STUDIO_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / f"failed-{kind}.png", full_page=True)
        raise
    finally:
        context.close()


def look(page, kind: str, name: str) -> None:
    """Check what is on the screen: nothing sticks out, axe finds no serious fault. Leave a picture."""
    from axe_playwright_python.sync_playwright import Axe

    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= SIZES[kind]["width"], f"{name}: {wide} pixels wide"
    found = [
        f"{fault['id']}: {fault['nodes'][0]['html'][:200]} {fault['nodes'][0].get('failureSummary', '')}"
        for fault in Axe().run(page).response["violations"]
        if fault["impact"] in SERIOUS
    ]
    assert found == [], name
    if folder := os.environ.get("STUDIO_SCREENSHOTS"):
        page.wait_for_timeout(700)
        page.screenshot(path=Path(folder) / f"{kind}-{name}.png")


def sign_in(page, address: str) -> None:
    page.goto(address)
    page.get_by_label("API key").fill("wrong-key-of-nobody-0000")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("not one of the server").wait_for()
    page.faults.clear()  # the browser reports the 401
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Sign in").click()
    page.locator(".motion video").first.wait_for()
