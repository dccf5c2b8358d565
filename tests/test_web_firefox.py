"""The page in Debian's Firefox: every page at every width, light and dark, and an answer copied."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bidi import ENTER, FIREFOX, TAB, Firefox, firefox
from tests.mapped import varied
from tests.people import job, upload
from tests.serving import KEY, served

PICTURES = os.environ.get("LRTUNE_TEST_SCREENSHOTS")
WIDTHS = (390, 768, 1440)
# Every canvas has something on it: an empty one is a chart that was not drawn.
DRAWN = """[...document.querySelectorAll("canvas")].filter((one) => one.width && one.getContext("2d")
    .getImageData(0, 0, one.width, one.height).data.some((byte) => byte)).length"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FIREFOX is None, reason="no Firefox is installed: apt-get install firefox-esr"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, tuple[str, int]]]]:
    """The address of a server, and every page of it with how many pictures are drawn there."""
    folder = tmp_path_factory.mktemp("page")
    url = f"sqlite:///{folder / 'lrtune.db'}"
    with served(url, data_dir=folder / "data") as service:
        done = varied(service, url)
        service.post(f"/v1/jobs/{done}/cancel")
        loop = job(service, task="external", metric={"name": "val_loss", "goal": "minimize"}, name="a loop of mine")
        data = upload(service).json()["id"]
        yield str(service.base_url).rstrip("/"), {
            "jobs": ("/", 0), "job": (f"/jobs/{done}", 4), "trial": (f"/jobs/{done}/trials/3", 3),
            "external": (f"/jobs/{loop}", 0), "submit": ("/submit", 1), "tasks": ("/tasks", 0),
            "compare": (f"/compare?job={done}&job={loop}", 2), "data": ("/datasets", 0),
            "dataset": (f"/datasets/{data}", 0), "workers": ("/workers", 0), "keys": ("/keys", 0),
            "audit": ("/keys/audit", 0),
        }  # fmt: skip


@pytest.fixture(params=["light", "dark"])
def fox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Firefox]:
    with firefox(tmp_path, request.param) as started:
        yield started
        assert started.complaints == []


def walked(fox: Firefox, wanted: str, presses: int = 60) -> None:
    """Press Tab until what is wanted has the focus."""
    for _ in range(presses):
        fox.typed(TAB)
        if fox.evaluate(f"document.activeElement?.matches({wanted!r})"):
            return
    raise AssertionError(f"{wanted} is not reached by Tab")


def signed_in(fox: Firefox, address: str) -> None:
    fox.open(f"{address}/sign-in")
    assert fox.faults() == []
    walked(fox, "input[name=key]")
    fox.typed(KEY + ENTER)
    fox.until("document.querySelector('h1')?.textContent === 'Jobs'")


def test_every_page_is_drawn_without_a_fault_at_every_width(
    fox: Firefox, site: tuple[str, dict[str, tuple[str, int]]]
) -> None:
    address, paths = site
    signed_in(fox, address)
    dark = fox.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    for name, (path, charts) in paths.items():
        for width in WIDTHS:
            fox.sized(width)
            fox.open(address + path)
            fox.until(f"{DRAWN} === {charts}")
            assert fox.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
            assert fox.faults() == [], (name, width)
            if PICTURES:
                fox.picture(Path(PICTURES) / f"firefox-{name}-{'dark' if dark else 'light'}-{width}.png")


def test_an_answer_is_reached_by_keyboard_and_copied(
    fox: Firefox, site: tuple[str, dict[str, tuple[str, int]]]
) -> None:
    address, paths = site
    signed_in(fox, address)
    walked(fox, f'a[href="{paths["job"][0]}"]')
    fox.typed(ENTER)
    fox.until("document.querySelector('#snippet')?.textContent.includes('torch')")
    walked(fox, "#export .copy")
    fox.pressed("#export .copy")
    fox.until("document.querySelector('#export .copy').textContent === 'Copied'")
    assert fox.evaluate("navigator.clipboard.readText()") == fox.evaluate(
        "document.querySelector('#snippet').textContent"
    )
