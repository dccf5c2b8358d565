"""The answer's report: every number from trials written out by hand, never an error, the same over HTTP and the CLI."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lrtune.analysis.answer import best
from lrtune.analysis.report import report
from lrtune.cli import commands
from lrtune.client import Client
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.report import Findings
from lrtune.wire.results import Audits, Report, Role, Stop, Trial, TrialState
from lrtune.wire.strategies import Search
from tests.serving import KEY, served, trained

STEPS = 100
SPEC = AdmittedJob.model_validate(
    {
        "task": "digits",
        "metric": {"name": "val_loss", "goal": "minimize", "range": [0, None]},
        "horizon": {"steps": STEPS},
        "optimizers": [{"name": "adamw", "learning_rate": [0.001, 0.064]}],
        "schedules": ["cosine", "linear"],
        "search": {"sampler": "tpe", "pruner": "none"},
    }
)
HIGHEST = SPEC.model_copy(update={"metric": SPEC.metric.model_copy(update={"goal": "maximize", "range": (None, 0.0)})})


def run(
    number: int,
    rate: float,
    value: float | None,
    *,
    family: str = "cosine",
    warmup: float = 0.0,
    role: Role = "search",
    seed: int = 0,
    state: str = "complete",
    horizon: int = STEPS,
    step: int | None = None,
    falls: float = 0.0,
) -> Trial:
    """A trial; `falls` is how much lower it was at its end than a fifth of the run before."""
    chosen = Configuration(optimizer="adamw", learning_rate=rate, schedule=family, warmup=warmup)
    at = [] if value is None else [(70, value + falls), (80, value + falls), (90, value), (100, value)]
    return Trial(
        number=number,
        decision=number,
        role=role,
        state=TrialState(state),
        configuration=chosen,
        seed=seed,
        horizon=horizon,
        step=horizon if step is None else step,
        value=value,
        reports=[Report(step=s, learning_rate=rate, metrics={"val_loss": v}) for s, v in at if s <= horizon],
    )


SEARCHED = [
    run(0, 0.001, 0.50, warmup=0.05, role="baseline"),
    run(1, 0.002, 0.46, falls=0.02),
    run(2, 0.004, 0.44, falls=0.01),
    run(3, 0.008, 0.403),
    run(4, 0.016, 0.40),
    run(5, 0.032, None, state="diverged", step=37),
    run(6, 0.064, None, state="diverged", step=4),
    run(7, 0.032, 0.52, warmup=0.1),
    run(8, 0.064, 0.60, warmup=0.1),
    run(9, 0.008, 0.42, family="linear"),
    run(10, 0.016, 0.55, family="linear", state="stopped", step=60),
    run(11, 0.004, 0.60, family="linear", horizon=25),
]


def confirmed(answer: Sequence[float], baseline: Sequence[float], once: float = 0.50) -> list[Trial]:
    """The same with the answer and the baseline over fresh seeds; `once` is the baseline's value over the search's."""
    fresh = [run(12 + i, 0.016, v, role="confirm", seed=1 + i) for i, v in enumerate(answer)]
    beside = [run(15 + i, 0.001, v, warmup=0.05, role="confirm", seed=1 + i) for i, v in enumerate(baseline)]
    return [run(0, 0.001, once, warmup=0.05, role="baseline"), *SEARCHED[1:], *fresh, *beside]


def reported(trials: Sequence[Trial], spec: AdmittedJob = SPEC, by: Stop = "pruner") -> Findings:
    cost = sum(trial.step for trial in trials) / STEPS
    found = best(spec, trials, steps=STEPS, full_runs=round(cost, 4))
    assert found is not None
    stops = {t.number: by for t in trials if t.state is TrialState.STOPPED}
    return report(spec, found, trials, Audits(stops=stops))


def advised(found: Findings) -> dict[str, str]:
    return {one.question: one.answer for one in found.advice}


def test_the_plateau_is_where_runs_came_within_one_percent():
    found = reported(SEARCHED)
    assert (found.optimizer, found.family, found.rate, found.value) == ("adamw", "cosine", 0.016, 0.40)
    assert found.tolerance == pytest.approx(0.004)
    cosine, linear = found.families
    assert (cosine.family, cosine.runs, cosine.best_rate, cosine.best_value) == ("cosine", 7, 0.016, 0.40)
    assert cosine.plateau.model_dump() == {"low": 0.008, "high": 0.016, "runs": 2, "worse": 0, "edges": []}
    assert (linear.family, linear.runs, linear.best_rate, linear.best_value) == ("linear", 1, 0.008, 0.42)
    assert linear.plateau is None


def test_runs_in_between_that_did_worse_are_counted():
    other_knobs = run(12, 0.008, 0.49, warmup=0.1)
    plateau = reported([*SEARCHED, other_knobs]).families[0].plateau
    assert (plateau.low, plateau.high, plateau.runs, plateau.worse) == (0.008, 0.016, 2, 1)


def test_a_plateau_ends_at_the_first_rate_at_which_nothing_is_as_good():
    lucky = run(12, 0.002, 0.401, warmup=0.1)
    plateau = reported([*SEARCHED, lucky]).families[0].plateau
    assert (plateau.low, plateau.high) == (0.008, 0.016), "0.004 did worse, so 0.002 is no part of it"
    broken = [*SEARCHED[:5], run(5, 0.0113, None, state="diverged", step=9)]
    assert reported(broken).families[0].plateau.low == 0.016, "0.0113 diverged, so 0.008 is no part of it"


def test_the_sensitivity_is_the_median_worsening_per_doubling_and_halving():
    cosine, linear = reported(SEARCHED).families
    assert cosine.doubling.absolute == pytest.approx((0.12 / 1 + 0.20 / 2) / 2)
    assert cosine.doubling.relative == pytest.approx(0.275)
    assert cosine.halving.absolute == pytest.approx((0.003 / 1 + 0.04 / 2) / 2)
    assert (cosine.doubling.rates, cosine.halving.rates) == (2, 2)
    assert (linear.doubling, linear.halving) == (None, None)


def test_what_happens_above_and_below_is_told_from_the_runs_there():
    found = reported(SEARCHED)
    assert found.above.words == (
        "above 1.6e-2 with cosine: 2 of 4 runs diverged, the first at step 4; 2 runs end 40 % worse in the median"
    )
    assert (
        found.below.words
        == "below 8e-3 with cosine: 3 runs end 15 % worse in the median and most were still falling at the end"
    )
    assert (found.above.worse, found.above.improving) == (pytest.approx(0.4), False)
    assert (found.below.worse, found.below.improving) == (pytest.approx(0.15), True)


def test_other_families_speak_where_the_answers_own_has_no_run():
    trials = [t for t in SEARCHED if t.number in (0, 3, 4)] + [
        run(12, 0.032, None, family="linear", state="diverged", step=9),
        run(13, 0.064, 0.6, family="linear", state="stopped", step=50),
        run(14, 0.064, 0.6, family="linear", horizon=25),
    ]
    above = reported(trials).above
    assert (above.family, above.runs, above.diverged, above.stopped, above.short) == (None, 3, 1, 1, 1)
    assert above.words == (
        "above 1.6e-2 with other schedules: "
        "1 of 3 runs diverged, at step 9; 1 was stopped early; 1 completed a shorter horizon"
    )


def test_the_edge_of_stability_leaves_short_runs_out():
    found = reported(SEARCHED)
    (adamw,) = found.stability
    assert (adamw.optimizer, adamw.largest_stable, adamw.smallest_diverged) == ("adamw", 0.064, 0.032)
    cosine, linear = found.families
    assert (cosine.largest_stable, cosine.smallest_diverged) == (0.064, 0.032)
    assert (linear.largest_stable, linear.smallest_diverged) == (0.008, None)


def test_the_cost_is_split_by_what_it_was_spent_on_and_the_saving_counted():
    found = reported(confirmed([0.40, 0.41, 0.42], [0.50, 0.52, 0.51]))
    assert found.cost.model_dump() == {
        "baseline": 1.0,
        "range_test": 0.0,
        "search": 7.0,
        "short": 0.25,
        "stopped": 0.6,
        "diverged": 0.41,
        "confirm": 6.0,
        "other": 0.0,
        "total": 15.26,
    }
    assert found.saved.model_dump() == {"pruning": 0.4, "divergence": 1.59, "total": 1.99}


def test_the_lift_is_sure_when_the_paired_interval_excludes_zero():
    found = reported(confirmed([0.40, 0.41, 0.42], [0.50, 0.52, 0.51]))
    assert (found.lift.difference, found.lift.relative) == (pytest.approx(0.10), pytest.approx(0.10 / 0.51))
    assert found.lift.interval == pytest.approx((0.0849980, 0.1150020), abs=1e-6)
    # 0.1 ± 3.1824 / √3 times the standard deviation of 0.10, 0.11, 0.09 and, over the search's seed, 0.10
    assert found.lift.sure is True
    assert advised(found)["how sure?"] == (
        "The answer's val_loss, 0.41, is the mean over 3 fresh seeds, 95 % interval 0.39241 to 0.42759. "
        "It is 20 % better than untuned: "
        "the 95 % interval of the difference over the same 3 seeds, 0.085 to 0.115, excludes zero. "
        "The plateau with cosine, 8e-3 to 1.6e-2, rests on 5 runs."
    )


def test_the_lift_is_not_sure_when_the_interval_includes_zero():
    found = reported(confirmed([0.40, 0.41, 0.42], [0.42, 0.40, 0.43], once=0.42))
    assert found.lift.sure is False
    said = advised(found)["how sure?"]
    assert "It is not surely better or worse than untuned" in said
    assert "-0.0193 to 0.0327, includes zero" in said


def test_no_lift_is_claimed_while_the_two_intervals_overlap():
    found = reported(confirmed([0.40, 0.44, 0.48], [0.43, 0.471, 0.509], once=0.44))
    assert found.lift.interval[0] > 0, "over the same seeds"
    assert found.lift.sure is False
    said = advised(found)["how sure?"]
    assert "excludes zero, but the intervals of the two overlap" in said
    assert "It is probably better than untuned" in said


def test_what_only_one_of_them_ran_is_no_part_of_the_comparison():
    found = reported(confirmed([0.40, 0.41, 0.42], [0.50, 0.52]))
    assert (found.lift.seeds, found.lift.difference) == (2, pytest.approx(0.105))
    assert found.lift.interval == pytest.approx((0.0874343, 0.1225657))
    # 0.105 ± 4.3027 / √2 times the standard deviation of 0.10, 0.11 and, over the search's seed, 0.10
    apart = reported([run(15, 0.001, 0.5, warmup=0.05, role="baseline", seed=9), *SEARCHED[1:]])
    assert apart.lift is None
    assert "It is not comparable with untuned, which ran over other seeds." in advised(apart)["how sure?"]


def test_neighbours_that_did_better_on_the_seed_that_they_share_leave_the_answer_in_doubt():
    """Their fresh seeds failed, so they are not chosen, nor are their rates ruled out."""
    searched = [run(0, 0.016, 0.40), run(1, 0.0113, 0.39), run(2, 0.008, 0.50), run(3, 0.0057, 0.39)]
    answer = [run(3 + seed, 0.016, 0.41, role="confirm", seed=seed) for seed in (1, 2, 3)]
    found = reported([*searched, *answer])
    assert found.families[0].halving.absolute < 0
    assert advised(found)["too high?"].startswith(
        "Perhaps. Below 1.13e-2 with cosine: 2 runs end 11 % worse in the median."
    )
    assert "Lower rates nearby did no worse over the seeds that they share with it." in advised(found)["too high?"]


def test_a_configuration_that_diverged_with_a_seed_is_not_as_good():
    fresh = [run(12 + seed, rate, 0.40, role="confirm", seed=seed) for seed in (1, 2, 3) for rate in (0.016, 0.008)]
    broken = fresh[-1].model_copy(update={"state": TrialState.DIVERGED, "value": None, "step": 9})
    assert reported([*SEARCHED, *fresh]).families[0].plateau.low == 0.008
    assert reported([*SEARCHED, *fresh[:-1], broken]).families[0].plateau.low == 0.016


def test_advice_answers_three_questions():
    assert advised(reported(SEARCHED)) == {
        "too high?": "No. Below 8e-3 with cosine: 3 runs end 15 % worse in the median "
        "and most were still falling at the end. "
        "Rates down to 8e-3 do as well at their best. "
        "The smallest rate of adamw that diverged is 3.2e-2, 2 times the answer's.",
        "too low?": "No. Above 1.6e-2 with cosine: 2 of 4 runs diverged, the first at step 4; "
        "2 runs end 40 % worse in the median. "
        "Each doubling of the rate makes it about 27 % worse.",
        "how sure?": "Not very: the answer's val_loss, 0.4, is a single run's, not repeated over fresh seeds. "
        "It is 20 % better than untuned over the one seed that both ran, which may be chance. "
        "The plateau with cosine, 8e-3 to 1.6e-2, rests on 2 runs.",
    }


def test_a_best_rate_at_the_end_of_the_range_asks_for_a_wider_one():
    found = reported([*SEARCHED[:4], run(4, 0.064, 0.40)])
    assert found.families[0].plateau.edges == ["high"]
    assert found.above.words == "no higher rate was tried"
    assert advised(found)["too low?"].startswith(
        "Perhaps: the best rate is the largest that was tried with cosine: widen the range upwards."
    )


def test_a_best_rate_that_is_the_lowest_tried_within_the_range_asks_for_more_budget():
    found = reported([run(0, 0.008, 0.40), run(1, 0.016, 0.50)])
    assert found.families[0].plateau.edges == []
    assert advised(found)["too high?"].startswith(
        "Perhaps: the best rate is the smallest that was tried with cosine: a larger budget would look further."
    )


def test_a_metric_to_be_maximised_gives_the_mirror_image():
    def mirrored(one: Trial) -> Trial:
        metrics = [{"val_loss": -(r.metrics["val_loss"] or 0.0)} for r in one.reports]
        reports = [r.model_copy(update={"metrics": m}) for r, m in zip(one.reports, metrics, strict=True)]
        value = None if one.value is None else -one.value
        return one.model_copy(update={"value": value, "reports": reports})

    low, high = reported(SEARCHED), reported([mirrored(t) for t in SEARCHED], HIGHEST)
    assert [f.plateau for f in high.families] == [f.plateau for f in low.families]
    assert [f.doubling for f in high.families] == [f.doubling for f in low.families]
    assert (high.lift, high.stability, high.above) == (low.lift, low.stability, low.above)
    assert high.below.words == low.below.words.replace("falling", "rising")


def test_near_zero_the_tolerance_is_a_share_of_the_way_to_the_median_run():
    found = reported([run(0, 0.002, 1.0), run(1, 0.004, 0.5), run(2, 0.008, 0.0004), run(3, 0.016, 0.0)])
    assert found.tolerance == pytest.approx(0.001 * 0.2502)
    assert (found.families[0].plateau.low, found.families[0].plateau.high) == (0.016, 0.016)
    assert found.families[0].halving.relative is None
    assert found.below.words == "below 1.6e-2 with cosine: 3 runs end 0.5 worse in the median"


def test_a_baseline_outside_the_space_counts_for_the_lift_and_not_for_the_plateau():
    outside = run(0, 0.016, 0.40, family="wsd", role="baseline")
    found = reported([outside, *SEARCHED[1:5]])
    assert [one.family for one in found.families] == ["cosine"]
    assert found.lift.difference == 0.0


FORECAST = SPEC.model_copy(update={"search": Search(pruner="forecast")})


def test_the_audit_counts_the_stops_that_would_have_been_a_loss():
    more = [run(12, 0.008, 0.39, warmup=0.1), run(13, 0.004, 0.5, warmup=0.1)]
    more.append(run(14, 0.002, None, warmup=0.1, state="running", step=50))
    trials = [*SEARCHED[:5], *more]
    best_so_far = best(FORECAST, trials, steps=STEPS, full_runs=1.0)
    found = report(
        FORECAST, best_so_far, [*trials, SEARCHED[10]], Audits(trials=[12, 13, 14], on=False, stops={10: "pruner"})
    )
    audit = found.audit.model_dump(exclude={"words"})
    assert audit == {"audited": 2, "running": 1, "false": 1, "rate": 0.5, "on": False, "saved": 0.4}
    assert advised(found)["stopped rightly?"] == (
        "The forecast pruner saved 0.4 full runs, and has switched itself off; "
        "2 that it would have stopped ran on to check it, 1 (50 %) of them would have been a loss."
    )


@pytest.mark.parametrize(("meanwhile", "false"), [(0.38, 0), (0.395, 1)])
def test_an_audited_trial_is_held_against_what_was_complete_when_it_was_resumed(meanwhile: float, false: int):
    resumed = run(12, 0.008, 0.39, warmup=0.1).model_copy(update={"decision": 14})
    trials = [*SEARCHED[:5], resumed, run(13, 0.004, meanwhile, warmup=0.1)]
    audit = report(FORECAST, best(FORECAST, trials, steps=STEPS, full_runs=1.0), trials, Audits(trials=[12])).audit
    assert (audit.audited, audit.false, audit.running, audit.on) == (1, false, 0, True)


RATES = st.sampled_from([1e-6, 0.001, 0.001 * 2**0.5, 0.002, 0.064, 1.0])
VALUES = st.floats(-1e6, 1e6) | st.just(0.0)


@st.composite
def histories(draw: st.DrawFn) -> list[Trial]:
    trials = []
    for number in range(draw(st.integers(1, 12))):
        horizon = draw(st.sampled_from([2, 25, STEPS]))
        value = draw(st.none() | VALUES)
        steps = draw(st.lists(st.integers(1, horizon), unique=True, max_size=6).map(sorted))
        chosen = Configuration(
            optimizer=draw(st.sampled_from(["adamw", "sgd"])),
            learning_rate=draw(RATES),
            schedule=draw(st.sampled_from(["cosine", "linear", "wsd"])),
        )
        reports = [Report(step=s, learning_rate=0.1, metrics={"val_loss": draw(st.none() | VALUES)}) for s in steps]
        trials.append(
            Trial(
                number=number,
                role=draw(st.sampled_from(["search", "baseline", "confirm"])),
                state=draw(st.sampled_from([TrialState.COMPLETE, *TrialState])),
                configuration=chosen,
                seed=draw(st.integers(0, 3)),
                horizon=horizon,
                step=draw(st.integers(0, horizon)),
                value=value,
                reports=reports,
            )
        )
    return trials


@settings(max_examples=150)
@given(histories(), st.sampled_from([SPEC, HIGHEST]))
def test_any_history_with_an_answer_has_a_report_that_can_be_sent(trials, spec):
    if best(spec, trials, steps=STEPS, full_runs=0.0) is None:
        return
    found = reported(trials, spec)
    assert Findings.model_validate_json(found.model_dump_json()) == found
    parts = found.cost.model_dump(exclude={"total"}).values()
    assert sum(parts) == pytest.approx(found.cost.total, abs=1e-3)
    assert found.families[0].runs == 0 or found.families[0].plateau is not None


def test_the_report_over_http_and_in_the_terminal(database_url, monkeypatch):
    with served(database_url) as service:
        job = service.post("/v1/jobs", json={"task": "digits", "horizon": {"steps": 40}}).json()
        path = f"/v1/jobs/{job['id']}/report"
        early = service.get(path)
        assert (early.status_code, early.json()["type"]) == (409, "/problems/no-result-yet")
        assert service.get("/v1/jobs/job-none/report").status_code == 404
        trained(database_url, job["id"], [0.5, 0.25, 0.3])
        answer = service.get(path)
        with Client(str(service.base_url), KEY) as client:
            found = client.report(job["id"])
        monkeypatch.setenv("LRTUNE_URL", str(service.base_url))
        monkeypatch.setenv("LRTUNE_API_KEY", KEY)
        shown, printed = (CliRunner().invoke(commands.app, ["report", job["id"], *more]) for more in ([], ["--json"]))
    assert json.loads(answer.content) == json.loads(printed.output) == found.model_dump(mode="json")
    assert (found.rate, found.families[0].plateau.runs, found.lift.relative) == (0.002, 1, 0.5)
    assert (found.cost.baseline, found.cost.search, found.cost.total) == (1.0, 2.0, 3.0)
    said = " ".join(shown.output.split())
    assert "Above 2e-3 with linear: 1 run ends 20 % worse" in said
    assert "cost: 3 full runs (1 baseline, 2 search)" in said
