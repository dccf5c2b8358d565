"""Alive or not: what an open page says, keeps and does while its server is killed and started again."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import BrowserContext, Page, expect

from lrtune.store import Database, events, jobs, workers
from lrtune.store.database import clock
from lrtune.store.lookup import job as job_row
from lrtune.wire.results import JobState
from tests import processes
from tests.browsing import Visitor, visitor
from tests.browsing import chrome as chrome
from tests.serving import KEY, reached, served

PAGE = {"Accept": "text/html"}


@contextmanager
def running(database_url: str, port: int, folder: Path) -> Iterator[httpx.Client]:
    """A server that is killed at the end, as by the power."""
    command = ("uvicorn", "--factory", "app.main:create_app", "--port", str(port))
    settings = {"LRTUNE_DATABASE_URL": database_url, "LRTUNE_API_KEY": KEY, "LRTUNE_CREDENTIALS": str(folder / "key")}
    server = processes.start(*command, environment=settings, log=folder / "server.log")
    headers = {"Authorization": f"Bearer {KEY}"}
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False) as client:
            reached(client, server)
            yield client
    finally:
        server.kill()
        server.join()


def missed(person: Visitor) -> None:
    """The browser's own word for each question that nobody answered is no complaint, nor is that of htmx."""
    own = ("net::ERR_", "htmx:sendError", "htmx:afterRequest")
    person.complaints[:] = [one for one in person.complaints if not any(word in one for word in own)]


def test_a_page_says_within_seconds_that_its_server_is_gone_and_comes_back_by_itself(
    chrome: BrowserContext, sqlite_url: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with visitor(chrome, f"http://127.0.0.1:{port}") as person:
        page, banner = person.page, person.page.locator("#away")
        with running(sqlite_url, port, tmp_path) as service:
            job = service.post("/v1/jobs", json={"task": "digits", "name": "kept"}).json()["id"]
            person.sign_in()
            person.open(f"/jobs/{job}")
            expect(page.locator("#snippet, #export p")).to_be_visible()
            expect(banner).to_be_hidden()
        expect(banner).to_contain_text("has not answered since", timeout=5000)
        expect(page.get_by_role("heading", name="kept")).to_be_visible()
        page.get_by_role("button", name="Pause").click()
        expect(banner).to_contain_text("Nothing was sent")
        page.get_by_role("link", name="Workers").click()
        expect(page.get_by_role("heading", name="kept")).to_be_visible()
        with running(sqlite_url, port, tmp_path) as service:
            expect(banner).to_be_hidden()
            expect(page.locator("#said")).to_have_text("The server answers again.")
            service.post(f"/v1/jobs/{job}/cancel")
            expect(page.locator("#summary .badge").first).to_have_text("cancelled")  # nobody has reloaded the page
            expect(page.locator("#said")).to_have_text("kept is cancelled")
            for part in ("#landscape", "#history", "#curves"):
                expect(page.locator(part)).to_contain_text(re.compile("^No (run|trial)"))  # nothing is to come
            ticking(page)
            page.goto("about:blank")  # where nothing is asked for, so that nothing is missed when this server goes
            missed(person)


def test_an_open_page_says_what_the_server_refuses(chrome: BrowserContext, sqlite_url: str) -> None:
    with served(sqlite_url) as service, visitor(chrome, str(service.base_url)) as person:
        person.sign_in()
        job = service.post("/v1/jobs", json={"task": "digits"}).json()["id"]
        page = person.open(f"/jobs/{job}")
        expect(page.locator("#export p")).to_be_visible()
        for verb, path in (("POST", f"/v1/jobs/{job}/cancel"), ("DELETE", f"/v1/jobs/{job}")):
            service.request(verb, path)
        expect(page.locator("#away")).to_contain_text("there is no job")  # and nobody has touched the page
        page.reload()
        expect(page.get_by_role("heading", name="Unknown job")).to_be_visible()
        job = service.post("/v1/jobs", json={"task": "digits"}).json()["id"]
        service.post(f"/v1/jobs/{job}/cancel")
        person.open(f"/jobs/{job}")
        service.delete(f"/v1/jobs/{job}")
        page.locator("#table-order").select_option("best first")
        expect(page.locator("#away")).to_contain_text("there is no job")
        page = person.open("/")
        page.get_by_label("Search").fill("a b c d e f g h i j k l")
        expect(page.locator("#away")).to_contain_text("accepted are 10 at most")
        page.get_by_label("Search").fill("a")
        expect(page.locator("#away")).to_be_hidden()
        assert all("404" in one or "422" in one for one in person.complaints)
        person.complaints.clear()


def ticking(page: Page) -> None:
    """The times of a page go on."""
    shown = page.locator("#summary time").first
    page.evaluate(
        "(one) => { one.dateTime = new Date(Date.now() - 3 * 3600e3).toISOString(); }", shown.element_handle()
    )
    expect(shown).to_have_text("3 h ago")


def failed(database_url: str, job_id: str, reason: str) -> None:
    """A job as it is left by a task that raises the same each time."""
    database = Database(database_url)
    with database.write() as tx:
        row = job_row(tx, job_id)
        words, traceback = f"trial 0 failed: {reason}", 'Traceback (most recent call last):\n  File "mine.py", line 3'
        events.add(tx, row.seq, "trial-failed", words, now=clock(tx), trial=0, traceback=traceback)
        said = f"the first 3 trials failed; the last of them: {reason}"
        jobs.end(tx, job_id, JobState.FAILED, reason=said)
    database.dispose()


def test_a_failed_job_says_its_reason_once_and_has_the_traceback_folded(database_url: str) -> None:
    with (
        served(database_url) as service,
        httpx.Client(base_url=service.base_url, headers=PAGE, timeout=60, trust_env=False) as one,
    ):
        job = service.post("/v1/jobs", json={"task": "digits"}).json()["id"]
        failed(database_url, job, "ValueError: no such column: 'prize' of `wine`, <b>`</b> (in load, mine.py:3)")
        assert one.post("/sign-in", data={"key": KEY}).status_code == 303
        text = one.get(f"/jobs/{job}").text
        assert text.count("no such column") == 1
        folded = re.search(r"<details[^>]*>(.*?)</details>", text[text.index("no such column") :], re.S)
        assert folded is not None
        assert "mine.py&#34;, line 3" in folded[1]
        assert "<code>wine</code>, &lt;b&gt;`&lt;/b&gt;" in text
        assert "100 %" not in text
        assert "done when it failed" in text
        assert "ended without an answer" in one.get(f"/jobs/{job}/export").text
        found = service.get(f"/v1/jobs/{job}").json()["progress"]
        assert (found["phase"], found["fraction"]) == ("over", 0.0)


def test_the_little_that_a_script_printed_last_is_not_folded(database_url: str) -> None:
    with (
        served(database_url) as service,
        httpx.Client(base_url=service.base_url, headers=PAGE, timeout=60, trust_env=False) as one,
    ):
        assert one.post("/sign-in", data={"key": KEY}).status_code == 303
        shown, database = [], Database(database_url)
        for printed in ("CUDA error", "\n".join("line" for _ in range(20))):
            job = service.post("/v1/jobs", json={"task": "digits"}).json()["id"]
            with database.write() as tx:
                jobs.end(tx, job, JobState.FAILED, reason=f"exit code 1; the last it printed:\n{printed}")
            shown.append('<details class="traceback" open>' in one.get(f"/jobs/{job}").text)
        database.dispose()
    assert shown == [True, False]


def test_who_is_missing_is_said_of_jobs_that_wait_for_a_worker_and_of_no_other(sqlite_url: str) -> None:
    external = {"task": "external", "metric": {"name": "loss", "goal": "minimize"}, "horizon": {"steps": 50}}
    with (
        served(sqlite_url) as service,
        httpx.Client(base_url=service.base_url, headers=PAGE, timeout=60, trust_env=False) as one,
    ):
        one.post("/sign-in", data={"key": KEY})
        job = service.post("/v1/jobs", json=external).json()["id"]
        for path in ("/", f"/jobs/{job}"):
            assert "lrtune worker" not in one.get(path).text, path
        assert f"lrtune run {job}" in one.get(f"/jobs/{job}").text
        waits = service.post("/v1/jobs", json={"task": "digits", "resources": {"device": "cuda"}}).json()["id"]
        assert "No worker is running, so a job waits" in one.get("/").text
        database = Database(sqlite_url)
        with database.write() as tx:
            device = workers.Device("cpu", "cpu", 16.0)
            workers.sign_in(tx, "slow", host="here", pid=1, device=device, tasks=["digits"])
        database.dispose()
        for path in ("/", f"/jobs/{waits}"):
            assert "no worker that lives has the device cuda" in one.get(path).text, path
