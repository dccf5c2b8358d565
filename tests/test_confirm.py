"""Confirming: who runs over fresh seeds, one seed at a time, until no more of them could change the answer."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.confirming import SEEDS, TOP, Setting, drawn, ended
from lrtune.analysis.additive import additive
from lrtune.analysis.answer import best
from lrtune.optimizers import Adamw
from lrtune.schedules import Constant, Cosine, Linear, Polynomial, Wsd
from lrtune.search.candidates import candidates
from lrtune.search.confirm import confirming, expected_loss, next_to_run
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob, Confirm
from lrtune.wire.results import Trial, TrialState

SPEC = AdmittedJob.model_validate(
    {
        "task": "digits",
        "metric": {"name": "loss", "goal": "minimize"},
        "horizon": {"steps": 100},
        "schedules": ["cosine", "linear", "polynomial", "constant"],
        "confirm": {"top": 2, "seeds": 3},
    }
)


def whole(number: int, value: float, **fields: object) -> Trial:
    chosen = {"optimizer": Adamw(), "learning_rate": 0.01, "schedule": Cosine(), "warmup": 0.0} | fields
    return Trial(
        number=number,
        role="baseline" if number == 0 else "search",
        state=TrialState.COMPLETE,
        configuration=Configuration.model_validate(chosen),
        seed=0,
        horizon=100,
        value=value,
    )


def chosen(*trials: Trial) -> list[int]:
    return [trial.number for trial in candidates(SPEC, trials, steps=100)]


BASELINE = whole(0, 0.9, learning_rate=0.001)


def test_curves_that_are_equal_at_every_step_are_confirmed_once():
    linear, power = whole(1, 0.30, schedule=Linear()), whole(2, 0.30, schedule=Polynomial(power=1.0))
    early, late = (whole(n, 0.31, schedule=Constant(), warmup=share) for n, share in ((3, 0.0), (4, 0.004)))
    assert chosen(BASELINE, linear, power, early, late) == [1, 3, 0]


def test_where_values_are_close_the_candidates_are_of_different_regions():
    first, beside = whole(1, 0.300, warmup=0.05), whole(2, 0.301, warmup=0.06)
    elsewhere = whole(3, 0.302, schedule=Constant())
    others = [whole(4 + n, 0.6, learning_rate=0.0001 * (n + 1)) for n in range(4)]
    assert sorted(chosen(BASELINE, first, beside, elsewhere, *others)) in ([0, 1, 3], [0, 2, 3])


def bowl(number: int, rate: float, luck: float = 0.0) -> Trial:
    return whole(number, 0.3 + 0.02 * math.log2(rate / 0.004) ** 2 + luck, learning_rate=rate)


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_a_run_that_all_its_neighbours_speak_against_is_not_the_first_candidate(goal):
    runs = [BASELINE, *(bowl(1 + n, 0.0005 * 2 ** (n / 2)) for n in range(13))]
    runs[11] = bowl(11, 0.016, luck=-0.09)
    assert min(runs, key=lambda run: run.value) is runs[11]
    sign = {"minimize": 1.0, "maximize": -1.0}[goal]
    spec = SPEC.model_copy(update={"metric": SPEC.metric.model_copy(update={"goal": goal})})
    runs = [run.model_copy(update={"value": sign * run.value}) for run in runs]
    assert [trial.number for trial in candidates(spec, runs, steps=100)] == [7, 11, 0]


def test_runs_that_were_one_for_most_of_their_way_do_not_take_all_places():
    trunk = [whole(n, v, schedule=Wsd(decay=d)) for n, v, d in ((1, 0.300, 0.2), (2, 0.302, 0.35), (3, 0.304, 0.5))]
    rates = (0.002, 0.004, 0.006, 0.0085, 0.014, 0.02, 0.03, 0.04)
    luck = (0.01, -0.01, 0.01, 0.0, 0.01, -0.01, 0.01, -0.01)
    others = [
        whole(4 + n, 0.306 + 0.02 * math.log2(rate / 0.0085) ** 2 + chance, learning_rate=rate)
        for n, (rate, chance) in enumerate(zip(rates, luck, strict=True))
    ]
    spec = AdmittedJob.model_validate(SPEC.model_dump() | {"schedules": ["wsd", "cosine"]})
    found = [trial.number for trial in candidates(spec, [BASELINE, *trunk, *others], steps=100)]
    assert len({1, 2, 3}.intersection(found)) == 1, "although these three are the best by all that is known"
    assert len(found) == 3


def test_where_they_are_not_close_the_better_one_is_confirmed_whatever_its_region():
    first, beside = whole(1, 0.30, warmup=0.05), whole(2, 0.31, warmup=0.06)
    elsewhere = whole(3, 0.50, schedule=Constant())
    others = [whole(4 + n, 0.6, learning_rate=0.0001 * (n + 1)) for n in range(4)]
    assert chosen(BASELINE, first, beside, elsewhere, *others) == [1, 2, 0]


def bought(
    values: list[list[float]], seeds: int = 3, expected: Sequence[float] = (), most: float = math.inf
) -> list[int]:
    """How many seeds each candidate gets, the last being the baseline, where this is what they would show."""
    counts, searched = [0] * len(values), dict(enumerate(expected))
    while True:
        fresh = [dict(enumerate(row[:count])) for row, count in zip(values, counts, strict=True)]
        last = len(values) - 1
        pick = next_to_run(fresh, counts, seeds, baseline=last, searched=searched, expected=expected, most=most)
        if pick is None:
            return counts
        counts[pick] += 1


@pytest.mark.parametrize("breaks", [False, True], ids=["all hold", "one diverges"])
def test_the_answer_is_confirmed_although_a_baseline_outside_the_space_is_better_than_all(breaks):
    spec = AdmittedJob.model_validate(SPEC.model_dump() | {"schedules": ["constant"]})
    runs = [BASELINE.model_copy(update={"value": 0.2})]
    runs += [whole(n, 0.4 + 0.05 * n, schedule=Constant(), learning_rate=0.002 * n) for n in range(1, 6)]
    while step := confirming(spec, runs, steps=100):
        first = next(t for t in runs if t.configuration == step.configuration)
        state = TrialState.DIVERGED if breaks and first.number == 1 else TrialState.COMPLETE
        value = first.value + 0.001 * step.seed if state is TrialState.COMPLETE else None
        asked = {"number": len(runs), "role": "confirm", "seed": step.seed, "state": state, "value": value}
        runs.append(first.model_copy(update=asked))
    found = best(spec, runs, steps=100, full_runs=0.0)
    assert found.trial == (2 if breaks else 1)
    assert found.confirmed
    assert len(found.seeds) == len(found.baseline.seeds) == 2


def test_candidates_that_all_blew_up_on_their_first_fresh_seed_get_another():
    searched = {0: 0.3, 1: 0.31}

    def bought_next(fresh):
        return next_to_run(fresh, [len(one) for one in fresh], 3, baseline=None, searched=searched)

    assert bought_next([{1: 1e30}, {1: 1e25}]) == 0
    assert bought_next([{1: 1e30, 2: 0.32}, {1: 1e25}]) == 1
    assert bought_next([{1: 1e30, 2: 0.32}, {1: 1e25, 2: 0.33}]) is None


def test_who_is_far_behind_gets_no_second_seed():
    assert bought([[0.30, 0.31, 0.30], [0.32, 0.32, 0.31], [0.9, 0.9, 0.9], [1.5, 1.51, 1.5]])[2] == 1


def test_two_that_are_hard_to_tell_apart_get_more_seeds_than_the_others():
    assert bought([[0.30, 0.40, 0.31], [0.31, 0.32, 0.39], [0.9, 0.7, 0.9], [1.5, 1.4, 1.5]]) == [3, 2, 1, 2]


def test_beyond_three_only_who_may_still_be_the_best_by_what_was_expected_runs_at_all():
    shown = [[0.36, 0.32, 0.34], [0.33, 0.32, 0.36], [0.30, 0.36, 0.34], [0.2] * 3, [0.2] * 3, [1.5, 1.51, 1.5]]
    counts = bought(shown, expected=[0.30, 0.31, 0.32, 0.325, 0.9, 1.5])
    assert counts[3] > 0, "close to the three by what was expected"
    assert counts[4] == 0, "far behind them"
    assert all(counts[:3])


@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 10_000))
def test_no_more_runs_are_bought_than_the_plan_says(top, seeds, seed):
    most, random = Confirm(top=top, seeds=seeds).runs, np.random.default_rng(seed)
    assert top + seeds <= most <= (top + 1) * seeds
    noisy = random.normal(size=(top + 1, seeds)).tolist()
    counts = bought(noisy, seeds, expected=(0.1 * random.normal(size=top + 1)).tolist(), most=most)
    assert sum(counts) <= most
    assert max(counts) <= seeds


@pytest.mark.parametrize(("seeds", "least"), [(1, 1), (2, 2), (5, 2)])
def test_the_answer_and_the_baseline_have_two_seeds_where_the_job_allows_it(seeds, least):
    rows = [[0.3] * 5, [0.8] * 5, [0.9] * 5]
    counts = bought(rows, seeds)
    assert (counts[0], counts[2]) == (least, least)
    assert max(counts) <= seeds


def test_a_third_of_the_runs_is_saved_at_the_same_loss():
    """By simulation; `python -m benchmarks.confirming` has more."""
    some = [drawn(np.random.default_rng(n), Setting(behind=12.0)) for n in range(200)]
    jobs = {bought: [ended(job, bought=bought) for job in some] for bought in (True, False)}
    runs = {bought: np.mean([one.runs for one in found]) for bought, found in jobs.items()}
    loss = {bought: np.mean([one.loss for one in found]) for bought, found in jobs.items()}
    assert runs[False] == (TOP + 1) * SEEDS
    assert runs[True] < 0.75 * runs[False]
    assert loss[True] < loss[False] + 0.05, "in units of the noise"


@pytest.mark.parametrize(
    "setting",
    [
        Setting(),
        Setting(seeds=3.0, loud=4.0, behind=20.0),
        Setting(seeds=9.0, loud=17.0, sway=2.0, behind=90.0),
        Setting(spread=0.3, seeds=3.0, loud=3.0, tails=3.0, behind=15.0),
    ],
    ids=["equal noise", "a noisy baseline", "as on the regression of benchmarks.live", "heavy tails"],
)
def test_an_interval_that_says_95_per_cent_holds_in_about_95(setting):
    """By simulation; 2,000 jobs hold in 93 to 98 %, two hundred are off by 2 % and more by luck."""
    jobs = [ended(drawn(np.random.default_rng(n), setting), bought=True) for n in range(200)]
    for kind in ("value", "lift", "baseline"):
        assert np.mean([getattr(one, kind)[0] for one in jobs]) > 0.9, kind


@given(st.integers(2, 5), st.integers(2, 4), st.integers(0, 10_000))
def test_the_fit_is_least_squares(configurations, seeds, seed):
    random = np.random.default_rng(seed)
    counts = [seeds, *random.integers(1, seeds + 1, configurations - 1)]
    rows = [{s: float(random.normal()) for s in range(count)} for count in counts]
    cells = [(i, s, value) for i, row in enumerate(rows) for s, value in row.items()]
    design = np.array(
        [[float(i == k) for k in range(configurations)] + [float(s == k) for k in range(seeds)] for i, s, _ in cells]
    )
    values = np.array([value for *_, value in cells])
    found = np.linalg.lstsq(design, values, rcond=None)[0]
    fit = additive(rows)
    assert [part - fit.parts[0] for part in fit.parts] == pytest.approx(
        list(found[:configurations] - found[0]), abs=1e-9
    )
    free = len(cells) - configurations - seeds + 1
    left = ((values - design @ found) ** 2).sum()
    assert fit.residual == pytest.approx((left / free, free) if free else (0.0, 0.0), abs=1e-9)


def test_rows_that_share_no_seed_do_not_compare():
    assert additive([{1: 0.3, 2: 0.4}, {3: 0.5}]) is None


@given(st.floats(-2, 5), st.floats(0.1, 3), st.floats(5, 20))
def test_the_expected_loss_is_that_of_students_t(behind, variance, free):
    draws = stats.t(free).ppf((np.arange(20_000) + 0.5) / 20_000) * variance**0.5 - behind
    assert expected_loss(behind, 1.0, variance, free) == pytest.approx(np.maximum(draws, 0).mean(), abs=0.02)
