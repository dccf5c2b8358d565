"""Runs that others did, from a CSV file to a finished job, through the command line and a real server."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lrtune.client import Client
from tests.serving import KEY, served, signed_in
from tests.test_moving import run


@pytest.fixture
def service(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    with served(sqlite_url) as http:
        monkeypatch.setenv("LRTUNE_URL", str(http.base_url))
        monkeypatch.setenv("LRTUNE_API_KEY", KEY)
        yield http


HEAD = [
    "Name",
    "State",
    "Created",
    "Runtime",
    "lr",
    "optimizer",
    "weight_decay",
    "warmup_steps",
    "scheduler",
    "val_loss",
]
RUNS: list[list[Any]] = [
    ["fast", "finished", "2026-05-01T10:00:00.000Z", 600, 1e-3, "AdamW", 0.1, 4, "cosine", 0.25],
    ["slow", "finished", "2026-05-01T11:00:00.000Z", 601, 1.5e-4, "AdamW", 0.01, 0, "linear", 0.5],
    ["high", "crashed", "2026-05-01T12:00:00.000Z", 60, 0.3, "SGD", 0.0, 0, "constant", "NaN"],
    ["gone", "crashed", "2026-05-01T13:00:00.000Z", 12, 1e-3, "AdamW", 0.1, 4, "cosine", 0.9],
    ["here", "running", "2026-05-01T14:00:00.000Z", 60, 1e-3, "AdamW", 0.1, 4, "cosine", ""],
    ["none", "finished", "2026-05-01T15:00:00.000Z", 60, 1e-3, "AdamW", 0.1, 4, "cosine", ""],
]
OF_OUR_OWN = {"task": "external", "metric": {"name": "val_loss", "goal": "minimize"}, "horizon": {"steps": 40}}


@pytest.fixture
def asked(tmp_path: Path) -> str:
    """A file with the job that the runs of a CSV file stand for."""
    (tmp_path / "job.json").write_text(json.dumps(OF_OUR_OWN))
    return str(tmp_path / "job.json")


def written(path: Path, rows: list[list[Any]], *, separator: str = ",", decimal: str = ".") -> str:
    """A CSV file with these rows, as one of several programs writes it."""
    texts = [[str(cell).replace(".", decimal) if isinstance(cell, float) else cell for cell in row] for row in rows]
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(texts)
    return str(path)


def of_board(path: Path) -> str:
    return written(path, [HEAD, *RUNS])


def of_spreadsheet(path: Path) -> str:
    return written(path, [HEAD, *RUNS], separator=";", decimal=",")


def of_pandas(path: Path) -> str:
    return written(path, [["", *HEAD], *([number, *row] for number, row in enumerate(RUNS))])


@pytest.mark.parametrize("write", [of_board, of_spreadsheet, of_pandas])
def test_old_runs_in_a_csv_file_come_in_as_a_finished_job(
    service: httpx.Client, asked: str, tmp_path: Path, write: Callable[[Path], str]
) -> None:
    said = run("import-study", asked, "--csv", write(tmp_path / "runs.csv"), "--value", "val_loss")
    assert "3 trials imported from the runs in runs.csv; 3 left out (1 crashed, 1 running, 1 without val_loss)" in said
    with Client() as client:
        job = next(client.list(tag="imported:runs.csv"))
        best, slow, high = client.trials(job.id)
        assert [(one.state.value, one.step, one.value) for one in (best, slow, high)] == [
            ("complete", 40, 0.25),
            ("complete", 40, 0.5),
            ("diverged", 40, None),
        ]
        assert high.reason == "its val_loss was NaN"
        chosen = best.configuration
        assert (chosen.optimizer.as_dict()["name"], chosen.optimizer.weight_decay) == ("adamw", 0.1)
        assert (chosen.learning_rate, chosen.warmup, slow.configuration.learning_rate) == (1e-3, 0.1, 1.5e-4)
        report, warm = client.report(job.id), OF_OUR_OWN | {"warm_start": [job.id]}
        assert "warm start" in " ".join(one.reason for one in client.plan(warm).first)
        assert client.best(job.id).configuration == chosen
        curves = {one.family: one.curve for one in client.landscape(job.id).series}
    assert (report.cost.total, report.saved.total) == (3.0, 0.0)
    assert curves["cosine"] is not None
    assert curves["cosine"].rates[0] == pytest.approx(1.5e-4)


def test_runs_of_hugging_faces_trainer_come_in_by_its_own_names(
    service: httpx.Client, asked: str, tmp_path: Path
) -> None:
    head = ["learning_rate", "lr_scheduler_type", "optim", "warmup_steps", "adam_beta2", "max_grad_norm", "momentum"]
    rows = [[*head, "eval/loss"], [5e-5, "constant_with_warmup", "adamw_torch_fused", 4, 0.98, 1.0, 0.9, 0.43]]
    file = written(tmp_path / "runs.csv", rows)
    run("import-study", asked, "--csv", file, "--value", "eval/loss", "--map", "momentum=sgd.momentum")
    with Client() as client:
        chosen = client.best(next(client.list()).id).configuration
    assert (chosen.kind, chosen.optimizer.beta2) == (("adamw", "constant"), 0.98)
    assert (chosen.warmup, chosen.clip_norm) == (0.1, 1.0)


def test_a_warm_up_below_one_step_is_the_share_that_the_trainer_takes_it_for(
    service: httpx.Client, asked: str, tmp_path: Path
) -> None:
    rows = [
        ["learning_rate", "lr_scheduler_type", "optim", "warmup_steps", "loss"],
        [5e-5, "linear", "adamw", 0.1, 0.4],
    ]
    run("import-study", asked, "--csv", written(tmp_path / "runs.csv", rows), "--value", "loss")
    with Client() as client:
        assert client.best(next(client.list()).id).configuration.warmup == 0.1


RAY = ["", "val_loss", "done", "training_iteration", "trial_id", "time_total_s", "pid", "logdir"]
RAYS: list[list[Any]] = [
    [0, 0.5, "True", 10, "a1b2c_00000", 12.5, 123, "a1b2c_00000", 3e-4, "adamw", 64],
    [1, 0.4, "True", 10, "a1b2c_00001", 12.4, 124, "a1b2c_00001", 1e-3, "adamw", 32],
    [2, 0.3, "True", 2, "a1b2c_00002", 2.5, 125, "a1b2c_00002", 1e-1, "adamw", 32],
]
MLFLOW = ["run_id", "status", "artifact_uri", "metrics.val_loss", "metrics.f1", "tags.mlflow.user"]
MLFLOWS: list[list[Any]] = [
    ["5f", "FINISHED", "mlruns/0", 0.5, 0.1, "me", 3e-4, "adamw", 64],
    ["5a", "FINISHED", "mlruns/0", 0.4, 0.2, "me", 1e-3, "adamw", 32],
    ["5b", "FAILED", "mlruns/0", 0.3, 0.2, "me", 1e-1, "adamw", 32],
]
OPTUNA = ["number", "value", "datetime_start", "duration", "user_attrs_host", "state"]
OPTUNAS: list[list[Any]] = [
    [0, 0.5, "2026-05-01", "0 days", "a", "COMPLETE", 3e-4, "adamw", 64],
    [1, 0.4, "2026-05-01", "0 days", "a", "COMPLETE", 1e-3, "adamw", 32],
    [2, 0.3, "2026-05-01", "0 days", "a", "PRUNED", 1e-1, "adamw", 32],
]


@pytest.mark.parametrize(
    ("mark", "head", "rows", "value", "left"),
    [
        ("config/", RAY, RAYS, "val_loss", "1 stopped early"),
        ("params.", MLFLOW, MLFLOWS, "metrics.val_loss", "1 failed"),
        ("params_", OPTUNA, OPTUNAS, "value", "1 pruned"),
    ],
)
def test_of_a_table_that_marks_its_parameters_the_other_columns_are_none(
    service: httpx.Client,
    asked: str,
    tmp_path: Path,
    mark: str,
    head: list[str],
    rows: list[list[Any]],
    value: str,
    left: str,
) -> None:
    file = written(tmp_path / "runs.csv", [[*head, *(mark + name for name in ("lr", "optimizer", "batch"))], *rows])
    given = ["--value", value, "--set", "schedule=cosine"]
    assert "to leave out what is none: `--map batch=-`" in run("import-study", asked, "--csv", file, *given, code=2)
    said = run("import-study", asked, "--csv", file, *given, "--map", "batch=-")
    assert f"2 trials imported from the runs in runs.csv; 1 left out ({left})" in said
    with Client() as client:
        best = client.best(next(client.list()).id)
    assert (best.value, best.configuration.learning_rate) == (0.4, 1e-3)


def test_the_report_of_old_runs_is_a_file_that_draws_what_there_is(
    service: httpx.Client, asked: str, tmp_path: Path
) -> None:
    run("import-study", asked, "--csv", of_board(tmp_path / "runs.csv"), "--value", "val_loss")
    job = service.get("/v1/jobs").json()["items"][0]["id"]
    run("report", job, "-o", str(tmp_path / "report.html"))
    written = (tmp_path / "report.html").read_text()
    assert "Blue is the answer (trial 0), grey 2 other trials of 3" in written


def test_the_page_of_old_runs_speaks_of_no_baseline_and_no_worker(
    service: httpx.Client, asked: str, tmp_path: Path
) -> None:
    run("import-study", asked, "--csv", of_board(tmp_path / "runs.csv"), "--value", "val_loss")
    job = service.get("/v1/jobs").json()["items"][0]["id"]
    with signed_in(service) as browser:
        page, trial = (browser.get(f"/jobs/{job}{more}").text for more in ("", "/trials/0"))
    assert "There is no baseline with a value to compare with" in page
    assert "Trial 0, the untuned baseline" not in page
    assert "Nothing is known here of how it was trained" in trial


def test_a_better_value_may_be_a_higher_one_and_a_knob_true_or_false(
    service: httpx.Client, tmp_path: Path, asked: str
) -> None:
    job = OF_OUR_OWN | {"metric": {"name": "accuracy", "goal": "maximize"}}
    Path(asked).write_text(json.dumps(job))
    rows = [
        ["lr", "optimizer", "nesterov", "momentum", "top-1"],
        [0.1, "sgd", True, 0.9, "91%"],
        [1.0, "sgd", False, 0, "80%"],
    ]
    file = written(tmp_path / "runs.csv", rows)
    run("import-study", asked, "--csv", file, "--value", "top-1", "--set", "schedule=cosine")
    with Client() as client:
        best = client.best(next(client.list()).id)
    assert (best.metric, best.value, best.configuration.optimizer.nesterov) == ("accuracy", 0.91, True)


def test_a_horizon_that_no_run_can_have_is_told_of_where_it_was_said(
    service: httpx.Client, asked: str, tmp_path: Path
) -> None:
    Path(asked).write_text(json.dumps(OF_OUR_OWN | {"horizon": {"steps": 1}}))
    file = written(tmp_path / "runs.csv", [HEAD, *RUNS])
    said = run("import-study", asked, "--csv", file, "--value", "val_loss", code=2)
    assert "/horizon/steps of the job: found a run of 1; accepted are 2 to" in said
    assert "--steps" not in said


def test_a_value_that_is_as_good_as_infinite_is_of_a_run_that_diverged(
    service: httpx.Client, asked: str, tmp_path: Path
) -> None:
    file = written(tmp_path / "runs.csv", [HEAD, RUNS[0], [*RUNS[1][:9], "1e70"], [*RUNS[1][:9], "1e400"]])
    run("import-study", asked, "--csv", file, "--value", "val_loss")
    with Client() as client:
        states = [(one.state.value, one.reason) for one in client.trials(next(client.list()).id)]
    assert states == [("complete", ""), ("diverged", "its val_loss was 1e70"), ("diverged", "its val_loss was 1e400")]


@pytest.mark.parametrize(
    ("rows", "arguments", "words"),
    [
        ([HEAD, *RUNS], ["--value", "loss"], "--value: found 'loss'; accepted is one of the columns Name, State,"),
        ([HEAD, *RUNS], ["--value", "val_loss", "--steps", "0"], "--steps: found a run of 0; accepted are 2 to"),
        ([HEAD, *RUNS], ["--value", "val_loss", "--steps", "1000000000"], "--steps: found a run of 1000000000; accep"),
        ([HEAD, *RUNS], [], "found neither; accepted is --storage with a URL"),
        ([HEAD, *RUNS], ["--value", "val_loss", "--map", "LR=learning_rate"], "--map: found 'LR'; accepted is one"),
        ([HEAD, *RUNS[3:]], ["--value", "val_loss"], "no run that finished with a val_loss (1 crashed, 1 running, 1"),
        ([HEAD, RUNS[0], [*RUNS[1][:9], "low"]], ["--value", "val_loss"], "line 3 of runs.csv: val_loss: found 'low'"),
        ([HEAD, [*RUNS[0][:4], -1.0, *RUNS[0][5:]]], ["--value", "val_loss"], "line 2 of runs.csv: learning_rate:"),
        (
            [["batch size", "seed", *HEAD], [32, 1, *RUNS[0]]],
            ["--value", "val_loss"],
            "to leave out what is none: `--map 'batch size'=- --map seed=-`",
        ),
        (
            [HEAD, [*RUNS[0][:5], "adamw_8bit", *RUNS[0][6:]]],
            ["--value", "val_loss"],
            "line 2 of runs.csv: optimizer: found 'adamw_8bit'; accepted is one of sgd",
        ),
        (
            [["learning_rate", *HEAD], [1e-3, *RUNS[0]]],
            ["--value", "val_loss"],
            "learning_rate and lr are both learning_rate here; accepted is one of them",
        ),
    ],
)
def test_a_csv_file_that_does_not_fit_is_told_in_words(
    service: httpx.Client, asked: str, tmp_path: Path, rows: list[list[Any]], arguments: list[str], words: str
) -> None:
    file = written(tmp_path / "runs.csv", rows)
    assert words in run("import-study", asked, "--csv", file, *arguments, code=2)
    assert service.get("/v1/jobs").json()["items"] == []
