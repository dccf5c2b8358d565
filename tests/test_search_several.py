"""The search decides for all workers who wait at once, and it is all written down at once."""

from datetime import timedelta
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

from lrtune.search import advance
from lrtune.search.advance import spent
from lrtune.store import Database, events, jobs, leases, shares, thinking, trials, workers
from lrtune.wire.results import JobState, NextStep, Report, Trial, TrialState
from tests import simulated
from tests.leasing import NOON, PLAIN, SPEC
from tests.serving import Done
from tests.simulated import begin, evenly
from worker.loop import Worker
from worker.settings import Settings

STEPS = 200


def learned(trial: Trial) -> list[Report]:
    """Best at one mean rate, and the better the longer it is trained."""
    rates = trial.configuration.learning_rates(STEPS)
    off = abs(sum(rates) / STEPS - 0.003) / 0.003
    return evenly([1.0 + min(off, 5.0) + 2.0 * (1 - place / 20) for place in range(1, 21)], STEPS)


def job(**fields: object):
    return simulated.job("curve", steps=STEPS, **fields)


def asked(spec, history: list[Trial], waiting: int) -> NextStep:
    return advance(spec, history, steps=STEPS, seconds=0.0, waiting=waiting)


@pytest.fixture(scope="module")
def twelve() -> list[Trial]:
    """A job after its initial design and some stages more."""
    history: list[Trial] = []
    while len(history) < 12:
        found = asked(job(), history, 1).proposal
        assert found is not None
        simulated.train(history, found, learned)
    return history


def test_all_who_wait_get_something_else_to_train_and_the_first_gets_what_it_would_alone(twelve):
    alone, step = asked(job(), twelve, 1), asked(job(), twelve, 4)
    assert alone.more == []
    assert step.proposal == alone.proposal
    assert len({found.run for found in [step.proposal, *step.more]}) == 4
    assert asked(job(), twelve, 4) == step


@pytest.mark.parametrize("sampler", ["tpe", "qmc", "grid", "cmaes", "gp"])
def test_a_sampler_that_looks_at_all_before_each_draw_draws_once_at_a_time(sampler: str):
    """Sixty draws of a process over three hundred results would hold up everybody for minutes."""
    spec, history = simulated.job(sampler, steps=STEPS), list[Trial]()
    simulated.train(history, asked(spec, history, 60).proposal, learned)
    assert asked(spec, history, 60).more == []


def test_random_draws_are_at_once_what_they_are_one_after_the_other():
    spec, history = simulated.job("random", steps=STEPS), list[Trial]()
    simulated.train(history, asked(spec, history, 3).proposal, learned)
    step, alone = asked(spec, history, 3), list(history)
    assert len(step.more) == 2
    for found in (step.proposal, *step.more):
        assert found == asked(spec, alone, 1).proposal
        begin(alone, found)
    assert len({found.configuration for found in (step.proposal, *step.more)}) == 3


@pytest.mark.parametrize("sampler", ["curve", "random"])
@pytest.mark.parametrize(
    ("budget", "continued"), [({"trials": 5}, True), ({"full_runs": 5}, True), ({"full_runs": 5}, False)]
)
def test_however_many_wait_no_budget_is_overspent(budget: dict[str, int], continued: bool, sampler: str):
    spec, history = simulated.job(sampler, steps=STEPS, budget=budget, confirm={"top": 0}), list[Trial]()
    while (step := advance(spec, history, steps=STEPS, seconds=0.0, waiting=9, continued=continued)).proposal:
        for trial in [begin(history, found) for found in (step.proposal, *step.more)]:
            assert spent(history, steps=STEPS) <= 5 + 1e-9
            assert len(history) <= budget.get("trials", 1000)
            simulated.end(history, trial, reports=learned(trial)[: 20 * (trial.until or STEPS) // STEPS])
    assert len(history) >= 5


def test_the_initial_design_is_handed_out_at_once():
    history: list[Trial] = []
    for _ in range(2):  # the baseline, and a range test
        simulated.train(history, asked(job(), history, 4).proposal, learned)
    step = asked(job(), history, 4)
    assert all(found.reason.startswith("initial design") for found in [step.proposal, *step.more])
    assert len({found.configuration for found in [step.proposal, *step.more]}) == 4


def test_however_many_wait_the_budget_holds():
    spec, workers, most = job(budget={"full_runs": 3.0}, confirm={"top": 0}), 6, 0
    history: list[Trial] = []
    while not (step := asked(spec, history, max(1, workers - _running(history)))).over:
        if step.proposal and _running(history) < workers:
            for found in [step.proposal, *step.more]:
                begin(history, found)
            most = max(most, _running(history))
        elif _running(history):
            first = min((t for t in history if t.state is TrialState.RUNNING), key=lambda t: t.decision)
            until = first.until or first.horizon
            reports = [report for report in learned(first) if report.step <= until]
            value = None if first.until else reports[-1].metrics["loss"]
            simulated.end(history, first, reports=reports, value=value)
        else:
            simulated.stop(history, step)
        assert spent(history, steps=STEPS) <= 3.0 + 1e-9
    assert most == workers


def _running(history: list[Trial]) -> int:
    return sum(trial.state is TrialState.RUNNING for trial in history)


def decided(*seeds: int) -> NextStep:
    first = {"configuration": PLAIN, "role": "search", "horizon": 100}
    found = [{**first, "seed": seed} for seed in seeds]
    return NextStep.model_validate({"proposal": found[0], "more": found[1:]})


def test_what_is_decided_at_once_is_written_at_once_or_not_at_all(database: Database) -> None:
    with database.write() as tx:
        job_id = jobs.create(tx, SPEC, now=NOON)[0].id
        jobs.carry_out(tx, job_id, decided(0, 1, 2), known=0)
        jobs.carry_out(tx, job_id, decided(3, 4), known=0)  # of a worker who was slower
        jobs.carry_out(tx, job_id, decided(5), known=3)
    with database.read() as tx:
        found = trials.history(tx, job_id)
    assert [(t.number, t.decision, t.seed) for t in found] == [(0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 5)]


def test_workers_without_a_trial_who_know_the_task_wait(database: Database) -> None:
    soon, later = NOON + timedelta(seconds=1), NOON + timedelta(minutes=1)
    with database.write() as tx:
        job_id = jobs.create(tx, SPEC, now=NOON)[0].id
        for name, tasks in (("a", ["digits"]), ("b", ["digits", "text"]), ("c", ["text"]), ("d", ["digits"])):
            workers.sign_in(tx, name, host="h", pid=1, device=workers.Device("cpu"), tasks=tasks, now=NOON)
        workers.seen(tx, "d", job="j", trial=3, now=NOON)
        assert thinking.wanted(tx, job_id, now=soon) == 2
        assert thinking.wanted(tx, job_id, now=later) == 1  # who asks, if nobody else


@pytest.mark.parametrize(("run", "workers_", "ready"), [(60, 4, 0), (60, 9, 6), (900, 9, 0)])
def test_suggestions_lie_ready_where_a_thought_is_long_beside_a_stage(
    database: Database, run: int, workers_: int, ready: int
) -> None:
    """Of so many workers one has ended, and the others train."""
    able = shares.Able(["digits"])
    with database.write() as tx:
        job_id = jobs.create(tx, SPEC, now=NOON)[0].id
        jobs.carry_out(tx, job_id, decided(*range(workers_ + 1)), known=0)
        held = [leases.claim(tx, f"w{n}", ttl=timedelta(hours=1), job_id=job_id, now=NOON) for n in range(workers_)]
        assert held[0] is not None
        later = NOON + timedelta(seconds=run)
        leases.finish(tx, held[0], TrialState.COMPLETE, value=0.5, step=100, now=later)
        turn = shares.whose_turn(tx, able, now=later)
        assert turn is not None
        assert turn.undecided is (ready > 1), "else it takes the one that waits"
        assert thinking.wanted(tx, job_id, now=later + timedelta(minutes=1)) == max(1, ready - 1)


def test_a_worker_decides_for_one_that_waits_beside_it(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thinking, "IDLE", timedelta(hours=1))  # however slow this machine is
    database = Database(sqlite_url)
    with database.write() as tx:
        spec = simulated.job(
            "curve",
            steps=40,
            metric={"name": "val_loss", "goal": "minimize"},
            budget={"full_runs": 3},
            confirm={"top": 0},
        )
        job_id = jobs.create(tx, spec)[0].id
        workers.sign_in(tx, "other", host="h", pid=1, device=workers.Device("cpu"), tasks=["digits"])
    Worker(Settings(database_url=sqlite_url, device="cpu", state_dir=str(tmp_path / "states")), Done()).work()
    with database.read() as tx:
        log = [event.kind for event in events.page(tx, job_id, after=0, limit=1000).items]
        assert jobs.state(tx, job_id) == JobState.SUCCEEDED
    database.dispose()
    assert ("trial-proposed", "trial-proposed") in pairwise(log)


def test_one_model_that_is_asked_for_many_repeats_none_of_them_nearly(twelve):
    step = asked(job(budget={"full_runs": 60}), twelve, 12)
    found = [step.proposal, *step.more]
    assert step.proposal == asked(job(budget={"full_runs": 60}), twelve, 1).proposal
    assert len(found) == 12
    curves = [np.array(one.configuration.learning_rates(STEPS)) for one in found]
    apart = [np.abs(np.log((a + 1e-9) / (b + 1e-9))).max() for a, b in combinations(curves, 2)]
    assert min(apart) > 0.01
