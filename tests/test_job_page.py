"""What the page of a job shows: the answer as somebody says it, how sure it is, against what, and how to use it."""

import itertools
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as some
from sqlalchemy import func, select, update

from app import curves
from app.pages.answer import seeds
from app.rendering import end, number
from lrtune.analysis.words import details, headline, wins
from lrtune.analysis.words import rate as written
from lrtune.optimizers import OPTIMIZERS
from lrtune.store import Database, budgets, jobs, leases, search_history, trials
from lrtune.store.tables import TrialRow
from lrtune.wire.charts import Expected, SearchHistory
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import Budget
from lrtune.wire.results import Baseline, Best, JobState, Proposal, Report, SeedValue, TrialState
from tests.crowd import crowded
from tests.mapped import learned, ran, varied
from tests.serving import KEY, served, trained

STEP = {
    "optimizer": {"name": "adamw", "beta2": 0.9995, "weight_decay": 0.1},
    "learning_rate": 0.022627416997969,
    "schedule": {"family": "step", "gamma": 0.24341234, "every": 0.25},
    "warmup": 0.05,
    "clip_norm": 1.0,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    url = f"sqlite:///{tmp_path_factory.mktemp('page') / 'lrtune.db'}"
    with served(url) as client:
        client.post("/sign-in", data={"key": KEY})
        client.headers["x-database"] = url
        yield client


def found(service: httpx.Client, values: list[float], **fields: object) -> str:
    """The path of the page of a job that is over, whose trials ended at these values."""
    body = {"task": "digits", "horizon": {"steps": 40}} | fields
    job = service.post("/v1/jobs", json=body).json()["id"]
    trained(str(service.headers["x-database"]), job, values)
    return f"/jobs/{job}"


def heading(text: str) -> str:
    said = re.search(r'id="answer">([^<]+)<', text)
    assert said is not None
    return said[1]


def test_a_page_of_the_log_beyond_all_numbers_is_refused_and_no_fault_of_the_server(service: httpx.Client) -> None:
    path = found(service, [0.5])
    assert [service.get(f"{path}/log?before={before}").status_code for before in (0, 2**63, 10**26)] == [200, 422, 422]


# In words -------------------------------------------------------------------------------------------------------------


@given(some.floats(1e-30, 1e3))
def test_a_rate_is_written_to_three_digits_and_never_as_another(value: float) -> None:
    said = written(value)
    assert math.isclose(float(said), value, rel_tol=0.0051)
    assert not re.search(r"e-0|e\+|\.0+(e|$)", said), "as engineers write it, not as printf does"
    assert len(re.sub(r"e.*|[.]|^0[.]", "", said).lstrip("0")) <= 3


def test_an_answer_is_said_in_one_line_with_its_knobs_beside_it() -> None:
    chosen = Configuration.model_validate(STEP)
    assert headline(chosen) == "AdamW, peak 2.26e-2, step schedule"
    assert details(chosen) == ["gamma 0.243", "every 0.25", "warm-up 5 %", "clip norm 1", "beta2 0.9995",
                               "weight decay 0.1"]  # fmt: skip
    flat = chosen.model_copy(update={"learning_rate": 0.3, "schedule": type(chosen)(**STEP | {"schedule": "constant"}).schedule})  # fmt: skip  # noqa: E501
    assert headline(flat) == "AdamW, peak 0.3, constant rate"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_is_called_what_its_paper_calls_it(name: str) -> None:
    said = headline(Configuration.model_validate({"optimizer": name, "learning_rate": 1e-3, "schedule": "constant"}))
    assert said[0].isupper()
    assert said.partition(",")[0].replace(" ", "-").lower() == name


def best(goal: str, interval: tuple[float, float] | None = None) -> Best:
    ours, theirs = ([SeedValue(seed=seed, value=v) for seed, v in some] for some in (OURS, THEIRS))
    usual = Configuration.model_validate(STEP | {"learning_rate": 1e-3})
    return Best.model_validate(
        {"configuration": STEP, "metric": "m", "goal": goal, "value": 0.2, "seeds": ours, "interval": interval,
         "baseline": Baseline(configuration=usual, value=0.3, seeds=theirs), "full_runs": 1.0, "trial": 1,
         "steps": 40, "confirmed": True}
    )  # fmt: skip


def test_wins_are_counted_over_the_seeds_that_both_ran() -> None:
    assert wins(best("minimize")) == "better than untuned on 2 of 3 seeds"
    assert wins(best("maximize")) == "better than untuned on 1 of 3 seeds"


def test_a_value_is_as_short_as_it_can_be_read_and_the_ends_of_an_interval_are_told_apart() -> None:
    """A loss of 1e30 stood over the page's edge with all its digits."""
    shown = {
        0.123456: "0.1235",
        12345.6: "12,346",
        1.2877e30: "1.288e+30",
        -2e15: "-2e+15",
        10**13: "10,000,000,000,000",
    }
    assert [number(value) for value in shown] == list(shown.values())
    low, high = -999998.745, -999998.679
    assert (number(low), end(low, (low, high)), end(high, (low, high))) == ("-999,999", "-999998.745", "-999998.679")
    assert end(0.1, (0.1, 0.2)) == "0.1"


def test_what_charts_are_drawn_from_keeps_what_large_values_differ_by() -> None:
    """Losses about -1,000,000 were all one line, five digits of each being sent."""
    found = Expected(value=-999998.7123456, low=-0.12345678, high=1234.5678).model_dump_json()
    assert found == '{"value":-999998.7123,"low":-0.12346,"high":1234.5678}'


def test_the_axis_of_the_seeds_holds_the_interval_unless_that_would_press_them_together() -> None:
    rows, ends = seeds(best("minimize", (-0.2, 0.6)))
    assert ends == pytest.approx((-0.23, 0.63))
    assert rows[0].interval == pytest.approx((100 * 0.03 / 0.86, 100 * 0.83 / 0.86), abs=0.01)
    rows, ends = seeds(best("minimize", (-90.0, 90.0)))
    assert ends == pytest.approx((-0.53, 1.03))
    assert rows[0].interval == (0.0, 100.0)


OURS = [(1, 0.1), (2, 0.2), (3, 0.5), (4, 0.0)]
THEIRS = [(1, 0.3), (2, 0.3), (3, 0.3)]


# On the page ----------------------------------------------------------------------------------------------------------


def test_the_answer_is_the_heading_of_the_page_and_its_curve_is_drawn(service: httpx.Client) -> None:
    path = found(service, [0.5, 0.25])
    text = service.get(path).text
    assert heading(text) == "AdamW, peak 2e-3, linear schedule"
    drawn = re.search(r'aria-label="The learning rate of the answer: ([^"]+)"', text)
    assert drawn is not None
    assert drawn[1] == "from 2e-3 at the first of 40 steps, at most 2e-3, to 5e-5 at the last"
    line = re.search(r'class="own" d="M([^"]+)"', text)
    assert line is not None
    points = [tuple(map(float, point.split())) for point in line[1].split("L")]
    assert points[0] == (0.0, 0.0), "at the peak, which is the upper edge"
    assert points[-1] == (1000.0, 300 * (1 - 1 / 40)), "a fortieth of it at the last step"
    assert all(later >= sooner for (_, sooner), (_, later) in itertools.pairwise(points))


def test_a_drop_of_the_rate_is_drawn_as_one_in_a_long_run() -> None:
    curve = Configuration.model_validate(STEP | {"warmup": 0.0}).curve
    points = curves.sharp(curve, 1.0, steps=10**8, points=100)
    drops = [(one, other) for (one, high), (other, low) in itertools.pairwise(points) if low < high]
    assert drops == [(at - 1, at) for at in (25 * 10**6, 50 * 10**6, 75 * 10**6)]
    assert len(points) < 130


def test_the_loss_stands_beside_the_answer_with_what_it_is_compared_with(service: httpx.Client) -> None:
    text = service.get(found(service, [0.5, 0.25])).text
    assert re.search(r'class="big">0\.25 <span class="unit">val_loss</span>', text)
    assert "a single run, not confirmed" in text
    assert "Untuned: 0.5 with adamw at 1e-3, linear (final 0)" in text
    assert "Better than untuned on 1 of 1 seed." in text
    assert 'aria-label="untuned: 0.5 over 1 seed"' in text


def test_the_copied_answer_is_exact_and_every_framework_is_one_click_away(service: httpx.Client) -> None:
    path = found(service, [0.5, 0.25])
    best = service.get(f"/v1{path}/best").json()
    copied = re.search(r'id="answer-exactly"[^>]*>([^<]+)</pre>', service.get(path).text)
    assert copied is not None
    assert Configuration.model_validate_json(copied[1].replace("&#34;", '"')) == Configuration.model_validate(
        best["configuration"]
    )
    snippets = service.get(f"{path}/export").text
    for name in ("PyTorch", "Keras", "Optax", "Transformers", "Lightning", "DeepSpeed", "timm", "JSON", "CSV"):
        assert f"<span>{name}</span>" in snippets


def test_a_job_without_an_answer_says_what_it_waits_for(service: httpx.Client) -> None:
    job = service.post("/v1/jobs", json={"task": "digits"}).json()["id"]
    text = service.get(f"/jobs/{job}").text
    assert 'id="answer"' not in text
    assert "The first complete run decides" in text
    assert "as soon as there is one" in service.get(f"/jobs/{job}/export").text


# Where good rates lie -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(service: httpx.Client) -> tuple[str, dict[str, Any]]:
    """A job with runs of all kinds, and its map."""
    job = varied(service, str(service.headers["x-database"]))
    return job, service.get(f"/v1/jobs/{job}/landscape").json()


def test_every_run_is_on_the_map_and_those_cut_short_lie_at_their_forecast(
    searched: tuple[str, dict[str, Any]],
) -> None:
    points = {point["number"]: point for series in searched[1]["series"] for point in series["points"]}
    assert sorted(points) == [0, 2, 3, 4, 5, 6, 7, 8], "all but the range test"
    partial = [point for point in points.values() if point["state"] == "stopped"]
    assert len(partial) == 3
    for point in partial:
        seen = learned(point["rate"], 6)[-1]
        assert point["value"] is None
        assert point["share"] == 0.3
        assert seen < point["forecast"]["value"] <= 1.0, "they were still getting better, and there is an end to that"
        assert point["forecast"]["low"] < point["forecast"]["value"] < point["forecast"]["high"] <= 1.0
    assert points[8]["state"] == "diverged"
    assert points[8]["forecast"] is None


def test_each_family_has_a_curve_with_a_band_inside_the_range_of_the_metric(
    searched: tuple[str, dict[str, Any]],
) -> None:
    series = {one["family"]: one for one in searched[1]["series"]}
    assert set(series) == {"cosine", "linear"}
    for one in series.values():
        curve = one["curve"]
        assert curve["rates"] == sorted(curve["rates"])
        assert (curve["rates"][0], curve["rates"][-1]) == (0.001, 0.8)
        assert all(
            0.0 <= low <= value <= high <= 1.0
            for low, value, high in zip(curve["low"], curve["values"], curve["high"], strict=True)
        )
        best = max(range(len(curve["rates"])), key=lambda place: curve["values"][place])
        assert 0.003 <= curve["rates"][best] <= 0.04, "where the runs were best"
    assert series["cosine"]["curve"]["trial"] in (4, 6)


def test_the_edge_of_stability_is_where_the_range_test_stopped_getting_better(
    searched: tuple[str, dict[str, Any]],
) -> None:
    (edge,) = searched[1]["edges"]
    assert edge["optimizer"] == "adamw"
    assert edge["rate"] == pytest.approx(1e-4 * 10 ** (16 / 5), rel=1e-4)


@pytest.mark.parametrize("seen", [0, 1])
def test_before_a_run_is_complete_the_map_has_what_is_expected_and_no_report(service: httpx.Client, seen: int) -> None:
    url = str(service.headers["x-database"])
    body = {"task": "digits", "metric": {"name": "val_accuracy"}, "horizon": {"steps": 200}}
    job = str(service.post("/v1/jobs", json=body).json()["id"])
    for rate in (0.003, 0.03)[: 2 * seen]:
        ran(url, job, rate, learned(rate, 5), end=TrialState.STOPPED)
    if not seen:
        assert service.get(f"/jobs/{job}/landscape").status_code == 204, "no error: there is nothing yet"
        return
    found = service.get(f"/v1/jobs/{job}/landscape").json()
    assert found["report"] is None
    assert [point["forecast"] is not None for point in found["series"][0]["points"]] == [True, True]


def test_a_large_job_keeps_its_map_small_and_says_what_it_shows(database_url: str) -> None:
    job = crowded(database_url, trials=600)
    with served(database_url) as service:
        answer = service.get(f"/v1/jobs/{job}/landscape")
    found = answer.json()
    assert len(answer.content) < 80_000
    assert found["trials"] == 600
    assert 100 < found["sampled"] == sum(len(one["points"]) for one in found["series"]) <= 480
    assert all(one["curve"] for one in found["series"])


# How the search went --------------------------------------------------------------------------------------------------


def read(database_url: str, job_id: str) -> SearchHistory:
    database = Database(database_url)
    with database.read() as tx:
        found = search_history.read(tx, jobs.get(tx, job_id))
    database.dispose()
    return found


def test_a_search_is_told_by_its_best_over_its_cost_its_stages_and_where_its_time_went(database_url: str) -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)

    def at(seconds: float) -> datetime:
        return began + timedelta(seconds=seconds)

    with served(database_url) as http:
        body = {"task": "digits", "horizon": {"steps": 200}, "confirm": {"top": 0}}
        job = str(http.post("/v1/jobs", json=body).json()["id"])
    database, ttl = Database(database_url), timedelta(hours=1)

    def staged(
        number: int | None, until: int | None, value: float, asked: float, claimed: float, ended: float, rate: float
    ) -> None:
        """One stage: asked for, begun and ended after so many seconds."""
        chosen = {"optimizer": "adamw", "learning_rate": rate, "schedule": "cosine"}
        role = "baseline" if rate == 0.001 else "search"
        fields = {"configuration": chosen, "role": role, "seed": 0, "horizon": 200, "until": until, "resume": number}
        with database.write() as tx:
            known = jobs.outline(tx, job).row.decisions
            assert trials.propose(tx, job, Proposal.model_validate(fields), known=known, now=at(asked))
            lease = leases.claim(tx, "worker", ttl=ttl, now=at(claimed))
            assert lease is not None
            report = Report(step=until or 200, learning_rate=rate, metrics={"val_loss": value})
            leases.report(tx, lease, [report], ttl=ttl, now=at(ended))
            if until is None:
                leases.finish(tx, lease, TrialState.COMPLETE, value=value, step=200, now=at(ended))
            else:
                leases.pause(tx, lease, value=value, step=until, reason="so far", now=at(ended))

    staged(None, None, 0.5, 0, 1, 11, 0.001)
    staged(None, 20, 0.9, 12, 12, 14, 0.01)
    staged(None, 20, 0.8, 14, 14, 16, 0.02)
    staged(1, None, 0.3, 20, 21, 39, 0.01)
    with database.write() as tx:
        jobs.end(tx, job, JobState.SUCCEEDED, reason="", now=at(40))
    found = read(database_url, job)
    with database.write() as tx:
        budgets.extend(tx, job, Budget(full_runs=30), now=at(100))
        jobs.end(tx, job, JobState.SUCCEEDED, reason="", now=at(105))
    database.dispose()
    assert read(database_url, job).clock.model_dump(include={"total", "training", "held"}) == {
        "total": 104,
        "training": 32,
        "held": 60,
    }, "what lay between its end and its extension is nobody's thinking"
    assert [(end.number, end.cost, end.value, end.best) for end in found.ends] == [
        (0, 1.0, 0.5, True),
        (1, 2.1, 0.3, True),
    ]
    assert (found.trials, found.complete, found.partial, found.resumed, found.stages) == (2, 1, 1, 1, 4)
    clock = found.clock
    assert (clock.total, clock.training, clock.waiting, clock.held) == (39, 32, 1, 0)
    assert clock.between == pytest.approx(clock.total - 33)
    assert clock.device == 32


def test_steps_had_for_nothing_are_a_share_of_all(database_url: str) -> None:
    job = crowded(database_url, trials=60)
    database = Database(database_url)
    with database.write() as tx:
        tx.execute(update(TrialRow).where(TrialRow.number < 30).values(reused=TrialRow.step // 2))
        steps, reused = tx.execute(select(func.sum(TrialRow.step), func.sum(TrialRow.reused))).one()
    database.dispose()
    assert read(database_url, job).reused == pytest.approx(int(reused) / int(steps))


def test_every_run_is_one_line_with_its_stages(searched: tuple[str, dict[str, Any]], service: httpx.Client) -> None:
    text = service.get(f"/jobs/{searched[0]}/table?state=stopped").text
    assert text.count('aria-label="Of 200 steps: 60 stopped"') == 3
    assert "at 30 %" in text
    whole = service.get(f"/jobs/{searched[0]}/history").text
    assert "7: 3 trained to the end, 3 paused or stopped before it, 1 under way, diverged or failed" in whole
    assert "none: no two trials began alike" in whole


def test_the_history_of_a_job_without_trials_is_empty_and_no_error(service: httpx.Client) -> None:
    job = service.post("/v1/jobs", json={"task": "digits"}).json()["id"]
    text = service.get(f"/jobs/{job}/history").text
    assert '"ends": []' in text
    assert "trained to the end" not in text


# Any metric -----------------------------------------------------------------------------------------------------------


def test_curves_are_of_any_metric_that_was_reported(
    searched: tuple[str, dict[str, Any]], service: httpx.Client
) -> None:
    path = f"/v1/jobs/{searched[0]}/curves"
    own, other = service.get(path).json(), service.get(path, params={"metric": "val_loss"}).json()
    assert own["metric"] == own["aim"] == other["aim"] == "val_accuracy"
    assert own["metrics"] == other["metrics"] == ["val_accuracy", "val_loss"]
    assert (own["goal"], other["goal"]) == ("maximize", None)
    for one, two in zip(own["lines"], other["lines"], strict=True):
        assert one["value"] == two["value"], "what it ended at is the job's own metric"
        assert two["values"] == pytest.approx([1 - value for value in one["values"]], abs=1e-4)


def test_a_metric_that_nobody_reported_is_refused_with_those_that_are(
    searched: tuple[str, dict[str, Any]], service: httpx.Client
) -> None:
    answer = service.get(f"/v1/jobs/{searched[0]}/curves", params={"metric": "<b>loss"})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {
            "pointer": "/metric",
            "detail": "found '<b>loss'; accepted is one that these trials have reported: val_accuracy, val_loss",
        }
    ]
