"""Metrics know their range: where it comes from, and no interval and no forecast that leaves it."""

import math
import re
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.analysis.answer import interval
from lrtune.errors import TaskError
from lrtune.search.engine.early_stop import Past, Rules, forecast, judge
from lrtune.search.engine.normalise import EVERYTHING, Normaliser
from lrtune.store import Database, jobs, leases, tasks, trials, workers
from lrtune.task import Task
from lrtune.wire.configuration import Configuration
from lrtune.wire.results import JobState, Proposal, Report, Role, Trial, TrialState
from tests import simulated
from tests import test_search_engine as engine
from tests.serving import KEY, served
from worker.tasks.own import summary

STEPS = 100
NUMBER = r"-?[\d.]+(?:e[+-]?\d+)?"
EXTERNAL = {"task": "external", "horizon": {"steps": 40}}


class Vision(Task):
    """A task of somebody's own, which says what it knows of its metrics."""

    metrics = {"top1": "maximize", "val_loss": "minimize"}
    ranges = {"top1": (0, 1)}

    def model(self):
        return None

    def loss(self, model, batch):
        return None


@pytest.mark.parametrize(
    ("asked", "range_of_it"),
    [
        ({"task": "digits"}, [0, None]),
        ({"task": "digits", "metric": {"name": "val_accuracy"}}, [0, 1]),
        ({"task": "digits", "metric": {"name": "val_accuracy", "range": [0, 1]}}, [0, 1]),
        ({"task": "vision"}, [0, 1]),
        ({"task": "vision", "metric": {"name": "val_loss"}}, None),
        ({"task": "vision", "metric": {"name": "val_loss", "range": [-5, None]}}, [-5, None]),
        (EXTERNAL | {"metric": {"name": "nll", "goal": "minimize"}}, None),
        (EXTERNAL | {"metric": {"name": "elbo", "goal": "maximize", "range": [None, 0]}}, [None, 0]),
    ],
)
def test_a_job_takes_the_range_of_its_metric_from_the_task_or_says_it_or_has_none(sqlite_url, asked, range_of_it):
    announced(sqlite_url)
    with served(sqlite_url) as http:
        made = http.post("/v1/jobs", json=asked)
        listed = {one["name"]: one["ranges"] for one in http.get("/v1/tasks").json()["items"]}
    assert made.status_code == 201, made.text
    assert made.json()["spec"]["metric"]["range"] == range_of_it
    assert listed["digits"] == {"val_loss": [0, None], "val_accuracy": [0, 1]}
    assert (listed["vision"], listed["external"]) == ({"top1": [0, 1]}, {})
    assert all(listed[name]["val_loss"] == [0, None] for name in ("tabular", "images", "text", "huggingface"))


@pytest.mark.parametrize(
    ("asked", "pointer", "detail"),
    [
        ({"task": "digits", "metric": {"name": "val_accuracy", "range": [0, 100]}}, "/metric/range", "[0.0, 1.0]"),
        (EXTERNAL | {"metric": {"name": "m", "goal": "minimize", "range": [1, 0]}}, "/metric/range", "[0, null]"),
        (EXTERNAL | {"metric": {"name": "m", "goal": "minimize", "range": [None, None]}}, "/metric/range", "[0, null]"),
        (EXTERNAL | {"metric": {"name": "m", "goal": "minimize", "range": 0}}, "/metric/range", "[0, null]"),
        (EXTERNAL | {"metric": {"name": "m", "goal": "minimize", "range": [0, "1"]}}, "/metric/range/1", "number"),
    ],
)
def test_a_range_that_cannot_be_is_refused_in_words(sqlite_url, asked, pointer, detail):
    with served(sqlite_url) as http:
        refused = http.post("/v1/jobs", json=asked)
    assert refused.status_code == 422
    assert [one["pointer"] for one in refused.json()["errors"]] == [pointer]
    assert detail in refused.json()["errors"][0]["detail"]


@pytest.mark.parametrize("ranges", [{"top1": (1, 0)}, {"top1": 1}, {"other": (0, 1)}, ["top1"]])
def test_a_task_whose_ranges_cannot_be_is_told_so(ranges):
    with pytest.raises(TaskError, match=r"ranges: found .* accepted are the lowest and the highest value"):
        summary("vision", type("Vision", (Vision,), {"ranges": ranges}))


def announced(url: str) -> None:
    database = Database(url)
    with database.write() as tx:
        workers.sign_in(tx, "w", host="h", pid=1, device="cpu", tasks=["vision"])
        tasks.announce(tx, [summary("vision", Vision)])
    database.dispose()


def confirmed(url: str, job_id: str, answer: Sequence[float], untuned: Sequence[float]) -> None:
    """Let a job have run its answer and its baseline over the search's seed and fresh ones, and be over."""
    database, runs = Database(url), list[tuple[Configuration, Role, int, float]]()
    found = Configuration(optimizer="adamw", learning_rate=0.004, schedule="linear")
    usual = Configuration(optimizer="adamw", learning_rate=0.001, schedule="cosine", warmup=0.05)
    for chosen, first, values in ((usual, "baseline", untuned), (found, "search", answer)):
        runs += [(chosen, "confirm" if seed else first, seed, value) for seed, value in enumerate(values)]
    for number, (chosen, role, seed, value) in enumerate(sorted(runs, key=lambda one: one[2])):
        proposal = Proposal(configuration=chosen, role=role, seed=seed, horizon=40)
        with database.write() as tx:
            assert trials.propose(tx, job_id, proposal, known=number)
            lease = leases.claim(tx, "worker", ttl=timedelta(minutes=1))
            report = Report(step=40, learning_rate=0.0, metrics={"val_loss": value})
            leases.report(tx, lease, [report], ttl=timedelta(minutes=1))
            leases.finish(tx, lease, TrialState.COMPLETE, value=value, step=40)
    with database.write() as tx:
        jobs.end(tx, job_id, JobState.SUCCEEDED, reason="")
    database.dispose()


def test_wherever_an_interval_is_read_it_can_be(sqlite_url):
    """Losses near zero, as over a net that knows its data by heart: t intervals from -0.003 and -0.01."""
    with served(sqlite_url) as http:
        job = http.post("/v1/jobs", json={"task": "digits", "horizon": {"steps": 40}}).json()["id"]
        confirmed(sqlite_url, job, [0.0, 0.0001, 0.0002, 0.0045], [0.02, 0.0005, 0.004, 0.012])
        best = http.get(f"/v1/jobs/{job}/best").json()
        report = http.get(f"/v1/jobs/{job}/report").json()
        exported = http.get(f"/v1/jobs/{job}/best/export", params={"format": "pytorch"}).text
        terrain = http.get(f"/v1/jobs/{job}/landscape").json()
        http.post("/sign-in", data={"key": KEY})
        page = http.get(f"/jobs/{job}").text
    assert best["range"] == [0, None]
    assert best["interval"][0] == best["baseline"]["interval"][0] == 0
    assert best["interval"][0] < best["value"] < best["interval"][1]
    said = " ".join(one["answer"] for one in report["advice"])
    assert "95 % interval 0 to 0.005645" in said
    assert "not surely better or worse than untuned" in said
    assert "% better" not in said
    assert "# val_loss 0.0016 [0, 0.0056" in exported
    dots = [point for series in terrain["series"] for point in series["points"]]
    assert [point["number"] for point in dots if not point["fresh"]] == [0, 1], "through which a line may be drawn"
    assert "95 % interval 0 to 0.005645, mean over 3 fresh seeds" in page
    assert "Not surely better or worse than untuned" in page


def test_the_lift_is_over_the_same_seeds_while_the_fresh_ones_still_run(sqlite_url):
    """The baseline's fresh seed is no match for the answer's one run over the search's."""
    with served(sqlite_url) as http:
        job = http.post("/v1/jobs", json={"task": "digits", "horizon": {"steps": 40}}).json()["id"]
        confirmed(sqlite_url, job, [0.4], [0.5, 0.9])
        best = http.get(f"/v1/jobs/{job}/best").json()
        lift = http.get(f"/v1/jobs/{job}/report").json()["lift"]
    assert (best["value"], best["baseline"]["value"]) == (0.4, 0.5)
    assert (lift["seeds"], lift["relative"], lift["sure"]) == (1, pytest.approx(0.2), None)


inside = st.lists(st.floats(0, 1), min_size=2, max_size=8)


@given(inside)
def test_the_interval_of_a_share_is_one_of_shares_and_holds_its_mean(values):
    found, free = interval(values, (0.0, 1.0)), interval(values)
    if found is None or free is None:
        assert found is free, "values that are all the same have none, whatever their range"
        assert max(values) - min(values) <= 1e-12 * max(values) + 1e-150, "or the squares of what they differ by are 0"
        return
    assert len(set(values)) > 1
    low, high = found
    assert 0 <= low <= fmean(values) <= high <= 1
    assert (low, high) == (max(low, free[0]), min(high, free[1])), "never wider than the t interval"


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8))
def test_nothing_is_cut_off_where_a_value_has_left_the_range(values):
    beyond = [*values, -3.0, 2.0]
    assert interval(beyond, (0.0, 1.0)) == interval(beyond)
    assert interval(beyond, (-math.inf, math.inf)) == interval(beyond)


@pytest.mark.parametrize("at", [0.0, 1.0])
def test_the_ends_of_a_range_are_values_like_others(at):
    assert interval([at, at, at], (0.0, 1.0)) is interval([0.5, 0.5, 0.5], (0.0, 1.0)) is None
    assert interval([0.0, 1.0], (0.0, 1.0)) == (0.0, 1.0)


HISTORIES = [
    [(10, 2.0), (50, 1.0), (100, 0.01)],
    [(10, 2.5), (50, 1.4), (100, 0.5)],
    [(10, 3.0), (50, 2.0), (100, 0.2)],
]


@given(st.floats(-50, 20), st.floats(1e-3, 20), st.sampled_from([10, 60, 100]), st.sampled_from([0.0, 8.0]))
def test_a_forecast_and_its_ends_lie_in_the_range(mean, std, step, width):
    scale = Normaliser(HISTORIES, 100, linear_width=width)
    for limits in ((0.0, np.inf), (0.0, 4.0), (-np.inf, 4.0)):
        value, low, high = scale.quantiles(step, mean, std, limits)
        assert limits[0] <= low <= value <= high <= limits[1]
    free = scale.quantiles(step, mean, std)
    assert free == pytest.approx(scale.value(step, mean + std * np.array([0.0, -1.0, 1.0])))


def test_a_forecast_that_the_range_cuts_into_is_within_it_and_not_at_its_end():
    scale = Normaliser(HISTORIES, 100)
    free, bound = scale.quantiles(100, -2.0, 1.0), scale.quantiles(100, -2.0, 1.0, (0.0, np.inf))
    assert free[0] < 0, "as it was said of a cross entropy"
    assert 0 < bound[1] < bound[0] < bound[2]
    far = scale.quantiles(100, 3.0, 0.1)
    assert scale.quantiles(100, 3.0, 0.1, (0.0, np.inf)) == pytest.approx(far), "far from an end it changes nothing"


def test_an_early_stop_is_reasoned_with_a_forecast_that_can_be():
    """The best of four runs came to 0.001, and the one that is judged is not far from it."""
    least = engine.loss(engine.CURVES[11]) - 0.001
    *done, judged = [engine.trained(i, 1000 if i != 13 else 300, above=-least) for i in (9, 11, 15, 17, 13)]
    free, bound = (
        forecast(Past(done), [judged], engine.TARGET, limits=limits)[0].ends for limits in (EVERYTHING, (0.0, np.inf))
    )
    assert free.min() < 0
    assert 0 <= bound[1] <= bound[0] <= bound[2]
    behind = engine.trained(13, 300, above=0.1 - least)  # than which others were better here
    words = judge(done, behind, engine.TARGET, rules=Rules(audit=0.0, limits=(0.0, np.inf), chance=1.0)).reason
    found = re.search(rf"forecast ({NUMBER}) \(({NUMBER}) to ({NUMBER})\) against {NUMBER}, chance", words)
    assert found, words
    assert 0 <= float(found[2]) <= float(found[1]) <= float(found[3])


def annealed(trial: Trial) -> list[Report]:
    """A loss that falls by orders of magnitude to next to nothing, the more so the nearer the rate is to the best."""
    away = math.log2(trial.configuration.learning_rate / 0.004)
    values = [10.0 ** (-4.0 * (place / 20) / (1 + 0.1 * away**2)) for place in range(1, 21)]
    return simulated.evenly(values, trial.horizon)


@cache
def searched(known: bool) -> tuple[Trial, ...]:
    metric = {"name": "loss", "goal": "minimize", "range": [0, None] if known else None}
    budget = {"budget": {"full_runs": 3}, "confirm": {"top": 0, "seeds": 0}, "schedules": ["cosine", "linear"]}
    spec = simulated.job("curve", steps=STEPS, metric=metric, **budget)
    return tuple(simulated.carried_out(spec, annealed, steps=STEPS))


def forecasts(history: Sequence[Trial]) -> list[list[float]]:
    """Every forecast of a search as it is told: the value, and its ends; of a trial that is given up the value."""
    reasons = [reason for t in history for reason in (t.why, t.stage_why, t.reason, *(s.why for s in t.stages))]
    found = [re.findall(rf"forecast ({NUMBER}) \(({NUMBER}) to ({NUMBER})\)", reason) for reason in reasons]
    ended = [re.findall(rf"({NUMBER}) forecast at its end", reason) for reason in reasons]
    return [[float(n) for n in one] for some in found for one in some] + [[float(n)] for some in ended for n in some]


def test_a_search_says_no_forecast_that_cannot_be_and_decides_the_same():
    free, bound = forecasts(searched(known=False)), forecasts(searched(known=True))
    assert len(free) == len(bound) >= 5
    assert min(min(one) for one in free) < 0, "or the range would have nothing to do"
    for value, *ends in bound:
        assert value >= 0
        assert not ends or 0 <= ends[0] <= value <= ends[1]
    assert [(t.run, t.step, t.state) for t in searched(known=True)] == [
        (t.run, t.step, t.state) for t in searched(known=False)
    ]
