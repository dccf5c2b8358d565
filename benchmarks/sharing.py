"""How much of a job is trained: `python -m benchmarks.sharing [--quick] [--only TASK] [--data DIR] [--json FILE]`.

A job over the families that hold their rate for a while (constant, step, multistep, wsd, plateau) and cosine, at the
default settings, is run by the code that workers run. `trained_share` is the steps that were trained over the steps
that its trials report, each up to where it got: what it leaves out is what different trials had in common. Then each
trial is trained again, alone and without states: `identical` is whether every report came out the same. `--trials`
gives the job trials in one stage.
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
from lrtune.store import Database, jobs, trials
from lrtune.wire.job import AdmittedJob, TaskSpec
from lrtune.wire.results import JobState, Report, Trial
from worker.loop import Worker
from worker.settings import Settings
from worker.tasks import prepare
from worker.trainer import train

HOLDING = ("constant", "step", "multistep", "wsd", "plateau")
GIB = 2**30


def main() -> None:
    """Print the shares, task by task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="digits alone, on the holding families, a short horizon")
    parser.add_argument("--only", help="one task")
    parser.add_argument("--data", type=Path, help="a folder with adult.csv and tinyshakespeare.txt")
    parser.add_argument("--trials", type=int, help="a budget in trials, which are trained in one stage then")
    parser.add_argument("--runs", type=float, help="the budget in full runs; 20, and 10 with --quick")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    asked.runs = asked.runs or (10.0 if asked.quick else 20.0)
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (task, steps) in tasks(Path(folder), data=asked.data).items():
            if name == "images" or (asked.quick and name != "digits") or asked.only not in (None, name):
                continue
            for families in (HOLDING,) if asked.quick else (HOLDING, (*HOLDING, "cosine")):
                rows.append(compared(name, task, 200 if asked.quick else steps, families, asked, Path(folder)))
                print(rows[-1], flush=True)
    trained = sum(row["trained"] for row in rows)
    found = {
        "trained_share": trained / sum(row["steps"] for row in rows),
        "identical": all(row["identical"] for row in rows),
        "rows": rows,
    }
    print(f"trained share {found['trained_share']:.3f}, identical: {found['identical']}")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


def compared(
    name: str, task: TaskSpec, steps: int, families: Sequence[str], asked: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """One job with states, and its runs again without."""
    spec = AdmittedJob.model_validate(
        {
            "task": task,
            "metric": {"name": "val_loss", "goal": "minimize"},
            "horizon": {"steps": steps},
            "schedules": list(families),
            "budget": {"full_runs": None if asked.trials else asked.runs, "trials": asked.trials},
        }
    )
    with tempfile.TemporaryDirectory() as own:
        history = ended(spec, folder, Path(own), room=4 * GIB)
    reported, trained = sum(trial.step for trial in history), sum(trial.cost for trial in history)
    same = [facts(trial.reports) == facts(alone(spec, trial, folder)) for trial in history]
    described = {"task": name, "families": len(families), "trials": len(history)}
    counts = {"share": round(trained / reported, 4), "trained": trained, "steps": reported}
    return {**described, **counts, "identical": all(same)}


def alone(spec: AdmittedJob, trial: Trial, folder: Path) -> list[Report]:
    """The reports of a run that is trained from its first step on."""
    reports: list[Report] = []
    again = trial.model_copy(update={"start": 0, "until": None, "reused": 0, "reports": []})

    def on_report(report: Report) -> str | None:
        reports.append(report)
        return "far enough" if report.step >= trial.step else None

    train(
        prepare(spec.task, folder), again, metric=spec.metric, device=torch.device("cpu"),
        on_report=on_report, should_stop=lambda: None,
    )  # fmt: skip
    return [report for report in reports if report.step <= trial.step]


def ended(spec: AdmittedJob, folder: Path, own: Path, *, room: int) -> list[Trial]:
    """The trials of a job that one worker brings to its end."""
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
    return history


def facts(reports: Sequence[Report]) -> list[Any]:
    """What is to be the same however a run was trained."""
    return [(report.step, report.learning_rate, report.metrics) for report in reports]


if __name__ == "__main__":
    main()
