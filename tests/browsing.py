"""A real browser for the tests of the page: the machine's Chromium, its console watched, its pages looked at by axe."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, sync_playwright

from tests.serving import KEY

PICTURES = os.environ.get("LRTUNE_TEST_SCREENSHOTS")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
QUIET += ["--renderer-process-limit=1"]  # tabs share a process
AXE_RUN = "axe.run({resultTypes: ['violations']})"
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
FRAMES = 600  # that a page may take until it fits its window


def chromium() -> str:
    """Where Chromium is. The page is not tested without one, so that is a failure."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    assert found is not None, "the tests of the page need Chromium: apt-get install chromium"
    return found


@contextmanager
def browser() -> Iterator[BrowserContext]:
    """A browser with a window, in which visitors have a tab each: a window takes long to open."""
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium(), args=QUIET)
        window = started.new_context()
        window.set_default_timeout(120_000)
        window.new_page()  # keeps the window open
        yield window
        started.close()


@dataclass
class Visitor:
    """Somebody at the page, and what the browser complained of meanwhile."""

    page: Page
    address: str
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        """Go to a path and wait until nothing more is asked for; an open event stream does not count."""
        self.page.goto(self.address + path, wait_until="load")
        return self.page

    def sign_in(self) -> None:
        """With the key of the tests."""
        self.open("/sign-in").get_by_label("Key").fill(KEY)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("heading", name="Jobs").wait_for()

    def picture(self, name: str) -> None:
        """Keep what the page looks like, where somebody wants to see it."""
        if PICTURES:
            self.page.screenshot(path=Path(PICTURES) / f"{name}.png", full_page=True)


@contextmanager
def visitor(window: BrowserContext, address: str) -> Iterator[Visitor]:
    """A visitor of whom the browser knows nothing yet, and who ends with no complaint."""
    window.clear_cookies()
    page = window.new_page()
    page.set_viewport_size(WIDE)
    found = Visitor(page, address.rstrip("/"))
    _watched(found)
    try:
        yield found
    finally:
        page.close()
    assert not found.complaints, found.complaints


@pytest.fixture(scope="module")
def chrome() -> Iterator[BrowserContext]:
    """A browser for the tests of a file, which import this as they need it."""
    with browser() as started:
        yield started


@pytest.fixture
def person(chrome: BrowserContext, service: httpx.Client) -> Iterator[Visitor]:
    """Somebody who has signed in at the `service` of the file."""
    with visitor(chrome, str(service.base_url)) as someone:
        someone.sign_in()
        yield someone


def _watched(visitor: Visitor) -> None:
    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            visitor.complaints.append(f"{message.type}: {message.text}")

    page = visitor.page
    page.on("console", said)
    page.on("pageerror", lambda error: visitor.complaints.append(str(error.stack)))
    page.on("dialog", lambda dialog: visitor.complaints.append(f"a dialog: {dialog.message}"))
    page.on("request", lambda request: visitor.complaints.extend(_foreign(request.url, visitor.address)))


def _foreign(url: str, address: str) -> list[str]:
    return [] if url.startswith((address, "data:", "blob:")) else [f"asked elsewhere: {url}"]


def faults(page: Page) -> list[str]:
    """What axe finds, whatever its weight, in words."""
    page.evaluate(AXE_SCRIPT)
    return in_words(page.evaluate(AXE_RUN))


def in_words(found: Mapping[str, Any]) -> list[str]:
    """What axe found."""
    return [
        f"{one['id']} at {node['target']}: {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


def fits(page: Page, window: Mapping[str, int]) -> None:
    """Wait until nothing is wider than the window: charts follow it a moment later."""
    # Playwright's own way to wait evaluates text, which our pages forbid from the second look on.
    width = page.evaluate(
        """([fits, looks]) => new Promise(done => {
          const look = () => {
            const width = document.documentElement.scrollWidth;
            width <= fits || !looks-- ? done(width) : requestAnimationFrame(look);
          };
          look();
        })""",
        [window["width"], FRAMES],
    )
    assert width <= window["width"]
