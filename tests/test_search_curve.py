"""The `curve` sampler and the `forecast` pruner as a job meets them: through suggest, advance and verdict."""

import math
import time
from functools import cache
from statistics import fmean

import numpy as np
import pytest

from lrtune import search
from lrtune.analysis.prefixes import shared
from lrtune.schedules import Wsd
from lrtune.search import PruneVerdict, advance
from lrtune.search.curve.encode import rates
from lrtune.search.engine.features import NEAR_EQUAL, embed
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import REPORTS, NextStep, Proposal, Report, Stage, Trial, TrialState
from tests import simulated
from tests.simulated import begin, carried_out, end, evenly, train

STEPS = 200
MIXED = {
    "optimizers": ["adamw", {"name": "sgd", "momentum": [0.1, 0.95], "nesterov": [True, False]}],
    "clip_norm": [0.1, 10.0],
}
TRIALS = {"budget": {"trials": 100}}  # counts complete runs, so nothing is trained in stages


def job(sampler: object = "curve", pruner: object = "none", goal: str = "minimize", **fields: object) -> AdmittedJob:
    return simulated.job(sampler, pruner, steps=STEPS, goal=goal, **fields)


def suggest(spec: AdmittedJob, history: list[Trial]) -> Proposal:
    return search.suggest(spec, history, steps=STEPS)


def following(spec: AdmittedJob, history: list[Trial], **asking: object) -> NextStep:
    return advance(spec, history, steps=STEPS, seconds=0.0, **asking)


def verdict(spec: AdmittedJob, history: list[Trial], trial: Trial) -> PruneVerdict:
    return search.verdict(spec, history, trial, steps=STEPS)


@cache
def losses(configuration: Configuration) -> tuple[float, ...]:
    """A loss that knows only the rates so far: best at one mean of them, annealed; nothing about families or peaks."""
    rates, found, every = configuration.learning_rates(STEPS), [], STEPS // REPORTS
    for step in range(every, STEPS + 1, every):
        mean, last = fmean(rates[:step]), fmean(rates[step - every : step])
        found.append(1.0 + 0.3 * math.log(mean / 0.003) ** 2 + 0.1 * last / mean + 2.0 * (1.0 - step / STEPS) ** 2)
    return tuple(found)


def learned(trial: Trial) -> list[Report]:
    return evenly(list(losses(trial.configuration)), STEPS)


def negated(trial: Trial) -> list[Report]:
    return evenly([-loss for loss in losses(trial.configuration)], STEPS)


def study(spec: AdmittedJob, trials: int, loss: simulated.Loss = learned) -> list[Trial]:
    history: list[Trial] = []
    for _ in range(trials):
        train(history, suggest(spec, history), loss)
    return history


@cache
def _at_random(trials: int, mixed: bool) -> tuple[Trial, ...]:
    return tuple(study(job("random", **(MIXED if mixed else {})), trials))


def at_random(trials: int, *, mixed: bool = False) -> list[Trial]:
    """A random search's trials, with their reports: what the sampler and the pruner in question learn from."""
    return list(_at_random(trials, mixed))


def mean_rate(configuration: Configuration) -> float:
    return fmean(configuration.learning_rates(STEPS))


@pytest.fixture(scope="module")
def searched() -> list[Trial]:
    """Fourteen complete runs of the curve search."""
    return study(job(**TRIALS), 14)


class TestCurve:
    def test_the_same_history_gives_the_same_answer_in_any_order(self):
        spec, history = job(**MIXED), at_random(12, mixed=True)
        assert suggest(spec, history) == suggest(spec, history[::-1])

    def test_a_good_curve_is_found_sooner_than_at_random(self, searched):
        found = min(t.value for t in searched)
        assert found < 1.03
        assert found < min(t.value for t in at_random(14))

    def test_maximising_is_minimising_the_negative(self):
        spec, history = job(**TRIALS), at_random(11)
        negative = [
            end([*history], t, value=-t.value, reports=negated(t)).model_copy(update={"stages": t.stages})
            for t in history
        ]
        down, up = suggest(spec, history), suggest(job(goal="maximize", **TRIALS), negative)
        assert down.configuration == up.configuration
        assert up.reason.startswith("forecast -")

    def test_running_trials_are_not_repeated_and_spread_out(self):
        spec, history = job(**TRIALS), at_random(11)
        for state in ("running", "waiting", "running", "waiting"):
            begin(history, suggest(spec, history), state)
        assert len({t.configuration for t in history}) == 15
        assert len({round(mean_rate(t.configuration), 6) for t in history[11:]}) == 4

    def test_a_divergence_pushes_away(self, searched):
        spec, history = job(**TRIALS), searched[:10]
        near = suggest(spec, history)
        cliff = [*history]
        for i in range(4):
            knobs = near.configuration.model_copy(update={"warmup": 0.01 * i})
            end(cliff, begin(cliff, near.model_copy(update={"configuration": knobs})), "diverged", step=10)
        away = suggest(spec, cliff)
        curves = np.array([rates(one.configuration, STEPS) for one in (near, away)])
        features = embed(curves, np.ones(2))
        assert abs(features[0] - features[1]).max() > NEAR_EQUAL
        forecast = [float(one.reason.split()[1]) for one in (near, away)]
        assert forecast[1] > forecast[0], "less is hoped of the whole region"

    def test_every_proposal_of_a_mixed_space_is_legal_new_and_explained(self):
        history = study(job(**MIXED), 3)  # the baseline and the range tests
        for _ in range(9):
            train(history, suggest(job(**MIXED, **TRIALS), history), learned)
        assert len({t.configuration for t in history}) == 12
        for one in history[1:]:
            assert type(one.configuration.optimizer).rates[0] <= one.configuration.learning_rate
            assert one.configuration.learning_rate <= type(one.configuration.optimizer).rates[1]
            assert 0.1 <= one.configuration.clip_norm <= 10.0
            assert one.why.startswith(("learning-rate range test: ", "initial design ", "forecast "))
            assert one.horizon == (STEPS // 10 if one.role == "range-test" else STEPS)

    def test_a_failed_trial_teaches_nothing_but_is_not_tried_again(self):
        spec, history = job(**TRIALS), at_random(8)
        failed = end(history, begin(history, suggest(spec, history)), "failed", step=0)
        assert suggest(spec, history).configuration != failed.configuration

    @pytest.mark.parametrize("value", [1e299, 1e-299, -1e250, 0.0])
    def test_absurd_values_are_borne(self, value):
        absurd = [t.model_copy(update={"value": value if t.number % 2 else 1.0, "reports": []}) for t in at_random(11)]
        assert suggest(job(), absurd).role == "search"

    def test_short_horizons_are_there_for_whoever_asks(self):
        spec = job({"name": "curve", "short_horizons": True})
        history = study(spec, 2)  # the second is the range test
        for _ in range(6):
            begin(history, suggest(spec, history))
        assert {t.horizon for t in history} <= {STEPS, STEPS // 2, STEPS // 4, STEPS // 10}
        assert len({t.run for t in history}) == 8

    def test_asking_at_a_hundred_trials_is_quick_and_little_dearer_than_at_twenty(self):
        spec, history = job(), at_random(100)

        def least(trials: int) -> float:
            took = []
            for _ in range(2):
                began = time.process_time()
                suggest(spec, history[:trials])
                took.append(time.process_time() - began)
            return min(took)

        assert least(100) < min(1.0, 8.0 * least(20))


def begun_alike(history: list[Trial], asked: Proposal) -> int:
    """The first steps of a proposal that a stage of some trial has ended at, with the same rates."""
    until, wanted = asked.until or STEPS, asked.configuration
    ends = ((t.configuration, stage.step) for t in history for stage in t.stages if stage.step <= until)
    return max((step for c, step in ends if shared(c, wanted, STEPS, until=step) == step), default=0)


@pytest.fixture(scope="module")
def staged() -> list[Trial]:
    """A job of four and a half full runs, trained in stages to its end."""
    spec = job(budget={"full_runs": 4.5}, confirm={"top": 0})
    return carried_out(spec, learned, steps=STEPS, reused=begun_alike)


class TestStages:
    def test_a_search_in_stages_stays_within_its_budget_and_brings_some_to_their_end(self, staged):
        assert sum(t.cost for t in staged) / STEPS <= 4.5 + 1e-9
        assert next(t.role for t in staged if t.state is TrialState.COMPLETE) == "baseline"
        assert sum(t.state is TrialState.COMPLETE for t in staged) >= 2
        for t in staged:
            assert t.cost > 0
            assert all(stage.until is None or stage.until % (STEPS // REPORTS) == 0 for stage in t.stages)

    def test_one_run_is_one_trial_whatever_stages_it_is_trained_in(self, staged):
        assert len({t.run for t in staged}) == len(staged)
        assert any(len(t.stages) > 1 for t in staged)
        for t in staged:
            assert [stage.start for stage in t.stages[1:]] == [stage.step for stage in t.stages[:-1]]
            assert [stage.decision for stage in t.stages] == sorted(stage.decision for stage in t.stages)
        decisions = sorted(stage.decision for t in staged for stage in t.stages)
        assert decisions == list(range(len(decisions)))

    @pytest.mark.parametrize("seed", range(4))
    def test_with_room_for_one_run_beside_a_low_baseline_that_is_a_higher_rate_and_a_gain(self, seed):
        """A run far from the baseline, as a design begins with, is one at any rate."""
        own = {"learning_rate": 0.0003, "schedule": "cosine"}
        spec = job(budget={"full_runs": 2}, confirm={"top": 0}, baseline=own, search={"seed": seed})
        low, other = carried_out(spec, learned, steps=STEPS, reused=begun_alike)
        assert other.configuration.learning_rate > low.configuration.learning_rate
        assert other.value < low.value

    def test_no_training_is_begun_twice(self):
        """A polynomial of power 1 is linear, and a warm-up of less than half a step is none."""
        schedules = ["linear", {"family": "polynomial", "power": 1.0}]
        spec = job(schedules=schedules, warmup=[0.0, 0.01], budget={"full_runs": 3}, confirm={"top": 0})
        history = carried_out(spec, learned, steps=STEPS, reused=begun_alike)
        curves = [tuple(t.configuration.learning_rates(STEPS)) for t in history if t.role == "search"]
        assert len(curves) == len(set(curves)) > 3

    def test_what_was_paused_is_stopped_in_the_end_and_says_what_it_was_to_come_to(self, staged):
        stopped = [t for t in staged if t.state is TrialState.STOPPED]
        assert stopped
        best = min(t.value for t in staged if t.state is TrialState.COMPLETE)
        assert all(f" forecast at its end, {best:.4g} is the best whole run" in t.reason for t in stopped)
        assert not any(t.state is TrialState.PAUSED for t in staged)

    def test_it_finds_more_for_the_same_cost_than_random_runs(self, staged):
        assert min(t.value for t in staged if t.state is TrialState.COMPLETE) < 1.1 < min(t.value for t in at_random(5))

    def test_complete_runs_where_nothing_is_kept_or_trials_are_counted(self, staged):
        spec, history = job(budget={"full_runs": 9}), staged[:3]
        assert following(spec, history).proposal.until is not None
        assert following(job(budget={"full_runs": 9}, training={"devices": 2}), history).proposal.until is not None
        assert following(spec, history, continued=False).proposal.until is None
        assert following(job(budget={"trials": 9}), history).proposal.until is None

    def test_what_a_failed_trial_showed_in_earlier_stages_stays_known(self):
        spec, history = job(budget={"full_runs": 9}), at_random(3)
        for _ in range(2):
            train(history, following(spec, history).proposal, learned)
        paused = history[-1]
        failed = paused.model_copy(update={"state": TrialState.FAILED, "start": paused.step})
        nothing = failed.model_copy(update={"start": 0, "reports": []})
        design = [following(spec, [*history[:-1], one]).proposal.reason for one in (paused, failed, nothing)]
        assert design[0] == design[1] != design[2]


def running(history: list[Trial], rate: float, ends: float, until: int) -> Trial:
    """One more trial, so far: a loss that falls to `ends`."""
    like, shares = history[-1], [i / REPORTS for i in range(1, until + 1)]
    return like.model_copy(
        update={
            "number": len(history),
            "decision": len(history),
            "state": TrialState.RUNNING,
            "value": None,
            "step": until * STEPS // REPORTS,
            "reports": evenly([ends + 2.0 * (1.0 - u) ** 2 for u in shares], STEPS),
            "stages": [],
            "configuration": like.configuration.model_copy(update={"learning_rate": rate}),
        }
    )


class TestForecast:
    SPEC = job("random", {"name": "forecast", "audit": 0.0})

    def test_a_hopeless_trial_is_stopped_in_words(self):
        history = at_random(12)
        said = verdict(self.SPEC, history, running(history, 2e-5, 9.0, until=10)).stop
        assert said.startswith("forecast pruner: 9.5 at report 10 of 20, forecast ")
        assert "against" in said
        assert "chance" in said

    def test_it_is_judged_in_its_last_stage_alone_at_what_is_new_and_once(self):
        history = at_random(12)
        bad = running(history, 2e-5, 9.0, until=10)
        assert verdict(self.SPEC, history, bad).stop
        shown = [*bad.reports[:-1], bad.reports[-1].model_copy(update={"reused": True})]
        paused, pruned = (
            [Stage(attempt=1, decision=12, worker="w", step=40, outcome=outcome)] for outcome in ("paused", "finished")
        )
        assert verdict(self.SPEC, history, bad.model_copy(update={"start": 40, "stages": paused})).stop
        for spared in ({"until": 120}, {"reports": shown}, {"start": 100}, {"start": 40, "stages": pruned}):
            assert verdict(self.SPEC, history, bad.model_copy(update=spared)) == PruneVerdict()

    def test_a_run_that_is_not_annealed_yet_is_not_mistaken_for_a_bad_one(self, searched):
        def told(one: Trial, until: int) -> list[Report]:
            rates, last = one.configuration.learning_rates(STEPS), losses(one.configuration)[-1]
            return evenly([last + 0.8 * rates[step - 1] / max(rates) for step in range(10, until + 1, 10)], STEPS)

        past = [(t, told(t, STEPS)) for t in searched]
        history = [t.model_copy(update={"reports": seen, "value": seen[-1].metrics["loss"]}) for t, seen in past]
        late = running(history, 0.0033, 1.0, until=12)
        held = history[0].configuration.model_copy(update={"schedule": Wsd(decay=0.2), "learning_rate": 0.0033})
        late = late.model_copy(update={"configuration": held})
        late = late.model_copy(update={"reports": told(late, 120)})
        assert not verdict(self.SPEC, history, late).stop

    def test_a_promising_or_an_early_trial_runs_on(self):
        history = at_random(12)
        assert not verdict(self.SPEC, history, running(history, 0.006, 1.0, until=10)).stop
        assert not verdict(self.SPEC, history, running(history, 2e-5, 9.0, until=1)).stop
        assert not verdict(self.SPEC, history[:2], running(history, 2e-5, 9.0, until=10)).stop

    def test_an_audit_runs_on_and_is_drawn_once_and_for_all(self):
        history = at_random(12)
        bad = running(history, 2e-5, 9.0, until=10)
        always = verdict(job("random", {"name": "forecast", "audit": 1.0}), history, bad)
        assert always.audit.startswith("forecast pruner:")
        assert not always.stop
        spec = job("random", {"name": "forecast", "audit": 0.5})
        numbered = [bad.model_copy(update={"number": n, "decision": n}) for n in range(12, 16)]
        first, second = ([bool(verdict(spec, history, one).audit) for one in numbered] for _ in range(2))
        assert first == second
        assert set(first) == {True, False}

    def test_it_switches_itself_off_when_the_audit_fails(self):
        spec, history = job("random", {"name": "forecast", "audit": 0.5}), at_random(12)
        bad = running([*history, history[-1]], 3e-5, 9.0, until=10)
        numbered = [bad.model_copy(update={"number": n, "decision": n}) for n in range(12, 24)]
        drawn, other = (
            next(one for one in numbered if bool(verdict(spec, history, one).audit) is audited)
            for audited in (True, False)
        )
        surprise = running(history, 2e-5, 9.0, until=20)
        won = {"state": TrialState.COMPLETE, "value": 0.1, "reports": [*surprise.reports[:-1], *evenly([0.1], STEPS)]}
        won["reports"][-1] = won["reports"][-1].model_copy(update={"step": STEPS})
        history.append(surprise.model_copy(update=won | {"number": drawn.number, "decision": 12}))
        judged = other.model_copy(update={"number": 30 if other.number == drawn.number else other.number})
        assert verdict(spec, history[:-1], judged).stop
        assert verdict(spec, history, judged.model_copy(update={"decision": 13})).off

    def test_maximising_is_minimising_the_negative(self):
        def turned(one: Trial) -> Trial:
            told = [r.model_copy(update={"metrics": {"loss": -r.metrics["loss"]}}) for r in one.reports]
            return one.model_copy(update={"value": None if one.value is None else -one.value, "reports": told})

        history = at_random(12)
        bad, good = running(history, 2e-5, 9.0, until=10), running(history, 0.006, 1.0, until=10)
        spec = job("random", {"name": "forecast", "audit": 0.0}, goal="maximize")
        past = [turned(t) for t in history]
        assert "forecast pruner: -9.5 at report 10 of 20, forecast -" in verdict(spec, past, turned(bad)).stop
        assert not verdict(spec, past, turned(good)).stop

    @pytest.mark.parametrize("role", ["baseline", "confirm"])
    def test_a_baseline_or_confirming_trial_is_never_stopped(self, role):
        history = at_random(12)
        bad = running(history, 2e-5, 9.0, until=10).model_copy(update={"role": role})
        assert not verdict(self.SPEC, history, bad).stop


def test_a_paused_trial_whose_value_is_off_every_scale_is_not_resumed_for_ever():
    spec = job(budget={"full_runs": 3})

    def blown(trial: Trial) -> list[Report]:
        return evenly([loss * 1e301 for loss in losses(trial.configuration)], STEPS)

    history: list[Trial] = []
    for _ in range(15):
        asked = following(spec, history).proposal
        assert asked is not None
        assert asked.resume is None or (asked.until or STEPS) > history[asked.resume].step
        train(history, asked, learned if asked.role == "baseline" else blown)


@pytest.mark.parametrize("seed", [2, 4, 5])
def test_what_runs_show_of_a_rate_holds_for_others_with_more_or_less_momentum(seed: int):
    def off(trial: Trial, step: int = STEPS) -> float:
        configuration = trial.configuration
        mean = fmean(configuration.learning_rates(STEPS)[:step]) / (1 - configuration.optimizer.momentum)
        return math.log(mean / 0.3)

    def loss(trial: Trial) -> list[Report]:
        steps = range(STEPS // REPORTS, STEPS + 1, STEPS // REPORTS)
        return evenly([1 + 0.3 * off(trial, step) ** 2 + 2 * (1 - step / STEPS) ** 2 for step in steps], STEPS)

    def spec(sampler: str) -> AdmittedJob:
        families = ["constant", "cosine", "linear"]
        knobs = {"optimizers": [{"name": "sgd", "momentum": [0.5, 0.99]}], "schedules": families}
        return job(**knobs, search={"sampler": sampler, "pruner": "none", "seed": seed})

    history = study(spec("random"), 14, loss)
    for _ in range(6):
        train(history, suggest(spec("curve"), history), loss)
    assert max(abs(off(trial)) for trial in history[14:]) < 0.4
