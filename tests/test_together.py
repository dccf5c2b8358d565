"""A worker that trains several trials of a job at a time: who is taken along, and how each of them ends."""

import itertools
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import update
from torch import nn

from lrtune.store import Database, events, jobs, leases, mates, trials
from lrtune.store.tables import ShareRow, TrialRow
from lrtune.task import Task
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Proposal, Trial, TrialState
from tests.leasing import MINUTE, NOON, PLAIN, SPEC, claim
from tests.serving import Done
from worker import stacked, together
from worker.cohort import Lane
from worker.lanes import Worth
from worker.loop import Worker
from worker.settings import Settings

HOUR = timedelta(hours=1)
OTHER = Configuration.model_validate(PLAIN.model_dump() | {"learning_rate": 2e-3, "clip_norm": 0.5})
SGD = Configuration.model_validate(PLAIN.model_dump() | {"optimizer": "sgd"})
TOGETHER = SPEC.model_dump() | {
    "task": {"name": "digits", "params": {"hidden": [8]}},
    "horizon": {"steps": 40},
    "search": {"sampler": "random", "pruner": "none"},
    "budget": {"trials": 6, "full_runs": None},
    "confirm": {"top": 0},
    "training": {"determinism": "preferred"},
}
PAYS = Worth(2, 4, "2 to 4 trials are trained at a time, as lanes of one network: so says the test")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


# Who is taken along ---------------------------------------------------------------------------------------------------


def test_the_oldest_trials_that_differ_in_rates_alone_are_taken_along(database: Database) -> None:
    with database.write() as tx:
        job = jobs.create(tx, SPEC, now=NOON)[0].id
        for number, (chosen, seed, horizon) in enumerate(
            [
                (PLAIN, 0, 100),
                (PLAIN, 1, 100),
                (OTHER, 0, 100),
                (PLAIN, 0, 50),
                (SGD, 0, 100),
                (OTHER, 0, 100),
                (PLAIN, 0, 100),
            ]
        ):
            proposal = Proposal(configuration=chosen, role="search", seed=seed, horizon=horizon)
            assert trials.propose(tx, job, proposal, known=number)
    lease = claim(database)

    def along(least: int, most: int) -> list[int]:
        with database.write() as tx:
            found = mates.claim(tx, lease, "a", ttl=MINUTE, least=least, most=most, now=NOON)
            assert len({one.token for one in found}) == len(found)
            return [one.trial.number for one in found]

    assert along(least=4, most=9) == [], "only three wait that fit"
    assert along(least=2, most=2) == [2, 5]
    assert along(least=1, most=9) == [6]
    with database.write() as tx:
        assert mates.claim(tx, lease, "a", ttl=MINUTE, least=1, most=9, now=NOON) == []
        assert [one.worker for one in trials.page(tx, job, limit=9, cursor=None).items if one.state == "running"] == [
            "a"
        ] * 4


@pytest.mark.parametrize("last", ["finished", "lost"])
def test_lanes_share_the_seconds_that_their_owner_is_charged(last: str, database: Database) -> None:
    """Four over forty seconds, and two over sixty more: a hundred seconds of a device, whoever ends how."""
    with database.write() as tx:
        job = jobs.create(tx, SPEC, owner="ada", now=NOON)[0].id
        for number in range(4):
            proposal = Proposal(configuration=PLAIN, role="search", seed=0, horizon=100 + number // 4)
            assert trials.propose(tx, job, proposal, known=number)
        before = tx.get_one(ShareRow, "ada").virtual
    first = claim(database)
    with database.write() as tx:
        held = [first, *mates.claim(tx, first, "a", ttl=HOUR, least=3, most=3, now=NOON)]
    assert len(held) == 4
    for lease in held[:2]:
        with database.write() as tx:
            leases.finish(tx, lease, TrialState.COMPLETE, value=1.0, step=100, now=NOON + timedelta(seconds=40))
    with database.write() as tx:
        if last == "lost":
            tx.execute(update(TrialRow).values(lease_until=NOON))
            leases.requeue(tx, now=NOON + timedelta(seconds=100))
        else:
            for lease in held[2:]:
                leases.finish(tx, lease, TrialState.COMPLETE, value=1.0, step=100, now=NOON + timedelta(seconds=100))
    with database.read() as tx:
        assert tx.get_one(ShareRow, "ada").virtual - before == pytest.approx(100)


# What becomes of them -------------------------------------------------------------------------------------------------


class Puts(Task):
    """What it does with its batch, before the network, has no deterministic algorithm, on a CPU either."""

    def model(self) -> nn.Module:
        return nn.Linear(4, 1)

    def batches(self, seed: int) -> Iterator[torch.Tensor]:
        drawn = torch.Generator().manual_seed(seed)
        while True:
            yield torch.randn(6, 4, generator=drawn)

    def loss(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        placed = torch.zeros(6).put_(torch.arange(6), batch.sum(1))
        loss: torch.Tensor = (model(batch).squeeze(1) - placed).square().mean()
        return loss

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"val_loss": float((model(torch.ones(1, 4)) - 4).square())}


class Exits(Puts):
    """It ends the process where it has no more batches."""

    def batches(self, seed: int) -> Iterator[torch.Tensor]:
        yield from itertools.islice(super().batches(seed), 30)
        raise SystemExit("no more")


@pytest.fixture
def work(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Submit a job and have a worker do it: its state, its trials and its log."""
    monkeypatch.setattr(together, "measure", lambda *_: PAYS)

    def worked(
        stop: threading.Event | None = None, state_bytes: int | None = None, **changes: Any
    ) -> tuple[str, list[Trial], list[str]]:
        database = Database(sqlite_url)
        with database.write() as tx:
            job = jobs.create(tx, AdmittedJob.model_validate(TOGETHER | changes))[0].id
        tasks = "tests.test_together:Puts,tests.test_together:Exits"
        settings = Settings(database_url=sqlite_url, device="cpu", data_dir=tmp_path, lanes=4, tasks=tasks)
        settings.state_dir, settings.state_bytes = str(tmp_path / "states"), state_bytes
        Worker(settings, stop or Done()).work()
        with database.read() as tx:
            numbers = [one.number for one in trials.page(tx, job, limit=100, cursor=None).items]
            found = [trials.get(tx, job, number) for number in numbers]
            said = [line.message for line in events.page(tx, job, after=0, limit=1000).items]
            state = str(jobs.get(tx, job).state)
        database.dispose()
        return state, found, said

    return worked


def cohorts(found: list[Trial]) -> list[int]:
    """How many stages were trained at a time, one after another."""
    spans = sorted((stage.started_at, stage.ended_at) for trial in found for stage in trial.stages)
    sizes, end = list[int](), None
    for begin, over in spans:
        if end is None or begin >= end:
            sizes.append(0)
        sizes[-1] += 1
        end = over if end is None else max(end, over)
    return sizes


def test_a_job_is_trained_several_trials_at_a_time_and_its_log_says_so(work: Callable[..., Any]) -> None:
    state, found, said = work()
    assert (state, [trial.state for trial in found]) == ("succeeded", ["complete"] * 6)
    assert cohorts(found) == [1, 4, 1]  # what pays is known when the first has begun; six are all
    assert [len(trial.reports) for trial in found] == [20] * 6
    assert sum(PAYS.words in line for line in said) == 1
    assert sum(trial.step - trial.reused for trial in found) == 6 * 40


def test_the_log_says_it_of_each_optimizer_of_a_job_once(work: Callable[..., Any]) -> None:
    _, found, said = work(optimizers=["adamw", "sgd"])
    assert {trial.configuration.optimizer.as_dict()["name"] for trial in found} == {"adamw", "sgd"}
    assert [sum(f"{name}: {PAYS.words}" in line for line in said) for name in ("adamw", "sgd")] == [1, 1]


def test_trials_that_would_share_a_beginning_make_way_and_go_on_from_it(work: Callable[..., Any]) -> None:
    """Schedules over one rate: others wait until the first has trained what they begin with."""
    held = {"optimizer": "adamw", "learning_rate": 0.01, "warmup": 0.0, "clip_norm": None}
    tried = [{**held, "schedule": {"family": "wsd", "decay": decay}} for decay in (0.2, 0.3, 0.4, 0.5)]
    state, found, said = work(**{"try": tried}, schedules=["wsd"], budget={"trials": 5, "full_runs": None})
    assert state == "succeeded"
    assert sum("is training its first" in line for line in said) >= 1
    assert max(trial.reused for trial in found) >= 20


def test_what_breaks_as_lanes_waits_again_and_is_trained_alone(
    work: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backward, times = stacked.Network.backward, [0]

    def breaks(self: stacked.Network, batches: Any) -> torch.Tensor:
        times[0] += 1
        if times[0] == 25:
            raise RuntimeError("no room for so many")
        return backward(self, batches)

    monkeypatch.setattr(stacked.Network, "backward", breaks)
    state, found, said = work()
    assert (state, [trial.state for trial in found]) == ("succeeded", ["complete"] * 6)
    assert times == [25], "nothing is tried a second time"
    assert sum("not as lanes: RuntimeError: no room for so many" in line for line in said) == 4
    assert max(trial.attempt for trial in found) == 1, "being given back costs no attempt"


def test_trials_that_do_not_fit_together_are_trained_one_by_one(
    work: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was room as it was measured; another worker on the device has it by now."""
    begun, begin = [0], together.LiveRun

    def full(*args: Any, **more: Any) -> Any:
        begun[0] += 1
        if begun[0] == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return begin(*args, **more)

    monkeypatch.setattr(together, "LiveRun", full)
    state, found, said = work()
    assert (state, [trial.state for trial in found]) == ("succeeded", ["complete"] * 6)
    assert sum("one by one, not as lanes: there is no memory for so many" in line for line in said) == 4


def test_what_is_not_deterministic_in_lanes_is_named_once_in_the_log(work: Callable[..., Any]) -> None:
    state, found, said = work(task={"name": "tests.test_together:Puts", "params": {}})
    assert (state, [trial.state for trial in found]) == ("succeeded", ["complete"] * 6)
    assert cohorts(found) == [1, 4, 1]
    assert sum("trained all the same: put_" in line for line in said) == 1


def test_a_task_that_ends_the_process_ends_the_trials_of_a_cohort_and_not_the_worker(work: Callable[..., Any]) -> None:
    state, found, _ = work(task={"name": "tests.test_together:Exits", "params": {}})
    assert (state, {trial.state for trial in found}) == ("failed", {"failed"})
    assert all("no more" in (trial.reason or "") for trial in found[:3])


def test_where_there_is_no_room_for_the_states_of_lanes_each_says_so_once_and_the_job_is_done(
    work: Callable[..., Any],
) -> None:
    search = {"search": {"sampler": "curve", "pruner": "forecast"}, "budget": {"full_runs": 4, "trials": None}}
    state, found, said = work(state_bytes=30_000, **search)
    none = [line for line in said if "there was no room for its state" in line]
    assert (state, max(cohorts(found))) == ("succeeded", 4)
    assert none
    assert len(none) <= sum(stage.outcome == "paused" for trial in found for stage in trial.stages)
    assert sum(trial.cost for trial in found) <= 4 * 40


def test_a_worker_that_is_stopped_gives_all_lanes_back(
    work: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, due = Done(), together.train_together

    def stopping(lanes: list[Lane], least: int) -> Iterator[Any]:
        if len(lanes) == 4:
            stop.set()
        return due(lanes, least)

    monkeypatch.setattr(together, "train_together", stopping)
    state, found, said = work(stop=stop)
    assert state == "running"
    assert sorted(trial.state for trial in found) == ["complete", *["waiting"] * 4]
    assert sum("released: the worker was asked to stop" in line for line in said) == 4


def test_a_lane_whose_lease_is_lost_is_dropped_and_the_others_are_complete(
    work: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, sqlite_url: str
) -> None:
    due = together.train_together

    def losing(lanes: list[Lane], least: int) -> Iterator[Any]:
        if len(lanes) == 4:
            attempt: Any = getattr(lanes[1].should_stop, "__self__")  # noqa: B009
            database = Database(sqlite_url)
            with database.write() as tx:
                leases.lose(tx, attempt.lease, reason="nothing was heard of it")
            database.dispose()
        return due(lanes, least)

    monkeypatch.setattr(together, "train_together", losing)
    state, found, _ = work()
    assert (state, {trial.state for trial in found}) == ("succeeded", {"complete"})
    assert sorted(stage.outcome or "" for trial in found for stage in trial.stages) == ["finished"] * 6 + ["lost"]


def test_under_exact_determinism_trials_are_trained_one_by_one_and_the_log_says_why(
    work: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    state, found, said = work(training={}, budget={"trials": 3, "full_runs": None})
    assert (state, cohorts(found)) == ("succeeded", [1, 1, 1])
    assert sum("not as lanes: training.determinism is exact" in line for line in said) == 1
