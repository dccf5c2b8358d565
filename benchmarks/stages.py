"""What a loop of one's own pays for its answer, with checkpoints and without: `python -m benchmarks.stages [--quick]`.

One job (the handwritten digits, a run of 480 steps) in several ways, by a real server over HTTP: by a plain torch loop
whose trials are trained whole; by the same loop with checkpoints, in stages; with those and declared deterministic, so
that its trials share beginnings as the built-in task's do; and as the built-in task by a worker. Model, data, order of
batches and seeds are the same: one configuration comes to one value everywhere.

Costs are in full runs. What is compared is the cost of the same value: the best that every way came to with that seed
and budget, which is the worst of their bests, plus 1 %. A search has paid for it when its first whole run is there.
The first run of all, the baseline, is whole and the same everywhere.
"""

import argparse
import itertools
import json
import os
import platform
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import uvicorn
from threadpoolctl import threadpool_limits

from app.main import create_app
from app.settings import Settings as ServerSettings
from benchmarks.live_study import NEAR, Study, by_stage, stopped, whole
from benchmarks.live_tasks import TASKS
from lrtune.client import Client
from lrtune.loop import LoopTrial
from lrtune.store import Database, trials
from lrtune.task import Task
from lrtune.wire.job import TaskSpec
from lrtune.wire.results import JobState, Trial
from worker.loop import Worker
from worker.settings import Settings
from worker.tasks import prepare

KEY = "a-key-for-a-benchmark"
LEASE = 600.0  # seconds: on a busy machine a trial is not to be taken for lost
DIGITS = TASKS["digits"]
JOB: dict[str, Any] = {
    "metric": {"name": "val_loss", "goal": "minimize", "range": [0, None]},
    "horizon": {"steps": DIGITS.steps},
    "clip_norm": 1.0,  # as the built-in task has it
    "confirm": {"top": 0},
}
WAYS: dict[str, dict[str, Any]] = {
    "loop, whole runs": {},
    "loop, checkpoints": {"checkpoints": "checkpoints"},
    "loop, deterministic": {"checkpoints": "checkpoints", "deterministic": True},
}
BUILT_IN = "built-in task"


def train(trial: LoopTrial, task: Task) -> None:
    """What a script of one's own does for one trial, or one stage of it."""
    torch.manual_seed(trial.seed)
    model = task.model()
    optimizer = trial.optimizer(model.parameters())
    start = trial.restore(model=model, optimizer=optimizer)
    scheduler = trial.scheduler(optimizer, step=start)
    batches = task.batches_from(trial.seed, start)
    for step in range(start + 1, trial.until + 1):
        optimizer.zero_grad()
        task.loss(model, next(batches)).backward()
        if (norm := trial.configuration.clip_norm) is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), norm)
        optimizer.step()
        scheduler.step()
        if trial.due(step) and trial.report(step, val_loss=measured(task, model)):
            break


def measured(task: Task, model: torch.nn.Module) -> float:
    """The validation loss."""
    model.eval()
    with torch.no_grad():
        loss = task.evaluate(model)["val_loss"]
    model.train()
    return loss


@contextmanager
def served(database_url: str) -> Iterator[Client]:
    """A client of a real server on this database."""
    app = create_app(ServerSettings(database_url=database_url, api_key=KEY))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as door:
        running = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        running.start()
        try:
            with Client("http://127.0.0.1:{1}".format(*door.getsockname()), KEY) as client:
                yield client
        finally:
            server.should_exit = True
            running.join()


def by_loop(client: Client, spec: Mapping[str, Any], task: Task, options: Mapping[str, Any]) -> str:
    """The id of the job, trained by a loop in this process."""
    job = client.submit({**spec, "task": "external"})
    for trial in job.trials(lease_seconds=LEASE, **options):
        train(trial, task)
    return job.id


def by_worker(client: Client, spec: Mapping[str, Any], settings: Settings) -> str:
    """The id of the job, trained by a worker in this process."""
    job, stop = client.submit({**spec, "task": DIGITS.spec()}), threading.Event()
    worker = threading.Thread(target=Worker(settings, stop).work)
    worker.start()
    try:
        client.wait(job.id)
    finally:
        stop.set()
        worker.join()
    return job.id


def studied(way: str, seed: int, full_runs: float) -> Study:
    """Let one job be done one way, in a database and a folder of its own."""
    began = time.perf_counter()
    spec = JOB | {"search": {"seed": seed}, "budget": {"full_runs": full_runs}}
    with tempfile.TemporaryDirectory(prefix="stages-") as folder:
        url = f"sqlite:///{folder}/lrtune.db"
        with served(url) as client:
            if way == BUILT_IN:
                states: dict[str, Any] = {"state_dir": f"{folder}/states", "state_bytes": 2**30, "lease_seconds": LEASE}
                job = by_worker(client, spec, Settings(database_url=url, device="cpu", poll_seconds=0.05, **states))
            else:
                options = WAYS[way]
                options = options | {name: f"{folder}/{name}" for name in options if name == "checkpoints"}
                task = prepare(TaskSpec.model_validate(DIGITS.spec()), Path())
                job = by_loop(client, spec, task, options)
            found = client.get(job)
            if found.state is not JobState.SUCCEEDED:
                raise SystemExit(f"{way}: the job {found.state}: {found.reason}")
        return _said(_study(way, seed, history(url, job), round(time.perf_counter() - began, 1)))


def history(url: str, job: str) -> list[Trial]:
    """The trials of a job, with their stages."""
    database = Database(url)
    with database.read() as tx:
        found = trials.history(tx, job)
    database.dispose()
    return found


def _study(way: str, seed: int, ended: Sequence[Trial], seconds: float) -> Study:
    ran = by_stage(ended, DIGITS.steps)
    paid = round(sum(one.paid for one in ran), 2)
    return Study(DIGITS.name, way, seed, len(ended), paid, len(stopped(ran)), whole(ran), [], seconds)


def _said(one: Study) -> Study:
    words = f"best {one.best:.4f}, {one.trials} trials for {one.paid:g} full runs"
    print(f"seed {one.seed}, {one.search}: {words}, {one.seconds:.0f} s", flush=True)
    return one


def table(studies: Sequence[Study]) -> str:
    """What each way paid for the value that all came to, seed by seed and in all, as a Markdown table."""
    seeds = sorted({one.seed for one in studies})
    targets = {seed: NEAR * max(one.best for one in studies if one.seed == seed) for seed in seeds}
    head = ["way", *(f"seed {seed}, to {targets[seed]:.4f}" for seed in seeds), "in all", "of the built-in's"]
    rows: dict[str, list[float]] = {}
    for one in sorted(studies, key=lambda one: one.seed):
        rows.setdefault(one.search, []).append(one.cost_to(targets[one.seed]))
    least = sum(rows.get(BUILT_IN, []))
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for way, costs in rows.items():
        share = f"{sum(costs) / least:.0%}" if least else "–"
        lines.append(f"| {way} | {' | '.join(f'{cost:.2f}' for cost in costs)} | {sum(costs):.2f} | {share} |")
    return "\n".join(lines)


def main() -> None:
    """Do the job each way with each seed, and print a line for each and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full-runs", type=float, default=12.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed, four full runs: to see it work")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.quick:
        asked.seeds, asked.full_runs = 1, 4.0
    torch.set_num_threads(1)
    threadpool_limits(1)
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    )
    ways = [*WAYS, BUILT_IN]
    studies: list[Study] = []
    for seed, way in itertools.product(range(asked.seeds), ways):
        studies.append(studied(way, seed, asked.full_runs))
        if asked.json:  # after each, because the whole takes its time
            asked.json.write_text(json.dumps([asdict(one) for one in studies], indent=1), encoding="utf-8")
    print("\n" + table(studies))


if __name__ == "__main__":
    main()
