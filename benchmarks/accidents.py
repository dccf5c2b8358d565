"""`lrtune run` under accidents: `python -m benchmarks.accidents stages`, or `kills [--runs 8] [--minutes 5]`.

Or `preemptions [--runs 10]`: an array of SLURM's tasks (`slurm.py` stands in for it), each preempted 5 to 20 s after
as many stages as tasks have begun.

`stages` tunes a script over two processes of torchrun, in thirty stages and more: one process is killed in mid-stage,
the whole command is killed, and then `lrtune run` itself, with the folder of its checkpoints; another one goes on.
`kills` lets several `lrtune run` train one job, and kills one of them a minute. Prints what the job's log says of it,
whether its costs add up, and whether any report or step of a trial came twice.
"""

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.slurm import Array
from lrtune import errors
from lrtune.client import Client

SCRIPT = Path("deploy/slurm/run.sbatch").absolute()
KEY, STEPS = "a-key-for-a-benchmark", 40
TEAM = """
import os, signal
from pathlib import Path
import torch
import lrtune

torch.distributed.init_process_group("gloo")
rank, trial = torch.distributed.get_rank(), lrtune.trial()
torch.manual_seed(trial.seed)
model = torch.nn.Linear(8, 1)
optimizer = trial.optimizer(model.parameters())
start = trial.restore(model=model, optimizer=optimizer)
if rank == 0:
    with open("stages", "a") as file:
        print(trial.number, start, os.getppid(), file=file)
torch.distributed.barrier()
stage = len(Path("stages").read_text().splitlines())
for step in range(start + 1, trial.until + 1):
    optimizer.param_groups[0]["lr"] = 10 * trial.learning_rate(step - 1)
    loss = (model(torch.randn(16, 8)) - 1).pow(2).mean()
    optimizer.zero_grad(), loss.backward()
    for one in model.parameters():
        torch.distributed.all_reduce(one.grad)
    optimizer.step()
    if (stage, rank) == (6, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if (stage, rank) == (10, 0):
        os.kill(os.getppid(), signal.SIGKILL)
    if trial.report(step, val_loss=loss.item()):
        break
"""
ALONE = """
import json, os, random, time
from pathlib import Path
import lrtune

trial = lrtune.trial()
trial.keeps_itself = True
state = json.loads((Path(trial.checkpoint_path) / "state").read_text()) if trial.checkpoint_path else 2.0
with open("stages", "a") as file:
    print(trial.number, trial.start, os.getppid(), file=file)
for step in range(trial.start + 1, trial.until + 1):
    time.sleep(0.4)  # as a device would compute
    state -= 30 * trial.learning_rate(step - 1) * (state - 1 + random.gauss(0, 0.1))
    with open("steps", "a") as file:
        print(trial.number, step, os.getpid(), file=file)
    if trial.report(step, val_loss=abs(state - 1)):
        if trial.pausing and not trial.over:
            trial.keep(step, lambda folder: (folder / "state").write_text(json.dumps(state)))
        break
"""


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=("stages", "kills", "preemptions"))
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--minutes", type=int, default=5)
    parser.add_argument("--full-runs", type=float)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as client:
        os.chdir(folder)
        full_runs = asked.full_runs or (5 if asked.which == "stages" else 60)
        job = client.submit({**SPEC, "budget": {"full_runs": full_runs}}).id
        if asked.which == "stages":
            stages(job)
        elif asked.which == "preemptions":
            preemptions(job, asked.runs)
        else:
            kills(client, job, asked.runs, asked.minutes)
        print(json.dumps(came_to(client, job), indent=1))


SPEC: dict[str, Any] = {
    "task": "external",
    "metric": {"name": "val_loss", "goal": "minimize"},
    "horizon": {"steps": STEPS},
    "schedules": ["cosine"],
    "confirm": {"top": 0},
}


@contextmanager
def served(folder: Path) -> Iterator[Client]:
    """A server in a process of its own, which the commands find in the environment."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    os.environ |= {"LRTUNE_URL": f"http://127.0.0.1:{port}", "LRTUNE_API_KEY": KEY, "PYTHONPATH": str(Path.cwd())}
    os.environ["LRTUNE_DATABASE_URL"] = f"sqlite:///{folder / 'lrtune.db'}"
    words = ["-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(port), "--log-level", "error"]
    server = subprocess.Popen([sys.executable, *words])
    try:
        with Client() as client:
            while server.poll() is None:
                try:
                    client.tasks()
                    break
                except errors.Unavailable:
                    time.sleep(0.2)
            yield client
    finally:
        server.terminate()
        server.wait()


def run(job: str, folder: str, *command: str) -> subprocess.Popen[bytes]:
    """One `lrtune run`."""
    cli = [sys.executable, "-c", "from lrtune.cli.commands import app; app()", "run", job, "--checkpoints", folder]
    return subprocess.Popen([*cli, "--", sys.executable, *command])


def stages(job: str) -> None:
    """One after another, the first of which is gone with its checkpoints after fourteen stages."""
    Path("train.py").write_text(TEAM)
    team = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    running = run(job, "first", *team)
    while len(lines("stages")) < 14:
        time.sleep(0.05)
    running.kill()
    running.wait()
    shutil.rmtree("first", ignore_errors=True)
    print("the first `lrtune run` is killed, and its folder is gone", flush=True)
    assert run(job, "second", *team).wait() == 0


def kills(client: Client, job: str, runs: int, minutes: int) -> None:
    """Several at once, one of which is killed every minute and started anew."""
    Path("train.py").write_text(ALONE)
    chance, running = random.Random(0), [run(job, "kept", "train.py") for _ in range(runs)]
    for minute in range(minutes):
        time.sleep(60)
        place = chance.randrange(runs)
        print(f"minute {minute + 1}: {running[place].pid} is killed, job {client.get(job).state}", flush=True)
        running[place].kill()
        running[place].wait()
        running[place] = run(job, "kept", "train.py")
    for one in running:
        assert one.wait() == 0


def preemptions(job: str, runs: int) -> None:
    """An array of tasks, each of which is preempted once, every other one without the time to keep its trial."""
    Path("train.py").write_text(ALONE)
    array = Array(SCRIPT, job, sys.executable, "train.py", folder=Path.cwd(), tasks=runs)
    while len(lines("stages")) < runs:
        time.sleep(0.05)
    chance, begun = random.Random(0), time.monotonic()
    for at, task in sorted((chance.uniform(5, 20), number) for number in range(runs)):
        time.sleep(max(0.0, begun + at - time.monotonic()))
        grace = 30.0 * (task % 2)
        print(f"{at:.0f} s: task {task} is preempted, {grace:.0f} s of grace", flush=True)
        array.tasks[task].preempt(grace)
    assert array.wait() == [0] * runs


def lines(file: str) -> list[list[str]]:
    """The words of every line, as far as it is written."""
    return [line.split() for line in Path(file).read_text().splitlines()] if Path(file).exists() else []


def came_to(client: Client, job: str) -> dict[str, Any]:
    """What the job came to, and what its log says."""
    found, trials, log = client.get(job), list(client.trials(job)), list(client.events(job))
    paid = sum(one.step - one.reused for one in trials) / STEPS
    whole = [client.trial(job, trial.number) for trial in trials]
    reports, held = [[at.step for at in one.reports] for one in whole], [hold for one in whole for hold in one.stages]
    twice, steps = 0, lines("steps")
    for number in {line[0] for line in steps}:
        pids = [pid for pid, _ in groupby(line[2] for line in steps if line[0] == number)]
        twice += len(pids) > sum(line[0] == number for line in lines("stages"))
    kinds = ("trial-noted", "trial-began-again", "trial-released", "trial-failed")
    return {
        "state": found.state,
        "stages": len(lines("stages")),
        "trials": Counter(one.state for one in trials),
        "full_runs": found.progress.full_runs,
        "sum over trials": paid,
        "trials with a report twice": sum(len(set(one)) < len(one) for one in reports),
        "trials that two trained at once": twice,
        "holds by how they ended": Counter(str(hold.outcome) for hold in held),
        "steps of holds that were lost": sum(hold.cost for hold in held if hold.outcome == "lost"),
        "steps trained more than once": len(steps) - len({(line[0], line[1]) for line in steps}),
        "log": [one.message[:300] for one in log if one.kind in kinds],
    }


if __name__ == "__main__":
    main()
