"""How the trials of a user's own loop end: what they cost, what counts as a whole run, when a job gives up."""

import math
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.expiring import expire
from lrtune.store import Database, jobs
from lrtune.store.database import clock
from lrtune.wire.external import Ending
from tests.external import JOB, pass_time, report, submit, take, tell
from tests.serving import served, slug


@pytest.fixture
def door(database_url: str) -> Iterator[httpx.Client]:
    with served(database_url) as client:
        yield client


def drained(door: httpx.Client, job: str, **ending: Any) -> int:
    """How many times a job handed out a trial, each of which ended like this, before it was over."""
    for times in range(40):
        answer = door.post(f"/v1/jobs/{job}/trials")
        if answer.status_code == 409:
            return times
        assert tell(door, job, answer.json(), "finish", **ending).status_code == 200
    raise AssertionError("it never ends")


BARREN = [  # how each trial ends, how often one is handed out, what that costs in full runs, why the job has failed
    ({"state": "diverged"}, 3, 3.0, "the first 3 trials came to no val_loss (3 diverged)"),
    ({"state": "diverged", "step": 0}, 3, 0.0, "the first 3 trials came to no val_loss (3 diverged)"),
    ({"state": "diverged", "step": 10}, 3, 0.75, "the first 3 trials came to no val_loss (3 diverged)"),
    ({"state": "stopped"}, 3, 3.0, "the first 3 trials came to no val_loss (3 stopped)"),
    ({"state": "failed"}, 3, 0.0, "the first 3 trials failed"),
    (
        {"state": "waiting", "reason": "no GPU"},
        15,
        0.0,
        "gave it back 5 times and got no further; the last time: no GPU",
    ),
]


def test_a_loop_whose_trials_come_to_nothing_ends_its_job(door: httpx.Client) -> None:
    for ending, handed_out, full_runs, words in BARREN:
        job = submit(door, budget={"full_runs": 9})
        assert drained(door, job, **ending) == handed_out, ending
        found = door.get(f"/v1/jobs/{job}").json()
        assert (found["state"], found["progress"]["full_runs"]) == ("failed", full_runs), ending
        assert words in found["reason"]
        assert words in [event["message"] for event in door.get(f"/v1/jobs/{job}/events").json()["items"]][-1]


def test_a_value_that_is_no_number_is_divergence_and_costs_the_run(door: httpx.Client) -> None:
    job = submit(door, budget={"full_runs": 2})
    for number in range(2):
        body = '{{"token": "{}", "value": NaN}}'.format(take(door, job)["token"])
        path, kind = f"/v1/jobs/{job}/trials/{number}/finish", {"Content-Type": "application/json"}
        trial = door.post(path, content=body, headers=kind).json()
        assert (trial["state"], trial["step"], trial["value"]) == ("diverged", 40, None)
        assert trial["reason"] == "its value became nan"
    assert slug(door.post(f"/v1/jobs/{job}/trials")) == "job-finished"
    assert door.get(f"/v1/jobs/{job}").json()["progress"]["full_runs"] == 2.0
    assert Ending(token="t", value=math.nan, state="failed").state == "failed", "and what broke is what broke"


def test_a_number_beyond_all_measure_is_divergence(door: httpx.Client) -> None:
    """It could not be squared: with one an answer, a forecast and a picture were at infinity, or failed."""
    job = submit(door, budget={"trials": 5}, search={"pruner": "none"})
    said = report(door, job, take(door, job), 20, 1.7e308)
    assert (said["decision"], said["state"]) == ("stop", "diverged")
    for value in (0.5, -1e200, 10**200, 0.25):
        assert tell(door, job, take(door, job), "finish", value=value).status_code == 200
    trials = door.get(f"/v1/jobs/{job}/trials").json()["items"]
    assert [one["state"] for one in trials] == ["diverged", "complete", "diverged", "diverged", "complete"]
    assert door.get(f"/v1/jobs/{job}/best").json()["value"] == 0.25
    assert door.get(f"/v1/jobs/{job}/report", params={"format": "png"}).status_code == 200
    done = {"configuration": trials[1]["configuration"], "state": "complete", "value": 1.7e308, "horizon": 40}
    answer = door.post("/v1/imports", json={"job": JOB, "trials": [done]})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/trials/0/value")


def test_trials_that_cost_nothing_end_a_job_that_had_a_success(door: httpx.Client) -> None:
    job = submit(door, budget={"full_runs": 9})
    tell(door, job, take(door, job), "finish", value=0.5)
    for ending in ({"state": "diverged", "step": 0}, {"state": "failed"}) * 2:
        tell(door, job, take(door, job), "finish", **ending)
    tell(door, job, take(door, job), "finish", state="diverged")
    assert drained(door, job, state="diverged", step=0) == 5, "one that cost a run came in between"
    assert "the last 5 trials came to no val_loss" in door.get(f"/v1/jobs/{job}").json()["reason"]


ENDINGS = [  # the steps that were reported, what its loop says, and what the trial then is
    ([20, 40], {}, "complete", 40, 0.4),
    ([20, 40], {"value": 0.1}, "complete", 40, 0.4),
    ([10, 20, 40], {"value": 0.1, "step": 10}, "stopped", 40, 0.4),
    ([10, 20], {"state": "stopped", "value": 0.1, "step": 10}, "stopped", 20, 0.2),
    ([10, 30], {"value": 0.1, "step": 20}, "stopped", 30, 0.3),
    ([], {"value": 0.1}, "complete", 40, 0.1),
    ([20], {"value": 0.1, "step": 40}, "complete", 40, 0.1),
    ([20], {}, "stopped", 20, 0.2),
    ([20], {"value": 0.1}, "stopped", 20, 0.2),
    ([20], {"step": 40}, "stopped", 40, 0.2),
    ([20], {"value": 0.1, "step": 30}, "stopped", 30, 0.1),
    ([20], {"state": "stopped"}, "stopped", 20, 0.2),
    ([20], {"state": "diverged"}, "diverged", 20, None),
    ([20], {"state": "failed", "step": 30}, "failed", 30, None),
    ([20, 40], {"state": "diverged", "step": 7}, "diverged", 40, None),
]


def test_a_complete_run_has_a_value_of_its_last_step_and_an_ended_one_costs_what_was_trained(
    door: httpx.Client,
) -> None:
    for steps, ending, state, reached, value in ENDINGS:
        job = submit(door)
        held = take(door, job)
        for step in steps:
            report(door, job, held, step, step / 100)
        trial = tell(door, job, held, "finish", **ending).json()
        assert (trial["state"], trial["step"], trial["value"]) == (state, reached, value), ending
        if state == "stopped":
            newest = max(trial["reports"], key=lambda one: one["step"])
            assert newest["metrics"]["val_loss"] == value, "the trial and the search hold the same"
        assert bool(trial["reason"]) == (state != "complete")
        assert door.get(f"/v1/jobs/{job}").json()["progress"]["full_runs"] == reached / 40
        assert (door.get(f"/v1/jobs/{job}/best").status_code == 200) == (state == "complete")


def test_the_value_of_a_run_that_ended_early_is_a_report_for_the_search(door: httpx.Client) -> None:
    job = submit(door)
    trial = tell(door, job, take(door, job), "finish", value=0.3, step=20).json()
    assert (trial["state"], trial["value"]) == ("stopped", 0.3)
    assert [(one["step"], one["metrics"]) for one in trial["reports"]] == [(20, {"val_loss": 0.3})]


ACCURACY = {"metric": {"name": "accuracy", "goal": "maximize", "range": [0, 1]}}


@pytest.mark.parametrize(
    ("losses", "state"),
    [([0.7, None, None], "diverged"), ([None], "diverged"), ([0.7, None], "stopped"), ([0.7, None, 0.6], "stopped")],
)
def test_a_run_that_ended_early_with_a_loss_that_is_gone_beside_its_accuracy_has_diverged(
    door: httpx.Client, losses: list[float | None], state: str
) -> None:
    job = submit(door, **ACCURACY)
    held = take(door, job)
    for nth, loss in enumerate(losses, 1):
        sent = {"step": 2 * nth, "metrics": {"accuracy": 0.1, "val_loss": loss}}
        assert tell(door, job, held, "reports", reports=[sent]).json()["decision"] == "continue"
    trial = tell(door, job, held, "finish", reason="patience").json()
    assert trial["state"] == state
    if state == "diverged":
        assert trial["value"] is None
        at = 2 * len(losses)
        assert trial["reason"].startswith(f"val_loss was not finite any more as its loop ended it at step {at} of 40")


def test_a_run_that_ended_early_cannot_win_and_says_why(door: httpx.Client) -> None:
    job = submit(door, search={"sampler": "random", "pruner": "none"})
    whole, early = take(door, job), take(door, job)
    report(door, job, whole, 40, 0.5)
    report(door, job, early, 20, 0.001)
    assert tell(door, job, whole, "finish").json()["state"] == "complete"
    reason = tell(door, job, early, "finish").json()["reason"]
    assert reason == (
        "its loop ended it at step 20 of 40, with val_loss of step 20; a complete run has one of its last step"
    )
    assert slug(door.post(f"/v1/jobs/{job}/trials")) == "job-finished"
    assert door.get(f"/v1/jobs/{job}/best").json()["value"] == 0.5


def test_a_loop_that_always_ends_early_ends_with_its_budget_and_hears_what_a_whole_run_is(door: httpx.Client) -> None:
    job = submit(door, budget={"full_runs": 2}, search={"sampler": "random", "pruner": "none"})
    assert drained(door, job, value=0.3, step=20) == 3, "half a run each, and only a whole one begins"
    assert '"horizon": {"steps": 20} in the job' in door.get(f"/v1/jobs/{job}").json()["reason"]


def test_a_loop_shorter_than_the_horizon_ends_its_job_after_three_runs_and_hears_what_to_write(
    door: httpx.Client,
) -> None:
    for ending in ({}, {"state": "stopped", "reason": "patience"}):
        job = submit(door, budget={"full_runs": 20}, horizon={"steps": 100})
        assert drained(door, job, value=0.3, step=70, **ending) == 3
        assert door.get(f"/v1/jobs/{job}").json()["reason"] == (
            'your loop ended its runs at step 70 of 100: write "horizon": {"steps": 70} in the job, '
            "or report val_loss at step 100 (switch early stopping off)"
        )


def test_an_extension_is_no_smaller_and_the_same_again_changes_nothing(door: httpx.Client) -> None:
    had = {"full_runs": 3, "trials": 4, "seconds": 500}
    job = submit(door, budget=had)
    for field, value in had.items():
        answer = door.post(f"/v1/jobs/{job}/extend", json={"budget": had | {field: value - 1}})
        detail = f"found {value - 1}; accepted is more than the {value} it had"
        assert answer.status_code == 422
        assert answer.json()["errors"] == [{"pointer": f"/budget/{field}", "detail": detail}]
    assert door.post(f"/v1/jobs/{job}/extend", json={"budget": had}).status_code == 202
    assert door.get(f"/v1/jobs/{job}").json()["spec"]["budget"] == had


def test_ending_a_trial_twice_changes_nothing(door: httpx.Client) -> None:
    job = submit(door)
    held = take(door, job)
    report(door, job, held, 20, 0.2)
    first = tell(door, job, held, "finish").json()
    assert tell(door, job, held, "finish", value=0.001, step=40).json() == first


def test_a_job_whose_loop_died_does_not_stay_running_and_goes_on_when_it_comes_back(
    door: httpx.Client, database: Database, database_url: str
) -> None:
    job = submit(door)
    dead = take(door, job, worker="host-7", lease_seconds=30)
    report(door, job, dead, 20, 0.5)
    expire(database)
    assert door.get(f"/v1/jobs/{job}").json()["state"] == "running", "its lease is alive"
    pass_time(database_url, 100)
    expire(database)
    found = door.get(f"/v1/jobs/{job}").json()
    assert (found["state"], "no loop asks for its trials" in found["reason"]) == ("queued", True)
    log = [event["message"] for event in door.get(f"/v1/jobs/{job}/events").json()["items"]]
    assert log[-2] == "trial 0: nothing was heard of host-7 for longer than its lease"
    assert log[-1].startswith("job queued: no loop asks")
    heir = take(door, job)
    assert (heir["trial"]["number"], heir["trial"]["reports"]) == (0, []), "its first step comes again"
    found = door.get(f"/v1/jobs/{job}").json()
    assert (found["state"], found["reason"]) == ("running", "")
    expire(database)
    assert door.get(f"/v1/jobs/{job}").json()["state"] == "running"


def test_a_job_between_two_trials_is_running_and_one_whose_loop_gave_up_is_not(
    door: httpx.Client, database: Database
) -> None:
    job = submit(door)
    tell(door, job, take(door, job), "finish", value=0.5)
    expire(database)
    assert door.get(f"/v1/jobs/{job}").json()["state"] == "running", "its loop will ask for the next one"
    for state in ("waiting", "failed"):
        tell(door, job, take(door, job), "finish", state=state, reason="KeyboardInterrupt")
        expire(database)
        assert door.get(f"/v1/jobs/{job}").json()["state"] == "queued"
    door.post(f"/v1/jobs/{job}/pause")
    expire(database)
    assert door.get(f"/v1/jobs/{job}").json()["state"] == "paused"


def test_a_job_that_was_just_resumed_waits_a_moment_for_its_loop_before_it_is_said_to_have_none(
    door: httpx.Client, database: Database
) -> None:
    job = submit(door)
    tell(door, job, take(door, job), "finish", state="waiting", reason="KeyboardInterrupt")
    door.post(f"/v1/jobs/{job}/pause")
    assert door.post(f"/v1/jobs/{job}/resume").json()["state"] == "running"
    expire(database)
    found = door.get(f"/v1/jobs/{job}").json()
    assert (found["state"], found["reason"]) == ("running", "")
    with database.write() as tx:
        jobs.forsake(tx, now=clock(tx) + timedelta(seconds=15))
    found = door.get(f"/v1/jobs/{job}").json()
    assert (found["state"], "no loop asks for its trials" in found["reason"]) == ("queued", True)


def test_the_server_sees_by_itself_that_a_lease_ran_out(door: httpx.Client) -> None:
    job = submit(door)
    take(door, job, lease_seconds=1)
    while door.get(f"/v1/jobs/{job}").json()["state"] == "running":  # nobody asks for a trial, and no worker is there
        pass
    assert door.get(f"/v1/jobs/{job}").json()["state"] == "queued"
