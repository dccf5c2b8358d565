"""Verdicts from a model that is kept: those of one fitted anew, but for what refitting changes, and hardly any fit."""

import gc
import math
import random
import weakref
from dataclasses import replace

import numpy as np
import pytest

from lrtune import caches, search
from lrtune.optimizers import Adamw
from lrtune.schedules import Cosine
from lrtune.search.engine import early_stop, kept_models, model
from lrtune.search.engine.kept_models import KeptModels, View
from lrtune.search.engine.types import Run
from lrtune.store import histories
from lrtune.wire.configuration import Configuration
from lrtune.wire.results import Report, Trial, TrialState, report_points
from tests import simulated

STEPS = 200
SPEC = simulated.job("random", "forecast", steps=STEPS)


def whole(number: int, chance: random.Random) -> Trial:
    """A complete run, the better the nearer its rate is to a good one."""
    rate = 10 ** chance.uniform(-5, 0)
    level = 0.2 + 0.3 * abs(math.log10(rate) + 2.5)
    values = [level + 2 * math.exp(-3 * step / STEPS) + chance.gauss(0, 0.01) for step in report_points(STEPS)]
    curve = Configuration(optimizer=Adamw(), learning_rate=rate, schedule=Cosine())
    what = {"role": "search", "configuration": curve, "seed": 7, "horizon": STEPS, "decision": number}
    reports = simulated.evenly(values, STEPS)
    return Trial(number=number, state="complete", step=STEPS, value=values[-1], reports=reports, **what)


def upto(trial: Trial, reports: int, state: TrialState) -> Trial:
    seen = trial.reports[:reports]
    return trial.model_copy(update={"reports": seen, "step": seen[-1].step, "state": state, "value": None})


def carried_on(
    history: list[Trial], trials: int, kept: KeptModels, chance: random.Random
) -> list[tuple[search.PruneVerdict, list[Trial], Trial]]:
    """Further trials of a job, each stopped where the pruner says so: every verdict, and what it was about."""
    found = []
    for number in range(len(history), len(history) + trials):
        trial = whole(number, chance)
        for place in range(1, len(trial.reports)):
            running = upto(trial, place, TrialState.RUNNING)
            if not search.may_act(SPEC, running):
                continue
            known = [*history, running]
            found.append((search.verdict(SPEC, known, running, steps=STEPS, kept=kept), known, running))
            if found[-1][0].stop:
                trial = upto(trial, place, TrialState.STOPPED)
                break
        history.append(trial)
    return found


def test_who_is_better_than_the_best_already_runs_on_unless_others_got_worse_again() -> None:
    """Whatever runs at about its rate came to: here none of them comes near the best."""
    chance = random.Random(0)
    rates = [chance.uniform(-4, -1) for _ in range(80)]
    history = [slow(number, rate) for number, rate in enumerate(rates)]
    best = min(trial.value for trial in history if trial.value is not None)
    ahead = upto(slow(80, -1.0, above=best - 3.5), 2, TrialState.RUNNING)
    assert ahead.reports[-1].metrics["loss"] < best
    assert not search.verdict(SPEC, [*history, ahead], ahead, steps=STEPS, kept=KeptModels()).stop
    history += [slow(81 + number, -1.0, end=1.5) for number in range(3)]
    assert search.verdict(SPEC, [*history, ahead], ahead, steps=STEPS, kept=KeptModels()).stop


def test_who_is_first_of_its_kind_so_far_runs_on_though_nothing_at_its_rate_ever_came_near() -> None:
    """The best run is one that its rate does not explain; what goes as it went is not stopped for its own rate."""
    chance = random.Random(0)
    history = [slow(number, chance.uniform(-4, -1)) for number in range(80)]
    history.append(slow(80, -1.0, times=0.1))
    stops = 0
    for number, rate in enumerate((-3.9, -3.5, -3.0, -2.0, -1.5), start=81):
        again = upto(slow(number, -1.0, times=0.1), 2, TrialState.RUNNING)
        curve = again.configuration.model_copy(update={"learning_rate": 10**rate})
        again = again.model_copy(update={"configuration": curve})
        assert not search.verdict(SPEC, [*history, again], again, steps=STEPS, kept=KeptModels()).stop
        behind = upto(slow(number, rate), 2, TrialState.RUNNING)
        stops += bool(search.verdict(SPEC, [*history, behind], behind, steps=STEPS, kept=KeptModels()).stop)
    assert stops >= 3, "one in seven runs on to check the forecasts"


def slow(number: int, rate: float, *, above: float = 0.0, end: float = 0.0, times: float = 1.0) -> Trial:
    """A complete run whose loss falls to the last, by its rate's logarithm to base 10; by `end` it is worse there."""
    values = [times * (2 * math.exp(-step / STEPS) + abs(rate + 2.5) + above) for step in report_points(STEPS)]
    values[-1] += end
    curve = Configuration(optimizer=Adamw(), learning_rate=10**rate, schedule=Cosine())
    what = {"role": "search", "configuration": curve, "seed": number, "horizon": STEPS, "decision": number}
    reports = simulated.evenly(values, STEPS)
    return Trial(number=number, state="complete", step=STEPS, value=values[-1], reports=reports, **what)


def test_a_kept_model_says_what_one_fitted_anew_says() -> None:
    chance = random.Random(1)
    said = carried_on([whole(number, chance) for number in range(4)], 30, KeptModels(), chance)
    anew = [search.verdict(SPEC, known, running, steps=STEPS) for _, known, running in said]
    same = [bool(one.stop) == bool(other.stop) for (one, *_), other in zip(said, anew, strict=True)]
    assert sum(bool(one.stop) for one, *_ in said) > 5
    assert sum(not one.stop for one, *_ in said) > 5
    assert sum(same) >= 0.95 * len(same)


def test_verdicts_on_several_trials_are_those_on_each_alone() -> None:
    chance = random.Random(7)
    history = [whole(number, chance) for number in range(12)]
    places = [2, 5, 5, 10, 15, 5, 2, 10]
    asked = [upto(whole(20 + n, chance), place, TrialState.RUNNING) for n, place in enumerate(places)]
    known, kept = [*history, *asked], KeptModels()
    alone = [search.verdict(SPEC, known, trial, steps=STEPS, kept=kept) for trial in asked]
    together = search.verdicts(SPEC, known, asked, steps=STEPS, kept=KeptModels())
    assert together == alone
    assert {bool(one.stop) for one in together} == {True, False}


def test_no_verdict_depends_on_how_far_others_that_run_have_got() -> None:
    chance = random.Random(8)
    history = [whole(number, chance) for number in range(20)]
    asked = [upto(whole(30 + n, chance), 5, TrialState.RUNNING) for n in range(8)]
    others = [upto(slow(50 + n, -1.0, above=-3.0), 10, TrialState.RUNNING) for n in range(20)]
    alone, beside = (search.verdicts(SPEC, [*history, *more, *asked], asked, steps=STEPS) for more in ([], others))
    assert beside == alone
    assert {bool(one.stop) for one in alone} == {True, False}


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One for each time that hyper-parameters are fitted."""
    found: list[int] = []
    fit = model.fit_theta

    def counted(*given: object) -> object:
        found.append(1)
        return fit(*given)

    monkeypatch.setattr(model, "fit_theta", counted)
    return found


def test_models_are_fitted_when_the_runs_have_grown_by_a_fifth(fits: list[int]) -> None:
    chance, kept = random.Random(2), KeptModels()
    history = [whole(number, chance) for number in range(60)]
    carried_on(history, 1, kept, chance)
    fits.clear()
    said = carried_on(history, 24, kept, chance)
    assert len(said) > 40
    assert len(fits) <= 2 * 2 * 2  # two views, at most two sizes, live and for the audit


def test_of_thirty_jobs_that_report_by_turns_each_is_fitted_and_read_once(fits: list[int]) -> None:
    chance = random.Random(3)
    history, running = [whole(number, chance) for number in range(6)], upto(whole(6, chance), 5, TrialState.RUNNING)
    job_ids = [f"job-{number}" for number in range(30)]

    def verdicts() -> None:
        for job_id in job_ids:
            search.verdict(SPEC, [*history, running], running, steps=STEPS, kept=search.fitted(job_id))

    verdicts()
    assert len(fits) >= len(job_ids)
    fits.clear()
    verdicts()
    assert not fits
    read = [histories.of(job_id) for job_id in job_ids]
    assert all(histories.of(job_id) is one for job_id, one in zip(job_ids, read, strict=True))


def test_a_process_lets_go_of_jobs_that_nobody_asks_about(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [caches.monotonic()]
    monkeypatch.setattr(caches, "monotonic", lambda: now[0])
    for of in (histories.of, search.fitted):
        over, goes_on = weakref.ref(of("job-over")), of("job-that-goes-on")
        for _ in range(3):
            now[0] += 0.6 * caches.IDLE_SECONDS
            assert of("job-that-goes-on") is goes_on
        gc.collect()
        assert over() is None


def test_observations_that_are_added_are_those_of_a_model_that_had_them_at_once() -> None:
    """With the same hyper-parameters and scale only the algebra is left, and that is exact."""

    def run(k: int) -> Run:
        reports = tuple((step, 1 + k / 9 + 9 / step) for step in (25, 50, 100))
        return Run(k, 100, (0.1 * k + 0.1,) * 64, (), reports, "complete", 100)

    runs = [run(k) for k in range(9)]
    view = View(runs[:8], 100, 0.0, None)
    assert view.update(runs)
    at_once = View(runs, 100, 0.0, view.model.theta).process
    assert np.allclose(view.process.factor @ view.process.factor.T, at_once.factor @ at_once.factor.T)
    assert not view.update([replace(runs[0], reports=((25, 7.0), *runs[0].reports[1:])), *runs[1:]])


def test_a_model_of_a_job_without_end_stays_as_large_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_models, "MOST_RUNS", 40)
    monkeypatch.setattr(kept_models, "MOST_OBSERVED", 40)
    chance, kept = random.Random(4), KeptModels()
    history = [whole(number, chance) for number in range(60)]
    carried_on(history, 60, kept, chance)
    assert all(len(view.process.points) <= 40 + 0.2 * 40 * model.MOST_PER_RUN for view in kept.views.values())
    assert kept.encoded.keys() <= {trial.number for trial in history}
    latest = upto(whole(120, chance), 2, TrialState.RUNNING)
    search.verdict(SPEC, [*history[-20:], latest], latest, steps=STEPS, kept=kept)
    assert len(kept.encoded) <= 21


def test_the_first_verdict_of_a_process_is_a_matter_of_a_few_runs_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job of 600 trials: neither the models nor the replays for its audit grow with it, which took seconds."""
    observed: list[int] = []

    def counted(self: View, *given: object) -> None:
        made(self, *given)
        observed.append(len(self.process.points))

    made = View.__init__
    monkeypatch.setattr(View, "__init__", counted)
    chance, kept = random.Random(5), KeptModels()
    history = [whole(number, chance) for number in range(600)]
    bad = next(one for one in (whole(n, chance) for n in range(600, 700)) if one.configuration.learning_rate > 0.3)
    said = search.verdict(
        SPEC, [*history, upto(bad, 5, TrialState.RUNNING)], upto(bad, 5, TrialState.RUNNING), steps=STEPS, kept=kept
    )
    assert said.stop or said.audit
    assert max(observed) <= 300
    assert len(observed) <= 2 * (1 + early_stop.REPLAYED)  # two views of each


def test_what_a_first_verdict_leaves_out_of_its_audit_the_next_ones_replay() -> None:
    chance, kept = random.Random(6), KeptModels()
    history, known = [whole(number, chance) for number in range(150)], [0]
    for number in range(150, 172):
        trial = upto(whole(number, chance), 5, TrialState.RUNNING)
        search.verdict(SPEC, [*history, trial], trial, steps=STEPS, kept=kept)
        known.append(len(kept.hopeless))
    assert max(np.diff(known)) <= early_stop.REPLAYED + 1  # and the trial itself
    drawn = {key for key, _ in kept.hopeless if key < 150}
    assert len(drawn) > 2 * early_stop.REPLAYED
    assert max(drawn) > 140


@pytest.mark.parametrize(
    ("pruner", "asked"),
    [
        ("none", []),
        ("forecast", [2, 5, 10, 15]),
        ({"name": "median", "n_warmup_reports": 12}, [*range(13, 20)]),
        ({"name": "threshold", "upper": 1.0, "n_warmup_reports": 17}, [18, 19]),
        ({"name": "patient", "patience": 15, "min_delta": 0.0}, [17, 18, 19]),
        ({"name": "successive-halving", "min_reports": 2, "reduction_factor": 3}, [2, 6, 18]),
    ],
)
def test_a_verdict_is_asked_for_only_where_the_pruner_could_act(pruner: object, asked: list[int]) -> None:
    spec, trial = simulated.job("random", pruner, steps=STEPS), whole(0, random.Random(3))
    places = [place for place in range(1, 21) if search.may_act(spec, upto(trial, place, TrialState.RUNNING))]
    assert places == asked
    for other in ("baseline", "confirm", "range-test"):
        as_other = trial.model_copy(update={"role": other})
        assert not any(search.may_act(spec, upto(as_other, place, TrialState.RUNNING)) for place in range(1, 21))
    seen = [*trial.reports[:4], Report(step=trial.reports[4].step, learning_rate=0.1, metrics={"other": 1.0})]
    assert not search.may_act(spec, upto(trial.model_copy(update={"reports": seen}), 5, TrialState.RUNNING))
