"""The engine of the curve search: what must hold whatever the job."""

from dataclasses import replace

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime

from benchmarks.example_optuna import curve as example_curve
from benchmarks.example_optuna import objective
from lrtune.search import CurveSampler
from lrtune.search.engine.costs import Options, Settings
from lrtune.search.engine.decide import decide
from lrtune.search.engine.early_stop import Rules, audit, due, judge
from lrtune.search.engine.features import embed
from lrtune.search.engine.gittins import gittins_index
from lrtune.search.engine.gp import Objective, Points, make_prior
from lrtune.search.engine.model import JobModel
from lrtune.search.engine.types import Pool, Run, without_duplicate_prefixes

PEAKS = np.geomspace(1e-4, 1.0, 25)
ANNEALED = 1 - (np.arange(64) + 0.5) / 64
CURVES = np.concatenate([PEAKS[:, None] * ANNEALED, PEAKS[:, None] * np.ones(64)])  # rows 25 to 49 are constant
TARGET = 1000
STOPS = Rules(audit=0.0)


def loss(curve: np.ndarray) -> float:
    """Depends on the mean rate and on being annealed, as real ones do: row 13 is best."""
    return float((np.log(curve.mean() / 0.01)) ** 2 * 0.1 + 0.3 * curve[-4:].mean() / curve.mean() + 1)


def pool(horizons: tuple[int, ...] = (TARGET,)) -> Pool:
    n = len(horizons) * len(CURVES)
    lengths = np.repeat(horizons, len(CURVES))
    return Pool(
        keys=tuple(range(len(CURVES))) * len(horizons),
        horizons=lengths,
        curves=np.tile(CURVES, (len(horizons), 1)),
        extras=np.zeros((n, 0)),
        free=np.zeros(n, dtype=np.int64),
        every=np.maximum(lengths // 10, 1),
    )


def trained(i: int, until: int = TARGET, state: str = "complete", *, above: float = 0.0, end: float = 0.0) -> Run:
    """Row i up to a step; its loss lies higher by `above`, and in its last tenth by `end` more."""
    steps = range(100, until + 1, 100)
    values = (loss(CURVES[i]) + 2 * (1 - s / TARGET) + above + (end if s > 900 else 0.0) for s in steps)
    return Run(i, TARGET, tuple(CURVES[i]), (), tuple(zip(steps, values, strict=True)), state, until)


@pytest.mark.parametrize("curve", [np.zeros(64), np.linspace(0, 10, 64), np.full(64, 1e300), np.full(64, np.inf)])
@pytest.mark.parametrize("progress", [0.0, 0.01, 1.0])
def test_any_curve_can_be_embedded(curve: np.ndarray, progress: float) -> None:
    assert np.isfinite(embed(np.array([curve]), np.array([progress]))).all()


@settings(max_examples=5)
@given(
    st.lists(st.tuples(st.integers(0, 49), st.integers(1, 10), st.booleans()), max_size=8, unique_by=lambda t: t[0]),
    st.integers(0, 5),
)
def test_a_decision_is_always_new_training_of_an_option(past: list[tuple[int, int, bool]], seed: int) -> None:
    runs = [trained(i, 100 * k, "running" if busy else "complete") for i, k, busy in past]
    options = pool((TARGET, 500))
    decision, _ = decide(options, runs, TARGET, seed)
    assert decision == decide(options, runs, TARGET, seed)[0]
    assert decision.reason
    assert 0 < decision.until <= decision.horizon == options.horizons[decision.row]
    done = {(run.key, run.horizon): run.until for run in runs}
    assert decision.until > done.get((options.keys[decision.row], decision.horizon), 0)


def test_a_running_trial_is_not_repeated_and_a_diverged_one_is_left() -> None:
    runs = [trained(i) for i in (2, 6, 10, 14, 18, 22)]
    full_runs = Settings(partial_runs=False)
    first, _ = decide(pool(), runs, TARGET, 0, full_runs)
    busy = replace(trained(first.row), reports=(), state="running", until=TARGET)
    second, _ = decide(pool(), [*runs, busy], TARGET, 0, full_runs)
    assert second.row != first.row
    broken = replace(trained(first.row), reports=((100, float("nan")),), state="diverged")
    third, _ = decide(pool(), [*runs, broken], TARGET, 0, full_runs)
    assert third.row != first.row


def blown_up(i: int, until: int, end: float = float("nan")) -> Run:
    """Row i, whose loss grows tenfold at every report, and ends as it is told."""
    reports = [(step, 10.0 ** (step / 10)) for step in range(100, until, 100)]
    return Run(i, TARGET, tuple(CURVES[i]), (), (*reports, (until, end)), "diverged", until)


def test_runs_that_blew_up_set_no_scale_for_those_that_did_not() -> None:
    """Most of the first ones did, and one came down again, though not by much: forecasts were of the order of that."""
    back = replace(blown_up(20, TARGET, 1e20), state="complete")
    runs = [*(blown_up(i, 600) for i in (19, 21, 22, 23, 24)), back, trained(11), trained(13)]
    model = JobModel(pool(), [replace(run, born=place) for place, run in enumerate(runs)], TARGET)
    mean, _ = model.forecast(np.arange(10, 16))
    assert model.normaliser.value(TARGET, mean).max() < 10
    assert np.ptp(model.normaliser.score(np.full(2, TARGET), np.array([loss(CURVES[i]) for i in (11, 13)]))) > 0.1


def test_rates_above_those_that_diverged_twice_are_not_trained_unless_some_run_held_there() -> None:
    """Rows 0 to 24 are annealed; 25 to 49 hold the same peaks, so their rates are never lower."""

    def untouched(runs: list[Run]) -> set[int]:
        options = Options(pool(), runs, TARGET, Settings())
        return {row for row in range(len(CURVES)) if not options.open(row)} - {run.key for run in runs}

    one, other = blown_up(20, 300), blown_up(21, 300)
    assert untouched([one]) <= {19, 45}, "one may have been unlucky: what is nearly the same is left, and no more"
    assert untouched([one, other]) >= {22, 23, 24, 46, 47, 48, 49}
    assert not untouched([one, other]) & {*range(19), *range(25, 44)}
    assert 24 not in untouched([one, other, trained(23, 500, "paused")])
    assert 24 in untouched([one, other, trained(23, 200, "paused")]), "which has not been as far as those that diverged"


def test_a_prefix_that_two_runs_share_counts_once() -> None:
    first = Run(0, TARGET, tuple(np.ones(64)), (), ((100, 2.0), (500, 1.0), (1000, 0.5)), "complete", TARGET, 0)
    falling = tuple(np.where(np.arange(64) < 40, 1.0, 0.1))
    branch = Run(1, TARGET, falling, (), ((100, 2.0), (500, 1.0), (1000, 0.4)), "complete", TARGET, 1)
    by_chance = Run(2, TARGET, tuple(2 * np.ones(64)), (), ((100, 2.0), (500, 1.0)), "paused", 500, 2)
    assert [run.reports for run in without_duplicate_prefixes([branch, first, by_chance])] == [
        ((500, 1.0), (1000, 0.4)),
        first.reports,
        by_chance.reports,
    ]


def test_nothing_is_so_cheap_that_the_search_stays_with_it() -> None:
    """Of a run that others have all but trained the price is a share of what it would cost alone."""
    shared = replace(pool(), free=np.full(50, 900, dtype=np.int64))
    options = Options(shared, [trained(1, until=500, state="paused")], TARGET, Settings())
    assert [options.price(0, TARGET), options.price(0, 950), options.price(1, TARGET)] == pytest.approx(
        [0.4, 0.38, 0.2]
    )
    assert Options(pool(), [], TARGET, Settings()).price(0, TARGET) == 1.0


def test_the_search_finds_the_best_curve_and_says_why_it_trains_what() -> None:
    runs: list[Run] = []
    reasons: list[str] = []
    for _ in range(12):
        decision, _ = decide(pool(), runs, TARGET, 0, Settings(partial_runs=False))
        runs.append(trained(decision.row))
        reasons.append(decision.reason)
    assert min(run.reports[-1][1] for run in runs) <= loss(CURVES[13]) + 0.02
    assert reasons[5] == "initial design 6: spread over the space of curves"
    assert reasons[6].startswith("forecast ")
    assert ", best so far 1." in reasons[6]


def test_a_run_is_resumed_in_stages_that_say_what_they_explain() -> None:
    runs = [trained(i, 100, "paused") for i in (2, 6, 10, 14, 18, 22)]
    decision, _ = decide(pool(), runs, TARGET, 0)
    assert decision.until < TARGET
    assert decision.reason.startswith("stage that explains ")
    assert "% of the variance: forecast " in decision.reason


def test_stages_are_worth_more_than_one_piece() -> None:
    whole = gittins_index(0.0, np.array([1.0]), np.array([1.0]), np.array([[1.0]]), np.array([[1.0]]))
    staged = gittins_index(0.0, np.array([1.0]), np.array([1.0]), np.array([[0.5, 1.0]]), np.array([[0.1, 0.9]]))
    assert staged[0] > whole[0] > 0


def test_the_fit_follows_the_slope_of_the_posterior() -> None:
    """Every derivative is that of finite differences, the drift of the best rate with the steps among them."""
    random = np.random.default_rng(0)
    points = Points(random.normal(size=(20, 3)), random.uniform(-3, 0, 20), np.repeat(np.arange(5), 4))
    prior = make_prior(np.array([1.2, 2.5, 3.0]))
    fit = Objective(points, random.normal(size=20), prior, random.choice([1.0, 3.0], 20))
    theta = prior.mean + 0.5 * prior.std * random.normal(size=10)
    assert fit(theta)[1] == pytest.approx(approx_fprime(theta, lambda t: fit(t)[0], 1e-6), rel=1e-3, abs=1e-4)


def test_a_divergence_says_less_of_how_a_run_ends_than_a_bad_value() -> None:
    runs = [trained(i) for i in (8, 12, 16, 20)]
    theta = JobModel(pool(), runs, TARGET).theta
    bad = replace(trained(18, 500, "paused"), reports=((500, 9.0),))
    diverged = replace(bad, reports=((500, float("nan")),), state="diverged")
    (_, sure), (_, unsure) = (
        JobModel(pool(), [*runs, run], TARGET, theta).forecast(np.array([18])) for run in (bad, diverged)
    )
    assert unsure[0] > 1.05 * sure[0]


class TestTheForecastPruner:
    RUNS = tuple(trained(i) for i in (4, 8, 12, 16, 20, 31, 39))

    def test_it_stops_the_hopeless_and_keeps_the_good(self) -> None:
        hopeless = judge(self.RUNS, trained(1, 500, "running"), TARGET, rules=STOPS)
        assert hopeless.stop
        assert "against" in hopeless.reason
        assert not judge(self.RUNS, trained(13, 500, "running"), TARGET, rules=STOPS).stop
        assert judge(self.RUNS, trained(1, 500, "running"), TARGET, rules=Rules(audit=1.0)).audit
        assert not judge(self.RUNS[:2], trained(1, 500, "running"), TARGET, rules=STOPS).stop

    def test_what_decay_does_to_a_run_is_not_forecast_from_runs_without_it(self) -> None:
        held = [trained(i) for i in (35, 37, 39, 41)]
        assert judge(held, trained(38, 500, "running", above=8.0), TARGET, rules=STOPS).stop
        annealing = judge(held, trained(13, 500, "running", above=8.0), TARGET, rules=STOPS)
        assert not annealing.stop
        assert annealing.reason == "only 0 completed runs that had as much decay ahead of them"

    def test_a_run_that_wins_by_the_linear_view_alone_runs_on(self) -> None:
        """By orders of magnitude its chance is 2 %, by values as they are 14 %."""
        runs = [trained(i) for i in (2, 6, 10, 14)]
        assert not judge(runs, trained(13, 700, "running", above=0.05), TARGET, rules=STOPS).stop
        assert judge(runs, trained(13, 700, "running", above=1.0), TARGET, rules=STOPS).stop

    def test_forecasts_are_as_unsure_as_the_completed_runs_have_shown(self) -> None:
        """Where ends lie far from what was forecast, a chance of 2 % by the model's own word is one of 7 %."""
        runs = [trained(i, end=end) for i, end in zip((8, 10, 11, 12, 14, 15), (0.6, 0.0, -0.6) * 2, strict=True)]
        found = judge(runs, trained(13, 500, "running", above=0.3), TARGET, rules=STOPS)
        assert not found.stop
        assert found.chance > 0.06

    @pytest.mark.parametrize("share", [0.1, 0.5])
    def test_a_false_stop_is_counted_at_whichever_report_it_would_have_been(self, share: float) -> None:
        """One false stop among the few is more than is allowed."""
        runs, bad = [trained(i) for i in (0, 4, 8, 12)], int(share * TARGET)
        seen = trained(13, bad, "running", above=9.0)
        assert due(bad - 100, bad, TARGET)
        assert judge(runs, seen, TARGET, rules=STOPS).stop
        won = replace(
            trained(13, above=-0.05), reports=(*seen.reports, *trained(13, above=-0.05).reports[bad // 100 :])
        )
        found = audit([*runs, won], rules=Rules(audit=1.0))
        assert (found.audited, found.false, found.on) == (1, 1, False)


def test_the_sampler_works_in_a_plain_study() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=CurveSampler(example_curve, horizon=TARGET, seed=0))
    study.optimize(objective, n_trials=9)
    assert study.best_value < 0.2
    assert study.trials[-1].user_attrs["reason"]
