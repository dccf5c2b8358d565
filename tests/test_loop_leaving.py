"""A loop in Python: what it may report, and what becomes of its trial however it is left."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from lrtune import errors
from lrtune.client import Client
from lrtune.loop import LoopTrial
from lrtune.wire.external import Batch, Ending, Sent
from lrtune.wire.results import Trial
from tests.external import JOB
from tests.serving import KEY, served

ROOT = Path(__file__).parent.parent


@pytest.fixture
def door(sqlite_url: str) -> Iterator[httpx.Client]:
    with served(sqlite_url) as client:
        yield client


@pytest.fixture
def client(door: httpx.Client) -> Iterator[Client]:
    with Client(str(door.base_url), KEY) as found:
        yield found


@pytest.fixture
def trial(client: Client) -> Iterator[LoopTrial]:
    trials = client.submit(JOB).trials()
    with next(trials) as found:
        yield found
        found.finish(1.0)


def left(
    client: Client,
    body: Callable[[LoopTrial], object],
    around: Callable[[Iterator[LoopTrial]], Iterable[LoopTrial]] = iter,
    **fields: Any,
) -> Trial:
    """The first trial of a job after a `for` over its trials was left by this body."""
    job = client.submit(JOB | fields)

    def loop() -> None:
        for trial in around(job.trials()):
            if body(trial) is None:
                return

    try:
        loop()
    except (Exception, KeyboardInterrupt, SystemExit):
        found = next(client.trials(job.id))  # as it is while the exception is handled
        assert found.state != "running"
        return found
    return next(client.trials(job.id))


def test_reports_that_no_server_heard_come_before_the_end_of_their_trial(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was away while the trial was trained, and is there again as it ends."""
    tell, away = Client.tell, 0

    def unheard(self: Client, job_id: str, number: int, batch: Batch) -> Any:
        nonlocal away
        if batch.reports and away < 1 + len(due):  # the reports, and once more as the trial is finished
            away += 1
            raise errors.Unavailable
        return tell(self, job_id, number, batch)

    job = client.submit(JOB)
    trials = job.trials()
    trial = next(trials)
    due = [step for step in range(1, trial.until + 1) if trial.due(step)]
    monkeypatch.setattr(Client, "tell", unheard)
    for step in due:
        trial.report(step, val_loss=1 / step)
    trial.finish()
    found = client.trial(job.id, trial.number)
    assert (found.state, len(found.reports)) == ("complete", len(due))


def test_numbers_of_numpy_and_torch_are_taken(client: Client, trial: LoopTrial) -> None:
    taken: tuple[tuple[Any, Any], ...] = (
        (np.int64(2), np.float32(0.5)),
        (torch.tensor(4), torch.tensor(0.5, requires_grad=True)),
        (6.0, np.array([0.5])),
        (np.float64(8), Fraction(1, 2)),
        (np.array(10), torch.tensor([[0.5]], dtype=torch.bfloat16)),
    )
    for step, value in taken:
        assert trial.report(step, val_loss=value) is False
        assert Sent(step=step, metrics={"val_loss": value}) == Sent(step=int(step), metrics={"val_loss": 0.5})
        assert Ending(token="t", value=value, step=step).value == 0.5
    (job,) = client.list()
    reports = [(one.step, one.metrics) for one in client.trial(job.id, 0).reports]
    assert reports == [(step, {"val_loss": 0.5}) for step in (2, 4, 6, 8, 10)]


STEPS = (0, -1, 41, 2.5, True, np.bool_(True), "2", b"2", None, 2j, float("nan"), np.array([1, 2]), torch.ones(2))
VALUES = (True, np.bool_(False), "0.5", b"1", None, 1j, np.complex64(1), [0.5], np.array([1, 2]), np.array("0.5"))


def test_what_is_no_step_or_no_number_is_refused_in_words(trial: LoopTrial) -> None:
    for step in STEPS:
        with pytest.raises(errors.Invalid, match=r"^step: found .*accepted is a whole number from 1 to 40"):
            trial.report(step, val_loss=0.5)
    for value in VALUES:
        with pytest.raises(errors.Invalid, match=r"^val_loss: found .*; accepted is one number"):
            trial.report(2, val_loss=value)
        if value is not None:
            with pytest.raises(errors.Invalid, match=r"^val_loss: found .*; accepted is one number"):
                trial.finish(value)
    assert not trial.over, "none of it harmed the trial"


def test_a_value_that_is_not_finite_ends_the_trial_as_diverged(client: Client) -> None:
    for value in (float("nan"), float("-inf"), np.float32("inf"), torch.tensor(float("nan")), 10**400):
        assert left(client, lambda trial, v=value: None if trial.report(4, val_loss=v) else 0).state == "diverged"
        ended = left(client, lambda trial, v=value: trial.finish(v))
        assert (ended.state, ended.step, "val_loss became" in ended.reason) == ("diverged", 40, True)


def test_an_objective_that_finds_no_number_ends_its_job(client: Client) -> None:
    with pytest.raises(errors.TaskError, match=r"the first 3 trials came to no val_loss \(3 diverged\).*became nan"):
        client.optimize(JOB | {"budget": {"full_runs": 9}}, lambda trial: float("nan"))
    (job,) = client.list()
    assert (job.state, job.progress.full_runs) == ("failed", 3.0)


def test_reports_out_of_order_each_fill_their_place(client: Client) -> None:
    def body(trial: LoopTrial) -> None:
        for step in (6, 2, 20, 19, 4, 6, 40, 39):
            trial.report(step, val_loss=step / 100 + (step == 6 and trial.over))
        trial.report(20, val_loss=9.0)

    found = left(client, body)
    (job,) = client.list()
    assert (found.state, found.value) == ("complete", 0.4)
    reports = [(one.step, one.metrics["val_loss"]) for one in client.trial(job.id, 0).reports]
    assert reports == [(step, step / 100) for step in (2, 4, 6, 19, 20, 39, 40)]


def test_an_objective_that_stops_early_does_not_win(client: Client) -> None:
    def objective(trial: LoopTrial) -> float:
        early = trial.number == 1
        for step in range(2, 21 if early else 41, 2):
            trial.report(step, val_loss=0.001 if early else 0.5)
        return 0.001 if early else 0.5

    search = {"sampler": "random", "pruner": "none"}
    assert client.optimize(JOB | {"search": search}, objective).value == 0.5
    (job,) = client.list()
    whole, early = client.trials(job.id)
    assert (whole.state, early.state, early.step, early.value) == ("complete", "stopped", 20, 0.001)


def bar(trials: Iterable[LoopTrial]) -> Iterator[LoopTrial]:
    """As a progress bar does it."""
    done = 0
    try:
        for trial in trials:
            done += 1
            yield trial
    finally:
        assert done == 1


def passed_on(trials: Iterable[LoopTrial]) -> Iterator[LoopTrial]:
    yield from trials


AROUND = (iter, bar, passed_on, lambda trials: (one for one in bar(trials)), lambda trials: islice(trials, 9))


def test_leaving_the_for_ends_a_trial_as_it_was_left(client: Client) -> None:
    def whole(trial: LoopTrial) -> None:
        trial.report(40, val_loss=0.5)

    def half(trial: LoopTrial) -> None:
        trial.report(21, val_loss=0.5)

    def handled(trial: LoopTrial) -> None:
        try:
            raise ValueError("an old one")
        except ValueError as error:
            trial.kept = error  # type: ignore[attr-defined]
        trial.report(40, val_loss=0.5)

    for around in AROUND:
        found = [left(client, body, around) for body in (whole, half, handled, lambda trial: None)]
        assert [(one.state, one.step, one.value) for one in found] == [
            ("complete", 40, 0.5), ("stopped", 21, 0.5), ("complete", 40, 0.5), ("waiting", 0, None),
        ]  # fmt: skip
        assert found[3].reason == "left by its loop before it reported val_loss"


def test_an_exception_that_leaves_the_for_keeps_its_message(client: Client) -> None:
    def deep(trial: LoopTrial) -> None:
        trial.report(21, val_loss=0.5)
        {}["colour"]

    def interrupted(trial: LoopTrial) -> None:
        raise KeyboardInterrupt("by hand")

    def done(trial: LoopTrial) -> None:
        trial.report(40, val_loss=0.5)
        sys.exit(3)

    for around in AROUND:
        found = [left(client, body, around) for body in (deep, interrupted, done)]
        assert [(one.state, one.step, one.reason) for one in found] == [
            ("failed", 21, "KeyError: 'colour'"),
            ("waiting", 0, "KeyboardInterrupt: by hand"),
            ("complete", 40, ""),
        ]
    log = [event.message for job in client.list() for event in client.events(job.id)]
    assert "trial 0 failed: KeyError: 'colour'" in log
    assert "trial 0 released: KeyboardInterrupt: by hand" in log


def test_an_exception_that_leaves_its_client_too_keeps_its_message(door: httpx.Client) -> None:
    def script() -> None:
        with Client(str(door.base_url), KEY) as own:
            for _ in own.submit(JOB).trials():
                raise RuntimeError("CUDA out of memory")

    with pytest.raises(RuntimeError):
        script()
    (job,) = door.get("/v1/jobs").json()["items"]
    (found,) = door.get(f"/v1/jobs/{job['id']}/trials").json()["items"]
    assert (found["state"], found["reason"]) == ("failed", "RuntimeError: CUDA out of memory")


def test_what_another_process_reported_counts_when_the_for_is_left(client: Client) -> None:
    def body(trial: LoopTrial) -> None:
        sent = trial.to_send()
        batch = Batch(token=sent["token"], reports=[Sent(step=np.int64(40), metrics={"val_loss": np.float32(0.5)})])
        client.tell(trial._job, sent["number"], batch)

    assert [(one.state, one.value) for one in [left(client, body)]] == [("complete", 0.5)]


def test_an_exception_that_nobody_can_know_any_more_is_said_by_its_place(client: Client) -> None:
    job = client.submit(JOB)
    try:
        for _ in job.trials():
            raise KeyError("colour")
    except KeyError:
        pass
    (found,) = client.trials(job.id)
    assert (found.state, 'raise KeyError("colour")' in found.reason) == ("failed", True)


CRASHES = """
from lrtune.client import Client
client = Client()
trials = client.get("JOB").trials()
for trial in trials:
    trial.report(7, val_loss=0.25)
    RAISE
"""


def test_a_script_that_ends_says_why_even_where_its_iterator_outlives_the_for(
    door: httpx.Client, client: Client
) -> None:
    known = {"LRTUNE_URL": str(door.base_url), "LRTUNE_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
    for line, state, reason in (
        ("raise RuntimeError('CUDA out of memory')", "failed", "RuntimeError: CUDA out of memory"),
        ("raise KeyboardInterrupt", "waiting", "KeyboardInterrupt"),
        ("break", "stopped", "its loop ended it at step 7 of 40"),
    ):
        job = client.submit(JOB)
        script = CRASHES.replace("JOB", job.id).replace("RAISE", line)
        subprocess.run([sys.executable, "-c", script], env=known, capture_output=True, timeout=120, check=False)
        (found,) = client.trials(job.id)
        assert (found.state, found.reason.startswith(reason)) == (state, True), found.reason


@pytest.fixture
def terminal() -> Iterator[None]:
    """Ctrl-C as in a terminal: where tests run in the background, it may be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("times", "state"), [(1, "waiting"), (2, "running")])
def test_ctrl_c_as_a_trial_is_on_its_way_gives_it_back_and_a_second_one_does_not_wait(
    client: Client, monkeypatch: pytest.MonkeyPatch, times: int, state: str
) -> None:
    take = Client.take

    def interrupted(self: Client, job_id: str, **hold: Any) -> Any:
        held = take(self, job_id, **hold)
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        return held

    job = client.submit(JOB)
    monkeypatch.setattr(Client, "take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(job.trials())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    (trial,) = client.trials(job.id)
    assert trial.state == state


def test_another_metric_is_said_at_the_first_report_that_is_due(client: Client) -> None:
    def body(trial: LoopTrial) -> None:
        trial.report(2, accuracy=0.5)

    found = left(client, body)
    words = "found accuracy at step 2, but no report has val_loss, which this job is about"
    assert (found.state, words in found.reason) == ("failed", True)


def test_a_script_that_is_started_again_goes_on_with_its_job(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    named = JOB | {"name": "circles", "search": {"sampler": "random", "pruner": "none"}}

    def crashes(trial: LoopTrial) -> float:
        if trial.number == 1:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        client.optimize(named, crashes)
    other = client.open(named | {"horizon": {"steps": 50}})
    assert client.optimize(named, lambda trial: 0.4).value == 0.4
    first, second = sorted(client.list(), key=lambda job: job.created_at)
    assert (first.state, second.id) == ("succeeded", other.id)
    assert [trial.value for trial in client.trials(first.id)] == [0.5, 0.4]
    assert f"going on with {first.id}" in caplog.text
    assert client.open(second.id).id == client.open(client.get(second.id)).id == second.id
    assert client.open(named).id not in (first.id, second.id), "what is over is not gone on with"
    assert f"its answer is client.best({first.id!r}); another is trained anew" in caplog.text
    assert client.open(JOB).id != client.open(JOB).id, "a job without a name is a new one"
