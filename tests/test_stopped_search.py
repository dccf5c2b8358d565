"""Somebody with a deadline ends a job's search before its budget is spent, and has a confirmed answer."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.external import report, submit, take, tell
from tests.serving import served, slug

RANDOM: dict[str, Any] = {"sampler": "random", "pruner": "none"}


@pytest.fixture
def door(database_url: str) -> Iterator[httpx.Client]:
    with served(database_url) as client:
        yield client


def train(door: httpx.Client, job: str, held: dict[str, Any]) -> dict[str, Any]:
    """Train a trial to the end of its stage; its value is that of its rate, the best at 0.01."""
    end = held["until"]
    report(door, job, held, end, abs(held["trial"]["configuration"]["learning_rate"] - 0.01))
    ending = {} if end == 40 else {"state": "paused", "checkpoint": f"of {held['trial']['number']}", "step": end}
    answer = tell(door, job, held, "finish", **ending)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_stopped_search_begins_nothing_more_and_its_answer_is_confirmed(door: httpx.Client) -> None:
    job = submit(door, budget={"trials": 40}, search=RANDOM, confirm={"top": 1, "seeds": 2})
    path = f"/v1/jobs/{job}"
    for _ in range(4):
        train(door, job, take(door, job))
    under_way = take(door, job)
    for _ in range(2):
        answer = door.post(f"{path}/stop")
        assert (answer.status_code, answer.json()["state"], answer.json()["reason"]) == (
            202,
            "running",
            "search stopped",
        )
    assert door.post(f"{path}/trials").status_code == 204, "one is still trained"
    planned = door.get(path).json()["progress"]
    assert planned["planned_full_runs"] == 5 + 4
    train(door, job, under_way)
    roles = []
    while (answer := door.post(f"{path}/trials")).status_code == 200:
        roles.append(answer.json()["trial"]["role"])
        train(door, job, answer.json())
    assert slug(answer) == "job-finished"
    assert set(roles) == {"confirm"}
    found = door.get(path).json()
    assert (found["state"], found["best"]["confirmed"]) == ("succeeded", True)
    assert found["stopped_at"] < found["finished_at"]
    kinds = [one["kind"] for one in door.get(f"{path}/events").json()["items"]]
    assert kinds.count("job-stopped") == 1
    extended = door.post(f"{path}/extend", json={"budget": {"trials": 40}}).json()
    assert (extended["best"]["confirmed"], extended["progress"]["phase"]) == (True, "search")
    assert take(door, job)["trial"]["role"] == "search"
    assert door.get(path).json()["progress"]["phase"] == "search", "so it can be stopped again"


def test_a_search_that_is_stopped_with_no_whole_run_has_one_since_without_it_there_is_no_answer(
    door: httpx.Client,
) -> None:
    job = submit(door, budget={"trials": 40}, search=RANDOM)
    assert door.post(f"/v1/jobs/{job}/stop").json()["reason"] == "search stopped"
    while (answer := door.post(f"/v1/jobs/{job}/trials")).status_code == 200:
        train(door, job, answer.json())
    found = door.get(f"/v1/jobs/{job}").json()
    assert found["state"] == "succeeded"
    assert found["progress"]["trials"] == {"complete": 1}


def test_what_waits_is_not_begun_once_its_search_is_stopped(door: httpx.Client) -> None:
    job = submit(door, budget={"trials": 40}, search=RANDOM)
    held = [take(door, job) for _ in range(4)]
    train(door, job, held[0])
    for one in held[1:]:
        tell(door, job, one, "finish", state="waiting", reason="its device is needed")
    door.post(f"/v1/jobs/{job}/stop")
    states = [one["state"] for one in door.get(f"/v1/jobs/{job}/trials").json()["items"]]
    assert states == ["complete", "cancelled", "cancelled", "cancelled"]
    assert slug(door.post(f"/v1/jobs/{job}/trials")) == "job-finished"
    found = door.get(f"/v1/jobs/{job}").json()
    assert (found["state"], found["progress"]["trials"]) == ("succeeded", {"complete": 1, "cancelled": 3})


def test_a_stopped_search_goes_on_with_the_budget_that_it_had(door: httpx.Client) -> None:
    budget = {"trials": 6}
    job = submit(door, budget=budget, search=RANDOM)
    path = f"/v1/jobs/{job}"
    for _ in range(2):
        train(door, job, take(door, job))
    door.post(f"{path}/stop")
    assert slug(door.post(f"{path}/trials")) == "job-finished"
    assert slug(door.post(f"{path}/cancel")) == "job-finished"
    over = door.post(f"{path}/stop")
    assert (over.status_code, over.json()["state"]) == (202, "succeeded"), "the same again changes nothing"
    again = door.post(f"{path}/extend", json={"budget": budget}).json()
    assert (again["state"], again["reason"], again["stopped_at"]) == ("running", "", None)
    roles = []
    while (answer := door.post(f"{path}/trials")).status_code == 200:
        roles.append(answer.json()["trial"]["role"])
        train(door, job, answer.json())
    assert roles == ["search"] * 4
    late = door.post(f"{path}/stop")
    assert slug(late) == "job-finished"
    assert "`extend` gives it a larger budget" in late.json()["detail"]


def test_a_stage_that_waits_is_given_up_with_its_search_and_resumed_with_it(door: httpx.Client) -> None:
    job = submit(door, budget={"full_runs": 20})
    path, hold = f"/v1/jobs/{job}", {"checkpoints": "own", "worker": "mine"}
    held, paused = take(door, job, **hold), set[int]()
    while held["trial"]["number"] not in paused:
        if train(door, job, held)["state"] == "paused":
            paused.add(held["trial"]["number"])
        held = take(door, job, **hold)
    number = held["trial"]["number"]
    tell(door, job, held, "finish", state="waiting", reason="its device is needed")
    door.post(f"{path}/stop")
    assert door.get(f"{path}/trials/{number}").json()["state"] == "paused"
    while (answer := door.post(f"{path}/trials", json=hold)).status_code == 200:
        train(door, job, answer.json())
    assert door.get(f"{path}/trials/{number}").json()["state"] == "stopped"
    assert door.post(f"{path}/extend", json={"budget": {"full_runs": 20}}).json()["state"] == "running"
    assert take(door, job, **hold)["trial"]["role"] == "search"


def test_what_a_job_asks_for_by_name_runs_again_once_its_script_is_mended_and_it_is_extended(
    door: httpx.Client,
) -> None:
    rates = (0.003, 0.02, 0.03)
    asked = {"baseline": {"learning_rate": rates[0]}, "try": [{"learning_rate": rate} for rate in rates[1:]]}
    job = submit(door, budget={"trials": 9}, search=RANDOM, **asked)
    for _ in rates:
        tell(door, job, take(door, job), "finish", state="failed", reason="no such file: data.csv")
    assert slug(door.post(f"/v1/jobs/{job}/trials")) == "job-finished"
    door.post(f"/v1/jobs/{job}/extend", json={"budget": {"trials": 9}})
    again = [take(door, job) for _ in range(4)]
    found = [(one["trial"]["role"], one["trial"]["configuration"]["learning_rate"]) for one in again[:3]]
    assert found == list(zip(("baseline", "search", "search"), rates, strict=True))
    assert again[3]["trial"]["configuration"]["learning_rate"] not in rates, "once is enough"
    for one in again:
        train(door, job, one)
    assert door.get(f"/v1/jobs/{job}").json()["best"]["baseline"]["value"] == pytest.approx(0.007)


def test_a_paused_job_says_that_its_search_is_stopped_and_still_does_when_it_goes_on(door: httpx.Client) -> None:
    job = submit(door, budget={"trials": 40}, search=RANDOM)
    path = f"/v1/jobs/{job}"
    train(door, job, take(door, job))
    verbs = ("pause", "stop", "resume", "pause", "resume")
    said = [door.post(f"{path}/{verb}").json()["reason"] for verb in verbs]
    held, stopped = "paused by admin", "search stopped"
    assert said == [held, f"{held}; {stopped}", stopped, f"{held}; {stopped}", stopped]
    assert slug(door.post(f"{path}/trials")) == "job-finished"
    assert door.get(path).json()["reason"] == ""


def test_a_stopped_search_of_which_nothing_is_whole_yet_has_an_answer_though_its_baseline_is_none(
    door: httpx.Client,
) -> None:
    """Its baseline lies outside its space, and the first run inside waits for a worker."""
    adamw = [{"name": "adamw", "learning_rate": [1e-4, 1e-2]}]
    job = submit(door, budget={"trials": 40}, search=RANDOM, optimizers=adamw, baseline={"learning_rate": 0.5})
    path = f"/v1/jobs/{job}"
    train(door, job, take(door, job))
    tell(door, job, take(door, job), "finish", state="waiting", reason="its device is needed")
    assert door.post(f"{path}/stop").json()["progress"]["trials"] == {"complete": 1, "cancelled": 1}
    while (answer := door.post(f"{path}/trials")).status_code == 200:
        train(door, job, answer.json())
    found = door.get(path).json()
    assert (found["state"], found["progress"]["trials"]) == ("succeeded", {"complete": 2, "cancelled": 1})


def test_a_search_that_was_stopped_has_all_the_trials_of_its_budget_when_it_goes_on(door: httpx.Client) -> None:
    budget = {"trials": 6}
    job = submit(door, budget=budget, search=RANDOM)
    path = f"/v1/jobs/{job}"
    train(door, job, take(door, job))
    for one in [take(door, job) for _ in range(3)]:
        tell(door, job, one, "finish", state="waiting", reason="its device is needed")
    door.post(f"{path}/stop")
    door.post(f"{path}/extend", json={"budget": budget})
    while (answer := door.post(f"{path}/trials")).status_code == 200:
        train(door, job, answer.json())
    assert door.get(path).json()["progress"]["trials"] == {"complete": 6, "cancelled": 3}


def test_a_stopped_search_plans_no_less_than_the_run_that_it_is_to_have(door: httpx.Client) -> None:
    job = submit(door, budget={"trials": 40}, search=RANDOM, confirm={"top": 1, "seeds": 2})
    planned = [door.post(f"/v1/jobs/{job}/stop").json()["progress"]]
    while (answer := door.post(f"/v1/jobs/{job}/trials")).status_code == 200:
        planned.append(door.get(f"/v1/jobs/{job}").json()["progress"])
        train(door, job, answer.json())
        planned.append(door.get(f"/v1/jobs/{job}").json()["progress"])
    assert {one["planned_full_runs"] for one in planned} == {1 + 4}
    done = [one["fraction"] for one in planned]
    assert done == sorted(done)


def test_a_range_test_that_waits_is_not_begun_once_its_search_is_stopped(door: httpx.Client) -> None:
    job = submit(door, horizon={"steps": 1000}, budget={"full_runs": 20})
    path, hold = f"/v1/jobs/{job}", {"checkpoints": "own", "worker": "mine"}
    held = [take(door, job, **hold), take(door, job, **hold)]
    assert [one["trial"]["role"] for one in held] == ["baseline", "range-test"]
    report(door, job, held[0], 1000, 0.5)
    tell(door, job, held[0], "finish")
    tell(door, job, held[1], "finish", state="waiting", reason="its device is needed")
    door.post(f"{path}/stop")
    assert slug(door.post(f"{path}/trials", json=hold)) == "job-finished"
    assert door.get(f"{path}/trials/1").json()["state"] == "cancelled"
    door.post(f"{path}/extend", json={"budget": {"full_runs": 20}})
    assert take(door, job, **hold)["trial"]["role"] == "range-test"
