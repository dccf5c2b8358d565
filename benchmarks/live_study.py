"""One study of `benchmarks.live`: a real job, stored and trained by a real worker; and runs finished afterwards.

Nothing is rebuilt here: the job goes into a database, a worker takes it from there, and the study is what it left.
"""

import itertools
import math
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import migrations
from benchmarks.live_tasks import OWN, Live, prepared
from lrtune.store import Database, jobs, trials
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import OVER, Job, JobState, Stage, Trial, TrialState
from worker.loop import Worker
from worker.settings import Settings
from worker.trainer import train

NEAR = 1.01  # of the best value is as good as the best


@dataclass(frozen=True)
class Ran:
    """One stage of a trial: what it trained, what it paid for in full runs, and its value if it completed the trial."""

    configuration: Configuration
    state: str
    paid: float
    value: float | None


@dataclass(frozen=True)
class Study:
    """One search on one task with one seed; values are validation losses, costs full runs.

    `whole` has what was paid by the end of each whole run, and its value; `finished` the values of stopped trials that
    were finished afterwards.
    """

    task: str
    search: str
    seed: int
    trials: int
    paid: float
    stopped: int
    whole: list[tuple[float, float]]
    finished: list[float]
    seconds: float = 0.0

    def within(self, runs: float) -> float:
        """The best whole run within a cost."""
        return min((value for paid, value in self.whole if paid <= runs + 1e-9), default=math.inf)

    @property
    def best(self) -> float:
        """The best whole run."""
        return self.within(math.inf)

    @property
    def winners(self) -> int:
        """How many of the finished ones beat what the study found."""
        return sum(value < self.best for value in self.finished)

    def cost_to(self, target: float) -> float:
        """What was paid when a whole run first came to the target; infinite if none did."""
        return min((paid for paid, value in self.whole if value <= target), default=math.inf)


def job(live: Live, *, sampler: str, pruner: str, seed: int, full_runs: float) -> AdmittedJob:
    """The job of one study: no confirming runs, the training seeded by the study, so that strategies meet in pairs."""
    return AdmittedJob.model_validate(
        {
            "task": live.spec(),
            "metric": {"name": "val_loss", "goal": "minimize"},
            "horizon": {"steps": live.steps},
            "search": {"sampler": sampler, "pruner": pruner, "seed": seed},
            "budget": {"full_runs": full_runs},
            "confirm": {"top": 0, "seeds": 0},
        }
    )


def study(spec: AdmittedJob, live: Live, folder: Path) -> list[Ran]:
    """What a job has trained, stage by stage in the order in which it was decided, by a real worker."""
    return by_stage(list(worked(spec, folder)), live.steps)


def by_stage(ended: Sequence[Trial], steps: int) -> list[Ran]:
    """What the trials of a job have trained, stage by stage in the order in which it was decided."""
    stages = [(stage, trial) for trial in ended for stage in trial.stages]
    return [_ran(stage, trial, steps) for stage, trial in sorted(stages, key=lambda pair: pair[0].decision)]


def _ran(stage: Stage, trial: Trial, steps: int) -> Ran:
    last = stage.decision == trial.decision
    state = trial.state if last else TrialState.PAUSED
    return Ran(
        trial.configuration, state.value, stage.cost / steps, trial.value if last and trial.completed(steps) else None
    )


def worked(spec: AdmittedJob, folder: Path) -> Iterator[Trial]:
    """Submit a job to a database of its own and let a worker of this process finish it.

    States are its own as well: another search's would train some of its runs for nothing.
    """
    url, stop = f"sqlite:///{folder}/live.db", threading.Event()
    (folder / "live.db").unlink(missing_ok=True)
    migrations.upgrade(url)
    database = Database(url)
    with database.write() as tx:
        job_id = jobs.create(tx, spec)[0].id
    with tempfile.TemporaryDirectory(dir=folder) as states:
        worker = threading.Thread(target=Worker(_settings(url, folder, states), stop).work)
        worker.start()
        try:
            ended = _over(database, job_id, worker)
        finally:
            stop.set()
            worker.join()
    if ended.state is not JobState.SUCCEEDED:
        raise SystemExit(f"the job {ended.state}: {ended.reason}")
    with database.read() as tx:
        yield from trials.history(tx, job_id)
    database.dispose()


def _settings(url: str, folder: Path, states: str) -> Settings:
    return Settings(
        database_url=url,
        data_dir=folder,
        device="cpu",
        poll_seconds=0.05,
        state_bytes=2**30,
        state_dir=states,
        tasks=",".join(OWN),
    )


def _over(database: Database, job_id: str, worker: threading.Thread) -> Job:
    """The job once it is over."""
    while worker.is_alive():
        worker.join(0.2)
        with database.read() as tx:
            if jobs.state(tx, job_id) in OVER:
                return jobs.get(tx, job_id)
    raise SystemExit("the worker has died")


def finished(spec: AdmittedJob, configuration: Configuration, live: Live, folder: Path) -> float | None:
    """The value of a configuration at the end of a whole run, nobody stopping it; None if it diverges."""
    run = Trial(
        number=0,
        role="search",
        state=TrialState.RUNNING,
        configuration=configuration,
        seed=spec.search.seed,
        horizon=live.steps,
    )
    ended = train(
        prepared(spec.task, folder),
        run,
        metric=spec.metric,
        device=torch.device("cpu"),
        on_report=lambda _: None,
        should_stop=lambda: None,
    )
    return ended.value


def whole(ran: Sequence[Ran]) -> list[tuple[float, float]]:
    """What a study had paid by the end of each whole run, and its value."""
    paid = itertools.accumulate(one.paid for one in ran)
    return [(round(cost, 6), one.value) for cost, one in zip(paid, ran, strict=True) if one.value is not None]


def stopped(ran: Sequence[Ran]) -> list[Configuration]:
    """What was stopped and never went to its end."""
    ended = {one.configuration for one in ran if one.value is not None}
    return list({one.configuration: None for one in ran if one.state == "stopped" and one.configuration not in ended})
