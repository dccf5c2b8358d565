"""The page in a real browser: from signing in to the answer, live; what users wrote never runs; no serious fault."""

import re
import threading
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect

import worker.settings
from lrtune.store import Database, jobs, leases, trials
from lrtune.wire.results import JobState, Proposal, Report, TrialState
from tests.browsing import NARROW, WIDE, Visitor, faults, fits, visitor
from tests.browsing import chrome as chrome
from tests.browsing import person as person
from tests.crowd import crowded
from tests.people import made
from tests.serving import KEY, served
from worker.loop import Worker

LOADED = """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .map((one) => one.decodedBodySize)"""
expect.set_options(timeout=30_000)
INJECTED = "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
HOSTILE = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'>\"><b>bold</b>"


@pytest.fixture
def service(sqlite_url: str) -> Iterator[httpx.Client]:
    with served(sqlite_url) as client:
        yield client


@pytest.fixture
def working(sqlite_url: str) -> Iterator[None]:
    """A worker that trains."""
    stop = threading.Event()
    settings = worker.settings.Settings(database_url=sqlite_url, device="cpu", poll_seconds=0.05)
    thread = threading.Thread(target=Worker(settings, stop).work)
    thread.start()
    yield
    stop.set()
    thread.join(timeout=30)


def failed(database_url: str, job_id: str, reason: str) -> None:
    """Let trial 0 of a job fail for a reason of the task's."""
    database, ttl = Database(database_url), timedelta(minutes=1)
    chosen = {"optimizer": "adamw", "learning_rate": 0.01, "schedule": "linear"}
    proposal = Proposal.model_validate(
        {"configuration": chosen, "role": "baseline", "seed": 0, "horizon": 40, "reason": reason}
    )
    with database.write() as tx:
        trials.propose(tx, job_id, proposal, known=0)
        lease = leases.claim(tx, HOSTILE[:90], ttl=ttl)
        assert lease is not None
        leases.report(tx, lease, [Report(step=1, learning_rate=0.01, metrics={"val_loss": 1.0, HOSTILE: 2.0})], ttl=ttl)
        leases.finish(tx, lease, TrialState.FAILED, value=None, step=1, reason=reason)
    database.dispose()


def test_from_signing_in_to_the_answer(person: Visitor, working: None) -> None:
    page = person.page
    page.get_by_role("link", name="New job").first.click()
    page.get_by_label("name", exact=True).fill("watched")
    page.get_by_label("horizon", exact=True).fill("300")
    page.get_by_label("trials", exact=True).fill("40")
    expect(page.locator("#cost")).to_contain_text("At most")
    expect(page.locator("#baseline")).to_contain_text("Trial 0 will be the untuned baseline: adamw at its usual rate")
    moved_with_a_knob(page)
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("heading", name="watched")).to_be_visible()
    drawn = page.locator("#curves")
    expect(drawn).to_have_attribute("data-reports", re.compile("[1-9]"))
    before = drawn.get_attribute("data-reports") or ""
    expect(drawn).not_to_have_attribute("data-reports", before)  # and nobody has reloaded the page
    expect(page.locator("#answer")).to_have_text(re.compile(r"AdamW, peak [0-9.]+(e-[0-9])?, .* (schedule|rate)"))
    expect(page.locator("#landscape canvas")).to_be_visible()
    exported(page)
    person.picture("job-running-1440")
    page.locator("#table").get_by_role("link", name="0", exact=True).click()
    expect(page.get_by_role("heading", name="Trial 0")).to_be_visible()
    expect(page.locator("#trial canvas").first).to_be_visible()
    page.get_by_role("link", name="watched").click()
    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.locator("#summary .badge").first).to_have_text("cancelled")
    expect(page.locator("#summary")).to_contain_text("cancelled by admin")


def moved_with_a_knob(page: Page) -> None:
    """The preview follows a slider."""
    card = page.locator(".pick").filter(has=page.get_by_label("wsd", exact=True))
    card.get_by_text("Knobs").click()
    card.get_by_label("decay", exact=True).first.select_option("fixed at")
    shape = card.locator(".spark .middle")
    expect(shape).to_have_count(1)
    before = shape.get_attribute("d")
    card.get_by_label("decay, slider").focus()
    for _ in range(12):
        page.keyboard.press("PageDown")
    expect(shape).not_to_have_attribute("d", before or "")
    card.get_by_label("decay", exact=True).last.fill("7")
    expect(card.locator(".error:visible")).to_contain_text("at most 1")
    card.get_by_label("decay", exact=True).last.fill("0.5")
    expect(card.locator(".error:visible")).to_have_count(0)


def exported(page: Page) -> None:
    """The answer can be copied, in any format."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    expect(page.locator("#snippet")).to_contain_text("torch.optim")
    page.get_by_role("radio", name="JSON").check()
    expect(page.locator("#snippet")).to_contain_text("learning_rates")
    page.locator("#export").get_by_role("button", name="Copy").click()
    expect(page.locator("#export").get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").startswith("{")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "learning_rate.json"


def test_pause_resume_stop_extend_and_delete(person: Visitor, service: httpx.Client) -> None:
    job = service.post("/v1/jobs", json={"task": "digits"}).json()["id"]
    page = person.open(f"/jobs/{job}")
    badge = page.locator("#summary .badge").first
    page.get_by_role("button", name="Pause").click()
    expect(badge).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(badge).to_have_text("queued")
    page.get_by_role("button", name="Stop searching…").click()
    expect(page.get_by_role("dialog", name="End the search now?")).to_contain_text("confirmed, with 12 runs at most")
    page.get_by_role("button", name="Stop searching", exact=True).click()
    expect(page.locator("#state")).to_contain_text("search stopped")
    expect(page.locator("#summary")).to_contain_text("ending its search")
    expect(page.get_by_role("button", name="Stop searching…")).to_have_count(0)
    page.get_by_role("button", name="Extend…").click()
    page.get_by_label("Full runs").fill("33")
    page.get_by_role("button", name="Extend", exact=True).click()
    expect(page.locator("#log")).to_contain_text("new budget by admin: full_runs 33")
    expect(page.get_by_role("button", name="Stop searching…")).to_be_visible()
    service.post(f"/v1/jobs/{job}/cancel")
    expect(badge).to_have_text("cancelled")  # by itself
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete the job").click()
    expect(page.get_by_role("heading", name="No job yet")).to_be_visible()


def test_what_users_wrote_shows_as_text_and_does_nothing(
    person: Visitor, service: httpx.Client, sqlite_url: str
) -> None:
    body = {"task": "digits", "name": HOSTILE, "tags": {HOSTILE.replace(":", ""): HOSTILE}, "horizon": {"steps": 40}}
    job = service.post("/v1/jobs", json=body).json()["id"]
    failed(sqlite_url, job, f"RuntimeError: {HOSTILE}")
    for path in ("/", f"/jobs/{job}", f"/jobs/{job}/trials/0", f"/?tag={HOSTILE[:20]}"):
        page = person.open(path)
        page.wait_for_load_state("load")
        if "/trials/" in path:
            expect(page.locator("#trial canvas")).to_have_count(3)
            expect(page.locator("#main")).to_contain_text(f"RuntimeError: {HOSTILE}")
        elif "tag" not in path:
            expect(page.locator("#main")).to_contain_text(HOSTILE)
        assert page.evaluate("window.ran") is None
        assert page.locator("#main img, #main b, #main script").count() == 0
    page.evaluate(INJECTED)
    assert page.evaluate("window.ran") is None, "even a script that got in would not run"
    assert "Content Security Policy" in person.complaints.pop()


def test_a_trials_page_tries_again_where_its_curves_cannot_be_fetched(
    person: Visitor, service: httpx.Client, sqlite_url: str
) -> None:
    job = service.post("/v1/jobs", json={"task": "digits", "horizon": {"steps": 40}}).json()["id"]
    failed(sqlite_url, job, "RuntimeError: no")
    away = [True, True, False]
    person.page.route("**/v1/jobs/*/trials/0", lambda route: route.abort() if away.pop(0) else route.continue_())
    page = person.open(f"/jobs/{job}/trials/0")
    expect(page.locator("#trial")).to_contain_text("could not be fetched; trying again")
    expect(page.locator("#trial canvas")).to_have_count(3)
    assert len(person.complaints) == 2, "the browser's own word for each look that failed"
    person.complaints.clear()


def test_a_failure_that_names_a_long_file_fits_a_phone(person: Visitor, service: httpx.Client, sqlite_url: str) -> None:
    job, file = service.post("/v1/jobs", json={"task": "digits"}).json()["id"], f"uploads/{'0f' * 32}.txt"
    database = Database(sqlite_url)
    with database.write() as tx:
        jobs.end(tx, job, JobState.FAILED, reason=f"the last of them: {file!r} has 36 characters")
    database.dispose()
    person.page.set_viewport_size(NARROW)
    page = person.open(f"/jobs/{job}")
    expect(page.locator("main")).to_contain_text(file)
    fits(page, NARROW)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_fault_and_every_width_fits(
    chrome: BrowserContext, service: httpx.Client, sqlite_url: str, scheme: str
) -> None:
    job = crowded(sqlite_url, trials=20, name="adult, wide MLP", tags={"team": "risk"})
    pages = {"jobs": "/", "job": f"/jobs/{job}", "trial": f"/jobs/{job}/trials/7", "submit": "/submit",
             "workers": "/workers", "tasks": "/tasks", "data": "/datasets",
             "keys": "/keys", "audit": "/keys/audit"}  # fmt: skip
    made(service, "ada")
    with visitor(chrome, str(service.base_url)) as someone:
        someone.page.emulate_media(color_scheme=scheme)
        assert faults(someone.open("/sign-in")) == []
        someone.picture(f"sign-in-{scheme}-1440")
        someone.sign_in()
        for name, path in pages.items():
            page = someone.open(path)
            settled(page, name)
            assert faults(page) == [], name
            someone.picture(f"{name}-{scheme}-1440")
            page.set_viewport_size(NARROW)
            settled(page, name)
            fits(page, NARROW)
            someone.picture(f"{name}-{scheme}-390")
            page.set_viewport_size(WIDE)
        error = someone.open("/jobs/job-none")
        assert faults(error) == []
        assert "404" in someone.complaints.pop()


def settled(page: Page, name: str) -> None:
    """Until what a page asks for by itself has come and is drawn."""
    charts = {"job": 4, "trial": 2, "submit": 1}.get(name, 0)
    expect(page.locator("canvas")).to_have_count(charts)
    if name == "job":
        expect(page.locator("#why dd").first).to_be_visible()
        expect(page.locator("#snippet")).to_be_visible()


def test_the_keyboard_reaches_everything(person: Visitor, sqlite_url: str) -> None:
    job = crowded(sqlite_url, trials=30)
    page = person.open(f"/jobs/{job}")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.locator("#curves .plot").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#curves .tip").first).to_be_visible()
    wide = page.evaluate("() => document.querySelector('#curves').querySelectorAll('canvas').length")
    page.keyboard.press("+")
    assert wide == 2
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Trial 0")).to_be_visible()


def test_light_or_dark_is_kept(chrome: BrowserContext, service: httpx.Client) -> None:
    with visitor(chrome, str(service.base_url)) as someone:
        someone.page.emulate_media(color_scheme="light")
        someone.sign_in()
        page = someone.page
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.get_by_role("button", name="Light or dark").click()
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert "lrtune-theme" in {one["name"] for one in page.context.cookies()}  # it has got where a reload reads it
        page.reload()
        assert light != dark == page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_a_job_of_5000_trials_opens_at_once(person: Visitor, sqlite_url: str) -> None:
    job = crowded(sqlite_url, trials=5000)
    page = person.open(f"/jobs/{job}")
    settled(page, "job")
    expect(page.locator("#curves-count")).to_contain_text("of 5,000 trials drawn")
    sizes = page.evaluate(LOADED)
    assert len(sizes) > 12
    assert sum(sizes) < 500_000
    person.picture("job-5000-1440")


def test_an_axis_has_as_many_digits_as_it_takes_to_tell_its_labels_apart(person: Visitor, sqlite_url: str) -> None:
    """All of a loss about -1,000,000 said "-1e+6"."""
    page = person.open(f"/jobs/{crowded(sqlite_url, trials=5)}")
    settled(page, "job")
    assert page.evaluate("charts.labels(null, [-999997, -999996.5, null])") == ["-999997", "-999996.5", ""]
    assert page.evaluate("charts.labels(null, [0.12345, 0.1, 1e7])") == ["0.123", "0.1", "1e+7"]


def test_the_api_is_described_and_tried_out_with_what_the_server_has_itself(person: Visitor) -> None:
    page = person.page
    for path in ("/docs", "/redoc"):
        with page.expect_response(f"**{path}") as answered:
            person.open(path)
        policy = answered.value.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        expect(page.get_by_text("Submit a job").filter(visible=True).first).to_be_visible()
        assert page.evaluate("document.fonts.size + document.querySelectorAll('img[src^=http]').length") == 0
        person.picture(path.strip("/"))
    person.open("/docs")
    page.get_by_text("List tasks").click(no_wait_after=True)  # its address changes, and the page stays
    page.get_by_role("button", name="Try it out").click()
    with page.expect_response("**/v1/tasks") as answered:
        page.get_by_role("button", name="Execute").click()
    assert answered.value.status == 200
    expect(page.locator(".live-responses-table .response-col_status").last).to_contain_text("200")


def test_signing_out_leaves_nothing_behind(person: Visitor) -> None:
    person.page.get_by_role("button", name="Sign out").click()
    expect(person.page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert person.page.context.cookies() == []
    assert KEY not in person.page.content()
