"""A job whose training loop is the user's own: the service hands trials out, hears reports and decides."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import pytest

from lrtune.errors import Invalid
from lrtune.loop import LoopTrial
from lrtune.store import Database, leases, shares
from lrtune.store.database import clock
from lrtune.wire.configuration import Configuration
from lrtune.wire.external import Handout
from lrtune.wire.job import JobSpec
from lrtune.wire.results import TrialState
from tests.external import JOB, pass_time, report, submit, take, tell
from tests.offline import Door
from tests.serving import served, slug


@pytest.fixture
def door(database_url: str) -> Iterator[httpx.Client]:
    with served(database_url) as client:
        yield client


def test_a_job_is_tuned_over_http_alone(door: httpx.Client) -> None:
    job = submit(door, confirm={"top": 1, "seeds": 2})
    values = []
    while (answer := door.post(f"/v1/jobs/{job}/trials")).status_code == 200:
        held = answer.json()
        values.append(abs(math.log10(held["trial"]["configuration"]["learning_rate"]) + 2))
        assert report(door, job, held, 20, 9.0)["decision"] == "continue"
        assert report(door, job, held, 40, values[-1])["decision"] == "continue"
        assert tell(door, job, held, "finish").json()["value"] == values[-1]
    assert (answer.status_code, slug(answer)) == (409, "job-finished")
    found = door.get(f"/v1/jobs/{job}").json()
    assert (found["state"], found["best"]["confirmed"]) == ("succeeded", True)
    assert found["best"]["value"] == pytest.approx(min(values[:2]))
    assert len(values) == 2 + 2 * len({values[0], min(values[:2])}), "two tried, then the best and the baseline twice"


def test_a_trial_comes_with_the_rate_of_every_step(door: httpx.Client) -> None:
    job = submit(door)
    held = take(door, job)
    configuration = Configuration.model_validate(held["trial"]["configuration"])
    assert held["learning_rates"] == configuration.learning_rates(40)
    assert held["report_at"] == list(range(2, 41, 2))
    assert configuration.clip_norm is None, "nobody clips in a loop that was not told to"
    path = f"/v1/jobs/{job}/trials/0/rates"
    assert door.get(path, params={"start": 38}).json() == {"start": 38, "learning_rates": held["learning_rates"][38:]}
    assert door.get(path, params={"start": 50}).json()["learning_rates"] == []


def test_workers_leave_the_trials_alone(door: httpx.Client, database: Database) -> None:
    job = submit(door)
    held = take(door, job)
    assert tell(door, job, held, "finish", state="waiting").json()["state"] == "waiting"
    with database.write() as tx:
        assert leases.claim(tx, "worker", ttl=timedelta(minutes=1)) is None
        assert shares.whose_turn(tx, None, now=clock(tx)) is None
    assert take(door, job)["trial"]["number"] == 0


def test_while_others_train_all_there_is_nothing_to_do(door: httpx.Client) -> None:
    job = submit(door)
    first, second = take(door, job), take(door, job)
    assert [first["trial"]["number"], second["trial"]["number"]] == [0, 1]
    answer = door.post(f"/v1/jobs/{job}/trials")
    assert (answer.status_code, answer.headers["Retry-After"]) == (204, "2")


def test_a_trial_of_the_dead_is_handed_out_again_and_their_late_report_refused(
    door: httpx.Client, database_url: str
) -> None:
    job = submit(door, budget={"trials": 1})
    dead = take(door, job, worker="the dead", lease_seconds=30)
    assert door.post(f"/v1/jobs/{job}/trials").status_code == 204
    pass_time(database_url, 31)
    heir = take(door, job, worker="the heir")
    assert (heir["trial"]["number"], heir["trial"]["attempt"]) == (dead["trial"]["number"], 2)
    for verb, body in (("reports", {}), ("reports", {"reports": [{"step": 2, "metrics": {"a": 1.0}}]}), ("finish", {})):
        late = tell(door, job, dead, verb, **body)
        assert (late.status_code, slug(late)) == (409, "lease-lost")
        assert "the heir trains it now, as attempt 2; drop this run" in late.json()["detail"]
    assert report(door, job, heir, 40, 0.5)["decision"] == "continue"
    assert tell(door, job, heir, "finish").json()["state"] == "complete"


def test_a_sign_of_life_keeps_a_trial(door: httpx.Client, database_url: str) -> None:
    job = submit(door, budget={"trials": 1})
    held = take(door, job, lease_seconds=30)
    assert tell(door, job, held, "reports", lease_seconds=300).json()["decision"] == "continue"
    pass_time(database_url, 200)
    assert tell(door, job, held, "reports").json()["decision"] == "continue"


def test_what_is_not_finite_is_divergence(door: httpx.Client) -> None:
    job = submit(door)
    held = take(door, job)
    verdict = report(door, job, held, 2, None)
    assert (verdict["decision"], verdict["state"]) == ("stop", "diverged")
    assert "val_loss became not finite at step 2 (learning rate" in verdict["reason"]
    assert tell(door, job, held, "finish").json()["state"] == "diverged", "finishing it then changes nothing"
    other = take(door, job)
    body = '{{"token": "{}", "reports": [{{"step": 2, "metrics": {{"val_loss": NaN}}}}]}}'.format(other["token"])
    path = f"/v1/jobs/{job}/trials/1/reports"
    answer = door.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.json()["state"] == "diverged"


def test_the_pruner_stops_a_trial(door: httpx.Client) -> None:
    pruner = {"name": "threshold", "upper": 1.0, "n_warmup_reports": 0}
    job = submit(door, search={"sampler": "random", "pruner": pruner})
    baseline = take(door, job)
    report(door, job, baseline, 40, 0.5)
    tell(door, job, baseline, "finish")
    held = take(door, job)
    assert report(door, job, held, 2, 0.9)["decision"] == "continue"
    verdict = report(door, job, held, 4, 5.0)
    assert (verdict["decision"], verdict["state"]) == ("stop", "stopped")
    assert "threshold pruner" in verdict["reason"]
    assert door.get(f"/v1/jobs/{job}/trials/1").json()["value"] == 5.0


def test_a_pause_takes_the_trial_back_and_a_cancelled_job_says_so(door: httpx.Client) -> None:
    job = submit(door)
    held = take(door, job)
    door.post(f"/v1/jobs/{job}/pause")
    verdict = report(door, job, held, 2, 1.0)
    assert (verdict["decision"], verdict["state"]) == ("stop", "waiting")
    assert door.post(f"/v1/jobs/{job}/trials").status_code == 204
    assert slug(tell(door, job, held, "reports")) == "lease-lost"
    door.post(f"/v1/jobs/{job}/resume")
    again = take(door, job)
    door.post(f"/v1/jobs/{job}/cancel")
    verdict = report(door, job, again, 2, 1.0)
    assert (verdict["decision"], verdict["reason"], verdict["state"]) == ("stop", "cancelled by admin", "cancelled")


def test_a_schedule_that_looks_at_the_loss_sends_its_new_rates(door: httpx.Client) -> None:
    schedule = {"family": "plateau", "factor": 0.5, "patience": 1, "threshold": 0.0}
    job = submit(door, schedules=[schedule], warmup=0.0, budget={"trials": 2})
    tell(door, job, take(door, job), "finish", value=1.0)
    held = take(door, job)
    peak = held["trial"]["configuration"]["learning_rate"]
    assert held["learning_rates"] == [peak] * 40
    assert [report(door, job, held, step, 1.0)["learning_rates"] for step in (10, 12)] == [None, None]
    assert report(door, job, held, 14, 1.0)["learning_rates"] == [peak * 0.5] * 26
    assert door.get(f"/v1/jobs/{job}/trials/1/rates").json()["learning_rates"] == [peak] * 14 + [peak * 0.5] * 26
    assert report(door, job, held, 16, 1.0)["learning_rates"] is None
    seen = door.get(f"/v1/jobs/{job}/trials/1").json()["reports"]
    assert [one["learning_rate"] / peak for one in seen] == [1.0, 1.0, 1.0, 0.5]


def test_a_late_report_fills_its_place_and_a_known_one_changes_nothing(door: httpx.Client) -> None:
    job = submit(door)
    held = take(door, job)
    for step in (10, 20):
        report(door, job, held, step, step / 100)
    assert report(door, job, held, 5, 0.05)["step"] == 20, "a late one"
    assert report(door, job, held, 10, 9.0)["decision"] == "continue", "a known one, with another value"
    assert report(door, job, held, 20, None)["decision"] == "continue"
    batch = [{"step": step, "metrics": {"val_loss": step / 100}} for step in (40, 5, 30, 15)]
    assert tell(door, job, held, "reports", reports=batch).json()["step"] == 40, "a batch in any order, in part known"
    peak = held["trial"]["configuration"]["learning_rate"]
    trial = tell(door, job, held, "finish").json()
    assert [(one["step"], one["metrics"]["val_loss"]) for one in trial["reports"]] == [
        (step, step / 100) for step in (5, 10, 15, 20, 30, 40)
    ]
    assert [one["learning_rate"] for one in trial["reports"]] == [
        held["learning_rates"][s - 1] for s in (5, 10, 15, 20, 30, 40)
    ]
    assert (trial["state"], trial["step"], trial["value"]) == ("complete", 40, 0.4)
    assert peak >= max(held["learning_rates"])


def test_a_report_that_comes_many_times_at_once_is_one(door: httpx.Client) -> None:
    job = submit(door)
    held = take(door, job)
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(report, door, job, held, step, float(copy)) for copy in range(4) for step in (4, 2, 6)]
        assert {one.result()["decision"] for one in sent} == {"continue"}
    trial = door.get(f"/v1/jobs/{job}/trials/0").json()
    assert [one["step"] for one in trial["reports"]] == [2, 4, 6]
    assert trial["step"] == 6


def test_a_batch_that_is_sent_again_hears_of_the_new_rates_again(door: httpx.Client) -> None:
    schedule = {"family": "plateau", "factor": 0.5, "patience": 1, "threshold": 0.0}
    job = submit(door, schedules=[schedule], warmup=0.0)
    tell(door, job, take(door, job), "finish", value=1.0)
    held = take(door, job)
    peak = held["trial"]["configuration"]["learning_rate"]
    for step in (10, 12):
        report(door, job, held, step, 1.0)
    first, again = (report(door, job, held, 14, 1.0) for _ in range(2))
    assert first["learning_rates"] == again["learning_rates"] == [peak * 0.5] * 26
    other = tell(door, job, held, "reports", reports=[{"step": 15, "metrics": {"train_loss": 9.0}}]).json()
    assert other["learning_rates"] is None
    assert report(door, job, held, 16, 0.5)["decision"] == "continue"
    rates = door.get(f"/v1/jobs/{job}/trials/1/rates").json()["learning_rates"]
    assert rates == [peak] * 14 + [peak * 0.5] * 26, "a report without the metric does not count as a bad one"
    assert door.get(f"/v1/jobs/{job}/trials/1").json()["curve"][20] == [20, peak * 0.5]


@pytest.mark.parametrize("metrics", [{"accuracy": 0.9}, {"loss": 1.0, "accuracy": None}])
def test_another_metric_is_said_at_the_first_report(door: httpx.Client, metrics: dict[str, float]) -> None:
    job = submit(door)
    held = take(door, job)
    answer = tell(door, job, held, "reports", reports=[{"step": 2, "metrics": metrics}])
    assert (slug(answer), answer.json()["errors"][0]["pointer"]) == ("invalid", "/reports/0/metrics")
    assert f"found {', '.join(sorted(metrics))} at step 2, but no report has val_loss" in answer.json()["detail"]
    report(door, job, held, 2, 1.0)
    assert tell(door, job, held, "reports", reports=[{"step": 4, "metrics": metrics}]).json()["decision"] == "continue"


def test_a_step_is_a_whole_number_however_it_is_written(door: httpx.Client) -> None:
    job = submit(door)
    held = take(door, job)
    answers = {
        step: tell(door, job, held, "reports", reports=[{"step": step, "metrics": {"val_loss": 1}}])
        for step in (2.0, 2.5, 0, -1, True, "4", None, 41)
    }
    assert {step for step, answer in answers.items() if answer.status_code == 200} == {2.0}
    refused = [answer for answer in answers.values() if answer.status_code != 200]
    assert {answer.json()["errors"][0]["pointer"] for answer in refused} == {"/reports/0/step"}
    assert tell(door, job, held, "finish", step=40.0, value=1).json()["state"] == "complete"


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [
        ({"metric": None}, "/metric", "needs one"),
        ({"metric": {"name": "val_loss"}}, "/metric/goal", "minimize or maximize"),
        ({"horizon": None}, "/horizon", "optimizer steps"),
        ({"horizon": {"epochs": 3}}, "/horizon", "found epochs"),
        ({"warm_start": True}, "/warm_start", "ids of jobs like this"),
        ({"training": {"precision": "bfloat16"}}, "/training", "your own loop"),
        ({"task": {"name": "external", "params": {"a": 1}}}, "/task/params/a", "unknown field"),
    ],
)
def test_a_job_says_what_only_its_loop_knows(
    door: httpx.Client, fields: dict[str, Any], pointer: str, words: str
) -> None:
    answer = door.post("/v1/jobs", json=JOB | fields)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
    assert words in answer.json()["errors"][0]["detail"]


def test_what_cannot_be_is_refused_in_words(door: httpx.Client) -> None:
    job, other = submit(door), door.post("/v1/jobs", json={"task": "digits"}).json()["id"]
    held = take(door, job)
    assert slug(door.post(f"/v1/jobs/{other}/trials")) == "not-external"
    assert slug(door.post("/v1/jobs/none/trials")) == "unknown-job"
    assert slug(tell(door, job, {"trial": {"number": 7}, "token": "x"}, "reports")) == "unknown-trial"
    stranger = tell(door, job, held | {"token": "x"}, "reports")
    assert (slug(stranger), "never handed out with this token" in stranger.text) == ("lease-lost", True)
    early = tell(door, job, held, "finish")
    assert (slug(early), early.json()["errors"][0]["pointer"]) == ("invalid", "/value")
    for steps, pointer in (([41], "/reports/0/step"), ([4, 4], "/reports/1/step"), ([0], "/reports/0/step")):
        sent = [{"step": step, "metrics": {"val_loss": 1.0}} for step in steps]
        answer = tell(door, job, held, "reports", reports=sent)
        assert (slug(answer), answer.json()["errors"][0]["pointer"]) == ("invalid", pointer)
    assert tell(door, job, held, "reports").json()["decision"] == "continue", "nothing of this harmed the trial"


def test_loops_that_fail_again_and_again_end_the_job(door: httpx.Client) -> None:
    job = submit(door, budget={"trials": 9})
    for _ in range(3):
        answer = tell(door, job, take(door, job), "finish", state="failed", reason="no such file: data.csv")
        assert answer.json()["state"] == TrialState.FAILED
    over = door.post(f"/v1/jobs/{job}/trials")
    assert slug(over) == "job-finished"
    assert "the first 3 trials failed" in over.json()["detail"]
    assert "no such file: data.csv" in over.json()["detail"]


def test_a_job_that_broke_goes_on_when_it_is_extended_because_somebody_may_have_mended_it(door: httpx.Client) -> None:
    job = submit(door, budget={"trials": 9})
    for trials in (9, 10):
        for _ in range(3):
            tell(door, job, take(door, job), "finish", state="failed", reason="no such file: data.csv")
        assert slug(door.post(f"/v1/jobs/{job}/trials")) == "job-finished", "what fails again ends it again"
        assert door.post(f"/v1/jobs/{job}/extend", json={"budget": {"trials": trials}}).json()["state"] == "running"
    assert take(door, job)["trial"]["number"] == 6


def test_the_job_knows_that_it_is_external() -> None:
    assert JobSpec.model_validate(JOB).external
    assert not JobSpec.model_validate({"task": "digits"}).external


def test_an_old_report_that_is_not_finite_fills_its_place_and_ends_nothing(door: httpx.Client) -> None:
    job = submit(door)
    held = take(door, job)
    report(door, job, held, 20, 0.5)
    assert report(door, job, held, 10, None)["decision"] == "continue"
    assert report(door, job, held, 30, None)["state"] == "diverged"


def test_a_value_outside_the_declared_range_is_said_at_its_report(door: httpx.Client) -> None:
    metric = {"name": "acc", "goal": "maximize", "range": [0, 1]}
    job = submit(door, metric=metric)
    held = take(door, job)
    answer = tell(door, job, held, "reports", reports=[{"step": 2, "metrics": {"acc": 97.5}}])
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/reports/0/metrics/acc")
    for words in ("found 97.5", "range [0.0, 1.0]", '"range": [0, 100]', "a share"):
        assert words in answer.json()["detail"]
    ended = tell(door, job, held, "finish", value=97.5)
    assert (ended.status_code, ended.json()["errors"][0]["pointer"]) == (422, "/value")
    offline = LoopTrial(Door(Handout.model_validate(held)), job, Handout.model_validate(held))
    with pytest.raises(Invalid, match=r"found 97\.5"):
        offline.report(1, acc=97.5)
    assert not offline.report(2, acc=1.0), "the one that was refused is forgotten"
    sent = tell(door, job, held, "reports", reports=[{"step": 2, "metrics": {"acc": 0.975}}])
    assert sent.json()["decision"] == "continue"
