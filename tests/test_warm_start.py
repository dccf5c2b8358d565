"""`warm_start`: a job learns from earlier ones on the same task if it asks for it, and says from which."""

import math
from functools import lru_cache
from statistics import fmean

import pytest
from sqlalchemy import select

from lrtune.errors import Invalid
from lrtune.search import advance, suggest
from lrtune.store import Database, jobs, warm_start
from lrtune.store.tables import JobRow
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import REPORTS, Report, Trial, TrialState, WarmStartTrial
from tests import simulated
from tests.serving import served, slug, trained

STEPS = 200
SMALL = {"task": "digits", "horizon": {"steps": 40}}


def job(sampler: str = "curve", **fields: object) -> AdmittedJob:
    counted = {"budget": {"trials": 20}}  # in complete runs
    return simulated.job(sampler, steps=STEPS, **(counted | fields))


def basin(configuration: Configuration, steps: int = STEPS) -> float:
    """Best at one mean rate, and annealed."""
    rates = configuration.learning_rates(steps)
    return 1.0 + 0.3 * math.log(fmean(rates) / 0.003) ** 2 + 0.1 * fmean(rates[-steps // 20 :]) / fmean(rates)


def loss(trial: Trial) -> list[Report]:
    end = basin(trial.configuration, trial.horizon)
    return simulated.evenly([end + 2.0 * (1.0 - i / REPORTS) ** 2 for i in range(1, REPORTS + 1)], trial.horizon)


def study(spec: AdmittedJob, trials: int, steps: int = STEPS, **asking: object) -> list[Trial]:
    history: list[Trial] = []
    for _ in range(trials):
        simulated.train(history, suggest(spec, history, steps=steps, **asking), loss)
    return history


@lru_cache
def known(steps: int = STEPS) -> tuple[WarmStartTrial, ...]:
    """What an earlier job of sixteen random runs shows."""
    found = study(job("random", horizon={"steps": steps}), 16, steps)
    return tuple(WarmStartTrial(job="job-old", trial=trial) for trial in found)


@pytest.mark.parametrize("sampler", ["curve", "tpe"])
class TestSearch:
    def test_the_best_of_the_earlier_job_runs_first_and_says_so(self, sampler):
        warm = known()
        best = min((one.trial for one in warm), key=lambda trial: trial.value)
        history = study(job(sampler), 2, warm_start=warm)
        assert [trial.role for trial in history] == ["baseline", "search"]
        assert history[1].configuration == best.configuration
        assert history[1].why == f"warm start: the best of earlier jobs (trial {best.number} of job-old, 200 steps)"

    def test_the_first_trials_are_better_than_a_cold_start(self, sampler):
        cold, warm = study(job(sampler), 7), study(job(sampler), 7, warm_start=known())
        assert fmean(trial.value for trial in warm[2:]) < fmean(trial.value for trial in cold[2:])
        assert "start-up" not in warm[2].why

    def test_the_same_warm_start_gives_the_same_answer(self, sampler):
        spec, warm = job(sampler), known()
        history = study(spec, 3, warm_start=warm)
        answers = [
            suggest(spec, past, steps=STEPS, warm_start=one)
            for past, one in ((history, warm), (history[::-1], warm[::-1]))
        ]
        assert answers[0] == answers[1]

    def test_earlier_trials_cost_the_job_nothing(self, sampler):
        spec = job(sampler, budget={"full_runs": 3, "trials": 3}, confirm={"top": 0})
        history: list[Trial] = []
        while asked := advance(spec, history, steps=STEPS, seconds=0.0, warm_start=known()).proposal:
            simulated.train(history, asked, loss)
        assert [trial.number for trial in history] == [0, 1, 2]

    @pytest.mark.parametrize("steps", [50, 800])
    def test_earlier_runs_over_other_steps_are_taken_as_what_they_are(self, sampler, steps):
        warm = known(steps)
        history = study(job(sampler), 4, warm_start=warm)
        assert f"{steps} steps" in history[1].why
        assert len({trial.configuration for trial in history}) == 4

    def test_stopped_and_diverged_ones_teach_as_well(self, sampler):
        def cut(one: WarmStartTrial) -> WarmStartTrial:
            half = {"state": TrialState.STOPPED, "value": None, "step": STEPS // 2, "reports": one.trial.reports[:10]}
            gone = {"state": TrialState.DIVERGED, "value": None, "step": 3, "reports": []}
            return one.model_copy(update={"trial": one.trial.model_copy(update=[half, gone][one.trial.number % 2])})

        warm = [cut(one) for one in known()]
        history = study(job(sampler), 4, warm_start=warm)
        assert not any(trial.why.startswith("warm start") for trial in history)


def test_a_gaussian_process_of_optunas_learns_from_it_as_well():
    spec, warm = job("gp"), known()
    asked = suggest(spec, study(spec, 2, warm_start=warm), steps=STEPS, warm_start=warm)
    assert asked.reason.startswith("gp after 2 results and 16 of the warm start, best so far ")


def test_a_configuration_that_fresh_seeds_bore_out_comes_before_a_lucky_run():
    warm = known()
    solid = warm[3].trial
    fresh = [
        WarmStartTrial(
            job="job-old", trial=solid.model_copy(update={"number": 30 + i, "role": "confirm", "seed": 8 + i})
        )
        for i in range(2)
    ]
    assert study(job(), 2, warm_start=[*warm, *fresh])[1].configuration == solid.configuration


def test_what_the_new_space_does_not_have_is_moved_to_its_nearest():
    narrow = job(optimizers=[{"name": "adamw", "learning_rate": [1e-5, 1e-4]}], schedules=["constant", "cosine"])
    rates = [t.configuration.learning_rate for t in study(narrow, 4, warm_start=known())[1:]]
    assert max(rates) <= 1e-4
    assert study(narrow, 2, warm_start=known())[1].why.endswith("learning rate 8.84e-05 for 0.001")
    other = job(optimizers=["sgd"])
    assert not study(other, 2, warm_start=known())[1].why.startswith("warm start")


def test_knobs_that_the_new_job_fixes_otherwise_are_said_to_be_moved():
    found = study(job(optimizers=[{"name": "sgd", "momentum": 0.95}], floor=0.1), 2)[1]
    fixed = job(optimizers=[{"name": "sgd", "momentum": 0.9}], floor=0.0)
    first = study(fixed, 2, warm_start=[WarmStartTrial(job="job-old", trial=found)])[1]
    assert first.why.endswith("200 steps), moved to what this job has: momentum 0.9 for 0.95, floor 0 for 0.1")
    assert (first.configuration.optimizer.momentum, first.configuration.floor) == (0.9, 0.0)


def test_a_job_names_earlier_ones_or_asks_for_all_and_its_log_says_what_it_took(database_url):
    with served(database_url) as service:
        cold = service.post("/v1/jobs", json=SMALL | {"warm_start": True}).json()
        trained(database_url, cold["id"], [0.5, 0.25])
        old = service.post("/v1/jobs", json=SMALL | {"horizon": {"steps": 40}}).json()
        trained(database_url, old["id"], [0.5, 0.25, 0.3])
        jobs_asked = [
            service.post("/v1/jobs", json=SMALL | {"warm_start": asked}).json() for asked in (True, [old["id"]], False)
        ]
        said = [
            [event for event in service.get(f"/v1/jobs/{one['id']}/events").json()["items"] if "warm" in event["kind"]]
            for one in (cold, *jobs_asked)
        ]
        plan = service.post("/v1/jobs?validate_only=true", json=SMALL | {"warm_start": [old["id"]]}).json()
    ids = [[], [old["id"], cold["id"]], [old["id"]], False]
    assert [one["spec"]["warm_start"] for one in (cold, *jobs_asked)] == ids
    assert said[0][0]["message"].endswith("with these parameters and this metric, so nothing to learn from")
    assert said[1][0]["data"] == {"jobs": {old["id"]: 3, cold["id"]: 2}}
    assert said[2][0]["message"] == f"warm start: the search learns from 3 trials of {old['id']} (40 steps)"
    assert said[3] == []
    assert "trial 1 of " + old["id"] in plan["first"][1]["reason"]


def test_what_cannot_teach_is_refused_in_words(database_url):
    with served(database_url) as service:
        running = service.post("/v1/jobs", json=SMALL).json()["id"]
        other = service.post("/v1/jobs", json={"task": {"name": "digits", "params": {"batch_size": 8}}}).json()["id"]
        measured = service.post("/v1/jobs", json=SMALL | {"metric": {"name": "val_accuracy"}}).json()["id"]
        for one in (other, measured):
            service.post(f"/v1/jobs/{one}/cancel")
        asked = SMALL | {"warm_start": ["job-none", running, other, measured]}
        answers = [service.post(f"/v1/jobs{query}", json=asked) for query in ("", "?validate_only=true")]
        kinds = [service.post("/v1/jobs", json=SMALL | {"warm_start": value}) for value in ("yes", [1], 3, None)]
        blind = service.post("/v1/jobs", json=SMALL | {"search": {"sampler": "random"}, "warm_start": True})
    for answer in answers:
        assert (answer.status_code, slug(answer)) == (422, "invalid")
        found = {one["pointer"]: one["detail"] for one in answer.json()["errors"]}
        assert list(found) == [f"/warm_start/{i}" for i in range(4)]
        assert "no job here" in found["/warm_start/0"]
        assert "which is queued; accepted are jobs that are over" in found["/warm_start/1"]
        assert "with other batch_size" in found["/warm_start/2"]
        assert "a job that tuned val_accuracy" in found["/warm_start/3"]
    for answer in kinds:
        assert answer.status_code == 422
        (one,) = answer.json()["errors"]
        assert one["pointer"] == "/warm_start"
        assert "accepted is true, false, or a list" in one["detail"]
    assert "the sampler random does not learn from earlier jobs" in blind.json()["detail"]


def test_what_is_learnt_stays_as_it_was_when_the_job_came(database_url):
    with served(database_url) as service:
        old = service.post("/v1/jobs", json=SMALL).json()["id"]
        trained(database_url, old, [0.5, 0.25])
        new = service.post("/v1/jobs", json=SMALL | {"warm_start": [old]}).json()
        service.post(f"/v1/jobs/{old}/extend", json={"budget": {"full_runs": 30}})
        database = Database(database_url)
        spec = AdmittedJob.model_validate(new["spec"])
        with database.read() as tx:
            made = jobs.get(tx, new["id"]).created_at
            before, later = warm_start.read(tx, spec, before=made), warm_start.read(tx, spec)
        assert [one.trial.value for one in before] == [one.trial.value for one in later] == [0.5, 0.25]
        with database.write() as tx:
            jobs.cancel(tx, old)
            jobs.delete(tx, old)
            assert warm_start.read(tx, spec, before=made) == []
            with pytest.raises(Invalid, match="no job here"):
                jobs.create(tx, spec)
        database.dispose()


def test_a_job_of_before_a_parameter_was_there_teaches_as_well(database_url):
    database = Database(database_url)
    with served(database_url) as service:
        earlier = service.post("/v1/jobs", json=SMALL).json()["id"]
        service.post(f"/v1/jobs/{earlier}/cancel")
        with database.write() as tx:
            row = tx.scalars(select(JobRow).where(JobRow.id == earlier)).one()
            params = {name: value for name, value in row.spec["task"]["params"].items() if name != "noise"}
            row.spec = row.spec | {"task": row.spec["task"] | {"params": params}}
        answer = service.post("/v1/jobs", json=SMALL | {"warm_start": [earlier]})
        other = SMALL | {"task": {"name": "digits", "params": {"noise": 0.5}}, "warm_start": [earlier]}
        refused = service.post("/v1/jobs", json=other)
    database.dispose()
    assert answer.status_code == 201, answer.text
    assert "with other noise" in refused.json()["errors"][0]["detail"]
