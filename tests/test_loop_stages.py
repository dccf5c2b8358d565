"""A loop of the user's own that can go on from a checkpoint trains in stages; its checkpoints stay its own."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.external import pass_time, submit, take, tell
from tests.serving import served

JOB: dict[str, Any] = {
    "horizon": {"steps": 40},
    "budget": {"full_runs": 3},
    "optimizers": ["adamw"],
    "schedules": ["cosine"],
    "warmup": 0.0,
}
OWN = {"checkpoints": "own", "host": "one"}


@pytest.fixture
def door(database_url: str) -> Iterator[httpx.Client]:
    with served(database_url) as client:
        yield client


def loss(held: dict[str, Any], step: int) -> float:
    """A loss that falls as a training's does, best near a rate of 3e-3."""
    off = abs(math.log10(held["trial"]["configuration"]["learning_rate"]) + 2.5)
    return 0.2 + 0.3 * off + 2.0 * math.exp(-step / 8)


def train(door: httpx.Client, job: str, held: dict[str, Any], until: int | None = None) -> str:
    """Report as asked from where the trial goes on, and end its hold as the verdict has it."""
    number, verdict = held["trial"]["number"], {"decision": "continue"}
    for step in [at for at in held["report_at"] if held["start"] < at <= (until or held["until"])]:
        answer = tell(door, job, held, "reports", reports=[{"step": step, "metrics": {"val_loss": loss(held, step)}}])
        assert answer.status_code == 200, answer.text
        verdict = answer.json()
        if verdict["decision"] != "continue":
            break
    if verdict["decision"] == "stop":
        return "stop"
    paused = verdict["decision"] == "pause" or until
    said = {"state": "paused", "checkpoint": f"{number}@{step}"} if paused else {}
    answer = tell(door, job, held, "finish", **said)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["state"])


def paused(door: httpx.Client, job: str, **hold: Any) -> dict[str, Any]:
    """Train stages until one is to be gone on with, and take it."""
    for _ in range(60):
        held = take(door, job, **OWN | hold)
        if held["start"]:
            return held
        train(door, job, held)
    raise AssertionError("nothing was resumed")


def events(door: httpx.Client, job: str) -> Counter[str]:
    return Counter(one["kind"] for one in door.get(f"/v1/jobs/{job}/events", params={"limit": 1000}).json()["items"])


def test_a_job_is_tuned_in_stages_and_every_one_goes_on_from_its_own_checkpoint(door: httpx.Client) -> None:
    job, kept, states, forgotten = submit(door, **JOB), dict[int, str](), Counter[str](), list[str]()
    while (answer := door.post(f"/v1/jobs/{job}/trials", json=OWN)).status_code == 200:
        held = answer.json()
        number = held["trial"]["number"]
        assert held["checkpoint"] == (kept[number] if held["start"] else None)
        assert not set(held["forget"]) & {held["checkpoint"]}
        forgotten += held["forget"]
        state = train(door, job, held)
        states[state] += 1
        kept[number] = f"{number}@{held['until']}" if state == "paused" else ""
    assert answer.status_code == 409, answer.text
    found = door.get(f"/v1/jobs/{job}").json()
    assert found["state"] == "succeeded"
    assert states["paused"] > states["complete"] >= 2
    trials = door.get(f"/v1/jobs/{job}/trials", params={"limit": 200}).json()["items"]
    assert len(trials) > 6, "three full runs tell of more than three configurations"
    cost = sum(trial["step"] - trial["reused"] for trial in trials) / 40
    assert found["progress"]["full_runs"] == pytest.approx(cost)
    assert cost <= 3 + 1e-9
    assert len(forgotten) == len(set(forgotten)) > 0


def test_a_trial_that_its_loop_ended_early_is_not_gone_on_with(door: httpx.Client) -> None:
    job, ended = submit(door, **JOB), list[int]()
    while (answer := door.post(f"/v1/jobs/{job}/trials", json=OWN)).status_code == 200:
        held = answer.json()
        if not held["start"] or held["until"] < 40:
            train(door, job, held)
            continue
        ended.append(held["trial"]["number"])
        made = [{"step": 36, "metrics": {"val_loss": loss(held, 36)}}]
        if tell(door, job, held, "reports", reports=made).json()["decision"] == "continue":
            assert tell(door, job, held, "finish").json()["state"] == "stopped", "early stopping"
    assert answer.status_code == 409, answer.text
    assert len(ended) == len(set(ended)) > 0


def test_without_checkpoints_all_is_as_it_was(door: httpx.Client) -> None:
    job = submit(door, **JOB)
    for _ in range(3):
        held = take(door, job)
        assert (held["start"], held["until"], held["checkpoint"], held["forget"]) == (0, 40, None, [])
        assert train(door, job, held) in ("complete", "stop")


def test_a_checkpoint_goes_to_its_own_host_while_that_lives_and_begins_again_where_it_does_not(
    door: httpx.Client, database_url: str
) -> None:
    job = submit(door, **JOB)
    held = paused(door, job, worker="first")
    number, start = held["trial"]["number"], held["start"]
    assert tell(door, job, held, "finish", state="waiting").status_code == 200
    other = take(door, job, worker="second", checkpoints="own", host="two")
    assert other["trial"]["number"] != number, "the first loop lives"
    same = take(door, job, worker="third", **OWN)
    assert (same["trial"]["number"], same["start"]) == (number, start), "it lies on the same host"
    pass_time(database_url, 1000)
    with served(database_url) as later:
        age(database_url, 1000)
        heir = take(later, job, worker="second", checkpoints="own", host="two")
        while heir["trial"]["number"] != number:
            train(later, job, heir)
            heir = take(later, job, worker="second", checkpoints="own", host="two")
        assert (heir["start"], heir["checkpoint"]) == (0, None)
        cost = heir["trial"]["step"] - heir["trial"]["reused"]
        assert cost == start, "what was trained before is paid for"
        train(later, job, heir)
        trial = later.get(f"/v1/jobs/{job}/trials/{number}").json()
        assert trial["step"] - trial["reused"] == trial["step"] + start
        assert events(later, job)["trial-began-again"] == 1


def age(url: str, seconds: float) -> None:
    """Let the loops have asked so long ago."""
    from datetime import timedelta

    from sqlalchemy import update

    from lrtune.store import Database
    from lrtune.store.database import clock
    from lrtune.store.tables import LoopRow

    database = Database(url)
    with database.write() as tx:
        tx.execute(update(LoopRow).values(alive_until=clock(tx) - timedelta(seconds=seconds)))
    database.dispose()


def test_a_shared_checkpoint_goes_to_any_loop_that_shares(door: httpx.Client) -> None:
    job = submit(door, **JOB)
    shared = {"checkpoints": "shared"}
    held = paused(door, job, worker="a", **shared)
    assert tell(door, job, held, "finish", state="waiting").status_code == 200
    other = take(door, job, worker="own", checkpoints="own", host="elsewhere")
    assert other["trial"]["number"] != held["trial"]["number"]
    again = take(door, job, worker="b", **shared)
    assert (again["trial"]["number"], again["checkpoint"]) == (held["trial"]["number"], held["checkpoint"])


def test_a_stage_that_is_broken_off_goes_on_where_it_was_kept(door: httpx.Client) -> None:
    job = submit(door, **JOB)
    held = take(door, job, **OWN)  # the baseline, whole
    assert held["until"] == 40
    assert train(door, job, held, until=10) == "waiting"
    again = take(door, job, **OWN)
    assert (again["trial"]["number"], again["start"], again["checkpoint"]) == (0, 10, "0@10")
    assert train(door, job, again) == "complete"
    trial = door.get(f"/v1/jobs/{job}/trials/0").json()
    assert (trial["step"], trial["reused"]) == (40, 0)
    assert [(one["start"], one["step"], one["cost"]) for one in trial["stages"]] == [(0, 10, 10), (10, 40, 30)]


def test_a_loop_that_could_not_read_its_checkpoint_begins_again_and_pays(door: httpx.Client) -> None:
    job = submit(door, **JOB)
    held = paused(door, job)
    number, start = held["trial"]["number"], held["start"]
    late = tell(door, job, held, "reports", start=start + 1, reports=[])
    assert (late.status_code, late.json()["errors"][0]["pointer"]) == (422, "/start")
    assert tell(door, job, held, "reports", start=0, reports=[]).status_code == 200
    assert door.get(f"/v1/jobs/{job}/trials/{number}").json()["reports"] == []
    assert train(door, job, held | {"start": 0}) in ("paused", "complete", "stop")
    trial = door.get(f"/v1/jobs/{job}/trials/{number}").json()
    assert trial["step"] - trial["reused"] == trial["step"] + start


def test_a_loop_that_begins_again_after_its_job_was_over_says_where_its_checkpoint_went(door: httpx.Client) -> None:
    job = submit(door, **JOB, search={"sampler": "random"})
    path = f"/v1/jobs/{job}"
    train(door, job, take(door, job, **OWN))
    held = take(door, job, **OWN)
    number = held["trial"]["number"]
    assert train(door, job, held, until=10) == "waiting"
    door.post(f"{path}/stop")
    assert door.post(f"{path}/trials", json=OWN).status_code == 409, "and its loops delete what they have kept"
    door.post(f"{path}/extend", json={"budget": {"full_runs": 9}})
    held = take(door, job, **OWN)
    assert (held["trial"]["number"], held["start"]) == (number, 10)
    assert tell(door, job, held, "reports", start=0, reports=[]).status_code == 200
    lines = door.get(f"{path}/events", params={"limit": 1000}).json()["items"]
    (said,) = [one["message"] for one in lines if one["kind"] == "trial-began-again"]
    assert "delete when it is over, as this one was before it was extended" in said


def test_a_pause_that_cannot_be_is_a_sentence_and_nothing_is_lost(door: httpx.Client) -> None:
    job = submit(door, **JOB)
    plain = take(door, job)
    answer = tell(door, job, plain, "finish", state="paused", checkpoint="x", step=2)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/state")
    train(door, job, plain)
    held = take(door, job, **OWN)
    while held["until"] == 40:
        train(door, job, held)
        held = take(door, job, **OWN)
    end, first = held["until"], held["report_at"][0]
    for said, pointer in (
        ({"checkpoint": "x" * 1025}, "/checkpoint"),
        ({}, "/checkpoint"),
        ({"checkpoint": "x", "step": end + 1}, "/step"),
        ({"checkpoint": "x", "step": end}, "/step"),
        ({"checkpoint": ""}, "/checkpoint"),
    ):
        answer = tell(door, job, held, "finish", state="paused", **said)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer), answer.text
    beyond = [{"step": at, "metrics": {"val_loss": 1.0}} for at in (first, end + 1)]
    answer = tell(door, job, held, "reports", reports=beyond)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {
            "pointer": "/reports/1/step",
            "detail": f"found {end + 1}; this stage ends at step {end}: keep a checkpoint there, and pause",
        }
    ]
    assert train(door, job, held) == "paused"
    number = held["trial"]["number"]
    again = tell(door, job, held, "finish", state="paused", checkpoint=f"{number}@{end}")
    assert (again.status_code, again.json()["state"]) == (200, "paused"), "the answer may have been lost"
    another = take(door, job, **OWN)
    if another["trial"]["number"] != number:
        reports = [{"step": another["report_at"][0], "metrics": {"val_loss": 1.0}}]
        tell(door, job, another, "reports", reports=reports)
        answer = tell(door, job, another, "finish", state="paused", checkpoint=f"{number}@{end}", step=1)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/checkpoint")
        assert f"the checkpoint of trial {number}" in answer.json()["errors"][0]["detail"]


def test_a_stage_of_a_job_that_is_paused_is_kept_and_goes_on_from_there(door: httpx.Client) -> None:
    job = submit(door, **JOB)
    train(door, job, take(door, job, **OWN))
    held = take(door, job, **OWN)
    door.post(f"/v1/jobs/{job}/pause")
    for reports in ([], [{"step": 1, "metrics": {"val_loss": 1.0}}]):
        verdict = tell(door, job, held, "reports", reports=reports).json()
        assert (verdict["decision"], verdict["state"]) == ("pause", "running")
    said = {"state": "paused", "checkpoint": "here", "step": 1, "reason": verdict["reason"]}
    assert tell(door, job, held, "finish", **said).json()["state"] == "waiting"
    assert door.post(f"/v1/jobs/{job}/trials", json=OWN).status_code == 204
    door.post(f"/v1/jobs/{job}/resume")
    again = take(door, job, **OWN)
    assert (again["trial"]["number"], again["start"], again["checkpoint"]) == (held["trial"]["number"], 1, "here")


@pytest.mark.parametrize("hold", [{}, OWN])
def test_what_is_trained_to_its_end_as_its_job_is_paused_counts(door: httpx.Client, hold: dict[str, Any]) -> None:
    job = submit(door, **JOB)
    held = take(door, job, **hold)
    door.post(f"/v1/jobs/{job}/pause")
    answer = tell(door, job, held, "reports", reports=[{"step": 40, "metrics": {"val_loss": 1.0}}])
    assert answer.json()["decision"] == "continue", "it only has to be ended"
    assert tell(door, job, held, "finish").json()["state"] == "complete"
    assert door.get(f"/v1/jobs/{job}").json()["state"] == "paused"
    door.post(f"/v1/jobs/{job}/resume")
    if hold:
        held = take(door, job, **hold)
        while held["until"] == 40:
            train(door, job, held)
            held = take(door, job, **hold)
        door.post(f"/v1/jobs/{job}/pause")
        assert train(door, job, held) == "paused", "a stage that has come to its end is a whole one"
