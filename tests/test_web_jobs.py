"""The pages of many jobs: search, compare, clone, several at once, and the reports of answers."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.browsing import NARROW, WIDE, Visitor, faults, fits, visitor
from tests.browsing import chrome as chrome
from tests.browsing import person as person
from tests.crowd import crowded
from tests.people import made
from tests.serving import KEY, served, signed_in

PAGE = {"Accept": "text/html"}
HOSTILE = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'>\"><b>bold</b>"
LOOP = {"metric": {"name": "loss", "goal": "minimize"}, "horizon": {"steps": 50}}
TABLE = "width,height,kind\n" + "".join(f"{n % 7},{n % 5},{'ab'[n % 2]}\n" for n in range(120))
expect.set_options(timeout=30_000)


@pytest.fixture
def service(sqlite_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    with served(sqlite_url, data_dir=tmp_path / "data", max_upload_bytes=200_000) as client:
        yield client


@pytest.fixture
def page(service: httpx.Client) -> Iterator[httpx.Client]:
    with signed_in(service) as one:
        yield one


def token(one: httpx.Client, path: str = "/") -> str:
    found = re.search(r'name="token" value="([^"]+)"', one.get(path).text)
    assert found is not None
    return found[1]


def submitted(service: httpx.Client, **fields: Any) -> str:
    answer = service.post("/v1/jobs", json={"task": "digits", **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


# Jobs -----------------------------------------------------------------------------------------------------------------


def test_jobs_are_searched_as_one_types_and_the_address_keeps_it(person: Visitor, service: httpx.Client) -> None:
    for name in ("wide", "narrow"):
        submitted(service, name=name, tags={"team": "risk"})
    tab = person.open("/")
    tab.get_by_label("Search").fill("narr")
    expect(tab.locator("table.jobs")).not_to_contain_text("wide")
    expect(tab.locator("#said")).to_have_text("1 job found")
    expect(tab).to_have_url(re.compile("search=narr"))
    tab.get_by_label("Search").fill("")
    tab.get_by_label("Order").select_option("by name")
    expect(tab.locator("table.jobs a.strong")).to_have_text(["narrow", "wide"])
    tab.go_back()
    expect(tab.get_by_role("heading", name="Jobs")).to_be_visible()


def test_chosen_jobs_stay_chosen_while_the_list_is_fetched_again_and_are_cancelled_and_deleted_together(
    person: Visitor, service: httpx.Client
) -> None:
    ids = [submitted(service, name=name) for name in ("first", "second", "third")]
    tab = person.open("/")
    expect(tab.get_by_role("button", name="Compare")).to_be_hidden()
    for name in ("first", "second"):
        tab.get_by_label(f"Choose {name}").check()
    tab.get_by_role("heading", name="Jobs").click()
    tab.evaluate("document.body.dispatchEvent(new Event('back'))")
    service.post(f"/v1/jobs/{ids[2]}/pause")
    expect(tab.locator(f"#state-{ids[2]}")).to_contain_text("paused")
    expect(tab.locator("#said")).to_have_text("third is paused")
    expect(tab.get_by_label("Choose first")).to_be_checked()
    tab.get_by_role("button", name="Cancel…").click()
    tab.get_by_role("button", name="Cancel them").click()
    expect(tab.locator(f"#state-{ids[0]}")).to_contain_text("cancelled")
    assert [service.get(f"/v1/jobs/{one}").json()["state"] for one in ids] == ["cancelled", "cancelled", "paused"]
    for name in ("first", "third"):
        tab.get_by_label(f"Choose {name}").check()
    tab.get_by_role("button", name="Delete…").click()
    tab.get_by_role("button", name="Delete them").click()
    expect(tab.get_by_role("alert").filter(has_text="only a finished one can be deleted")).to_be_visible()
    assert [service.get(f"/v1/jobs/{one}").status_code for one in ids] == [404, 200, 200]
    assert "409" in person.complaints.pop()


def test_where_nothing_is_shared_no_list_clone_or_comparison_shows_what_is_anothers(sqlite_url: str) -> None:
    with served(sqlite_url, shared=False) as service:
        hidden, key = submitted(service, name="secretive", task="external", **LOOP), made(service, "ada")["key"]
        with httpx.Client(base_url=service.base_url, headers=PAGE, timeout=60, trust_env=False) as ada:
            ada.post("/sign-in", data={"key": key})
            headers = {"Authorization": f"Bearer {key}"}
            theirs = service.post("/v1/jobs", json={"task": "digits"}, headers=headers).json()["id"]
            first = ada.get("/?search=e")
            assert "secretive" not in first.text
            assert "external" not in first.text, "nor is a task offered that only others' jobs have"
            for path in (f"/compare?job={theirs}&job={hidden}", f"/submit?job={hidden}"):
                assert ada.get(path).status_code == 404, path
            answer = ada.post("/selected/cancel", data={"token": token(ada), "job": [hidden, theirs]})
            assert "there is no job" in answer.text
        listed = service.get("/v1/jobs?search=secretive", headers=headers).json()["items"]
        assert listed == []
        assert service.get(f"/v1/jobs/{hidden}").json()["state"] == "queued"


def test_nobody_changes_what_is_not_theirs(service: httpx.Client, page: httpx.Client) -> None:
    mine, others = submitted(service), made(service, "ada")["key"]
    headers = {"Authorization": f"Bearer {others}"}
    with httpx.Client(base_url=service.base_url, headers=PAGE, timeout=60, trust_env=False) as ada:
        ada.post("/sign-in", data={"key": others})
        theirs = service.post("/v1/jobs", json={"task": "digits"}, headers=headers).json()["id"]
        sent = {"token": token(ada), "job": [mine, theirs]}
        answer = ada.post("/selected/cancel", data=sent)
        assert (answer.status_code, mine in answer.text) == (409, True)
        states = [service.get(f"/v1/jobs/{one}").json()["state"] for one in (mine, theirs)]
        assert states == ["queued", "cancelled"]
        for sent in ({"job": theirs}, {"job": theirs, "token": token(page)}):
            assert ada.post("/selected/delete", data=sent).status_code == 403
        assert service.get(f"/v1/jobs/{theirs}").status_code == 200


def test_jobs_on_uploaded_data_are_compared_by_its_name(service: httpx.Client, page: httpx.Client) -> None:
    for name, content in (("a.csv", TABLE), ("b.csv", TABLE + "1,1,a\n")):
        assert service.post("/v1/datasets", params={"name": name}, content=content).status_code == 201
    ids = [submitted(service, task={"name": "tabular", "params": {"dataset": one}}) for one in ("a.csv", "b.csv")]
    text = page.get("/compare", params={"job": ids}).text
    assert "is about tabular on a.csv, val_loss" in text
    assert "<td>a.csv</td><td>b.csv</td>" in text
    assert "uploads/" not in text


def test_two_peoples_uploads_of_one_name_are_told_apart(service: httpx.Client, page: httpx.Client) -> None:
    ids, adas = [], {"Authorization": f"Bearer {made(service, 'ada')['key']}"}
    for content, headers in ((TABLE, {}), (TABLE + "1,1,a\n", adas)):
        digest = service.post("/v1/datasets?name=a.csv", content=content, headers=headers).json()["id"]
        ids.append((digest, submitted(service, task={"name": "tabular", "params": {"dataset": digest}})))
    text = page.get("/compare", params={"job": [job for _, job in ids]}).text
    assert [f"a.csv ({digest[:8]})" in text for digest, _ in ids] == [True, True]


def test_jobs_beside_each_other_say_what_differs_and_whether_they_compare(
    person: Visitor, service: httpx.Client, sqlite_url: str
) -> None:
    first = crowded(sqlite_url, trials=12, name="wide", optimizers=["adamw", {"name": "sgd", "momentum": 0.5}])
    narrow = {
        "task": {"name": "digits", "params": {"hidden": [16, 8]}},
        "tags": {"team": "risk"},
        "horizons": [100, 500],
    }
    second = crowded(sqlite_url, trials=12, name="narrow", warmup=0.0, **narrow)
    longer = submitted(service, name=HOSTILE, tags={HOSTILE.replace(":", ""): HOSTILE}, horizon={"steps": 5000})
    tab = person.open(f"/compare?job={first}&job={second}")
    expect(tab.locator("#compare canvas")).to_have_count(2)
    rows = tab.locator("section", has_text="What differs in the request").get_by_role("row")
    assert {tuple(row.inner_text().split("\t")) for row in rows.all()[1:]} == {
        ("optimizers.sgd", "momentum 0.5", "–"), ("warmup", "0 to 0.1", "0"), ("tags.team", "–", "risk"),
        ("task.params.hidden", "–", "[16, 8]"), ("horizons", "–", "[100, 500]"),
    }  # fmt: skip
    said = re.compile(r"wide: .* at [0-9.]+e-[0-9] .*narrow: ")
    expect(tab.locator("#compare-landscape [role=img]")).to_have_attribute("aria-label", said)
    assert faults(tab) == []
    tab.set_viewport_size(NARROW)
    fits(tab, NARROW)
    tab.set_viewport_size(WIDE)
    tab = person.open(f"/compare?job={first}&job={longer}")
    expect(tab.locator(".note")).to_contain_text("do not compare: wide is about digits, val_loss after 1,000 steps")
    expect(tab.locator("#compare canvas")).to_have_count(2)
    expect(tab.locator("main")).to_contain_text(HOSTILE)
    assert tab.evaluate("window.ran") is None
    assert tab.locator("main img, main b, main script").count() == 0
    person.open(f"/compare?job={first}")
    expect(person.page.locator("main")).to_contain_text("accepted are 2 to 8 jobs")
    assert "422" in person.complaints.pop()


CLONED: dict[str, dict[str, Any]] = {
    "plain": {},
    "knobs": {
        "name": "a", "tags": {"team": "risk", "x": ""}, "horizon": {"epochs": 2.5}, "warmup": 0.05, "clip_norm": None,
        "schedules": ["cosine", {"family": "wsd", "decay": [0.1, 0.8], "shape": "sqrt"},
                      {"family": "multistep", "milestones": [0.2, 0.5, 0.7]}],
        "optimizers": [{"name": "sgd", "learning_rate": [0.001, 0.1], "nesterov": True, "momentum": 0.5}],
        "task": {"name": "digits", "params": {"hidden": [16, 8], "noise": 0.5}},
        "metric": {"name": "val_accuracy"}, "budget": {"trials": 7, "full_runs": None},
        "confirm": {"top": 1, "seeds": 2},
        "search": {"sampler": "random", "pruner": "none", "seed": 3}, "priority": 4, "resources": {"memory_gb": 2},
    },
    "without controls": {
        "try": [{"learning_rate": 0.01}], "training": {"accumulate": 2}, "baseline": {"learning_rate": 0.002},
        "horizon": {"steps": 800}, "horizons": [0.5], "tags": {"odd, key": "a=b"},
        "search": {"sampler": {"name": "curve", "short_horizons": True},
                   "pruner": {"name": "hyperband", "min_reports": 2}},
    },
    "external": {
        "task": "external", "metric": {"name": "loss", "goal": "maximize", "range": [0, 5]}, "horizon": {"steps": 50},
    },
}  # fmt: skip


@pytest.mark.parametrize("asked", CLONED.values(), ids=CLONED)
def test_a_clone_asks_for_what_the_job_asked_for(
    service: httpx.Client, page: httpx.Client, asked: dict[str, Any]
) -> None:
    first = submitted(service, **asked)
    text = page.get(f"/submit?job={first}").text
    answer = page.post("/submit", data=filled(text))
    assert answer.status_code == 303, re.findall(r'data-wrong="[^"]*">[^<]+', answer.text)
    again = service.get(f"/v1{answer.headers['location']}").json()
    assert again["id"] != first
    assert again["spec"] == service.get(f"/v1/jobs/{first}").json()["spec"]


def filled(text: str) -> dict[str, Any]:
    """What a browser sends of the form as it stands."""
    form = text[text.index('id="job-form"') :]
    sent: dict[str, Any] = {}
    for tag in re.findall(r"<input[^>]*>", form):
        known = {name: unescape(value) for name, value in re.findall(r'(\w+)="([^"]*)"', tag)}
        if known.get("type") != "checkbox" or " checked" in tag:
            sent[known["name"]] = known.get("value", "")
    for name, options in re.findall(r'<select[^>]*name="([^"]*)"[^>]*>(.*?)</select>', form, re.S):
        listed = re.findall(r"<option([^>]*)>([^<]*)", options)
        chosen = next((one for one in listed if " selected" in one[0]), listed[0])
        value = re.search(r'value="([^"]*)"', chosen[0])
        sent[name] = unescape(value[1] if value else chosen[1])
    for name, value in re.findall(r'<textarea[^>]*name="([^"]*)"[^>]*>([^<]*)', form):
        sent[name] = unescape(value)
    return sent


def test_a_clone_is_reached_from_the_list_and_the_jobs_page(person: Visitor, service: httpx.Client) -> None:
    job = submitted(service, name="mine", schedules=["linear"])
    tab = person.open("/")
    tab.get_by_label("Choose mine").check()
    tab.get_by_role("button", name="Clone and edit").click()
    expect(tab.get_by_label("name", exact=True)).to_have_value("mine")
    expect(tab.locator('input[name="/schedules/cosine"]')).not_to_be_checked()
    tab = person.open(f"/jobs/{job}")
    tab.get_by_role("link", name="Clone…").click()
    expect(tab.locator("main")).to_contain_text(f"As {job} has it")


def test_an_answers_report_comes_from_the_page_as_html_markdown_and_png(
    person: Visitor, service: httpx.Client, sqlite_url: str
) -> None:
    job = crowded(sqlite_url, trials=12, name="<b>wide</b>")
    tab = person.open(f"/jobs/{job}")
    for words, ending, beginning in (
        ("HTML", "html", b"<!doctype html>"),
        ("Markdown", "md", b"# "),
        ("PNG", "png", b"\x89PNG"),
    ):
        with tab.expect_download() as download:
            tab.locator("#export").get_by_role("link", name=words, exact=True).click()
        assert download.value.suggested_filename == f"{job}.{ending}"
        content = Path(download.value.path()).read_bytes()
        assert content.lower().startswith(beginning.lower())
        assert b"<b>wide" not in content
    assert service.get(f"/v1/jobs/{job}/report?format=pdf").status_code == 422
    queued = submitted(service)
    assert service.get(f"/v1/jobs/{queued}/report?format=html").status_code == 409


def test_from_signing_in_to_a_submitted_job_by_keyboard_alone(chrome: BrowserContext, service: httpx.Client) -> None:
    with visitor(chrome, str(service.base_url)) as someone:
        tab = someone.open("/sign-in")
        tab.keyboard.type(KEY)
        tab.keyboard.press("Enter")
        tab.get_by_role("heading", name="Jobs").wait_for()
        tabbed(tab, "New job").press("Enter")
        tabbed(tab, "name").press_sequentially("by hand")
        field = tabbed(tab, "horizon")
        field.press_sequentially("300")
        box, bottom = field.bounding_box(), tab.viewport_size
        assert box
        assert bottom
        assert box["y"] + box["height"] < bottom["height"], "nothing covers what is filled in"
        assert tab.evaluate("(one) => document.elementFromPoint(one.x + 9, one.y + 9).id", box) == "/horizon"
        tabbed(tab, "Submit").press("Enter")
        tab.get_by_role("heading", name="by hand").wait_for()
        assert service.get("/v1/jobs").json()["items"][0]["spec"]["horizon"]["steps"] == 300


def tabbed(tab: Page, name: str) -> Locator:
    """What is reached by the tab key and called so."""
    for _ in range(250):
        tab.keyboard.press("Tab")
        called = "(one) => one?.getAttribute('aria-label') ?? one?.labels?.[0]?.textContent ?? one?.textContent ?? ''"
        if tab.evaluate(f"({called})(document.querySelector(':focus'))").strip() == name:
            return tab.locator(":focus")
    raise AssertionError(f"the tab key does not reach {name}")


@pytest.mark.parametrize(("low", "high"), [(1.0, 9.0), (0.0, 3e33), (2e39, 4e39), (-1e200, 8e299), (1e-30, 4e-30)])
def test_axes_have_labels_whatever_a_loss_has_come_to(
    person: Visitor, service: httpx.Client, sqlite_url: str, low: float, high: float
) -> None:
    first, second = (crowded(sqlite_url, trials=2, name=name) for name in ("wide", "narrow"))
    tab = person.open(f"/compare?job={first}&job={second}")
    drawn = """async (ends) => {
        const size = { width: 600, height: 320 }, scales = { x: { time: false } }, series = [{}, {}];
        const axes = [charts.axis(), charts.axis({ values: charts.labels })];
        const made = new uPlot({ ...size, scales, axes, series }, [[1, 2], ends], document.body);
        await new Promise(requestAnimationFrame);
        return made.axes[1]._values;
    }"""
    labels = tab.evaluate(drawn, [low, high])
    assert len({*labels}) >= 3, labels
