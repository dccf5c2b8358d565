"""Two processes train one trial in stages, in a loop of their own, sharded, and in every framework."""

import json
import sys
from pathlib import Path

import pytest

from lrtune.client import Client
from lrtune.runner import Options, Runner
from tests.external import submit
from tests.offline import STEPS
from tests.serving import KEY, served
from tests.test_adapters_processes import ROOT, TORCHRUN, launched

KINDS = ("plain", "sharded", "accelerated", "huggingface", "lightning")


@pytest.mark.timeout(240)
def test_two_processes_paused_and_resumed_train_bit_for_bit_as_in_one_piece(tmp_path: Path) -> None:
    printed = launched([*TORCHRUN, "-m", "tests.two_stages", str(tmp_path), *KINDS], tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    for kind in KINDS:
        for found in (first[kind], second[kind]):
            assert len(found["whole"]) >= STEPS
            assert found["stages"] == found["whole"], kind
        assert first[kind]["whole"] != second[kind]["whole"], "each trains on its share"
    assert (first["uneven"], first["apart"]) == (second["uneven"], second["apart"]), "what is refused, all hear"
    assert first["unlucky"] == "process 1: ValueError: out of luck", "of which its trial has failed"
    assert first["uneven"] == "step: found 1, 2; all processes report at the same steps"
    assert "does not see /proc/self/cwd/kept, where process 0 on" in first["apart"]
    assert printed.count("paused 6 ") == 2, "one of them was asked to go, and all were kept"


TRAINER = """
import os, signal
from pathlib import Path
import lrtune
from tests.test_stages_transformers import train

trial, rank = lrtune.trial(), os.environ["RANK"]
if rank == "1" and not Path("asked").exists():
    Path("asked").touch()
    signal.raise_signal(signal.SIGTERM)
losses, _ = train(trial, Path("out"), eval_strategy="steps", eval_steps=4)
with open("losses-" + rank, "a") as file:
    print(trial.start, len(losses), file=file)
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_trainer_under_lrtune_run_and_torchrun_is_kept_when_one_of_its_processes_has_to_go(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.py").write_text(TRAINER)
    monkeypatch.chdir(tmp_path)
    with served(sqlite_url) as door, Client(str(door.base_url), KEY) as client:
        fields = {"metric": {"name": "eval_loss", "goal": "minimize"}, "schedules": ["cosine"], "optimizers": ["adamw"]}
        job = submit(door, horizon={"steps": STEPS}, budget={"trials": 1}, **fields)
        for name, value in {"LRTUNE_API_KEY": KEY, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}.items():
            monkeypatch.setenv(name, value)
        runner = Runner(client, job, [sys.executable, *TORCHRUN, "train.py"], Options(tries=1))
        runner.work()
        assert door.get(f"/v1/jobs/{job}").json()["state"] == "succeeded"
        trial = door.get(f"/v1/jobs/{job}/trials/0").json()
    assert sum(runner.exits.values()) == 2
    assert [(one["start"], one["step"], one["cost"]) for one in trial["stages"]] == [(0, 4, 4), (4, STEPS, STEPS - 4)]
    for rank in range(2):
        assert (tmp_path / f"losses-{rank}").read_text().split("\n")[:2] == ["0 4", f"4 {STEPS - 4}"]
