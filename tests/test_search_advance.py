"""What a job does next: never more than its budget, then exactly the confirming runs, then nothing."""

import random
from functools import lru_cache

import pytest

from lrtune.search import advance
from lrtune.search.advance import spent
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import NextStep, Report, Trial, TrialState
from tests.simulated import begin, end, stop

RATES = {"optimizers": [{"name": "adamw", "learning_rate": [0.0001, 0.01]}]}


def job(**fields: object) -> AdmittedJob:
    usual = {
        "task": "digits",
        "metric": {"name": "loss", "goal": "minimize"},
        "horizon": {"steps": 100},
        "search": {"sampler": "random", "seed": 5},
    }
    return AdmittedJob.model_validate(usual | fields)


def asked(spec: AdmittedJob, history: list[Trial], seconds: float = 0.0) -> NextStep:
    return advance(spec, history, steps=100, seconds=seconds)


def carried_out(spec: AdmittedJob, outcome, trials: int = 1000) -> tuple[list[Trial], NextStep]:
    """A job of one worker: `outcome(trial)` is (value, state, steps)."""
    history: list[Trial] = []
    while len(history) < trials and (step := asked(spec, history)).proposal:
        trial = begin(history, step.proposal)
        value, state, steps = outcome(trial)
        end(history, trial, state, value=value, step=steps, reason="out of memory")
    return history, asked(spec, history)


def by_rate(trial: Trial) -> tuple[float, str, int]:
    return abs(trial.configuration.learning_rate - 0.003) + trial.seed / 1e6, "complete", 100


@pytest.mark.parametrize("seed", range(3))
def test_three_workers_never_overspend(seed):
    chance = random.Random(seed)
    spec = job(budget={"full_runs": 9.5})
    history: list[Trial] = []
    while not (step := asked(spec, history)).over:
        running = [t for t in history if t.state is TrialState.RUNNING]
        if step.proposal and len(running) < 3:
            begin(history, step.proposal)
        else:
            assert running
            state = chance.choice(["complete", "stopped", "diverged"])
            done = {"value": chance.random()} if state == "complete" else {"step": chance.randrange(5, 100, 5)}
            end(history, chance.choice(running), state, **done)
        search = [t for t in history if t.role != "confirm"]
        assert spent(search, steps=100) <= 9.5
    assert spent(search, steps=100) > 8.5
    assert not step.failure


def test_the_search_waits_for_a_running_trial_that_may_leave_room():
    spec = job(budget={"full_runs": 2.0})
    history: list[Trial] = []
    for _ in range(2):
        begin(history, asked(spec, history).proposal)
    assert asked(spec, history) == NextStep()
    end(history, history[0], "diverged", step=0)
    assert asked(spec, history).proposal


@pytest.mark.parametrize(
    ("budget", "trials"),
    [
        ({"full_runs": 4}, 4),
        ({"full_runs": None, "trials": 3}, 3),
        ({"full_runs": 4, "trials": 3}, 3),
        ({"full_runs": 0.5}, 1),
    ],
)
def test_a_budget_is_used_up(budget, trials):
    history, last = carried_out(job(budget=budget, confirm={"top": 0}), by_rate)
    assert len(history) == trials
    assert last == NextStep(over=True)


def test_time_ends_the_search_but_not_the_confirming():
    spec = job(budget={"full_runs": None, "seconds": 60})
    history, _ = carried_out(spec, by_rate, trials=4)
    assert asked(spec, history, 59.0).proposal.role == "search"
    assert asked(spec, history, 60.0).proposal.role == "confirm"


def test_one_configuration_of_the_own_space_is_tried_whatever_the_budget():
    history, last = carried_out(job(schedules=["linear"], budget={"full_runs": 1}, confirm={"top": 0}), by_rate)
    assert [t.role for t in history] == ["baseline", "search"]
    assert last == NextStep(over=True)


def test_the_best_few_and_the_baseline_run_over_a_fresh_seed_and_then_whoever_may_still_win():
    spec = job(**RATES, budget={"full_runs": 8}, confirm={"top": 2, "seeds": 2})
    history, last = carried_out(spec, by_rate)
    search, confirm = history[:8], history[8:]
    first, second = sorted(search, key=lambda t: t.value)[:2]
    wanted = [first, second, *([search[0]] if search[0] not in (first, second) else [])]
    assert {t.configuration for t in confirm[: len(wanted)]} == {t.configuration for t in wanted}
    assert {t.seed for t in confirm[: len(wanted)]} == {6}
    answer, plain = confirm[len(wanted) :]  # a second seed each: seeds differ by next to nothing
    assert (answer.seed, plain.seed, plain.configuration) == (7, 7, search[0].configuration)
    assert answer.configuration in (first.configuration, second.configuration)
    assert by_rate(answer)[0] == pytest.approx(by_rate(first)[0], abs=1e-5)
    assert {t.role for t in confirm} == {"confirm"}
    assert confirm[-1].why == "fresh seed 2 of 2 for trial 0"
    assert last == NextStep(over=True)


@pytest.mark.parametrize("state", ["complete", "diverged"])
def test_a_job_confirms_with_no_more_runs_than_its_plan_says(state):
    """Where all is luck, so that it is hard to stop, and where half of all fresh runs come apart besides."""

    def luck(trial: Trial) -> tuple[float | None, str, int]:
        if trial.role == "confirm" and state == "diverged" and trial.number % 2:
            return None, state, 10
        return 1.0 + random.Random(f"1 {trial.number}").gauss(), "complete", 100

    spec = job(**RATES, budget={"full_runs": 7}, confirm={"top": 5})
    history, last = carried_out(spec, luck)
    assert last == NextStep(over=True)
    bought = [t for t in history if t.role == "confirm"]
    assert len({t.configuration for t in bought}) == 5, "three run always, others because it is all luck"
    assert len(bought) <= spec.confirm.runs == 14


def test_a_good_baseline_is_confirmed_once():
    history, _ = carried_out(job(budget={"full_runs": 3}, confirm={"top": 9, "seeds": 1}), by_rate)
    assert len(history) == 3 + 3


def test_a_confirming_run_that_fails_is_not_repeated():
    def outcome(trial: Trial) -> tuple[float | None, str, int]:
        return (None, "failed", 10) if trial.role == "confirm" else by_rate(trial)

    history, last = carried_out(job(budget={"full_runs": 6}, confirm={"top": 3, "seeds": 2}), outcome)
    assert 6 + 3 <= len(history) <= 6 + 4
    assert last == NextStep(over=True)


def test_the_job_is_not_over_while_a_confirming_run_is_at_it():
    spec = job(budget={"full_runs": 2}, confirm={"top": 1, "seeds": 1})
    history, _ = carried_out(spec, by_rate)
    busy = [*history[:-1], history[-1].model_copy(update={"state": TrialState.RUNNING})]
    assert asked(spec, busy) == NextStep()


def test_a_larger_budget_resumes_the_search():
    history, last = carried_out(job(budget={"full_runs": 3}), by_rate)
    assert last.over
    assert asked(job(budget={"full_runs": 4}), history).proposal.role == "search"


def test_an_exhausted_space_ends_the_search_and_the_job_says_so():
    spec = job(
        **RATES,
        schedules=["constant"],
        warmup=0.0,
        search={"sampler": {"name": "grid", "points": 2}},
        confirm={"top": 0},
    )
    history, last = carried_out(spec, by_rate)
    assert len(history) == 3
    left = "17 of 20 full runs left: it found nothing more to try in this job's space"
    assert last == NextStep(over=True, reason=f"the search ended with {left}")


def test_three_failures_at_the_start_are_enough():
    history, last = carried_out(job(), lambda trial: (None, "failed", 0))
    assert len(history) == 3
    assert last == NextStep(over=True, failure="the first 3 trials failed; the last of them: out of memory")


def test_five_failures_in_a_row_are_enough():
    history, last = carried_out(job(), lambda t: by_rate(t) if t.number < 4 else (None, "failed", 0))
    assert len(history) == 9
    assert last.failure == "the last 5 trials failed; the last of them: out of memory"


def test_a_job_whose_trials_all_diverge_says_so_and_what_to_do():
    history, last = carried_out(job(**RATES, budget={"full_runs": None, "trials": 6}), lambda t: (None, "diverged", 5))
    assert len(history) == 6
    assert last.over
    assert "6 diverged" in last.failure
    assert "try lower rates" in last.failure
    assert last.failure.endswith("; all of them ended at step 5: look at how loss is measured there")
    apart = carried_out(job(budget={"full_runs": 3}), lambda t: (None, "diverged", 5 + t.number))[1]
    assert "all of them" not in apart.failure


def test_a_good_baseline_outside_the_space_is_no_answer():
    spec = job(schedules=["linear"], budget={"full_runs": 3})
    _, last = carried_out(spec, lambda t: by_rate(t) if t.role == "baseline" else (None, "stopped", 50))
    assert "stopped" in last.failure
    assert '"none"' in last.failure


def test_reused_steps_and_what_a_stage_leaves_out_cost_nothing():
    spec = job(budget={"full_runs": 9.5})
    history: list[Trial] = []
    full = begin(history, asked(spec, history).proposal)
    stage = full.model_copy(update={"until": 40})
    half = end(history, full, value=1.0, reused=50)
    shared = stage.model_copy(update={"reused": 10})
    assert [spent([t], steps=100) for t in (full, stage, half, shared)] == [1.0, 0.4, 0.5, 0.3]


STAGED = {"search": {"sampler": "curve", "pruner": "none", "seed": 5}, "horizon": {"steps": 100}}
SHORT = {"budget": {"full_runs": None, "seconds": 60}}


def staged(goal: str = "minimize") -> AdmittedJob:
    """A job trained in stages, whose search ends after a minute."""
    return job(**STAGED, **SHORT, metric={"name": "loss", "goal": goal})


@lru_cache
def _paused(goal: str) -> tuple[Trial, ...]:
    spec, history = staged(goal), list[Trial]()
    sign = spec.metric.sign
    end(history, begin(history, asked(spec, history).proposal), value=sign * 0.5)
    for place in range(4):
        trial = begin(history, asked(spec, history).proposal)
        reports = [Report(step=trial.until, learning_rate=0.1, metrics={"loss": sign * (0.9 + 0.1 * place)})]
        end(history, trial, reports=reports)
    return tuple(history)


def paused(goal: str = "minimize") -> list[Trial]:
    """Its baseline came to 0.5 (or -0.5, to be maximised), four worse trials paused after a stage."""
    return list(_paused(goal))


@pytest.mark.parametrize(("goal", "best"), [("minimize", 0.5), ("maximize", -0.5)])
def test_what_is_still_paused_when_the_search_ends_is_stopped_with_its_reason_before_the_confirming(goal, best):
    spec, history = staged(goal), paused(goal)
    step = asked(spec, history, 60.0)
    assert (step.proposal, step.over, list(step.stopped)) == (None, False, [1, 2, 3, 4])
    ends = [
        reason.removesuffix(f" forecast at its end, {best} is the best whole run") for reason in step.stopped.values()
    ]
    assert all(0.5 < float(end) / (2 * best) < 1.5 for end in ends)
    stop(history, step)
    assert asked(spec, history, 60.0).proposal.role == "confirm"


def test_nothing_is_stopped_while_a_trial_of_the_search_runs():
    spec, history = staged(), paused()
    begin(history, asked(spec, history).proposal)
    assert asked(spec, history, 60.0) == NextStep()


def test_a_paused_trial_of_a_search_that_knows_no_end_says_where_it_paused():
    spec, history = staged(), paused()
    history[0] = history[0].model_copy(update={"state": TrialState.DIVERGED, "value": None})
    end(history, begin(history, asked(spec, history, 60.0).proposal), "diverged")
    assert asked(spec, history, 60.0).stopped == {
        trial.number: f"the search is over; it was paused at step {trial.step} of 100"
        for trial in history
        if trial.state is TrialState.PAUSED
    }


@pytest.mark.parametrize("fate", ["diverged", "failed"])
def test_a_search_that_ends_with_a_baseline_that_came_to_nothing_brings_one_of_its_own_to_its_end(fate):
    spec, history = staged(), paused()
    history[0] = history[0].model_copy(update={"state": TrialState(fate), "value": None})
    trial = begin(history, asked(spec, history, 60.0).proposal)
    assert (trial.number > 0, trial.until) == (True, None)
    end(history, trial, value=0.4)
    stop(history, asked(spec, history, 60.0))
    assert not asked(spec, history, 60.0).failure


def test_a_baseline_that_failed_before_the_first_whole_run_is_trained_once_more():
    """A loop's first start breaks by its mistakes; mended, its answer said "no baseline to compare with"."""
    history, last = carried_out(job(budget={"full_runs": 4}), lambda t: by_rate(t) if t.number else (None, "failed", 0))
    assert [trial.role for trial in history[:4]] == ["baseline", "search", "baseline", "search"]
    assert sum(trial.role == "baseline" for trial in history) == 2
    assert (last.over, last.failure) == (True, "")
    history, _ = carried_out(
        job(budget={"full_runs": 4}), lambda t: by_rate(t) if t.role != "baseline" else (None, "failed", 0)
    )
    assert sum(trial.role == "baseline" for trial in history) == 2


@pytest.mark.parametrize("sampler", ["random", "curve"])
def test_what_nobody_had_begun_as_its_search_was_stopped_is_asked_for_again_when_that_goes_on(sampler):
    tried = {"try": [{"learning_rate": 0.002}], **RATES}
    spec = job(**tried, budget={"full_runs": 4}, confirm={"top": 0}, search={"sampler": sampler, "pruner": "none"})
    history: list[Trial] = []
    end(history, begin(history, asked(spec, history).proposal), value=0.5)
    gone = begin(history, asked(spec, history).proposal, "cancelled")
    assert gone.configuration.learning_rate == 0.002
    assert advance(spec, history, steps=100, seconds=0.0, stopped=True).over
    again = begin(history, asked(spec, history).proposal)
    assert again.configuration == gone.configuration
    end(history, again, value=0.4)
    while not (step := asked(spec, history)).over:
        if step.proposal:
            trial = begin(history, step.proposal)
            end(history, trial, value=None if trial.until else 0.6, reports=[])
        else:
            stop(history, step)
    trained = [trial for trial in history if trial.cost]
    assert spent(trained, steps=100) > 3.0
    if sampler == "random":
        assert len(trained) == 4


def test_a_loop_of_ones_own_is_given_up_after_as_many_trials_that_show_nothing_as_may_fail():
    spec = job(task="external", budget={"full_runs": 50})
    history, last = carried_out(spec, lambda t: (None, "diverged", 30))
    assert len(history) == 3
    assert last.failure == "the first 3 trials came to no loss (3 diverged); the last of them: out of memory"
    history, last = carried_out(spec, lambda t: by_rate(t) if t.number < 4 else (None, "diverged", 0))
    assert len(history) == 4 + 5
    assert last.failure == "the last 5 trials came to no loss (5 diverged); the last of them: out of memory"
    history, last = carried_out(spec, lambda t: by_rate(t) if t.number < 4 else (None, "diverged", 100))
    assert spent(history[:50], steps=100) == 50, "what costs something ends with the budget, as it always has"


def test_a_search_that_failed_stops_its_paused_trials_and_then_says_why():
    spec, history = staged(), paused()
    for _ in range(5):
        end(history, begin(history, asked(spec, history).proposal), "failed", step=0, reason="out of memory")
    step = asked(spec, history)
    assert list(step.stopped) == [1, 2, 3, 4]
    assert not step.failure
    stop(history, step)
    assert asked(spec, history).failure == "the last 5 trials failed; the last of them: out of memory"


def test_a_larger_budget_may_resume_what_was_stopped_at_the_end():
    spec, history = staged(), paused()
    stop(history, asked(spec, history, 60.0))
    longer = job(**STAGED, budget={"full_runs": 2.33})  # 1.35 of them are spent: no new run fits
    step = asked(longer, history)
    assert step.proposal.until is None
    assert history[step.proposal.resume].state is TrialState.STOPPED


@pytest.mark.parametrize("given_up", [False, True])
def test_a_run_that_was_broken_off_as_its_search_was_stopped_goes_on_with_the_search(given_up):
    spec, history = job(budget={"trials": 6}), list[Trial]()
    for _ in range(2):
        end(history, begin(history, asked(spec, history).proposal), "complete", value=0.5)
    end(history, begin(history, asked(spec, history).proposal), "paused", step=40)
    if given_up:
        stop(history, advance(spec, history, steps=100, seconds=0.0, stopped=True))
    proposal = asked(spec, history).proposal
    assert (proposal.run, proposal.resume, proposal.until) == (history[2].run, 2, None)
    assert proposal.reason == "goes on from where it was as the search was stopped, at step 40 of 100"
    end(history, begin(history, proposal), "complete", value=0.4)
    assert asked(spec, history).proposal.resume is None
