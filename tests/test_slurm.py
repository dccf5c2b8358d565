"""The batch scripts for SLURM, under a stand-in that sends the signals of the real one."""

import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.slurm import Array
from tests.commands import FEW, add_up, plain, trials, waits
from tests.commands import door as door
from tests.external import submit

SCRIPTS = Path(__file__).parents[1] / "deploy" / "slurm"
ENDINGS = {
    "preempted": lambda task: task.preempt(grace=60),
    "near its time limit": lambda task: task.near_its_limit(),
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_a_task_of_an_array_comes_back_and_the_job_goes_on(door: httpx.Client, tmp_path: Path, ending: Any) -> None:
    job = submit(door, **FEW)
    plain(tmp_path, during='(step != 7) or Path("up").exists() or (write("up"), time.sleep(0.5))')
    array = Array(SCRIPTS / "run.sbatch", job, sys.executable, "plain.py", folder=tmp_path, tasks=1)
    waits((tmp_path / "up").exists)
    ending(array.tasks[0])
    assert array.wait() == [0], array.tasks[0].log.read_text()
    assert array.tasks[0].restarts == 1
    add_up(door, job)
    paid = sum(one["step"] - one["reused"] for one in trials(door, job))
    assert paid == round(door.get(f"/v1/jobs/{job}").json()["progress"]["full_runs"] * FEW["horizon"]["steps"])
