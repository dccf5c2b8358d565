"""Trials an hour on this machine's device: one by one, as slots, as lanes.

`python -m benchmarks.lanes [--lanes 16] [--slots 4] [--task digits] [--params '{"hidden": [32]}'] [--json FILE]`.
Workers as `lrtune worker` starts them train the trials of one job, all over the whole horizon, under
`determinism: off` and without states. The clock runs from the end of the first trial, after which it is known whether
lanes pay, to the end of the last.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import migrations
from lrtune.store import Database, events, jobs, trials
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import OVER


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--params", type=json.loads, default={"hidden": [32]})
    parser.add_argument("--metric", default="val_loss")
    parser.add_argument("--trials", type=int, default=33, help="of each way; of those one by one a quarter")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    name = torch.cuda.get_device_name() if torch.cuda.is_available() and asked.device != "cpu" else "the CPU"
    ways = {
        "one by one": ({"LRTUNE_LANES": "1"}, max(3, asked.trials // 4)),
        f"{asked.slots} slots": ({"LRTUNE_LANES": "1", "LRTUNE_SLOTS": str(asked.slots)}, asked.trials),
        f"{asked.lanes} lanes": ({"LRTUNE_LANES": str(asked.lanes)}, asked.trials),
    }
    rows: list[dict[str, Any]] = []
    for way, (settings, count) in ways.items():
        rows.append({"way": way, **trained(asked, settings, count)})
        gain = rows[-1]["an_hour"] / rows[0]["an_hour"]
        print(f"{way:12} {rows[-1]['an_hour']:10.0f} trials an hour on {name}, {gain:.2f} times", flush=True)
        print("".join(f"  {line}\n" for line in rows[-1]["said"]), end="", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps({"device": name, "rows": rows}, indent=1))


def trained(asked: argparse.Namespace, settings: dict[str, str], count: int) -> dict[str, Any]:
    """Trials an hour of one job of so many trials, by a worker with these settings, and what its log says of lanes."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/lrtune.db"
        migrations.upgrade(url)
        database = Database(url)
        spec = {
            "task": {"name": asked.task, "params": asked.params},
            "metric": {"name": asked.metric, "goal": "minimize"},
            "horizon": {"steps": asked.steps},
            "search": {"sampler": "random", "pruner": "none"},
            "budget": {"trials": count, "full_runs": None},
            "confirm": {"top": 0},
            "training": {"determinism": "off"},
        }
        with database.write() as tx:
            job = jobs.create(tx, AdmittedJob.model_validate(spec))[0].id
        given = {"LRTUNE_DATABASE_URL": url, "LRTUNE_STATE_BYTES": "0", "LRTUNE_DEVICE": asked.device}
        with subprocess.Popen([sys.executable, "-m", "worker"], env=os.environ | given | settings) as worker:
            while worker.poll() is None and not _over(database, job):
                time.sleep(0.2)
            worker.send_signal(signal.SIGTERM)
        with database.read() as tx:
            ends = sorted(
                one.finished_at for one in trials.page(tx, job, limit=1000, cursor=None).items if one.finished_at
            )
            log = events.page(tx, job, after=0, limit=1000).items
        database.dispose()
    said = [line.message for line in log if line.kind == "job-noted" and "lanes" in line.message]
    an_hour = 3600 * (len(ends) - 1) / max((ends[-1] - ends[0]).total_seconds(), 1e-9)
    return {"trials": len(ends), "an_hour": an_hour, "said": said}


def _over(database: Database, job: str) -> bool:
    with database.read() as tx:
        return jobs.get(tx, job).state in OVER


if __name__ == "__main__":
    main()
