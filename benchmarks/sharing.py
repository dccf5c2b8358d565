"""How much of a job is trained: `python -m benchmarks.sharing [--quick] [--data DIR] [--json FILE]`.

A job over the families that hold their rate for a while (constant, step, multistep, wsd, plateau) and cosine, at the
default settings, is run twice by the code that workers run: with states, and without. `trained_share` is the steps that
were trained over the steps that were reported, `identical` whether both jobs ended with the same trials, reports and
answer. The budget is a number of trials, because credited steps would buy the job with states more of them.
"""

import argparse
import json
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import migrations
from benchmarks.shared_tasks import tasks
from lrtune.results import Job, JobState, Trial
from lrtune.spec import JobSpec, TaskSpec
from lrtune.store import Database, jobs, trials
from worker.loop import Worker
from worker.settings import Settings

HOLDING = ("constant", "step", "multistep", "wsd", "plateau")
GIB = 2**30


def main() -> None:
    """Print the shares, task by task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="digits alone, on the holding families, a short horizon")
    parser.add_argument("--data", type=Path, help="a folder with adult.csv and tinyshakespeare.txt")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (task, steps) in tasks(Path(folder), data=asked.data).items():
            if name == "images" or (asked.quick and name != "digits"):
                continue
            for families in (HOLDING,) if asked.quick else (HOLDING, (*HOLDING, "cosine")):
                rows.append(compared(name, task, 200 if asked.quick else steps, families, asked.trials, Path(folder)))
                print(rows[-1], flush=True)
    found = {
        "trained_share": sum(row["trained"] for row in rows) / sum(row["reported"] for row in rows),
        "identical": all(row["identical"] for row in rows),
        "rows": rows,
    }
    print(f"trained share {found['trained_share']:.3f}, identical: {found['identical']}")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


def compared(
    name: str, task: TaskSpec, steps: int, families: Sequence[str], count: int, folder: Path
) -> dict[str, Any]:
    """One job with states and without."""
    spec = JobSpec.model_validate(
        {
            "task": task,
            "metric": {"name": "val_loss", "goal": "minimize"},
            "horizon": {"steps": steps},
            "schedules": list(families),
            "budget": {"full_runs": None, "trials": count},
        }
    )
    with tempfile.TemporaryDirectory() as own:
        shared, history = ended(spec, folder, Path(own), room=4 * GIB)
    with tempfile.TemporaryDirectory() as own:
        alone, control = ended(spec, folder, Path(own), room=0)
    reported = sum(trial.step for trial in history)
    trained = reported - sum(trial.credited for trial in history)
    same = facts(shared, history) == facts(alone, control)
    share = round(trained / reported, 4)
    described = {"task": name, "families": len(families), "trials": len(history), "share": share}
    return {**described, "trained": trained, "reported": reported, "identical": same}


def ended(spec: JobSpec, folder: Path, own: Path, *, room: int) -> tuple[Job, list[Trial]]:
    """A job, run to its end by one worker, and its trials."""
    url = f"sqlite:///{own / 'lrtune.db'}"
    migrations.upgrade(url)
    database, stop = Database(url), threading.Event()
    with database.write() as tx:
        job = jobs.create(tx, spec)[0].id
    settings = Settings(database_url=url, data_dir=folder, device="cpu", poll_seconds=0.02)
    settings = settings.model_copy(update={"state_dir": str(own / "states"), "state_bytes": room})
    worker = threading.Thread(target=Worker(settings, stop).work)
    worker.start()
    try:
        while worker.is_alive():
            worker.join(0.2)
            with database.read() as tx:
                if (found := jobs.get(tx, job)).finished_at:
                    break
    finally:
        stop.set()
        worker.join()
    with database.read() as tx:
        history = trials.history(tx, job)
    database.dispose()
    if found.state is not JobState.SUCCEEDED:
        raise SystemExit(f"the job {found.state}: {found.reason}")
    return found, history


def facts(job: Job, history: Sequence[Trial]) -> Any:
    """All that is to be the same however a job was trained."""
    runs = [(t.configuration, t.seed, t.role, t.state, t.value, t.step) for t in history]
    reports = [(r.step, r.learning_rate, r.metrics) for trial in history for r in trial.reports]
    best = job.best and (job.best.configuration, job.best.value, job.best.interval, job.best.trial)
    return runs, reports, best


if __name__ == "__main__":
    main()
