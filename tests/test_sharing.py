"""Two workers and one beginning: who waits for whom, and what the log of a job says of spoilt and unsaved states."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy.orm import Session

from lrtune.analysis.prefixes import Course
from lrtune.store import Database, events, jobs, leases, trials
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Proposal, Report, TrialState
from tests.leasing import claimed
from tests.serving import Done
from tests.test_states import damaged
from worker.loop import Worker
from worker.run import LiveRun
from worker.settings import Settings
from worker.sharing import Blocked, Sharing
from worker.tasks import prepare

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
CPU = torch.device("cpu")
SPEC = AdmittedJob.model_validate(
    {
        "task": {"name": "digits", "params": {"hidden": [8]}},
        "metric": {"name": "val_loss", "goal": "minimize"},
        "horizon": {"steps": 100},
        "schedules": ["constant"],
        "budget": {"full_runs": None, "trials": 1},
        "confirm": {"top": 1, "seeds": 1},
    }
)


def configuration(schedule: dict, rate: float = 0.01) -> Configuration:
    return Configuration.model_validate({"optimizer": {"name": "adamw"}, "learning_rate": rate, "schedule": schedule})


WAITS = configuration({"family": "wsd", "decay": 0.5})  # its first 50 steps are those of the next
AHEAD = configuration({"family": "constant"})
OTHER = configuration({"family": "constant"}, rate=0.3)


@pytest.fixture
def job(database: Database) -> str:
    """A job with three trials waiting, the first two of which begin alike."""
    with database.write() as tx:
        made, _ = jobs.create(tx, SPEC, now=NOON)
        for number, chosen in enumerate((WAITS, AHEAD, OTHER)):
            proposal = Proposal(configuration=chosen, role="search", seed=0, horizon=100, reason="a draw")
            assert trials.propose(tx, made.id, proposal, known=number, now=NOON)
    return made.id


def claim(database: Database, worker: str, *, at: datetime = NOON, ttl: timedelta = HOUR) -> leases.Lease | None:
    return claimed(database, worker, at=at, ttl=ttl)


def number(lease: leases.Lease | None) -> int | None:
    return lease and lease.trial.number


def report(step: int) -> Report:
    return Report(step=step, learning_rate=0.01, metrics={"val_loss": 1.0})


def behind(database: Database, *, step: int = 50) -> leases.Lease:
    """Trial 0 waits behind trial 1, and its worker has trial 2 instead; the hold on trial 1, for a minute."""
    waits, ahead = claim(database, "a"), claim(database, "b", ttl=MINUTE)
    assert waits is not None
    assert ahead is not None
    with database.write() as tx:
        leases.release(tx, waits, reason="trial 1 is training it", blocked_by=(ahead.id, step), now=NOON)
    assert number(claim(database, "a")) == 2
    return ahead


def test_a_trial_behind_another_is_not_claimed_while_that_one_trains_towards_its_step(database: Database, job: str):
    ahead = behind(database)
    assert claim(database, "c") is None
    with database.write() as tx:
        leases.report(tx, ahead, [report(45)], ttl=MINUTE, now=NOON)
    assert claim(database, "c", at=NOON + MINUTE / 2) is None
    with database.read() as tx:
        waiting = trials.get(tx, job, 0)
    assert (waiting.state, waiting.reason, waiting.attempt) == (TrialState.WAITING, "trial 1 is training it", 0)


@pytest.mark.parametrize("how", ["came far enough", "started far enough", "paused", "ended", "was given back"])
def test_a_trial_is_free_again_when_the_one_ahead(how: str, database: Database, job: str):
    ahead = behind(database)
    with database.write() as tx:
        if how == "came far enough":
            leases.report(tx, ahead, [report(45), report(50)], ttl=MINUTE, now=NOON)
        elif how == "started far enough":
            leases.take_up(tx, ahead, step=50, reused=50, whose=("x",), now=NOON)
        elif how == "paused":
            leases.pause(tx, ahead, value=1.0, step=20, reason="as planned", now=NOON)
        elif how == "ended":
            leases.finish(tx, ahead, TrialState.STOPPED, value=1.0, step=20, now=NOON)
        else:
            leases.release(tx, ahead, reason="the worker was asked to stop", now=NOON)
    freed = claim(database, "c")
    assert number(freed) == 0
    assert freed is not None
    assert freed.trial.attempt == 1, "to wait had cost no attempt"


def test_a_trial_is_free_again_when_the_worker_of_the_one_ahead_has_died(database: Database, job: str):
    behind(database)
    assert number(claim(database, "c", at=NOON + MINUTE / 2)) is None
    assert number(claim(database, "c", at=NOON + 2 * MINUTE)) == 0
    assert number(claim(database, "d", at=NOON + 2 * MINUTE)) == 1


Ways = Callable[[leases.Lease], tuple[int, int] | None]


@pytest.fixture
def ways(database: Database, tmp_path: Path) -> Ways:
    """Which trial a worker that holds this one waits for, and until which step."""
    settings = Settings(device="cpu", state_dir=str(tmp_path / "states"))

    def ask(lease: leases.Lease) -> tuple[int, int] | None:
        try:
            cache = Sharing(settings, CPU, writing(database)).cache(lease, prepare(SPEC.task, tmp_path))
        except Blocked as found:
            return found.ahead, found.step
        assert cache is not None
        cache.close()
        return None

    return ask


def writing(database: Database) -> Callable[[Callable[[Session], Any]], Any]:
    """Does a verb in a transaction of its own."""

    def write(verb: Callable[[Session], Any]) -> Any:
        with database.write() as tx:
            return verb(tx)

    return write


def paused(database: Database, job: str, step: int) -> None:
    """Trial 1 is paused after so many steps, and resumed; nobody has taken it again yet. Its checkpoint is not here."""
    write, held = writing(database), [claim(database, worker) for worker in "abc"]
    first, second, third = (lease for lease in held if lease is not None)
    write(lambda tx: leases.pause(tx, second, value=1.0, step=step, reason="as planned", now=NOON))
    for lease in (first, third):
        write(lambda tx, lease=lease: leases.release(tx, lease, reason="asked to stop", now=NOON))
    resumed = Proposal(configuration=AHEAD, role="search", seed=0, horizon=100, resume=1)
    assert write(lambda tx: trials.propose(tx, job, resumed, known=3, now=NOON))


def test_of_two_trials_that_begin_alike_one_goes_on_even_where_the_checkpoint_of_a_paused_one_is_gone(
    database: Database, job: str, ways: Ways
):
    paused(database, job, 20)
    waits, resumed = claim(database, "a"), claim(database, "b")
    assert waits is not None
    assert resumed is not None
    assert ways(waits) == (resumed.id, 50)
    assert ways(resumed) is None


@pytest.mark.parametrize("state_bytes", [2**30, 0])
def test_a_worker_that_has_no_checkpoint_of_a_paused_trial_says_that_it_trains_it_anew(
    state_bytes: int, database: Database, job: str, tmp_path: Path
):
    torch.set_num_threads(1)
    paused(database, job, 20)
    assert number(claim(database, "a")) == 0
    lease, task = claim(database, "b"), prepare(SPEC.task, tmp_path)
    assert lease is not None
    settings = Settings(device="cpu", state_dir=str(tmp_path / "states"), state_bytes=state_bytes)
    cache = Sharing(settings, CPU, writing(database)).cache(lease, task)
    if cache is not None:
        course = Course.of(lease.trial, lease.spec.metric)
        assert cache.begin(lambda: LiveRun(task, lease.trial, lease.spec.training, CPU), course).step == 0
        cache.close()
    with database.read() as tx:
        found, last = trials.get(tx, job, 1), events.latest(tx, job, before=None, limit=1).items[0]
    assert (found.step, found.cost, found.stages[-1].start) == (0, 120, 0)
    assert last.message == "trial 1 starts after step 0 of 100"


def test_a_worker_makes_way_for_one_that_trains_the_same_beginning_and_for_no_other(
    database: Database, job: str, ways: Ways
):
    held = [claim(database, worker) for worker in "abc"]
    kept, ahead, other = (lease for lease in held if lease is not None)
    assert ways(ahead) == (kept.id, 51), "of two that have just begun the older goes on, up to where its decay begins"
    assert ways(kept) is None
    assert ways(other) is None
    with database.write() as tx:
        leases.report(tx, ahead, [report(30)], ttl=HOUR)
    assert ways(kept) == (ahead.id, 50), "the other one is ahead by now, and leaves a state at each of its reports"
    with database.write() as tx:
        leases.report(tx, ahead, [report(50)], ttl=HOUR)
    assert ways(kept) is None


def worked(url: str, states: Path) -> list[tuple[int | None, str, str]]:
    """Submit the job, have a worker do it, and read its log: (trial, kind, message)."""
    database = Database(url)
    with database.write() as tx:
        made, _ = jobs.create(tx, SPEC)
    Worker(Settings(database_url=url, device="cpu", state_dir=str(states)), Done()).work()
    with database.read() as tx:
        assert jobs.get(tx, made.id).state == "succeeded"
        log = events.page(tx, made.id, after=0, limit=1000).items
    database.dispose()
    return [(event.trial, event.kind, event.message) for event in log]


def test_the_log_of_a_job_says_which_states_were_spoilt_and_that_the_steps_were_trained_again(
    sqlite_url: str, tmp_path: Path
):
    torch.set_num_threads(1)
    worked(sqlite_url, tmp_path / "kept")
    again = worked(sqlite_url, tmp_path / "kept")
    assert {number for number, kind, _ in again if kind == "trial-taken-up"} == {
        number for number, kind, _ in again if kind == "trial-started"
    }
    for path in list((tmp_path / "kept").rglob("*.safetensors")):
        damaged(path, "truncated")
    log = worked(sqlite_url, tmp_path / "kept")
    said = [(number, message) for number, kind, message in log if kind == "state-ignored"]
    assert said
    for number, message in said:
        assert message.startswith(f"trial {number}: the state of step ")
        assert "was ignored and is trained again: its " in message
        assert "do not have the checksum of its name" in message


def test_a_run_that_a_pruner_stopped_is_gone_on_with_where_it_was_stopped(sqlite_url: str, tmp_path: Path):
    torch.set_num_threads(1)
    search = {"sampler": "random", "pruner": {"name": "threshold", "upper": 1e-6, "n_warmup_reports": 5}}
    changes = {"schedules": ["constant", "cosine"], "budget": {"full_runs": None, "trials": 2}, "confirm": {"top": 0}}
    pruned = AdmittedJob.model_validate(SPEC.model_dump() | changes | {"search": search})
    whole = AdmittedJob.model_validate(SPEC.model_dump() | changes | {"search": search | {"pruner": "none"}})
    database = Database(sqlite_url)
    with database.write() as tx:
        made = [jobs.create(tx, spec)[0].id for spec in (pruned, whole)]
    Worker(Settings(database_url=sqlite_url, device="cpu", state_dir=str(tmp_path / "kept")), Done()).work()
    with database.read() as tx:
        first, again = (trials.get(tx, one, 1) for one in made)
    database.dispose()
    assert first.configuration == again.configuration
    assert (first.state, again.state) == (TrialState.STOPPED, TrialState.COMPLETE)
    assert 0 < first.step == again.reused < 100


def test_the_log_of_a_job_says_once_a_trial_that_its_states_could_not_be_saved(sqlite_url: str, tmp_path: Path):
    torch.set_num_threads(1)
    (tmp_path / "file").write_text("not a directory")
    log = worked(sqlite_url, tmp_path / "file")
    said = [(number, message) for number, kind, message in log if kind == "state-not-saved"]
    started = [number for number, kind, _ in log if kind == "trial-started"]
    assert [number for number, _ in said] == started
    assert all("its state could not be saved, and none will be of this trial: " in message for _, message in said)
