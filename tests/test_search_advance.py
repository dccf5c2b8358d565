"""What a job does next: never more than its budget, then exactly the confirming runs, then nothing."""

import random

import pytest

from lrtune.search import Step, advance
from lrtune.search.advance import spent
from lrtune.wire.job import JobSpec
from lrtune.wire.results import Trial, TrialState

RATES = {"optimizers": [{"name": "adamw", "learning_rate": [0.0001, 0.01]}]}


def job(**fields: object) -> JobSpec:
    whole = {
        "task": "digits",
        "metric": {"name": "loss", "goal": "minimize"},
        "search": {"sampler": "random", "seed": 5},
    }
    return JobSpec.model_validate(whole | fields)


def started(history: list[Trial], step: Step) -> Trial:
    asked = step.proposal
    assert asked
    whole = {"number": len(history), "role": asked.role, "why": asked.reason, "seed": asked.seed}
    return Trial(configuration=asked.configuration, state=TrialState.RUNNING, horizon=100, **whole)


def ended(trial: Trial, value: float | None, state: str = "complete", step: int = 100) -> Trial:
    return trial.model_copy(
        update={"state": TrialState(state), "value": value, "step": step, "reason": "out of memory"}
    )


def carried_out(spec: JobSpec, outcome, trials: int = 1000) -> tuple[list[Trial], Step]:
    """A job run by one worker: `outcome(trial)` is (value, state, steps)."""
    history: list[Trial] = []
    while len(history) < trials and (step := advance(spec, history, steps=100, seconds=0.0)).proposal:
        trial = started(history, step)
        history.append(ended(trial, *outcome(trial)))
    return history, advance(spec, history, steps=100, seconds=0.0)


def by_rate(trial: Trial) -> tuple[float, str, int]:
    return abs(trial.configuration.learning_rate - 0.003) + trial.seed / 1e6, "complete", 100


@pytest.mark.parametrize("seed", range(3))
def test_three_workers_never_overspend(seed):
    chance = random.Random(seed)
    spec = job(budget={"full_runs": 9.5})
    history: list[Trial] = []
    while not (step := advance(spec, history, steps=100, seconds=0.0)).over:
        running = [t for t in history if t.state is TrialState.RUNNING]
        if step.proposal and len(running) < 3:
            history.append(started(history, step))
        else:
            assert running
            one = chance.choice(running)
            state = chance.choice(["complete", "stopped", "diverged"])
            value = chance.random() if state == "complete" else None
            history[one.number] = ended(one, value, state, 100 if state == "complete" else chance.randrange(5, 100, 5))
        search = [t for t in history if t.role != "confirm"]
        assert spent(search, steps=100) <= 9.5
    assert spent(search, steps=100) > 8.5
    assert not step.failure


def test_the_search_waits_for_a_running_trial_that_may_leave_room():
    spec = job(budget={"full_runs": 2.0})
    history = [started([], advance(spec, [], steps=100, seconds=0.0))]
    history.append(started(history, advance(spec, history, steps=100, seconds=0.0)))
    assert advance(spec, history, steps=100, seconds=0.0) == Step(None, over=False)
    history[0] = ended(history[0], None, "diverged", 0)
    assert advance(spec, history, steps=100, seconds=0.0).proposal


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
    assert last == Step(None, over=True)


def test_time_ends_the_search_but_not_the_confirming():
    spec = job(budget={"full_runs": None, "seconds": 60})
    history, _ = carried_out(spec, by_rate, trials=4)
    assert advance(spec, history, steps=100, seconds=59.0).proposal.role == "search"
    assert advance(spec, history, steps=100, seconds=60.0).proposal.role == "confirm"


def test_one_configuration_of_the_own_space_is_tried_whatever_the_budget():
    history, last = carried_out(job(schedules=["linear"], budget={"full_runs": 1}, confirm={"top": 0}), by_rate)
    assert [t.role for t in history] == ["baseline", "search"]
    assert last == Step(None, over=True)


def test_the_best_few_and_the_baseline_run_over_fresh_seeds_seed_by_seed():
    spec = job(**RATES, budget={"full_runs": 8}, confirm={"top": 2, "seeds": 2})
    history, last = carried_out(spec, by_rate)
    search, confirm = history[:8], history[8:]
    first, second = sorted(search, key=lambda t: t.value)[:2]
    wanted = [first, second, search[0]] if search[0] not in (first, second) else [first, second]
    assert [(t.configuration, t.seed) for t in confirm] == [(t.configuration, s) for s in (6, 7) for t in wanted]
    assert {t.role for t in confirm} == {"confirm"}
    assert confirm[-1].why == f"fresh seed 2 of 2 for trial {wanted[-1].number}"
    assert last == Step(None, over=True)


def test_a_good_baseline_is_confirmed_once():
    history, _ = carried_out(job(budget={"full_runs": 3}, confirm={"top": 9, "seeds": 1}), by_rate)
    assert len(history) == 3 + 3


def test_a_confirming_run_that_fails_is_not_repeated():
    def outcome(trial: Trial) -> tuple[float | None, str, int]:
        return (None, "failed", 10) if trial.role == "confirm" else by_rate(trial)

    history, last = carried_out(job(budget={"full_runs": 6}, confirm={"top": 3, "seeds": 2}), outcome)
    assert 6 + 6 <= len(history) <= 6 + 8
    assert last == Step(None, over=True)


def test_the_job_is_not_over_while_a_confirming_run_is_at_it():
    spec = job(budget={"full_runs": 2}, confirm={"top": 1, "seeds": 1})
    history, _ = carried_out(spec, by_rate)
    busy = [*history[:-1], history[-1].model_copy(update={"state": TrialState.RUNNING})]
    assert advance(spec, busy, steps=100, seconds=0.0) == Step(None, over=False)


def test_a_larger_budget_resumes_the_search():
    history, last = carried_out(job(budget={"full_runs": 3}), by_rate)
    assert last.over
    assert advance(job(budget={"full_runs": 4}), history, steps=100, seconds=0.0).proposal.role == "search"


def test_an_exhausted_space_ends_the_search():
    spec = job(
        **RATES,
        schedules=["constant"],
        warmup=0.0,
        search={"sampler": {"name": "grid", "points": 2}},
        confirm={"top": 0},
    )
    history, last = carried_out(spec, by_rate)
    assert len(history) == 3
    assert last == Step(None, over=True)


def test_three_failures_at_the_start_are_enough():
    history, last = carried_out(job(), lambda trial: (None, "failed", 0))
    assert len(history) == 3
    assert last == Step(None, over=True, failure="the first 3 trials failed; the last of them: out of memory")


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


def test_a_good_baseline_outside_the_space_is_no_answer():
    spec = job(schedules=["linear"], budget={"full_runs": 3})
    _, last = carried_out(spec, lambda t: by_rate(t) if t.role == "baseline" else (None, "stopped", 50))
    assert "stopped" in last.failure
    assert '"none"' in last.failure


def test_credited_steps_and_what_a_planned_look_leaves_out_cost_nothing():
    spec = job(budget={"full_runs": 9.5})
    whole = started([], advance(spec, [], steps=100, seconds=0.0))
    look = whole.model_copy(update={"until": 40})
    half = ended(whole.model_copy(update={"credited": 50}), 1.0)
    running = look.model_copy(update={"credited": 10})
    assert [spent([t], steps=100) for t in (whole, look, half, running)] == [1.0, 0.4, 0.5, 0.3]
