"""A trial trained by two processes (gloo), as `torchrun` and `accelerate launch` start them: both use its rates."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from lrtune.analysis.prefixes import Course
from lrtune.wire.configuration import Configuration
from tests.commands import door as door
from tests.commands import work
from tests.offline import ADAMW, STEPS, held, rates
from tests.two_processes import PLATEAU

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs/examples"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def launched(command: list[str], folder: Path, **environment: str) -> str:
    """What it printed; one that hangs is killed with all its processes."""
    environment |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    options = {"env": os.environ | environment, "cwd": folder, "start_new_session": True, "text": True}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([sys.executable, *command], **options, **pipes) as running:
        try:
            printed: str = running.communicate(timeout=180)[0]
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            raise
    assert running.returncode == 0, printed[-4000:]
    return printed


KINDS = ("plain", "lightning", "accelerated", "huggingface")


@pytest.mark.parametrize(
    ("launcher", "kinds"),
    [
        pytest.param(TORCHRUN, KINDS, id="torchrun"),
        pytest.param(ACCELERATE, KINDS[2:], id="accelerate launch", marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_one_trial_at_its_rates(launcher: list[str], kinds: Sequence[str], tmp_path: Path) -> None:
    launched([*launcher, "-m", "tests.two_processes", str(tmp_path), *kinds], tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    for kind in kinds:
        assert first[kind]["used"] == second[kind]["used"], "what the second one measures moves nobody's rate"
        whole, stopped, plateau = first[kind]["used"]
        assert whole == rates(held(ADAMW))
        assert stopped == rates(held(ADAMW | {"learning_rate": 0.7}))[:6]
        assert plateau == followed(first[kind]["sent"][2])
        assert second[kind]["sent"] == [[], [], []], "the first process alone speaks with the service"
        assert first[kind]["sent"][0][-1][0] == STEPS
    for heard in (first["alone"], second["alone"]):
        assert "found 2 processes that train one model, each with a trial of its own; write `for trial in" in heard
        assert "together(job.trials())" in heard


def followed(sent: list[Any]) -> list[float]:
    """The rates of the plateau as the reports leave them."""
    configuration, found = Configuration.model_validate(PLATEAU), list[float]()
    for step in range(STEPS):
        seen = [(at, value) for at, value in sent if at <= step]
        found.append(Course(configuration, STEPS, reports=seen).rate(step))
    return found


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_example_for_accelerate_is_trained_by_two_processes(door: httpx.Client) -> None:
    job = json.loads((EXAMPLES / "accelerate.json").read_text()) | {"budget": {"trials": 2}, "confirm": {"top": 0}}
    made = door.post("/v1/jobs", json=job).json()["id"]
    runner = work(made, sys.executable, *ACCELERATE, str(EXAMPLES / "accelerate_tuned.py"), checkpoints="none")
    found = door.get(f"/v1/jobs/{made}").json()
    assert (found["state"], set(runner.exits)) == ("succeeded", {0}), found["reason"]
    trials = door.get(f"/v1/jobs/{made}/trials").json()["items"]
    assert [(one["state"], one["step"], one["attempt"]) for one in trials] == [("complete", 40, 1)] * 2
    assert found["best"]["value"] == min(one["value"] for one in trials)


ENDED = """
import atexit, weakref
from torch import distributed
from lrtune.adapters.team import Team

distributed.init_process_group("gloo", init_method="file://FOLDER/store", rank=0, world_size=1)
kept = []
atexit.register(lambda: print("ended" if kept[0]() is None else "alive"))
kept.append(weakref.ref(Team().group))
distributed.destroy_process_group()
"""


def test_no_process_group_outlives_a_script_that_has_ended_it(tmp_path: Path) -> None:
    words = [sys.executable, "-c", ENDED.replace("FOLDER", str(tmp_path))]
    ran = subprocess.run(words, capture_output=True, text=True, check=True)
    assert ran.stdout == "ended\n"
