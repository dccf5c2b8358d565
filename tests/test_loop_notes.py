"""What a loop may say of its trial in the job's log, and what it hears that goes on from where its trial does not."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests import offline
from tests.external import submit, take, tell
from tests.serving import served
from tests.test_loop_stages import JOB, OWN, paused, train


@pytest.fixture
def door(database_url: str) -> Iterator[httpx.Client]:
    with served(database_url) as client:
        yield client


def noted(door: httpx.Client, job: str) -> list[str]:
    items = door.get(f"/v1/jobs/{job}/events", params={"limit": 1000}).json()["items"]
    return [one["message"] for one in items if one["kind"] == "trial-noted"]


def test_a_loops_note_stands_in_the_log_once_however_often_it_is_sent(door: httpx.Client) -> None:
    job = submit(door)
    held = take(door, job)
    for said in ("it died:\nout of luck ☂", "it died:\nout of luck ☂", "again", "it died:\nout of luck ☂"):
        assert tell(door, job, held, "reports", reports=[], note=said).status_code == 200
    died = "trial 0: it died:\nout of luck ☂"
    assert noted(door, job) == [died, "trial 0: again", died]
    for bad in ("", "x" * 4001, "a\0b", 7, ["x"]):
        answer = tell(door, job, held, "reports", reports=[], note=bad)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/note"), answer.text
        assert len(answer.text) < 1000
    for at in range(120):
        assert tell(door, job, held, "reports", reports=[], note=f"note {at}").status_code == 200
    assert len(noted(door, job)) == 100
    assert tell(door, job, held, "finish", value=1.0).status_code == 200
    other = take(door, job)
    assert tell(door, job, held, "reports", reports=[], note="from the grave").status_code == 200
    assert tell(door, job, other, "reports", reports=[], note="of another trial").status_code == 200
    assert noted(door, job)[100:] == ["trial 1: of another trial"]


def test_a_loop_that_goes_on_from_another_step_hears_so_and_nothing_is_lost(door: httpx.Client) -> None:
    job = submit(door, **JOB)
    held = paused(door, job)
    while held["start"] < 4:
        train(door, job, held)
        held = paused(door, job)
    number, start = held["trial"]["number"], held["start"]
    before = door.get(f"/v1/jobs/{job}/trials/{number}").json()["reports"]
    report: dict[str, Any] = {"step": 1, "metrics": {"val_loss": 0.0}}
    answer = tell(door, job, held, "reports", reports=[report])
    assert (answer.status_code, answer.json()["errors"][0]) == (
        422,
        {
            "pointer": "/reports/0/step",
            "detail": f"found 1; this trial goes on from step {start}: train and report the steps after it, "
            'or say with "start" where the training really began',
        },
    )
    assert door.get(f"/v1/jobs/{job}/trials/{number}").json()["reports"] == before
    assert train(door, job, held) in ("paused", "complete", "stop")


def test_a_checkpoint_that_is_a_megabyte_long_is_refused_in_a_sentence(door: httpx.Client) -> None:
    job = submit(door, **JOB)
    held = take(door, job, **OWN)
    answer = tell(door, job, held, "finish", state="paused", step=4, checkpoint="x" * 1_000_000)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/checkpoint")
    assert len(answer.text) < 1000
    assert train(door, job, held) == "complete"


def test_a_trial_that_gets_further_is_forgiven_the_deaths_of_its_loops(door: httpx.Client) -> None:
    job = submit(door, **JOB)
    for end in (10, 20, 30, 40):
        for _ in range(4):
            held = take(door, job, **OWN)
            assert (held["trial"]["number"], held["start"]) == (0, end - 10)
            assert tell(door, job, held, "finish", state="waiting", reason="preempted").json()["state"] == "waiting"
        held = take(door, job, **OWN)
        assert train(door, job, held, until=end if end < 40 else None) == ("waiting" if end < 40 else "complete")


def test_a_loop_that_never_asks_for_its_trials_rates_hears_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """All trials of such a loop train alike, and its job had an answer."""
    said = "nobody has asked for its rates"
    ways = (lambda trial: trial.learning_rate(3), lambda trial: trial.factor(3), lambda trial: trial.configuration)
    for asked in (*ways, lambda trial: trial.to_send()):
        trial = offline.held(offline.ADAMW)
        asked(trial)
        trial.report(4, val_loss=0.5)
    assert said not in caplog.text
    trial = offline.held(offline.ADAMW)
    trial.report(4, val_loss=0.5)
    trial.report(12, val_loss=0.5)
    offline.held(offline.ADAMW).finish(0.5)
    assert caplog.text.count(said) == 2
