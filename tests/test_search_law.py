"""The loss-curve law inside the search: the formula, what is foretold by it, and how far it is believed."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime

from lrtune.search.engine.costs import Settings
from lrtune.search.engine.decide import decide
from lrtune.search.engine.law import NAMES, Law, beliefs, fit_law, histories
from lrtune.search.engine.law_model import LawModel
from lrtune.search.engine.types import Pool, Run
from lrtune.search.engine.weighing import Forecast, WeighedModel, expected_share, improvement

TARGET, EVERY = 1000, 50
PEAKS = np.geomspace(0.01, 1.0, 12)
X = (np.arange(64) + 0.5) / 64
SHAPES = np.array(
    [np.ones(64), 1 - X, 0.5 * (1 + np.cos(np.pi * X)), np.minimum(1, 2 * (1 - X)), np.minimum(1, 5 * (1 - X))]
)
CURVES = np.concatenate([PEAKS[:, None] * shape for shape in SHAPES])
TRUE = np.array([2.0, -1.0, -4.0, -0.6, -1.5, 0.6, 2.5, 0.2, -0.3, -2.5, 0.8])
LAWFUL = Settings()
amounts = st.lists(st.floats(-1.0, 1.0), min_size=len(NAMES), max_size=len(NAMES))
curves = st.lists(st.floats(0.0, 10.0), min_size=64, max_size=64)
scores, widths = st.floats(-2.0, 4.0), st.floats(0.05, 2.0)


def pool() -> Pool:
    n = len(CURVES)
    return Pool(
        keys=tuple(range(n)),
        horizons=np.full(n, TARGET),
        curves=CURVES,
        extras=np.zeros((n, 0)),
        free=np.zeros(n, dtype=np.int64),
        every=np.full(n, EVERY),
    )


def lawful(row: int, steps: np.ndarray) -> np.ndarray:
    """Losses that follow the law to the letter."""
    n = len(steps)
    return Law(TRUE, histories(np.tile(CURVES[row], (n, 1)), np.full(n, TARGET), steps, TARGET, 1.0)).value


def lawless(row: int, steps: np.ndarray) -> np.ndarray:
    """Losses that go up and down with the mean rate so far, whatever the number of steps."""
    mean = np.array([CURVES[row][: max(int(64 * step / TARGET), 1)].mean() for step in steps])
    return 2.0 + 0.5 * np.sin(4 * np.log(mean / 0.1))


def trained(row: int, until: int = TARGET, loss=lawful, sign: float = 1.0) -> Run:
    steps = np.arange(EVERY, until + 1, EVERY)
    reports = tuple((int(step), float(sign * value)) for step, value in zip(steps, loss(row, steps), strict=True))
    return Run(
        row, TARGET, tuple(CURVES[row]), (), reports, "complete" if until == TARGET else "paused", until, born=row
    )


def ends(loss=lawful) -> np.ndarray:
    return np.array([loss(row, np.array([TARGET]))[0] for row in range(len(CURVES))])


def value(parameters: np.ndarray, curve: np.ndarray, step: float = TARGET) -> float:
    return float(Law(parameters, histories(curve[None], np.array([TARGET]), np.array([step]), TARGET, 1.0)).value[0])


@given(amounts, curves, st.integers(1, TARGET))
def test_every_derivative_of_the_law_is_that_of_finite_differences(amounts, curve, step) -> None:
    parameters, curve = TRUE + 0.5 * np.array(amounts), np.array(curve)
    exact = Law(parameters, histories(curve[None], np.array([TARGET]), np.array([step]), TARGET, 1.0)).jacobian()[0]
    numeric = approx_fprime(parameters, lambda p: value(p, curve, step), 1e-6)
    assert exact == pytest.approx(numeric, rel=1e-3, abs=1e-4)


@given(st.floats(0.01, 1.0), st.floats(0.1, 0.9))
def test_a_rate_that_falls_at_the_end_ends_lower_than_one_that_stays(peak, start) -> None:
    """Where what is trained counts for little: the noise of the rate goes with the rate."""
    noisy = TRUE.copy()
    noisy[NAMES.index("A")] = -9.0
    assert value(noisy, peak * np.where(start > X, 1.0, 0.1)) < value(noisy, np.full(64, peak))


@given(st.floats(1.5, 1e3))
def test_a_rate_beyond_the_edge_brings_noise_and_no_progress(times) -> None:
    """Nowhere is there more progress than at the edge; a thousand times that is as good as not to train at all."""
    edge = float(np.exp(TRUE[NAMES.index("edge")]))
    silent = TRUE.copy()
    silent[[NAMES.index("c"), NAMES.index("d")]] = -60.0
    beyond = value(silent, np.full(64, times * edge))
    assert value(silent, np.full(64, edge)) < beyond < value(silent, np.zeros(64))
    assert value(TRUE, np.full(64, times * edge)) > beyond
    assert value(silent, np.full(64, 1e6 * edge)) == pytest.approx(value(silent, np.zeros(64)), rel=1e-3)


def test_nothing_trained_is_nothing_gained() -> None:
    amount, offset, exponent = np.exp(TRUE[[1, 2, 3]])
    assert value(TRUE, np.zeros(64)) == pytest.approx(TRUE[0] + amount * offset**-exponent, rel=1e-6)


def test_the_law_foretells_shapes_and_rates_that_nobody_has_tried() -> None:
    """From three constant rates up to a tenth and one whole run of each of two shapes: the order of all 60 ends."""
    model = LawModel(pool(), [*(trained(row, 100) for row in (2, 5, 8)), trained(29), trained(54)], TARGET)
    mean, std = model.forecast(np.arange(len(CURVES)))
    assert np.corrcoef(np.argsort(np.argsort(mean)), np.argsort(np.argsort(ends())))[0, 1] > 0.9
    assert (np.abs(mean - ends()) < 3 * std).mean() > 0.8


def test_one_wild_value_does_not_bend_the_law() -> None:
    rows = np.arange(0, len(CURVES), 2)
    been = histories(CURVES[rows], np.full(len(rows), TARGET), np.full(len(rows), TARGET), TARGET, 1.0)
    values, sigma = ends()[rows], np.full(len(rows), 0.01)
    bent = values + np.eye(len(rows))[3] * 50.0
    prior = beliefs(been, values, edge=1.0)
    straight, robust = (Law(fit_law(been, seen, sigma, prior), been).value for seen in (values, bent))
    assert robust == pytest.approx(straight, abs=0.02)


class TestTheWeighing:
    ROWS = (2, 5, 8, 10, 16, 19, 29, 31, 41, 43, 54, 57)

    def share(self, loss, rows=ROWS, sign: float = 1.0) -> float:
        runs = [trained(row, TARGET if i % 2 else 400, loss, sign) for i, row in enumerate(rows)]
        return WeighedModel(pool(), runs, TARGET, LAWFUL).share

    def test_it_believes_the_model_that_foretells_better(self) -> None:
        assert self.share(lawful) > 0.8
        assert self.share(lawless) < 0.2

    def test_a_model_that_falls_behind_run_after_run_is_not_believed_at_all(self) -> None:
        """A mixture with a few parts in a hundred of a wild forecast would still follow it."""
        ahead = np.full(30, 3.0)
        assert expected_share(-ahead, 0 * ahead) < 0.001
        assert expected_share(ahead, 0 * ahead) > 0.9

    def test_it_believes_neither_before_there_is_anything_to_go_by(self) -> None:
        runs = [trained(2, EVERY), trained(5, EVERY)]
        assert 0.3 < WeighedModel(pool(), [*runs, trained(8, EVERY)], TARGET, LAWFUL).share < 0.7

    @given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=1, max_size=9))
    def test_it_moves_with_the_evidence_and_does_not_switch(self, densities) -> None:
        """One more report, whatever it says, moves it by a quarter at most."""
        law, process = np.array(densities).T
        assert abs(expected_share(law, process) - expected_share(law[1:], process[1:])) < 0.25

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_it_takes_values_of_either_sign(self, sign) -> None:
        """A metric to be maximised comes negated: accuracies rise as losses fall."""

        def accuracy(row: int, steps: np.ndarray) -> np.ndarray:
            return -np.exp(-0.3 * sign * (lawful(row, steps) - 2.0)) * sign

        model = WeighedModel(pool(), [trained(row, loss=accuracy) for row in self.ROWS], TARGET, LAWFUL)
        found = model.forecast(np.arange(len(CURVES)))
        assert np.isfinite(found.mean).all()
        assert (found.std > 0).all()
        assert ends()[int(np.argmin(found.mean))] < np.quantile(ends(), 0.2)


class TestWhatIsHoped:
    @given(st.floats(0, 1), scores, scores, widths, widths, st.floats(-2, 2))
    def test_lying_far_apart_is_hoped_of_no_more_than_the_models_do(
        self, share, one, other, narrow, wide, best
    ) -> None:
        means, stds = np.array([[one], [other]]), np.array([[narrow], [wide]])
        weights = np.array([1 - share, share])
        mixture, itself = Forecast(weights, means, stds), weights @ improvement(best, means, stds)
        together = improvement(best, mixture.mean, np.sqrt(weights @ stds**2))
        hope = mixture.improvement(best)
        assert hope <= np.maximum(itself, together) + 1e-12
        assert together - 1e-12 <= hope <= improvement(best, mixture.mean, mixture.std) + 1e-12
        # The normal variables that stages are weighed by promise the same, where it is not less than counts.
        assert mixture.hoped(best) <= mixture.std * (1 + 1e-12)
        assert improvement(best, mixture.mean, mixture.hoped(best)) == pytest.approx(hope, rel=1e-3, abs=1e-6)

    def test_models_that_agree_are_as_wide_as_both(self) -> None:
        agreed = Forecast(np.array([0.5, 0.5]), np.array([[0.3], [0.3]]), np.array([[0.1], [0.5]]))
        assert agreed.hoped(0.0) == pytest.approx(agreed.std)

    def test_runs_that_both_models_give_up_are_no_hope_for_lying_far_apart(self) -> None:
        """The law ends at its bound, the process at what a divergence counts as: neither sees a tail below the best."""
        weights, stds = np.array([0.5, 0.5]), np.array([[0.1, 0.3], [0.1, 0.3]])
        given_up, promising = Forecast(weights, np.array([[1.0, 0.5], [4.0, 0.5]]), stds).improvement(0.0)
        assert given_up < 1e-6 < promising

    def test_what_one_model_hopes_for_is_looked_at_though_the_other_does_not(self) -> None:
        apart = Forecast(np.array([0.5, 0.5]), np.array([[-1.0], [1.0]]), np.array([[0.1], [0.1]]))
        alike = Forecast(np.array([0.5, 0.5]), np.array([[0.0], [0.0]]), np.array([[0.1], [0.1]]))
        assert apart.improvement(0.0) > 3 * alike.improvement(0.0)


@settings(max_examples=10)
@given(st.integers(0, 99), st.lists(st.integers(1, 20), min_size=5, max_size=9))
def test_a_decision_hangs_on_nothing_but_what_it_is_given(seed, lengths) -> None:
    runs = [trained(7 * place, EVERY * length) for place, length in enumerate(lengths)]
    assert decide(pool(), runs, TARGET, seed)[0] == decide(pool(), list(runs), TARGET, seed)[0]


def test_what_was_fitted_serves_the_next_decision() -> None:
    runs = [trained(row, 400) for row in (2, 5, 8, 16, 29, 41, 54)]
    model = WeighedModel(pool(), runs, TARGET, LAWFUL)
    again = WeighedModel(pool(), runs, TARGET, LAWFUL, model.fitted)
    rows = np.arange(len(CURVES))
    assert again.forecast(rows).mean == pytest.approx(model.forecast(rows).mean)
    assert again.fitted == model.fitted or again.share == pytest.approx(model.share)


def test_a_model_that_is_asked_about_more_options_says_what_a_fresh_one_would() -> None:
    runs, rows = [trained(row, 400) for row in (2, 5, 8, 16, 29)], np.arange(len(CURVES))
    model = WeighedModel(pool().take(rows[:32].tolist()), runs, TARGET, LAWFUL)
    asked, fresh = model.over(pool(), runs), WeighedModel(pool(), runs, TARGET, LAWFUL, model.fitted)
    assert asked is not None
    ends = np.full(len(rows), 200.0)
    said, wanted = asked.forecast(rows), fresh.forecast(rows)
    assert np.array_equal(said.means, wanted.means)
    assert np.array_equal(said.stds, wanted.stds)
    assert np.array_equal(asked.variance_explained(rows, ends, rows), fresh.variance_explained(rows, ends, rows))
    assert model.over(pool(), [*runs, trained(40, 400)]) is None
    others = replace(pool(), extras=np.linspace(0, 1, len(rows))[:, None])
    assert model.over(others, runs) is None


def test_a_range_test_that_found_an_edge_speaks_against_higher_rates() -> None:
    """Of a highest rate that nobody has tried."""
    runs, highest = [trained(row, 400) for row in (2, 4, 6, 26, 28)], np.array([11])
    known, unknown = (LawModel(pool(), runs, TARGET, edge=edge).forecast(highest)[0][0] for edge in (0.02, None))
    assert known > unknown


def test_a_run_under_way_is_not_begun_again() -> None:
    runs = [trained(row, 400) for row in (2, 5, 8, 16, 29, 41)]
    first, _ = decide(pool(), runs, TARGET, 0, LAWFUL)
    busy = replace(trained(first.row, EVERY), reports=(), state="running", until=first.until)
    second, _ = decide(pool(), [*runs, busy], TARGET, 0, LAWFUL)
    assert second.row != first.row


class TestTrunks:
    def started(self, options: Pool, stages: bool = True) -> list[tuple[int, int]]:
        """Row and step of each configuration of the initial design, as it comes without other decisions."""
        runs, found = list[Run](), list[tuple[int, int]]()
        for born in range(6):
            decision, _ = decide(options, runs, TARGET, 0, Settings(partial_runs=stages))
            found.append((decision.row, decision.until))
            runs.append(replace(trained(decision.row, decision.until), key=options.keys[decision.row], born=born))
        return found

    def test_a_few_held_rates_come_first_to_a_tenth_where_others_branch_from_them(self) -> None:
        first = self.started(pool())
        assert [until for _, until in first] == [100, 100, 100, EVERY, EVERY, EVERY]
        peaks = [CURVES[row].max() for row, _ in first[:3]]
        assert len({round(np.log(peak), 6) for peak in peaks}) == 3
        assert max(peaks) / min(peaks) > 20
        assert all((CURVES[row][6:16] == CURVES[row].max()).all() for row, _ in first[:3])

    def test_where_no_rate_is_held_or_all_are_the_start_is_spread_as_ever(self) -> None:
        annealed, held = pool().take(range(12, 36)), pool().take(range(12))
        for options in (annealed, held):
            assert {until for _, until in self.started(options)} == {EVERY}

    def test_without_stages_there_are_none(self) -> None:
        assert {until for _, until in self.started(pool(), stages=False)} == {TARGET}


def test_the_law_is_believed_less_beforehand_where_much_besides_the_rates_is_searched():
    level = np.zeros(3)
    shares = [expected_share(level, level, silent) for silent in (0, 2, 8)]
    assert shares == sorted(shares, reverse=True)
    assert shares[2] < 0.15
    ahead = np.full(60, 2.0)
    assert expected_share(ahead, 0 * ahead, 8) > 0.7, "what the reports bear out is believed all the same"
