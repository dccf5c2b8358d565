"""A trial trained by two processes (gloo), as `torchrun` and `accelerate launch` start them: both use its rates."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lrtune.analysis.prefixes import Course
from lrtune.wire.configuration import Configuration
from tests.looping import ADAMW, STEPS, held, rates
from tests.two_processes import PLATEAU

ROOT = Path(__file__).parents[1]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m"]


def launched(launcher: list[str], kind: str, folder: Path) -> tuple[int, str]:
    """How it ended, and what it printed; one that hangs is killed with all its processes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "tests.two_processes", kind, str(folder)]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True, text=True, **pipe) as running:
        try:
            printed = running.communicate(timeout=180)[0]
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            raise
    return running.returncode, printed


@pytest.mark.parametrize(
    ("launcher", "kind"),
    [(TORCHRUN, "plain"), (ACCELERATE, "accelerated"), (ACCELERATE, "huggingface"), (TORCHRUN, "lightning")],
    ids=["torchrun", "accelerate launch", "Hugging Face", "Lightning"],
)
def test_two_processes_train_one_trial_at_its_rates(launcher: list[str], kind: str, tmp_path: Path) -> None:
    code, printed = launched(launcher, kind, tmp_path)
    assert code == 0, printed[-4000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["trials"] == second["trials"], "what the second one measures moves nobody's rate"
    whole, stopped, plateau = (one["used"] for one in first["trials"])
    assert whole == rates(held(ADAMW))
    assert stopped == rates(held(ADAMW | {"learning_rate": 0.7}))[:6]
    assert plateau == followed(first["sent"][2])
    assert second["sent"] == [[], [], []], "the first process alone speaks with the service"
    assert first["sent"][0][-1][0] == STEPS


def followed(sent: list[Any]) -> list[float]:
    """The rates of the plateau as the reports leave them."""
    configuration, found = Configuration.model_validate(PLATEAU), list[float]()
    for step in range(STEPS):
        seen = [(at, value) for at, value in sent if at <= step]
        found.append(Course(configuration, STEPS, reports=seen).rate(step))
    return found


def test_processes_that_hold_different_trials_are_refused_in_words(tmp_path: Path) -> None:
    code, printed = launched(TORCHRUN, "alone", tmp_path)
    assert code
    assert "found 2 processes that train one model, each with a trial of its own; write `for trial in" in printed
    assert "together(job.trials())" in printed
