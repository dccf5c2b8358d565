"""The tutorial's scripts: each is tuned as it says, whole and in stages, and is then the real run."""

import difflib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lrtune.client import Client
from lrtune.runner import Options, Runner
from lrtune.wire.results import Job, TrialDetail
from tests.commands import python
from tests.prefork import prefork
from tests.serving import KEY, served

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs/examples"
PAGE = (ROOT / "docs/tutorials/your-script.md").read_text()
QUIET = {"KERAS_BACKEND": "torch", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
# The tuned script of each kind, and the lines that it may add: without checkpoints six, with them nine.
TUNED = {
    "torch_tuned": 6,
    "torch_stages": 9,
    "trainer_tuned": 6,
    "keras_tuned": 6,
    "lightning_tuned": 6,
    "accelerate_tuned": 9,
    "torchrun_tuned": 9,
}
# How each is run, in this order; torch has a script for each way.
WAYS: dict[str, list[str]] = {name: ["whole", "stages"] for name in TUNED}
WAYS |= {"torch_tuned": ["whole"], "torch_stages": ["stages"], "torchrun_tuned": ["stages"]}
LONG = {
    "trainer_tuned",
    "torch_tuned",
    "accelerate_tuned",
    "torchrun_tuned",
    "keras_tuned",
    "lightning_tuned",
}  # which start two processes, or long ones
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.parametrize("name", TUNED)
def test_a_script_is_tuned_by_the_few_lines_that_the_tutorial_shows(name: str) -> None:
    old = "torch_tuned" if name == "torch_stages" else f"{name.split('_')[0]}_plain"
    plain, before, tuned = (
        (EXAMPLES / f"{one}.py").read_text().splitlines() for one in (f"{name.split('_')[0]}_plain", old, name)
    )
    assert "lrtune" not in "\n".join(plain)
    added = [line for line in difflib.unified_diff(plain, tuned, n=0) if re.match(r"\+(?!\+\+ )", line)]
    assert 0 < len(added) <= TUNED[name]
    diff = "\n".join(difflib.unified_diff(before, tuned, f"{old}.py", f"{name}.py", lineterm="", n=1))
    assert diff in "\n".join(re.findall(r"^```diff\n(.*?)\n```", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with prefork(tmp_path_factory.mktemp("prefork"), QUIET | {"PYTHONPATH": str(ROOT)}) as found:
        yield found


@pytest.fixture
def door(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    with served(sqlite_url) as client:
        own = {"LRTUNE_URL": str(client.base_url), "LRTUNE_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
        for name, value in (QUIET | own).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        yield client


def tuned(name: str, command: list[str], *, whole: bool, **options: Any) -> Job:
    """The job of an example once `lrtune run` has done it, on a small budget."""
    spec = json.loads((EXAMPLES / f"{name.split('_')[0]}.json").read_text())
    with Client() as client:
        job = client.submit(spec | {"budget": {"full_runs": 2}, "confirm": {"top": 0}})
        script = [*command, str(EXAMPLES / f"{name}.py")]
        Runner(
            client, job.id, script, Options(checkpoints="none" if whole else "own", lease_seconds=600, **options)
        ).work()
        return client.get(job.id)


def trials_of(job: Job) -> list[TrialDetail]:
    with Client() as client:
        return [client.trial(job.id, one.number) for one in client.trials(job.id)]


def printed(command: list[str], name: str, **environment: str) -> float:
    """The last number that a script prints: the loss that it came to."""
    script = [*command, str(EXAMPLES / f"{name}.py")]
    for _ in range(3):  # DDP keeps gloo's threads after their group has ended, and these now and then abort a process
        ran = subprocess.run(script, env=os.environ | environment, capture_output=True, text=True, check=False)
        if "terminate called without an active exception" not in ran.stderr:
            break  # of torch alone: docs/diary.md
    assert ran.returncode == 0, ran.stderr[-3000:]
    return float(re.findall(r"\d+\.\d+(?:e-\d+)?", ran.stdout)[-1])


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "ways"),
    [pytest.param(name, ways, marks=[pytest.mark.slow] * (name in LONG), id=name) for name, ways in WAYS.items()],
)
def test_an_example_is_tuned_and_is_the_real_run_at_the_value_that_it_found(
    name: str, ways: list[str], command: list[str], door: httpx.Client
) -> None:
    team = name == "torchrun_tuned"
    if not team:
        assert printed(command, f"{name.split('_')[0]}_plain") > 0
    for way in ways:
        job = tuned(name, TORCHRUN if team else command, whole=way == "whole")
        trials = trials_of(job)
        assert (job.state, {trial.state for trial in trials} - {"complete", "stopped"}) == ("succeeded", set())
        assert all(trial.reports[-1].step == trial.step for trial in trials)
        assert (way == "stages") == any(stage.start for one in trials for stage in one.stages), "it went on"
        assert job.best is not None
    real = printed(TORCHRUN if team else command, name, LRTUNE_JOB=job.id)
    assert real == pytest.approx(job.best.value, abs=6e-5), "all four digits"


def test_a_script_that_keeps_nothing_hears_so_at_once_where_it_is_to_pause(
    command: list[str], door: httpx.Client
) -> None:
    job = tuned("torch_tuned", command, whole=False, tries=1)
    trials = trials_of(job)
    assert (job.state, len(trials), {trial.state for trial in trials}) == ("failed", 3, {"failed"})
    assert sum(trial.step for trial in trials) == 0, "not even its baseline is trained for nothing"
    for trial in trials:
        whole = trial.until is None
        assert ("trials of this job pause" if whole else "is to pause after step") in trial.reason
        assert "and nothing to keep is known: call `start = trial.restore(" in trial.reason
        assert "or tune without checkpoints: `lrtune run JOB --whole -- ...`" in trial.reason


def test_the_commands_of_the_page_are_all_that_a_newcomer_types(
    command: list[str], door: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in EXAMPLES.glob("torch_*.py"):
        (tmp_path / file.name).write_text(file.read_text())
    small = {"budget": {"full_runs": 1}, "confirm": {"top": 0}}
    (tmp_path / "torch.json").write_text(json.dumps(json.loads((EXAMPLES / "torch.json").read_text()) | small))
    assert (EXAMPLES / "torch.json").read_text() in "\n".join(re.findall(r"^```json\n(.*?)^```", PAGE, re.M | re.S))
    here = [str(python(tmp_path, command)), str(Path(sys.executable).parent)]
    monkeypatch.setenv("PATH", os.pathsep.join([*here, "/bin"]))
    typed = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE.partition("## Hugging Face")[0], re.M | re.S)).splitlines()
    job, said = "", dict[str, str]()
    for line in filter(None, typed):
        ran = subprocess.run(line.replace("JOB ", f"{job} ").replace("=JOB", f"={job}").replace(" JOB", f" {job}"),
                             shell=True, capture_output=True, text=True, check=False)  # fmt: skip
        assert ran.returncode == 0, (line, ran.stderr[-2000:])
        said[line] = ran.stdout
        if line.startswith("lrtune submit"):
            job = ran.stdout.split()[0]
            assert f"`lrtune run {job} -- python train.py` trains it" in " ".join(ran.stdout.split())
    assert [line.split()[1] for line in said if line.startswith("lrtune")] == ["submit", "run", "best", "run"]
    assert "val_loss" in said["lrtune best JOB"]
    assert said["LRTUNE_JOB=JOB python torch_tuned.py"].count("epoch ") == 20
