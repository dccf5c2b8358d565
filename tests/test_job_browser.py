"""A job's page in a real browser: its charts by keyboard and in words, any metric, what was chosen is kept."""

from collections.abc import Iterator

import httpx
import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import BrowserContext, Page, expect

from tests.browsing import NARROW, Visitor, visitor
from tests.browsing import chrome as chrome
from tests.browsing import person as person
from tests.mapped import varied
from tests.serving import KEY, served

SAID = "[aria-live]"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    url = f"sqlite:///{tmp_path_factory.mktemp('page') / 'lrtune.db'}"
    with served(url) as client:
        client.headers["x-job"] = varied(client, url)
        client.post(f"/v1/jobs/{client.headers['x-job']}/cancel")
        yield client


@pytest.fixture
def page(person: Visitor, service: httpx.Client) -> Page:
    """The job's page, all of it drawn."""
    opened = person.open(f"/jobs/{service.headers['x-job']}")
    expect(opened.locator("canvas")).to_have_count(4)
    expect(opened.locator("#snippet")).to_be_visible()
    return opened


def walked(page: Page, wanted: str, presses: int = 60) -> None:
    """Press Tab until what is wanted has the focus."""
    for _ in range(presses):
        page.keyboard.press("Tab")
        if page.evaluate("(wanted) => document.activeElement?.matches(wanted)", wanted):
            return
    raise AssertionError(f"{wanted} is not reached by Tab")


def test_with_the_keyboard_alone_from_signing_in_to_the_copied_code(
    chrome: BrowserContext, service: httpx.Client
) -> None:
    with visitor(chrome, str(service.base_url)) as someone:
        page = someone.open("/sign-in")
        walked(page, "input[name=key]")
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
        walked(page, f"a[href='/jobs/{service.headers['x-job']}']")
        page.keyboard.press("Enter")
        expect(page.locator("#snippet")).to_contain_text("torch")
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        walked(page, "input[name=format]")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#snippet")).to_contain_text("keras")
        expect(page.get_by_role("radio", name="Keras")).to_be_focused()
        walked(page, "#export .copy")
        page.keyboard.press("Enter")
        expect(page.locator("#export .copy")).to_have_text("Copied")
        assert "keras" in page.evaluate("navigator.clipboard.readText()")


def test_the_map_is_walked_with_the_arrows_and_says_what_it_shows(page: Page) -> None:
    chart = page.locator("#landscape .plot")
    expect(chart).to_have_attribute("aria-label", "val_accuracy over the peak learning rate, 8 runs of 2 families; "
                                    "the best is 0.9978 at 1e-2 with cosine")  # fmt: skip
    chart.focus()
    page.keyboard.press("ArrowRight")
    expect(chart.locator(SAID)).to_have_text(
        "Trial 0, the baseline, adamw at 1e-3, cosine, complete, val_accuracy 0.9728"
    )
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(chart.locator(SAID)).to_contain_text("linear, stopped at 30 % of the run, val_accuracy 0.")
    expect(chart.locator(SAID)).to_contain_text("expected (")
    expect(page.locator("#landscape .tip")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Trial 3")).to_be_visible()


def test_the_history_is_walked_too_and_every_picture_is_there_as_a_table(page: Page) -> None:
    chart = page.locator("#history .plot")
    chart.focus()
    page.keyboard.press("ArrowLeft")
    expect(chart.locator(SAID)).to_contain_text("full runs")
    for part in ("#landscape", "#history"):
        page.locator(part).get_by_text("As a table").click()
        expect(page.locator(f"{part} tbody tr").first).to_be_visible()
    expect(page.locator("#landscape tbody tr").first).to_contain_text("adamw cosine")


def test_what_has_the_focus_keeps_it_when_a_picture_is_drawn_anew(page: Page) -> None:
    for part in ("#landscape .plot", "#landscape .legend button >> nth=1", "#history .plot", "#history summary",
                 "#curves .plot >> nth=1", "#curves select >> nth=0"):  # fmt: skip
        page.locator(part).first.focus()
        page.evaluate("document.dispatchEvent(new Event('theme'))")
        expect(page.locator(part).first).to_be_focused()


def test_any_metric_is_shown_and_what_was_chosen_is_kept(page: Page) -> None:
    curves = page.locator("#curves")
    expect(curves.locator(".plot").first).to_have_attribute("aria-label", "val_accuracy over optimizer steps, 8 trials")
    curves.get_by_label("Show").focus()
    curves.get_by_label("Show").select_option("val_loss")
    expect(curves.locator(".plot").first).to_have_attribute("aria-label", "val_loss over optimizer steps, 8 trials")
    expect(curves.get_by_label("Show")).to_be_focused()
    curves.get_by_label("Smoothing").select_option("strong")
    for part in ("#curves", "#landscape"):
        page.locator(f"{part} .plot").first.focus()
        page.keyboard.press("+")
    zooms = [page.locator(part).get_attribute("data-zoom") for part in ("#curves", "#landscape")]
    assert all(zooms)
    page.reload()
    expect(curves.get_by_label("Show")).to_have_value("val_loss")
    expect(curves.get_by_label("Smoothing")).to_have_value("0.8")
    for part, zoom in zip(("#curves", "#landscape"), zooms, strict=True):
        expect(page.locator(part)).to_have_attribute("data-zoom", zoom or "")
        page.locator(f"{part} .plot").first.focus()
        page.keyboard.press("0")
        expect(page.locator(part)).to_have_attribute("data-zoom", "")
    curves.get_by_label("Show").select_option("learning rate")
    expect(curves.locator(".plot:visible")).to_have_count(1)


def test_a_trials_metrics_are_chosen_and_smoothed_and_read_report_by_report(person: Visitor, page: Page) -> None:
    person.open(f"{page.url.removeprefix(person.address)}/trials/2")
    charts = page.locator("#trial .plot")
    expect(charts).to_have_count(3)
    page.get_by_label("Show").select_option("val_loss")
    expect(charts).to_have_count(2)
    page.get_by_label("Smoothing").select_option("light")
    charts.first.focus()
    page.keyboard.press("ArrowRight")
    expect(charts.first.locator(SAID)).to_contain_text("step 10, val_loss 0.7")
    page.keyboard.press("+")
    zoom = page.locator("#trial").get_attribute("data-zoom") or ""
    assert zoom
    page.reload()
    expect(charts).to_have_count(2)
    expect(page.locator("#trial")).to_have_attribute("data-zoom", zoom)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_of_a_job_has_a_fault_of_any_weight_and_every_width_fits(
    person: Visitor, page: Page, scheme: str
) -> None:
    job = page.url.removeprefix(person.address)
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    for path, canvases in ((job, 4), (f"{job}/trials/3", 3)):
        for width in (390, 768, 1440):
            page.set_viewport_size({"width": width, "height": NARROW["height"]})
            person.open(path)
            expect(page.locator("canvas")).to_have_count(canvases)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        if path == job:
            page.get_by_text("As a table").first.click()
        page.evaluate(AXE_SCRIPT)
        found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
        assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in found] == []
        person.picture(f"whole-{scheme}-{canvases}")
