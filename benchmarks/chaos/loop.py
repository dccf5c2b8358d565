"""A loop of the user's own that trains whatever external job there is: `python -m benchmarks.chaos.loop FOLDER`.

Each report says in `who` which process has trained that far. Its checkpoints are small files of its own.
"""

import json
import os
import random
import sys
import time
from functools import partial
from pathlib import Path

from lrtune import errors
from lrtune.client import Client
from lrtune.loop import LoopTrial

STEP = 0.005  # seconds


def main() -> None:
    """Train until killed."""
    folder, chance = Path(sys.argv[1]), random.Random(os.getpid())
    lease = float(os.environ["LRTUNE_LEASE_SECONDS"])
    while True:
        try:
            with Client() as client:
                found = [job.id for state in ("running", "queued") for job in client.list(state=state, tag="loop")]
                for job in chance.sample(found, len(found)):
                    for trial in client.get(job).trials(lease_seconds=lease, checkpoints=folder):
                        try:
                            train(trial)
                        except errors.Unavailable:  # for a minute: die with the trial, whose training has not failed
                            os._exit(1)
        except errors.LrtuneError as error:  # no server answers, or it restarts
            print(f"{type(error).__name__}: {error}", flush=True)
        time.sleep(0.3)


def train(trial: LoopTrial) -> None:
    """One stage: a value that comes the nearer to 1 the better the rates are."""
    trial.keeps_itself = True
    value = json.loads((Path(path) / "value").read_text()) if (path := trial.checkpoint_path) else 2.0
    for step in range(trial.start + 1, trial.until + 1):
        time.sleep(STEP)
        value -= 30 * trial.learning_rate(step - 1) * (value - 1 + random.gauss(0, 0.1))
        if trial.report(step, val_loss=abs(value - 1), who=os.getpid()):
            if trial.pausing and not trial.over:
                trial.keep(step, partial(_write, json.dumps(value)))
            break


def _write(content: str, folder: Path) -> None:
    (folder / "value").write_text(content)


if __name__ == "__main__":
    main()
