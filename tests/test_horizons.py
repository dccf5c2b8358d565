"""The answer at other horizons: by the law where it is borne out, by shorter runs or the square-root rule elsewhere."""

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from lrtune.analysis.answer import best as best_of
from lrtune.cli import commands
from lrtune.client import Client
from lrtune.export import FORMATS
from lrtune.search import horizons, verdict
from lrtune.search.curve.encode import rates
from lrtune.search.engine.law import Law, histories
from lrtune.search.engine.peaks import mixture, moves_by_law, moves_by_rule
from lrtune.search.shorter import next_shorter
from lrtune.wire.configuration import Configuration
from lrtune.wire.horizons import AtHorizon
from lrtune.wire.job import JobSpec
from lrtune.wire.results import Report, Trial, TrialState, report_points
from tests.crowd import crowded
from tests.serving import KEY, finished, served, slug
from tests.simulated import carried_out, job

STEPS = 400
BUDGET, NONE = {"full_runs": None, "trials": 15}, {"top": 0, "seeds": 0}
RATES = [1e-3 * 2.0**k for k in range(-4, 5)]
# floor, A, S0, a, c, q, C, b, edge, d, p: a training loss whose best peak falls as training grows longer.
TRUTH = np.array([2.0, 0.0, -3.0, math.log(0.6), -1.5, 0.6, 1.5, 0.0, math.log(60.0), -5.0, 0.7])


def by_law(configuration: Configuration, horizon: int, step: int) -> float:
    """The loss of a run after a step."""
    curve = np.array([rates(configuration, horizon)])
    been = histories(curve, np.array([float(horizon)]), np.array([float(step)]), STEPS, 1.0)
    return float(Law(TRUTH, been).value[0])


def trial(number: int, rate: float, family: str, noise: float, horizon: int = STEPS) -> Trial:
    """A whole run that follows the law but for noise."""
    wire = {"optimizer": "adamw", "learning_rate": rate, "schedule": family, "warmup": 0.02}
    chosen = Configuration.model_validate(wire)
    random = np.random.default_rng(number)
    losses = [(step, by_law(chosen, horizon, step) + noise * random.normal()) for step in report_points(horizon)]
    reports = [Report(step=step, learning_rate=rate, metrics={"loss": loss}) for step, loss in losses]
    ended = {"state": TrialState.COMPLETE, "step": horizon, "value": losses[-1][1], "reports": reports}
    return Trial(number=number, decision=number, role="search", configuration=chosen, seed=7, horizon=horizon, **ended)


def answer(trials: list[Trial], *asked: int, **fields: object) -> list[AtHorizon]:
    """What these trials say of the steps asked for."""
    spec = job("curve", steps=STEPS, **fields)
    found = best_of(spec, trials, steps=STEPS, full_runs=float(len(trials)))
    assert found is not None
    return horizons.at_horizons(spec, found, trials, asked)


def many(noise: float) -> list[Trial]:
    """Whole runs of three families at nine rates."""
    kinds = [(rate, family) for family in ("cosine", "wsd", "constant") for rate in RATES]
    return [trial(number, rate, family, noise) for number, (rate, family) in enumerate(kinds)]


@pytest.mark.parametrize("doublings", [-1.4, -1.1, 0.0, 1.1, 1.4])
def test_the_best_peak_may_lie_between_the_answers_rate_and_the_next_that_was_tried(doublings):
    """Rates a factor of eight apart: the interval was a factor of two to both sides, whatever had been tried."""
    best = 1e-3 * 2.0**doublings
    runs = [trial(number, 1e-3 * 8.0 ** (number - 1), "cosine", 0.0) for number in range(4)]
    ends = [0.4 + 0.01 * math.log2(one.configuration.learning_rate / best) ** 2 for one in runs]
    (found,) = answer([t.model_copy(update={"value": end}) for t, end in zip(runs, ends, strict=True)], STEPS)
    low, high = found.learning_rate_interval
    assert found.configuration.learning_rate == 1e-3
    assert 1e-3 / 8 < low < best < high < 1e-3 * 8


def test_a_lucky_runs_peak_is_as_uncertain_as_luck_leaves_it():
    """The best peak is 1e-3, and a factor of two costs less than seeds differ by: six of twelve held it before."""
    held = 0
    for number in range(12):
        random, rates_ = np.random.default_rng(number), [1e-3 * 2.0 ** (k / 2) for k in range(-6, 7)]
        runs = [trial(n, rate, "cosine", 0.0) for n, rate in enumerate(rates_)]
        ends = [0.4 + 0.01 * math.log2(rate / 1e-3) ** 2 for rate in rates_]
        runs = [t.model_copy(update={"value": e + 0.015 * random.normal()}) for t, e in zip(runs, ends, strict=True)]
        first = min(runs, key=lambda one: one.value)
        for seed in (8, 9, 10):
            again = {"seed": seed, "role": "confirm", "number": 5 + seed, "reports": []}
            again["value"] = ends[first.number] + 0.015 * random.normal()
            runs.append(first.model_copy(update=again))
        low, high = answer(runs, STEPS)[0].learning_rate_interval
        held += low <= 1e-3 <= high
    assert held >= 8


class TestTheAnswerCarriedOver:
    @pytest.mark.parametrize("multiple", [2, 4])
    def test_where_the_law_is_borne_out_it_names_the_peak_that_is_best_there(self, multiple: int) -> None:
        found = answer(many(2e-4), multiple * STEPS)[0]
        grid = [1e-3 * 2.0 ** (k / 8) for k in range(-48, 49)]
        ends = [
            by_law(found.configuration.model_copy(update={"learning_rate": rate}), multiple * STEPS, multiple * STEPS)
            for rate in grid
        ]
        truth = grid[int(np.argmin(ends))]
        low, high = found.learning_rate_interval
        assert found.known == "law"
        assert found.law_share > 0.5
        assert "by a scaling law fitted to this job's learning curves (weight" in found.words
        assert low < truth < high
        assert abs(math.log2(found.configuration.learning_rate / truth)) < 0.5

    def test_values_of_one_step_are_no_learning_curves_so_nothing_is_said_to_be_fitted_to_them(self) -> None:
        by_hand = [run.model_copy(update={"reports": run.reports[-1:]}) for run in many(2e-4)]
        found = answer(by_hand, 2 * STEPS)[0]
        assert (found.known, found.law_share) == ("square-root-rule", 0.0)
        assert "learning curves" not in found.words

    def test_where_the_law_is_not_borne_out_it_is_the_square_root_rule_with_its_spread(self) -> None:
        here, twice, ten = answer(many(0.5), STEPS, 2 * STEPS, 10 * STEPS)
        assert (here.known, twice.known, ten.known) == ("run", "square-root-rule", "square-root-rule")
        assert all(part in ten.words for part in ("rule (weight", "the rest is a scaling law fitted to this job's"))
        assert "curves (weight 51 %; the rest is steps" in answer(many(0.1), 2 * STEPS)[0].words, "the heavier first"
        peak = here.configuration.learning_rate
        assert math.log(ten.configuration.learning_rate / peak) == pytest.approx(-0.5 * math.log(10), abs=0.4)
        widths = [math.log(high / low) for low, high in (one.learning_rate_interval for one in (here, twice, ten))]
        assert widths == sorted(widths)
        assert all(
            low < one.configuration.learning_rate < high
            for one in (here, twice, ten)
            for low, high in [one.learning_rate_interval]
        )

    def test_a_peak_that_no_run_had_is_said_to_be_one(self) -> None:
        """The best rate is the lowest that was tried, and a longer run's is expected to be lower."""
        tried = [one for one in many(2e-4) if one.configuration.learning_rate >= 4e-3]
        (longer,) = answer(tried, 10 * STEPS)
        assert longer.configuration.learning_rate < min(one.configuration.learning_rate for one in tried)
        assert "), lower than any that was tried, by" in longer.words
        assert "that was tried" not in answer(many(2e-4), 2 * STEPS)[0].words

    def test_where_no_run_beyond_the_answers_rate_did_worse_the_interval_goes_on_to_the_end_of_the_range(self) -> None:
        """One run says nothing of the rates beside it; a job of one named its best within a factor of 20."""
        (alone,) = answer(many(2e-4)[:1], 4 * STEPS)
        (lowest,) = answer([one for one in many(2e-4) if one.configuration.learning_rate >= 4e-3], STEPS)
        (both,) = answer(many(2e-4), 4 * STEPS)
        assert alone.learning_rate_interval[0] < 2e-5
        assert alone.learning_rate_interval[1] > 0.05
        assert alone.words.endswith("; no run at a lower or higher rate has ended worse")
        assert lowest.learning_rate_interval[0] < 2e-5
        assert lowest.words.endswith("; no run at a lower rate has ended worse")
        assert both.learning_rate_interval[1] < 20 * both.learning_rate_interval[0]
        assert "ended worse" not in both.words

    def test_an_end_of_the_interval_beyond_the_jobs_range_is_said_to_be_one(self) -> None:
        """Over shorter runs the best peak is higher, over longer ones lower."""
        narrow = {"optimizers": [{"name": "adamw", "learning_rate": [5e-4, 2e-3]}]}
        runs = [one for one in many(2e-4) if 5e-4 <= one.configuration.learning_rate <= 2e-3]
        shorter, longer = answer(runs, STEPS // 20, 20 * STEPS, **narrow)
        beyond = "beyond the rates that the job searches (5e-4 to 2e-3)"
        assert shorter.learning_rate_interval[1] > 2e-3
        assert shorter.words.endswith(f"; its upper end lies {beyond}")
        assert longer.learning_rate_interval[0] < 5e-4
        assert longer.words.endswith(f"; its lower and upper ends lie {beyond}"), "the law knows no range"
        assert "beyond the rates" not in answer(many(2e-4), 4 * STEPS)[0].words

    def test_only_the_rate_changes_so_that_warm_up_and_decay_stretch(self) -> None:
        trials = many(2e-4)
        best = min(trials, key=lambda one: one.value or 0.0).configuration
        found = answer(trials, 4 * STEPS)[0]
        assert found.configuration == best.model_copy(update={"learning_rate": found.configuration.learning_rate})
        assert found.configuration.curve.rise(4 * STEPS) == 4 * best.curve.rise(STEPS)

    def test_any_number_of_steps_has_an_answer(self) -> None:
        found = answer(many(2e-4), 1, 7, 10**8)
        assert all(0 < one.configuration.learning_rate <= 1e3 for one in found)


class TestHorizonsOfAJob:
    def test_they_wait_for_a_run_of_the_searchs_own_as_a_baseline_alone_is_no_leader(self) -> None:
        """A job of four full runs left its best run at 65 % for six short ones around the baseline, its answer then."""
        spec = job("curve", steps=STEPS, horizons=[100], schedules=["cosine"], budget={"full_runs": 4})
        alone = trial(0, 1e-3, "cosine", 0.0).model_copy(update={"role": "baseline"})
        assert next_shorter(spec, [alone], steps=STEPS, left=1.5) is None
        assert next_shorter(spec, [alone, trial(1, 2e-3, "cosine", 0.0)], steps=STEPS, left=1.5) is not None

    def test_they_show_no_move_from_a_rate_that_is_not_known_to_be_the_best(self) -> None:
        """Best over 100 steps was 8 times an untuned baseline's rate, which is no move of the best rate."""
        spec = job("curve", steps=STEPS, horizons=[100], schedules=["cosine"], budget={"full_runs": 4})
        alone = trial(0, 2.5e-4, "cosine", 0.0).model_copy(update={"role": "baseline"})
        left = {
            "state": TrialState.STOPPED,
            "step": 200,
            "stopped_by": "budget",
        }
        over = trial(9, 4e-3, "constant", 0.0).model_copy(update=left)
        short = [trial(1 + place, rate, "cosine", 0.0, 100) for place, rate in enumerate(RATES)]
        found = best_of(spec, [alone], steps=STEPS, full_runs=3.0)
        assert found is not None
        (ten,) = horizons.at_horizons(spec, found, [alone, over, *short], [10 * STEPS])
        assert "shorter horizon" not in ten.words
        assert ten.learning_rate_interval[1] > 0.05

    def test_where_the_budget_is_in_full_runs_they_come_with_its_second_half(self) -> None:
        spec = job("curve", steps=STEPS, horizons=[100, 0.5], schedules=["cosine"], budget={"full_runs": 6})
        past = [trial(number, rate, "cosine", 0.0) for number, rate in enumerate(RATES[:3])]
        assert next_shorter(spec, past, steps=STEPS, left=3.5) is None
        found = next_shorter(spec, past, steps=STEPS, left=3.0)
        assert found is not None
        assert (found.horizon, found.until, found.role) == (200, None, "search")
        last = next_shorter(spec, past, steps=STEPS, left=0.3)
        assert last is not None
        assert last.horizon == 100, "what is left pays for no longer one"
        assert next_shorter(spec, past, steps=STEPS, left=0.2) is None

    def test_part_of_the_runs_is_over_them_and_shows_how_the_best_rate_moves(self) -> None:
        """Of a training whose best peak falls in proportion to the steps, so that the square-root rule is wrong."""
        spec = job(
            "curve", steps=STEPS, horizons=[100, 0.5], schedules=["cosine"], budget=BUDGET, warmup=0, confirm=NONE
        )

        def loss(one: Trial) -> list[Report]:
            off = math.log2(one.configuration.learning_rate / (2e-3 * STEPS / one.horizon))
            end = 1.0 + 0.1 * off * off
            return [
                Report(step=step, learning_rate=0.1, metrics={"loss": end + 1.0 - step / one.horizon})
                for step in report_points(one.horizon)
            ]

        trials = carried_out(spec, loss, steps=STEPS)
        shorter = [one for one in trials if one.role == "search" and one.horizon < STEPS]
        assert {one.horizon for one in shorter} == {100, 200}
        assert all(one.state is TrialState.COMPLETE for one in shorter)
        assert all("horizon" in one.why for one in shorter)
        best = best_of(spec, trials, steps=STEPS, full_runs=14.0)
        assert best is not None
        assert best.steps == STEPS
        found = horizons.at_horizons(spec, best, trials, [1600])[0]
        without = horizons.at_horizons(spec.model_copy(update={"horizons": []}), best, trials, [1600])[0]
        assert found.known in ("law", "shorter-runs")
        assert found.learning_rate_interval[0] < 2e-3 / 4 < found.learning_rate_interval[1]
        moved, unaided = (
            one.configuration.learning_rate / best.configuration.learning_rate for one in (found, without)
        )
        assert abs(math.log(moved * 4)) < min(0.2, abs(math.log(unaided * 4)))

    def test_no_pruner_stops_them(self) -> None:
        spec = job("curve", {"name": "threshold", "upper": 0.1}, steps=STEPS, horizons=[0.5])
        whole, shorter = trial(1, 1e-3, "cosine", 0.0), trial(2, 1e-3, "cosine", 0.0, STEPS // 2)
        running = {"state": TrialState.RUNNING, "value": None}
        assert verdict(spec, [], whole.model_copy(update=running), steps=STEPS).stop
        assert not verdict(spec, [], shorter.model_copy(update=running), steps=STEPS).stop

    @pytest.mark.parametrize(
        ("given", "where"),
        [
            ({"horizons": [400], "horizon": {"steps": 400}}, ("horizons", 0)),
            ({"horizons": [1]}, ("horizons", 0)),
            ({"horizons": [2.5]}, ("horizons", 0)),
            ({"horizons": ["half"]}, ("horizons", 0)),
            ({"horizons": [0.5] * 6}, ("horizons",)),
            ({"horizons": [0.5], "search": {"sampler": "tpe"}}, ("horizons",)),
        ],
    )
    def test_what_is_no_shorter_horizon_is_refused(self, given: dict[str, object], where: tuple[object, ...]) -> None:
        with pytest.raises(ValidationError) as refused:
            JobSpec.model_validate({"task": "digits"} | given)
        assert refused.value.errors()[0]["loc"] == where

    def test_a_job_without_them_says_nothing_of_them(self) -> None:
        assert "horizons" not in JobSpec.model_validate({"task": "digits"}).model_dump(mode="json")


def test_a_horizon_that_is_too_long_for_the_tasks_own_is_refused_over_http(sqlite_url: str) -> None:
    with served(sqlite_url) as service:
        refused = service.post("/v1/jobs", json={"task": "digits", "horizons": [10_000_000]})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"] == "/horizons/0"
        taken = service.post("/v1/jobs", json={"task": "digits", "horizons": [0.5, 100]})
        assert taken.json()["spec"]["horizons"] == [0.5, 100]


def test_the_answer_is_carried_over_through_every_door(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(database_url) as service:
        empty = service.post("/v1/jobs", json={"task": "digits", "horizon": {"steps": 40}}).json()["id"]
        assert slug(service.get(f"/v1/jobs/{empty}/best", params={"steps": 80})) == "no-result-yet"
        done = finished(service, database_url)
        for wrong in ("0", "-3", "1.5", "many", "100000001"):
            refused = service.get(f"/v1/jobs/{done}/best", params={"steps": wrong})
            assert refused.status_code == 422
            assert refused.json()["errors"][0]["pointer"] == "/steps"

        plain = service.get(f"/v1/jobs/{done}/best").json()
        found = service.get(f"/v1/jobs/{done}/best", params={"steps": 80}).json()
        assert (found["steps"], found["trained_steps"], found["trial"]) == (80, 40, plain["trial"])
        assert found["configuration"]["schedule"] == plain["configuration"]["schedule"]

        monkeypatch.setenv("LRTUNE_API_KEY", KEY)
        monkeypatch.setenv("LRTUNE_URL", str(service.base_url))
        with Client() as client:
            assert client.best_at(done, 80).model_dump(mode="json") == found
            assert [one.steps for one in client.report(done).horizons] == [80, 160, 400]
            csv = client.export(done, "csv", steps=80).splitlines()
        assert len(csv) == 81
        assert csv[1] == f"0,{found['configuration']['learning_rate']!r}"
        for format in FORMATS:
            written = service.get(f"/v1/jobs/{done}/best/export", params={"steps": 80, "format": format})
            assert written.status_code == 200, format
        assert "nobody has trained" in service.get(f"/v1/jobs/{done}/best/export", params={"steps": 80}).text

        shown = CliRunner().invoke(commands.app, ["best", done, "--steps", "80"]).output
        assert "80 steps" in shown
        assert "square-root rule" in " ".join(shown.split())
        assert "400 steps" in CliRunner().invoke(commands.app, ["report", done]).output


@pytest.mark.usefixtures("thinking_here")
def test_who_asks_for_another_horizon_is_waited_for_by_nobody_else(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    thinking, over, real = threading.Semaphore(0), threading.Event(), horizons.at_horizons

    def slowly(*asked: object) -> object:
        thinking.release()
        assert over.wait(60)
        return real(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(horizons, "at_horizons", slowly)
    with served(sqlite_url) as service, ThreadPoolExecutor(60) as pool:
        done = finished(service, sqlite_url)
        asked = [pool.submit(service.get, f"/v1/jobs/{done}/best", params={"steps": 80}) for _ in range(60)]
        assert thinking.acquire(timeout=60)
        try:
            for path in (f"/v1/jobs/{done}/best", f"/v1/jobs/{done}", "/v1/jobs"):
                assert service.get(path, timeout=30).status_code == 200
            new: httpx.Response = service.post("/v1/jobs", json={"task": "digits"}, timeout=30)
            assert new.status_code == 201
        finally:
            over.set()
        assert {one.result().status_code for one in asked} == {200}


def test_a_report_on_paper_has_the_longer_runs(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(sqlite_url) as service:
        done = finished(service, sqlite_url)
        monkeypatch.setenv("LRTUNE_API_KEY", KEY)
        monkeypatch.setenv("LRTUNE_URL", str(service.base_url))
        for name in ("report.md", "report.html"):
            assert CliRunner().invoke(commands.app, ["report", done, "-o", str(tmp_path / name)]).exit_code == 0
            assert "Over longer runs" in (tmp_path / name).read_text()
        with httpx.Client(
            base_url=service.base_url, headers={"Accept": "text/html"}, timeout=60, trust_env=False
        ) as browser:
            browser.post("/sign-in", data={"key": KEY})
            assert "longer" in browser.get(f"/jobs/{done}").text
            assert "160 steps" in browser.get(f"/jobs/{done}/longer").text


@pytest.mark.usefixtures("thinking_here")
def test_a_job_of_thousands_of_trials_takes_no_longer(sqlite_url: str) -> None:
    job = crowded(sqlite_url, trials=1000)
    with served(sqlite_url) as service:
        began = time.process_time()  # of the server too, which is in this process
        assert service.get(f"/v1/jobs/{job}/best", params={"steps": 10_000}).status_code == 200
    assert time.process_time() - began < 30


class Drawn:
    """A model whose law is one of two, as often one as the other."""

    target, unit = STEPS, 1.0

    def __init__(self, *laws: np.ndarray) -> None:
        self.laws = np.array(laws)

    def draw_parameters(self, n: int, _: np.random.Generator) -> np.ndarray:
        return self.laws[np.arange(n) % len(self.laws)]


def test_a_law_without_a_best_peak_says_nothing_of_how_it_moves() -> None:
    """Without noise and without an edge a higher rate is always better: the end of what is looked at was its best."""
    without = TRUTH.copy()
    without[[4, 8, 9]] = -40.0, 40.0, -40.0  # the size of the noise, the edge, the noise of just now
    curves = {over: np.array(rates(many(0.0)[3].configuration, over)) for over in (STEPS, 2 * STEPS)}
    rule = moves_by_rule(2 * STEPS, STEPS, [])
    by_law, by_half, by_none = (
        moves_by_law(Drawn(*laws), curves, 2 * STEPS, []) for laws in ([TRUTH], [TRUTH, without], [without])
    )
    assert [weights.sum() for _, weights in (by_law, by_half, by_none)] == pytest.approx([1.0, 0.5, 0.0])
    known, rules = (mixture(rule, 0.0, by, 1.0)[0] for by in (by_law, by_none))
    assert known == pytest.approx(by_law[0][0])
    assert rules == pytest.approx(-0.5 * math.log(2), abs=0.01)
    assert sorted([known, rules])[0] <= mixture(rule, 0.0, by_half, 1.0)[0] <= sorted([known, rules])[1]
