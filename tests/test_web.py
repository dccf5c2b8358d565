"""What the page promises, without a browser: who gets in, what a form makes of a job, how much there is to load."""

import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app import sessions
from lrtune.wire.charts import Curves, Terrain
from tests.crowd import crowded
from tests.serving import KEY, served, signed_in, slug, trained

PAGE = {"Accept": "text/html"}


@pytest.fixture
def service(sqlite_url: str) -> Iterator[httpx.Client]:
    with served(sqlite_url) as client:
        yield client


@pytest.fixture
def visitor(service: httpx.Client) -> Iterator[httpx.Client]:
    with signed_in(service) as browser:
        yield browser


def token(browser: httpx.Client, path: str = "/") -> str:
    found = re.search(r'name="token" value="([^"]+)"', browser.get(path).text)
    assert found is not None
    return found[1]


def submitted(browser: httpx.Client, **fields: Any) -> httpx.Response:
    smallest = {"/task/name": "digits", "/schedules/cosine": "on", "/optimizers/adamw": "on"}
    return browser.post("/submit", data={"token": token(browser)} | smallest | fields)


# Who may come in ------------------------------------------------------------------------------------------------------


def test_nobody_sees_a_page_without_signing_in_and_then_comes_where_they_wanted(service: httpx.Client) -> None:
    with httpx.Client(base_url=service.base_url, headers=PAGE, timeout=60, trust_env=False) as browser:
        for path in (
            "/",
            "/submit",
            "/workers",
            "/tasks",
            "/datasets",
            "/jobs/job-1",
            "/jobs/job-1/trials/0",
            "/jobs/job-1/live",
        ):
            answer = browser.get(path)
            assert (answer.status_code, answer.headers["location"][:14]) == (303, "/sign-in?next="), path
        form = browser.get(browser.get("/workers").headers["location"])
        assert 'name="next" value="/workers"' in form.text
        assert browser.post("/sign-in", data={"key": KEY, "next": "/workers"}).headers["location"] == "/workers"
        assert browser.get("/workers").status_code == 200


@pytest.mark.parametrize("target", ["https://elsewhere.example/", "//elsewhere.example", "/\\elsewhere.example"])
def test_signing_in_leads_to_no_other_server(service: httpx.Client, target: str) -> None:
    answer = httpx.post(f"{service.base_url}/sign-in", data={"key": KEY, "next": target}, trust_env=False)
    assert answer.headers["location"] == "/"


def test_a_wrong_key_begins_no_session(service: httpx.Client) -> None:
    answer = httpx.post(f"{service.base_url}/sign-in", data={"key": "guessed"}, trust_env=False)
    assert answer.status_code == 401
    assert "not the key" in answer.text
    assert "set-cookie" not in answer.headers


def test_the_cookie_is_for_the_server_alone_and_does_not_hold_the_key(service: httpx.Client) -> None:
    answer = httpx.post(f"{service.base_url}/sign-in", data={"key": KEY}, trust_env=False)
    cookie = answer.headers["set-cookie"]
    assert {"httponly", "samesite=strict", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}
    assert KEY not in cookie


def test_a_session_ends_and_cannot_be_made_up_or_carried_to_another_key() -> None:
    sealed = sessions.seal(KEY, now=1000.0)
    assert sessions.holds(KEY, sealed, now=1000.0 + 7 * 86400 - 1)
    assert not sessions.holds(KEY, sealed, now=1000.0 + 7 * 86400 + 1)
    assert not sessions.holds("another", sealed, now=1000.0)
    text, _, mac = sealed.rpartition(".")
    assert not sessions.holds(KEY, f"9{text}.{mac}", now=1000.0)
    assert not sessions.holds(KEY, "", now=1000.0)


def test_a_session_may_read_the_api_and_not_write(visitor: httpx.Client) -> None:
    assert visitor.get("/v1/jobs").status_code == 200
    answer = visitor.post("/v1/jobs", json={"task": "digits"})
    assert (answer.status_code, slug(answer)) == (401, "unauthorized")
    assert visitor.get("/v1/jobs", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 401


def test_signing_out_ends_it(visitor: httpx.Client) -> None:
    assert visitor.post("/sign-out", data={"token": token(visitor)}).headers["location"] == "/sign-in"
    assert visitor.get("/").status_code == 303


def test_a_form_of_another_site_changes_nothing(visitor: httpx.Client, service: httpx.Client) -> None:
    job = submitted(visitor).headers["location"]
    right = token(visitor, job)
    for sent, headers in (({}, {}), ({"token": "0" * 64}, {}), ({"token": right}, {"Sec-Fetch-Site": "cross-site"})):
        answer = visitor.post(f"{job}/cancel", data=sent, headers=headers)
        assert answer.status_code == 403
    assert service.get(f"/v1{job}").json()["state"] == "queued"
    assert visitor.post(f"{job}/cancel", data={"token": right}).headers["location"] == job
    assert service.get(f"/v1{job}").json()["state"] == "cancelled"


# What every answer says to browsers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/sign-in", "/static/page.js", "/v1/jobs", "/nowhere", "/jobs/job-none", "/docs"]
)
def test_every_answer_forbids_foreign_and_inline_scripts(visitor: httpx.Client, path: str) -> None:
    headers = visitor.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


def test_people_get_errors_as_pages_and_programs_as_problems(visitor: httpx.Client, service: httpx.Client) -> None:
    page = visitor.get("/jobs/job-none")
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "there is no job" in page.text
    assert slug(service.get("/nowhere")) == "not-found"
    assert slug(visitor.get("/v1/jobs/job-none")) == "unknown-job"
    job = submitted(visitor).headers["location"]
    for verb in ("cancel", "pause"):
        page = visitor.post(f"{job}/{verb}", data={"token": token(visitor)})
    assert "no longer applies; submit it again instead" in page.text, "a cancelled job cannot be extended"


def test_no_page_has_a_script_or_a_style_of_its_own_or_loads_any_from_elsewhere(visitor: httpx.Client) -> None:
    job = submitted(visitor).headers["location"]
    for path in ("/", "/submit", "/workers", "/tasks", "/datasets", job):
        text = visitor.get(path).text
        assert not re.findall(r"<style|<script(?![^>]*src=)|\sstyle=|\son\w+=|(?:src|href)=\"(?!/|#)", text), path


# The form -------------------------------------------------------------------------------------------------------------


def test_the_form_as_it_stands_is_the_smallest_job(visitor: httpx.Client, service: httpx.Client) -> None:
    text = visitor.get("/submit").text
    ticked = re.findall(r'name="([^"]+)" value="on" checked', text)
    filled = dict(re.findall(r'name="(/[^"]+)" value="([^"]+)"', text))
    sent = {name: value for name, value in filled.items() if value != "on"} | dict.fromkeys(ticked, "on")
    answer = visitor.post("/submit", data={"token": token(visitor), "/task/name": "digits", "unit": "steps"} | sent)
    spec = service.get(f"/v1{answer.headers['location']}").json()["spec"]
    assert spec == service.post("/v1/jobs", json={"task": "digits"}).json()["spec"] | {"schedules": spec["schedules"]}
    assert {one["family"] for one in spec["schedules"]} == {
        "cosine", "linear", "wsd", "one-cycle", "step", "exponential", "inverse-sqrt", "constant",
    }  # fmt: skip


def test_knobs_are_fixed_ranged_or_left_to_the_search(visitor: httpx.Client, service: httpx.Client) -> None:
    answer = submitted(
        visitor,
        **{
            "/name": "by hand",
            "/task/params/hidden": "16, 8",
            "/horizon": "5",
            "unit": "epochs",
            "/schedules/wsd": "on",
            "/schedules/wsd/decay:how": "range",
            "/schedules/wsd/decay": "0.1",
            "/schedules/wsd/decay:to": "0.8",
            "/schedules/wsd/shape:how": "sqrt",
            "/schedules/multistep": "on",
            "/schedules/multistep/milestones:how": "fixed",
            "/schedules/multistep/milestones": "0.3, 0.6",
            "/optimizers/adamw/learning_rate:how": "fixed",
            "/optimizers/adamw/learning_rate": "0.01",
            "/clip_norm:how": "none",
            "/budget/trials": "7",
            "/tags": "team=risk, wide",
            "/search/sampler": "random",
            "/more": '{"floor": 0.1}',
        },
    )
    spec = service.get(f"/v1{answer.headers['location']}").json()["spec"]
    assert spec["name"] == "by hand"
    assert spec["task"]["params"]["hidden"] == [16, 8]
    assert spec["horizon"] == {"steps": None, "epochs": 5}
    assert {"family": "wsd", "decay": [0.1, 0.8], "shape": "sqrt"} in spec["schedules"]
    assert {"family": "multistep", "milestones": [0.3, 0.6]} in spec["schedules"]
    assert spec["optimizers"] == [{"name": "adamw", "learning_rate": 0.01}]
    assert (spec["clip_norm"], spec["floor"]) == (None, 0.1)
    assert spec["budget"] == {"full_runs": None, "trials": 7, "seconds": None}
    assert spec["tags"] == {"team": "risk", "wide": ""}
    assert spec["search"]["sampler"]["name"] == "random"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("/task/params/batch_size", "none", "accepted is a valid integer"),
        ("/budget/full_runs", "-1", "a number greater than 0"),
        ("/budget/trials", "many", "found &#39;many&#39;"),
        ("/horizon", "1", "greater than or equal to 2"),
        ("/schedules/cosine/final", "7", "at most 1"),
        ("/warmup", "2", "at most 0.9"),
        ("/more", '{"floor": 3}', "at most 1"),
    ],
)
def test_a_mistake_is_told_at_its_field_and_nothing_is_lost(
    visitor: httpx.Client, service: httpx.Client, field: str, value: str, words: str
) -> None:
    answer = submitted(visitor, **{f"{field}:how": "fixed", field: value, "/name": "kept"})
    assert answer.status_code == 422
    place = "/floor" if field == "/more" else field
    told = re.search(rf'data-wrong="{re.escape(place)}">([^<]*)<', answer.text)
    assert told is not None, "the words stand at the field, and are shown"
    assert words in told[1]
    assert f'<a href="#wrong{place}">{place[1:].replace("/", ".")}</a>' in answer.text, (
        "the line at the top links there"
    )
    assert 'value="kept"' in answer.text
    assert service.get("/v1/jobs").json()["items"] == []


def test_a_second_click_makes_no_second_job(visitor: httpx.Client, service: httpx.Client) -> None:
    first, second = (submitted(visitor, once="the-same-form").headers["location"] for _ in range(2))
    assert first == second
    assert len(service.get("/v1/jobs").json()["items"]) == 1


def test_curves_and_cost_are_shown_while_the_form_is_filled_in(visitor: httpx.Client) -> None:
    fields = {
        "/task/name": "digits",
        "/schedules/linear": "on",
        "/schedules/step": "on",
        "/schedules/step/gamma:how": "fixed",
    }
    sent = {
        "token": token(visitor),
        "/optimizers/adamw": "on",
        "/budget/full_runs": "5",
        "/warmup:how": "fixed",
        "/warmup": "0.0",
    }
    answer = visitor.post("/submit/check", data=fields | sent | {"/schedules/step/gamma": "0.5"}).json()
    assert answer["wrong"] == {}
    assert answer["cost"]["total_full_runs"] == 17
    middle = answer["curves"]["linear"][0]
    assert middle[0] == [0.0, 1.0]
    assert all(abs(rate - (1 - u)) < 1e-3 for u, rate in middle[:100]) or middle[-1][1] < 0.2
    assert {rate for _, rate in answer["curves"]["step"][0]} == {1.0, 0.5, 0.25, 0.125}
    wrong = visitor.post("/submit/check", data=fields | sent | {"/schedules/step/gamma": "7"}).json()
    assert list(wrong["wrong"]) == ["/schedules/step/gamma"]
    assert wrong["curves"]["step"] == []
    assert len(wrong["curves"]["linear"][0]) == 120, "the others are drawn all the same"


def test_the_form_says_whose_rate_the_baseline_has_and_takes_ones_own(
    visitor: httpx.Client, service: httpx.Client
) -> None:
    fields = {"token": token(visitor), "/task/name": "digits", "/schedules/cosine": "on", "/optimizers/adamw": "on"}

    def baseline(**more: str) -> str:
        found: str = visitor.post("/submit/check", data=fields | more).json()["baseline"]
        return found

    assert baseline() == "untuned baseline: adamw at its usual rate 0.001, cosine, 5 % warm-up"
    ticked = {"/optimizers/sgd": "on"}
    assert baseline(**ticked).startswith(
        "untuned baseline: sgd, the first of the job's optimizers, at its usual rate 0.1"
    )
    own = ticked | {"/baseline/learning_rate": "0.002", "/baseline/optimizer": "adamw", "/baseline/schedule": "linear"}
    assert baseline(**own).startswith("your own settings, the job's baseline: adamw at 2e-3, linear")
    spec = service.get(f"/v1{submitted(visitor, **own).headers['location']}").json()["spec"]
    assert (spec["baseline"]["learning_rate"], spec["baseline"]["optimizer"]["name"]) == (0.002, "adamw")
    answer = submitted(visitor, **{"/baseline/optimizer": "adamw"})
    said = re.search(r'data-wrong="/baseline/learning_rate">([^<]*)<', answer.text)
    assert said is not None
    assert "this field is needed" in said[1]


# What is drawn --------------------------------------------------------------------------------------------------------


def test_the_curves_of_a_job_are_few_and_tell_most(database_url: str) -> None:
    job = crowded(database_url, trials=200)
    with served(database_url) as service:
        drawn = Curves.model_validate_json(service.get(f"/v1/jobs/{job}/curves").content)
        best = service.get(f"/v1/jobs/{job}/best").json()
    parts = {line.number: line.part for line in drawn.lines}
    assert parts[best["trial"]] == "winner"
    assert set(parts.values()) == {"winner", "confirm", "best", "recent", "stopped", "diverged"}, "0 is both"
    assert drawn.trials == 200
    assert len(drawn.lines) < 50
    winner = next(line for line in drawn.lines if line.part == "winner")
    assert (len(winner.steps), winner.steps[-1]) == (50, 1000)
    assert winner.rates[-1][0] == 999
    stopped = next(line for line in drawn.lines if line.part == "stopped")
    assert stopped.steps[-1] == 500
    assert stopped.rates[-1][0] <= 500, "a rate that was never used is not drawn"
    assert drawn.rest is not None
    assert drawn.rest.trials + len(drawn.lines) < 200, "the band is of complete runs only"
    assert all(a <= b <= c for a, b, c in zip(drawn.rest.low, drawn.rest.middle, drawn.rest.high, strict=True))


def test_the_map_of_rates_has_every_family_and_the_plateau(database_url: str) -> None:
    job = crowded(database_url, trials=200)
    with served(database_url) as service:
        found = Terrain.model_validate_json(service.get(f"/v1/jobs/{job}/landscape").content)
        report = service.get(f"/v1/jobs/{job}/report").json()
    assert (found.trials, found.sampled) == (200, 200)
    assert found.report is not None
    assert {series.family for series in found.series} == {"cosine", "linear", "wsd", "step"}
    assert found.report.families[0].plateau is not None
    assert found.report.families[0].plateau.model_dump() == report["families"][0]["plateau"]
    assert any(point.state == "diverged" and point.rate > 0.07 for series in found.series for point in series.points)


def test_a_trial_that_reported_ten_thousand_times_is_thinned(database_url: str) -> None:
    job = crowded(database_url, trials=3, reports=1000)
    with served(database_url) as service:
        drawn = Curves.model_validate_json(service.get(f"/v1/jobs/{job}/curves").content)
    assert all(50 <= len(line.steps) <= 100 and line.steps[-1] == 1000 for line in drawn.lines)


def test_a_job_without_trials_has_nothing_to_draw_and_says_so(service: httpx.Client) -> None:
    job = service.post("/v1/jobs", json={"task": "digits"}).json()["id"]
    assert service.get(f"/v1/jobs/{job}/curves").json()["lines"] == []
    assert slug(service.get(f"/v1/jobs/{job}/landscape")) == "no-result-yet"


def opened(browser: httpx.Client, path: str) -> tuple[float, int]:
    """CPU seconds, here and in the server, and bytes of all that a browser asks for when it opens a job's page."""
    began = time.process_time()
    page = browser.get(path)
    rest = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    parts = [f"/v1{path}/curves", *(f"{path}/{part}" for part in ("landscape", "history", "why", "export"))]
    answers = [page, *(browser.get(part) for part in [*parts, *dict.fromkeys(rest)])]
    assert all(answer.status_code == 200 for answer in answers)
    return time.process_time() - began, sum(len(answer.content) for answer in answers)


def test_a_job_of_5000_trials_opens_like_one_of_500_and_stays_small(sqlite_url: str) -> None:
    small, large = (crowded(sqlite_url, trials=trials) for trials in (500, 5000))
    with (
        served(sqlite_url) as service,
        httpx.Client(base_url=service.base_url, headers=PAGE, timeout=60, trust_env=False) as browser,
    ):
        browser.post("/sign-in", data={"key": KEY})
        browser.get(f"/jobs/{small}")  # templates are read once
        (usual, _), (seconds, size) = (min(opened(browser, f"/jobs/{job}") for _ in range(3)) for job in (small, large))
    assert size < 500_000
    assert seconds < 3 * usual


def test_the_page_of_a_finished_job_has_its_answer_and_its_code(visitor: httpx.Client, sqlite_url: str) -> None:
    job = submitted(visitor, **{"/horizon": "40"}).headers["location"]
    trained(sqlite_url, job.removeprefix("/jobs/"), [0.5, 0.25])
    assert "0.25" in visitor.get(job).text
    assert "torch" in visitor.get(f"{job}/export").text
    assert "step,learning_rate" in visitor.get(f"{job}/export?format=csv").text
    assert "Too high?" in visitor.get(f"{job}/why").text
    assert visitor.get(f"{job}/table?order=best").text.index(">1<") < visitor.get(f"{job}/table?order=best").text.index(
        ">0<"
    )
    answer = visitor.post(
        f"{job}/extend", data={"token": token(visitor), "full_runs": "", "trials": "9", "seconds": ""}
    )
    assert answer.status_code == 303
    again = visitor.post(f"{job}/extend", data={"token": token(visitor), "trials": "some"})
    assert again.status_code == 422


def test_a_job_for_a_loop_of_ones_own_is_made_in_the_form(visitor: httpx.Client, service: httpx.Client) -> None:
    assert "your loop reports" in visitor.get("/submit?task=external").text
    assert "your loop reports" in visitor.get("/submit/params", params={"/task/name": "external"}).text
    asked = {"/task/name": "external", "/metric/name": "val_loss"}
    refused = submitted(visitor, **asked)
    assert (refused.status_code, 'value="val_loss"' in refused.text) == (422, True)
    answer = submitted(visitor, **asked, **{"/metric/goal": "minimize", "/horizon": "200"})
    assert answer.status_code == 303, answer.text
    spec = service.get(f"/v1{answer.headers['location']}").json()["spec"]
    assert spec["metric"] == {"name": "val_loss", "goal": "minimize", "range": None}
    assert spec["horizon"]["steps"] == 200
