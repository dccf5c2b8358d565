"""The README's pictures of the page, from a real run: `python -m docs.pictures`. Needs Chromium.

Starts the server and its workers as `make demo` does, tunes a small network, and takes the pictures into
`docs/pictures/`, each below 200 kB.
"""

import secrets
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect
from rich.console import Console

import demo
from lrtune.wire.results import JobState
from tests.browsing import browser

HERE = Path(__file__).parent / "pictures"
SIZE = {"width": 1280, "height": 1090}
JOB = {
    "name": "digits, small MLP",
    "task": "digits",
    "horizon": {"steps": 480},
    "budget": {"full_runs": 30, "seconds": 120},
    "search": {"pruner": "median"},
    "tags": {"team": "vision"},
}


def keep(page: Page, name: str) -> None:
    """What stands in the window, as a small file."""
    page.mouse.move(0, 0)
    shot = Image.open(BytesIO(page.screenshot())).convert("RGB")
    # A third of the size; no colour moves visibly, and those of thin lines are kept.
    image = shot.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE)
    HERE.mkdir(exist_ok=True)
    image.save(HERE / f"{name}.png", optimize=True)
    print(f"{name}.png: {(HERE / f'{name}.png').stat().st_size / 1000:.0f} kB")


def signed_in(started: BrowserContext, url: str, key: str, scheme: str) -> Page:
    """A page of somebody who has signed in."""
    if started.browser is None:
        raise RuntimeError("the browser has ended")
    page = started.browser.new_context(viewport=SIZE, color_scheme=scheme).new_page()  # type: ignore[arg-type]
    page.goto(f"{url}/sign-in")
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    return page


def job(page: Page, url: str, job_id: str, name: str, *, at: str) -> None:
    """A job's page with its charts drawn, from a part of it on."""
    page.goto(f"{url}/jobs/{job_id}")
    expect(page.locator("canvas")).to_have_count(4, timeout=60_000)
    expect(page.locator("#why dd")).not_to_have_count(0)
    page.locator(at).evaluate("(part) => part.scrollIntoView({block: 'start'})")
    keep(page, name)


def form(page: Page, url: str) -> None:
    """The form, a knob in hand."""
    page.goto(f"{url}/submit")
    card = page.locator(".pick").filter(has=page.get_by_label("wsd", exact=True))
    card.get_by_text("Knobs").click()
    card.get_by_label("decay", exact=True).first.select_option("searched between")
    expect(card.locator(".spark path")).not_to_have_count(0)
    page.get_by_text("Schedules to try").evaluate("(part) => part.scrollIntoView({block: 'start'})")
    keep(page, "form")


def main() -> int:
    """Take the pictures; the exit status."""
    key = secrets.token_urlsafe(32)
    with demo.service(Console(), key) as (client, _), browser() as started:
        url = client.url
        job_id = client.submit(JOB).id
        light, dark = (signed_in(started, url, key, scheme) for scheme in ("light", "dark"))
        light.goto(f"{url}/jobs/{job_id}")
        expect(light.locator("#landscape canvas")).to_be_visible(timeout=90_000)
        form(light, url)
        done = client.wait(job_id)
        job(light, url, job_id, "job", at="header")
        job(dark, url, job_id, "rates", at="#land-title")
    return int(done.state is not JobState.SUCCEEDED)


if __name__ == "__main__":
    sys.exit(main())
