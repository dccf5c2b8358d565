"""The `curve` sampler and the `forecast` pruner as a job meets them: through suggest, advance and stop_reason."""

import math
import time
from statistics import fmean

import pytest

from lrtune.analysis.prefixes import shared
from lrtune.schedules import Wsd
from lrtune.search import advance, stop_reason, suggest, verdict
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import JobSpec
from lrtune.wire.results import REPORTS, Report, Trial, TrialState

STEPS = 200
MIXED = {
    "optimizers": ["adamw", {"name": "sgd", "momentum": [0.1, 0.95], "nesterov": [True, False]}],
    "clip_norm": [0.1, 10.0],
}


def job(sampler: object = "curve", pruner: object = "none", goal: str = "minimize", **fields: object) -> JobSpec:
    wire = {
        "task": "digits",
        "metric": {"name": "loss", "goal": goal},
        "horizon": {"steps": STEPS},
        "search": {"sampler": sampler, "pruner": pruner, "seed": 7},
    }
    return JobSpec.model_validate(wire | fields)


def learned(configuration: Configuration, sign: float = 1.0) -> list[Report]:
    """A loss that knows only the rates so far: best at one mean of them, annealed; nothing about families or peaks."""
    rates, told = configuration.learning_rates(STEPS), []
    for step in range(STEPS // REPORTS, STEPS + 1, STEPS // REPORTS):
        mean, last = fmean(rates[:step]), fmean(rates[step - STEPS // REPORTS : step])
        loss = 1.0 + 0.3 * math.log(mean / 0.003) ** 2 + 0.1 * last / mean + 2.0 * (1.0 - step / STEPS) ** 2
        told.append(Report(step=step, learning_rate=rates[step - 1], metrics={"loss": sign * loss}))
    return told


def reports(end: float, until: int = REPORTS, late: float = 0.0, sign: float = 1.0) -> list[Report]:
    """A loss that falls to `end`; by how much it lies higher before its last fifth is `late`."""
    shares = [i / REPORTS for i in range(1, until + 1)]
    values = [end + sign * (2.0 * (1.0 - u) ** 2 + late * min(1.0, 5.0 * (1.0 - u))) for u in shares]
    return [
        Report(step=round(u * STEPS), learning_rate=0.1, metrics={"loss": v})
        for u, v in zip(shares, values, strict=True)
    ]


def trial(spec: JobSpec, history: list[Trial], state: str = "complete", sign: float = 1.0) -> Trial:
    asked = suggest(spec, history)
    told = learned(asked.configuration, sign=sign) if state == "complete" else []
    return Trial(
        number=len(history),
        role=asked.role,
        why=asked.reason,
        state=TrialState(state),
        configuration=asked.configuration,
        seed=asked.seed,
        horizon=round(asked.fraction * STEPS),
        step=STEPS if state == "complete" else 0,
        value=told[-1].metrics["loss"] if told else None,
        reports=told,
    )


def study(spec: JobSpec, trials: int, sign: float = 1.0) -> list[Trial]:
    history: list[Trial] = []
    for _ in range(trials):
        history.append(trial(spec, history, sign=sign))
    return history


class TestCurve:
    def test_the_same_history_gives_the_same_answer_in_any_order(self):
        spec = job(**MIXED)
        history = study(job("random", **MIXED), 12)
        assert suggest(spec, history) == suggest(spec, history[::-1])

    def test_a_good_curve_is_found_sooner_than_at_random(self):
        def found(sampler: str) -> float:
            return min(t.value for t in study(job(sampler, budget={"trials": 14}), 14))

        assert found("curve") < 1.03
        assert found("curve") < found("random")

    def test_maximising_is_minimising_the_negative(self):
        down, up = study(job(), 14), study(job(goal="maximize"), 14, sign=-1.0)
        assert [t.configuration for t in up] == [t.configuration for t in down]
        forecasts = [t.why for t in up if "forecast" in t.why]
        assert forecasts
        assert all("forecast -" in why for why in forecasts)

    def test_running_trials_are_not_repeated_and_spread_out(self):
        spec = job()
        history = study(spec, 9)
        for state in ("running", "waiting", "running", "waiting"):
            history.append(trial(spec, history, state))
        assert len({t.configuration for t in history}) == 13
        rates = {round(fmean(t.configuration.learning_rates(STEPS)), 6) for t in history[9:]}
        assert len(rates) == 4

    def test_a_divergence_pushes_away(self):
        spec = job()
        history = study(spec, 10)
        near = suggest(spec, history).configuration
        cliff = [
            trial(spec, history[:9]).model_copy(
                update={
                    "number": 10 + i,
                    "state": TrialState.DIVERGED,
                    "value": None,
                    "step": 10,
                    "reports": [],
                    "configuration": near.model_copy(update={"warmup": 0.01 * i}),
                }
            )
            for i in range(4)
        ]
        gaps = [
            abs(
                math.log(
                    fmean(suggest(spec, past).configuration.learning_rates(STEPS)) / fmean(near.learning_rates(STEPS))
                )
            )
            for past in (history, [*history, *cliff])
        ]
        assert gaps[0] == 0.0
        assert gaps[1] > 0.1

    def test_every_proposal_of_a_mixed_space_is_legal_new_and_explained(self):
        history = study(job(**MIXED), 14)
        assert len({t.configuration for t in history}) == 14
        for one in history[1:]:
            assert type(one.configuration.optimizer).rates[0] <= one.configuration.learning_rate
            assert one.configuration.learning_rate <= type(one.configuration.optimizer).rates[1]
            assert 0.1 <= one.configuration.clip_norm <= 10.0
            assert one.why.startswith(("rising ramp", "first look", "forecast"))
            assert one.horizon == (STEPS // 10 if one.role == "ramp" else STEPS)

    def test_a_failed_trial_teaches_nothing_but_is_not_tried_again(self):
        spec = job()
        history = study(spec, 8)
        failed = trial(spec, history, "failed")
        assert suggest(spec, [*history, failed]).configuration != failed.configuration

    @pytest.mark.parametrize("value", [1e299, 1e-299, -1e250, 0.0])
    def test_absurd_values_are_borne(self, value):
        spec = job()
        history = [
            t.model_copy(update={"value": value if t.number % 2 else 1.0, "reports": []}) for t in study(spec, 8)
        ]
        assert suggest(spec, history).role == "search"

    def test_short_horizons_are_there_for_whoever_asks(self):
        spec = job({"name": "curve", "short_horizons": True})
        history = study(spec, 10)
        assert {t.horizon for t in history} <= {STEPS, STEPS // 2, STEPS // 4, STEPS // 10}  # the last is the ramp's
        assert len({(t.configuration, t.horizon) for t in history}) == 10

    def test_a_job_with_the_curve_sampler_ends_within_its_budget(self):
        spec = job(budget={"full_runs": 5}, confirm={"top": 0})
        history: list[Trial] = []
        while (step := advance(spec, history, steps=STEPS, seconds=0.0)).proposal:
            history.append(trial(spec, history))
        assert step.over
        assert len(history) == 5

    def test_asking_at_a_hundred_trials_is_quick_and_little_dearer_than_at_twenty(self):
        spec, history = job(), study(job("random"), 100)

        def least(trials: int) -> float:
            took = []
            for _ in range(4):
                began = time.process_time()
                suggest(spec, history[:trials])
                took.append(time.process_time() - began)
            return min(took)

        suggest(spec, history)
        assert least(100) < min(2.0, 4.0 * least(20))


def alike(before: Trial, wanted: Configuration) -> bool:
    """Whether a run begins with all that another has trained."""
    return shared(before.configuration, wanted, STEPS, until=before.step) == before.step


def staged(spec: JobSpec) -> list[Trial]:
    """A job whose looks are carried out as looks; what another piece ended at, with the same rates, costs nothing."""
    history: list[Trial] = []
    while asked := advance(spec, history, steps=STEPS, seconds=0.0).proposal:
        same = [t.step for t in history if alike(t, asked.configuration) and t.step <= (asked.until or STEPS)]
        told = learned(asked.configuration)
        seen = [report for report in told if report.step <= (asked.until or STEPS)]
        ended = {"state": TrialState.STOPPED if asked.until else TrialState.COMPLETE, "step": seen[-1].step}
        ended |= {"credited": max(same, default=0), "until": asked.until, "value": seen[-1].metrics["loss"]}
        ended |= {"number": len(history), "reports": seen, "horizon": STEPS, "why": asked.reason, "role": asked.role}
        history.append(Trial(configuration=asked.configuration, seed=asked.seed, **ended))
    return history


class TestStages:
    @pytest.mark.parametrize("runs", [2.0, 4.5, 7.0])
    def test_it_looks_goes_on_and_brings_its_leaders_to_the_end_within_the_budget(self, runs):
        history = staged(job(budget={"full_runs": runs}, confirm={"top": 0}))
        assert sum(t.cost for t in history) / STEPS <= runs + 1e-9
        assert next(t.role for t in history if t.state is TrialState.COMPLETE) == "baseline"
        assert sum(t.state is TrialState.COMPLETE for t in history) >= 2
        for t in history:
            assert t.until is None or t.until % (STEPS // REPORTS) == 0
            assert t.cost > 0

    def test_it_finds_more_for_the_same_cost_than_random_runs(self):
        def found(history: list[Trial]) -> float:
            return min(t.value for t in history if t.state is TrialState.COMPLETE)

        spec = job(budget={"full_runs": 5}, confirm={"top": 0})
        assert found(staged(spec)) < 1.1 < found(study(job("random"), 5))

    def test_a_beginning_that_two_configurations_share_is_looked_at_once(self):
        spec = job(schedules=["one-cycle", "constant"], warmup=[0.05, 0.1], budget={"full_runs": 6}, confirm={"top": 0})
        again = [t.why for t in staged(spec) if t.cost == 0]
        assert all("first look" in why for why in again)

    def test_whole_runs_where_nothing_is_kept_or_trials_are_counted(self):
        spec = job(budget={"full_runs": 9})
        history = study(spec, 3)
        assert advance(spec, history, steps=STEPS, seconds=0.0).proposal.until is not None
        assert advance(spec, history, steps=STEPS, seconds=0.0, continued=False).proposal.until is None
        counted = job(budget={"trials": 9})
        assert advance(counted, history, steps=STEPS, seconds=0.0).proposal.until is None

    def test_a_run_that_was_stopped_before_is_not_stopped_again(self):
        spec = job(pruner={"name": "forecast", "audit": 0.0})
        history = known(job())
        bad = running(history, 2e-5, 9.0, until=10)
        assert stop_reason(spec, history, bad)
        before = bad.model_copy(update={"state": TrialState.STOPPED, "number": len(history)})
        assert not stop_reason(spec, [*history, before], bad.model_copy(update={"number": len(history) + 1}))


def known(spec: JobSpec) -> list[Trial]:
    """Twelve trials of a random search, with their reports."""
    return study(job("random"), 12)


def running(history: list[Trial], rate: float, ends: float, until: int, late: float = 0.0) -> Trial:
    """One more trial, so far."""
    like = history[-1]
    return like.model_copy(
        update={
            "number": len(history),
            "state": TrialState.RUNNING,
            "value": None,
            "step": until * STEPS // REPORTS,
            "reports": reports(ends, until, late),
            "configuration": like.configuration.model_copy(update={"learning_rate": rate}),
        }
    )


class TestForecast:
    RULE = {"name": "forecast", "audit": 0.0}

    def test_a_hopeless_trial_is_stopped_in_words(self):
        spec = job("random", self.RULE)
        history = known(spec)
        said = stop_reason(spec, history, running(history, 2e-5, 9.0, until=10))
        assert said
        assert said.startswith("forecast pruner: 9.5 at report 10 of 20, forecast ")
        assert "against" in said
        assert "chance" in said

    def test_a_run_that_is_not_annealed_yet_is_not_mistaken_for_a_bad_one(self):
        def told(one: Trial, until: int) -> list[Report]:
            rates, end = one.configuration.learning_rates(STEPS), learned(one.configuration)[-1].metrics["loss"] or 0.0
            return [
                Report(step=s, learning_rate=0.1, metrics={"loss": end + 0.8 * rates[s - 1] / max(rates)})
                for s in range(10, until + 1, 10)
            ]

        past = [(t, told(t, STEPS)) for t in study(job(), 14)]
        history = [t.model_copy(update={"reports": seen, "value": seen[-1].metrics["loss"]}) for t, seen in past]
        held = history[0].configuration.model_copy(update={"schedule": Wsd(decay=0.2), "learning_rate": 0.0033})
        late = (
            history[0]
            .model_copy(
                update={"number": 14, "role": "search", "state": TrialState.RUNNING, "value": None, "step": 120}
            )
            .model_copy(update={"configuration": held})
        )
        late = late.model_copy(update={"reports": told(late, 120)})
        assert stop_reason(job(pruner=self.RULE), history, late) is None

    def test_a_promising_or_an_early_trial_runs_on(self):
        spec = job("random", self.RULE)
        history = known(spec)
        assert stop_reason(spec, history, running(history, 0.006, 1.0, until=10)) is None
        assert stop_reason(spec, history, running(history, 2e-5, 9.0, until=1)) is None
        assert stop_reason(spec, history[:2], running(history, 2e-5, 9.0, until=10)) is None

    def test_an_audit_runs_on_and_is_drawn_once_and_for_all(self):
        history = known(job())
        bad = running(history, 2e-5, 9.0, until=10)
        assert stop_reason(job("random", {"name": "forecast", "audit": 1.0}), history, bad) is None
        assert verdict(job("random", {"name": "forecast", "audit": 1.0}), history, bad).audit.startswith(
            "forecast pruner:"
        )
        spec = job("random", {"name": "forecast", "audit": 0.5})
        stopped = {
            n: {stop_reason(spec, history, bad.model_copy(update={"number": n})) is not None for _ in range(2)}
            for n in range(12, 32)
        }
        assert all(len(verdicts) == 1 for verdicts in stopped.values())
        assert {verdict for verdicts in stopped.values() for verdict in verdicts} == {True, False}

    def test_it_switches_itself_off_when_the_audit_fails(self):
        spec = job("random", {"name": "forecast", "audit": 0.999999})
        history = known(spec)
        surprise = running(history, 2e-5, 9.0, until=20)
        won = [*surprise.reports[:-1], Report(step=STEPS, learning_rate=0.1, metrics={"loss": 0.1})]
        ended = {"state": TrialState.COMPLETE, "value": 0.1, "reports": won}
        bad = running([*history, surprise], 3e-5, 9.0, until=10)
        few = job("random", {"name": "forecast", "audit": 0.5})
        draws = [n for n in range(12, 60) if stop_reason(few, history, bad.model_copy(update={"number": n})) is None]
        audited = surprise.model_copy(update=ended | {"number": draws[0]})
        other = bad.model_copy(update={"number": next(n for n in range(draws[0] + 1, 60) if n not in draws)})
        assert stop_reason(few, history, other)
        assert verdict(few, [*history, audited], other).off

    def test_maximising_is_minimising_the_negative(self):
        def turned(one: Trial) -> Trial:
            told = [r.model_copy(update={"metrics": {"loss": -(r.metrics["loss"] or 0.0)}}) for r in one.reports]
            return one.model_copy(update={"value": None if one.value is None else -one.value, "reports": told})

        history = known(job())
        bad, good = running(history, 2e-5, 9.0, until=10), running(history, 0.006, 1.0, until=10)
        spec = job("random", self.RULE, goal="maximize")
        past = [turned(t) for t in history]
        assert "forecast pruner: -9.5 at report 10 of 20, forecast -" in (stop_reason(spec, past, turned(bad)) or "")
        assert stop_reason(spec, past, turned(good)) is None

    @pytest.mark.parametrize("role", ["baseline", "confirm"])
    def test_a_baseline_or_confirming_trial_is_never_stopped(self, role):
        spec = job("random", self.RULE)
        history = known(spec)
        bad = running(history, 2e-5, 9.0, until=10).model_copy(update={"role": role})
        assert stop_reason(spec, history, bad) is None
