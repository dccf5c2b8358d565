"""Jobs on their way to Optuna, TensorBoard and MLflow and back, through the command line and a real server."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import optuna
import pytest
from typer.testing import CliRunner

from lrtune.cli import commands
from lrtune.client import Client
from lrtune.errors import IdempotencyKeyReused, Invalid
from lrtune.moving import studies
from lrtune.wire.results import TrialState
from tests.serving import KEY, served, slug, trained

SPEC = {"task": "digits", "horizon": {"steps": 40}}


@pytest.fixture
def service(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    with served(sqlite_url) as http:
        monkeypatch.setenv("LRTUNE_URL", str(http.base_url))
        monkeypatch.setenv("LRTUNE_API_KEY", KEY)
        yield http


@pytest.fixture
def job(service: httpx.Client, sqlite_url: str) -> str:
    """A finished job of three trials."""
    job_id = service.post("/v1/jobs", json=SPEC).json()["id"]
    trained(sqlite_url, job_id, [0.5, 0.25, 0.3])
    return job_id


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"


def run(*arguments: str, code: int = 0) -> str:
    found = CliRunner().invoke(commands.app, list(arguments))
    assert found.exit_code == code, found.output
    assert "Traceback" not in found.output
    return " ".join(found.output.split())


def foreign(storage: str, **kinds: Any) -> optuna.Study:
    """A study as people have them: a rate, an optimizer, something else; one trial pruned, one failed, one diverged."""
    study = optuna.create_study(storage=storage, study_name="theirs")
    for number in range(5):
        params = {"lr": 0.001 * (number + 1), "optimizer": "AdamW", "weight_decay": 0.1, "n_layers": 2}
        kinds = {
            "lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
            "optimizer": optuna.distributions.CategoricalDistribution(["AdamW", "SGD"]),
            "weight_decay": optuna.distributions.FloatDistribution(0.0, 1.0),
            "n_layers": optuna.distributions.IntDistribution(1, 3),
        }
        state = ["COMPLETE", "COMPLETE", "PRUNED", "FAIL", "COMPLETE"][number]
        value = [0.5, 0.25, None, None, float("inf")][number]
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[state],
                value=value,
                params=params,
                distributions=kinds,
                intermediate_values={10: 0.9, 20: 0.8},
            )
        )
    return study


# Out -----------------------------------------------------------------------------------------------------------------


def test_a_job_is_an_optuna_study_with_its_trials(job: str, storage: str) -> None:
    assert "3 trials are the study" in run("export-study", job, "--storage", storage)
    study = optuna.load_study(study_name=job, storage=storage)
    assert (study.direction.name, study.best_value, study.best_trial.number) == ("MINIMIZE", 0.25, 1)
    assert [trial.params["learning_rate"] for trial in study.trials] == pytest.approx([0.001, 0.002, 0.003])
    second = study.trials[1]
    assert second.params["optimizer"] == "adamw"
    assert second.params["schedule"] == "linear"
    assert second.params["adamw.weight_decay"] == 0.01
    assert second.intermediate_values == {40: 0.25}
    assert second.user_attrs["lrtune:role"] == "search"
    assert second.user_attrs["lrtune:configuration"]["learning_rate"] == 0.002
    assert second.distributions["learning_rate"].log
    assert "already" in run("export-study", job, "--storage", storage, code=2)
    assert run("export-study", job, "--storage", storage, "--name", "again")


def test_the_optuna_dashboard_opens_an_exported_study(job: str, storage: str) -> None:
    run("export-study", job, "--storage", storage)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "from optuna_dashboard._cli import main; main()",
        storage,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    shown = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:
            (listed,) = answered(http, "/api/studies").json()["study_summaries"]
            assert listed["study_name"] == job
            detail = http.get(f"/api/studies/{listed['study_id']}").json()
            page = http.get(f"/dashboard/studies/{listed['study_id']}")
    finally:
        shown.terminate()
        shown.wait(timeout=30)
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/html")
    assert [trial["values"] for trial in detail["trials"]] == [[0.5], [0.25], [0.3]]
    assert "learning_rate" in {param["name"] for param in detail["trials"][0]["params"]}


def answered(http: httpx.Client, path: str) -> httpx.Response:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            return http.get(path).raise_for_status()
        except httpx.TransportError:
            threading.Event().wait(0.1)
    raise AssertionError("the dashboard did not come up")


def test_tensorboard_reads_the_event_files_of_a_job(job: str, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert "3 trials" in run("export-study", job, "--tensorboard", str(tmp_path / "board"))
    read = EventAccumulator(str(tmp_path / "board" / job / "trial-0001"))
    read.Reload()
    assert set(read.Tags()["scalars"]) == {"val_loss", "learning_rate"}
    assert [(one.step, one.value) for one in read.Scalars("val_loss")] == [(40, 0.25)]
    assert "there already" in run("export-study", job, "--tensorboard", str(tmp_path / "board"), code=2)
    (tmp_path / "file").write_text("")
    assert "tensorboard:" in run("export-study", job, "--tensorboard", str(tmp_path / "file" / "x"), code=2)


MLFLOW = """
import json, sys
from mlflow.tracking import MlflowClient
client = MlflowClient(sys.argv[1])
experiment = client.get_experiment_by_name(sys.argv[2])
runs = sorted(client.search_runs([experiment.experiment_id]), key=lambda run: run.info.run_name)
print(json.dumps([[r.info.run_name, r.info.status, r.data.params["learning_rate"], r.data.metrics["val_loss"],
                   r.data.tags["lrtune.role"]] for r in runs]))
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
@pytest.mark.slow
def test_mlflow_has_a_run_for_each_trial(job: str, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert "3 trials are runs" in run("export-study", job, "--mlflow", uri)
    done = subprocess.run([sys.executable, "-c", MLFLOW, uri, job], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [
        ["trial-0000", "FINISHED", "0.001", 0.5, "baseline"],
        ["trial-0001", "FINISHED", "0.002", 0.25, "search"],
        ["trial-0002", "FINISHED", "0.003", 0.3, "search"],
    ]
    assert "mlflow: found" in run("export-study", job, "--mlflow", uri, code=2)


# In ------------------------------------------------------------------------------------------------------------------


def test_an_exported_job_comes_back_as_it_was(service: httpx.Client, job: str, storage: str) -> None:
    run("export-study", job, "--storage", storage)
    assert "is succeeded" in run("import-study", "--storage", storage)
    with Client() as client:
        back, before = next(client.list(tag=f"imported:{job}")), client.get(job)
        assert (back.state, back.best.value, back.best.configuration) == ("succeeded", 0.25, before.best.configuration)
        kept = {"created_at", "started_at", "finished_at", "worker", "attempt"}
        ours, theirs = ([trial.model_dump(exclude=kept) for trial in client.trials(one)] for one in (job, back.id))
        assert ours == theirs
        assert client.trial(back.id, 1).reports == client.trial(job, 1).reports
        assert [event.kind for event in client.events(back.id)][-2:] == ["job-imported", "job-succeeded"]
        assert client.export(back.id) == client.export(job)


def test_paused_trials_are_pruned_ones_in_a_study_and_come_back_stopped(
    service: httpx.Client, job: str, storage: str
) -> None:
    with Client() as client:
        first, second, third = client.trials(job)
        paused = second.model_copy(update={"state": TrialState.PAUSED, "step": 20})
        running = third.model_copy(update={"state": TrialState.RUNNING})
        assert studies.export(client.get(job), [first, paused, running], storage=storage) == 2
    (study,) = optuna.get_all_study_summaries(storage)
    states = [trial.state.name for trial in optuna.load_study(study_name=study.study_name, storage=storage).trials]
    assert states == ["COMPLETE", "PRUNED"]
    run("import-study", "--storage", storage)
    with Client() as client:
        back = list(client.trials(next(client.list(tag=f"imported:{job}")).id))
    assert [(trial.state, trial.step) for trial in back] == [("complete", 40), ("stopped", 20)]


def test_a_range_test_of_an_older_export_comes_in_as_one(service: httpx.Client) -> None:
    answer = service.post("/v1/imports", json={"job": SPEC, "trials": [TRIAL, TRIAL | {"role": "ramp"}]})
    trials = service.get(f"/v1/jobs/{answer.json()['id']}/trials").json()["items"]
    assert [trial["role"] for trial in trials] == ["search", "range-test"]


def test_a_study_of_other_origin_comes_in_as_a_finished_job(service: httpx.Client, storage: str) -> None:
    foreign(storage)
    run(
        "import-study",
        "digits",
        "--storage",
        storage,
        "--steps",
        "40",
        "--set",
        "schedule=cosine",
        "--map",
        "n_layers=-",
    )
    with Client() as client:
        job = next(client.list(tag="imported:theirs"))
        states = [(trial.state.value, trial.value) for trial in client.trials(job.id)]
        best, pruned = client.best(job.id), client.trial(job.id, 2)
    assert [s for s, _ in states] == ["complete", "complete", "stopped", "failed", "diverged"]
    assert (best.value, best.configuration.learning_rate, best.configuration.optimizer.weight_decay) == (
        0.25,
        0.002,
        0.1,
    )
    assert (pruned.reason, pruned.reports[1].step, pruned.reports[1].metrics) == (
        "pruned in the study",
        20,
        {"val_loss": 0.8},
    )
    assert pruned.reports[0].learning_rate == pruned.configuration.learning_rates(40)[9]


@pytest.mark.parametrize(("trials", "reports", "kept"), [(1, 2500, 834), (60, 300, 100)])
def test_of_a_study_that_reported_often_so_much_comes_in_as_the_server_takes(
    service: httpx.Client, storage: str, trials: int, reports: int, kept: int
) -> None:
    study = optuna.create_study(storage=storage)
    kinds = {"lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)}
    seen: dict[int, float] = {step: 1 / step for step in range(1, reports + 1)}
    made = {"params": {"lr": 1e-3}, "distributions": kinds, "intermediate_values": seen, "value": 1 / reports}
    study.add_trials([optuna.trial.create_trial(**made) for _ in range(trials)])
    fixed = ("--set", "optimizer=adamw", "--set", "schedule=cosine")
    run("import-study", "digits", "--storage", storage, "--steps", f"{reports}", *fixed)
    with Client() as client:
        job = next(client.list()).id
        steps = [one.step for one in client.trial(job, 0).reports]
    assert (len(steps), steps[0], steps[-1]) == (kept, 1 if reports == 2500 else 3, reports)


@pytest.mark.parametrize("first", [0, 1])
def test_reports_that_a_study_counts_in_epochs_are_at_the_steps_where_those_end(
    service: httpx.Client, storage: str, first: int
) -> None:
    study = optuna.create_study(storage=storage, study_name="epochs")
    made: dict[str, Any] = {
        "params": {"lr": 1e-3},
        "distributions": {"lr": optuna.distributions.FloatDistribution(0, 1)},
    }
    for epochs, state in ((10, "COMPLETE"), (3, "PRUNED")):
        seen = {number: 1.0 / (1 + number) for number in range(first, epochs + first)}
        state = optuna.trial.TrialState[state]
        study.add_trial(optuna.trial.create_trial(value=0.1, state=state, intermediate_values=seen, **made))
    fixed = ("--set", "optimizer=adamw", "--set", "schedule=cosine")
    said = run("import-study", "digits", "--storage", storage, "--steps", "2000", *fixed)
    assert "its reports are taken as 200 steps apart, so that its complete runs end at 2000" in said
    with Client() as client:
        job = next(client.list()).id
        assert [one.step for one in client.trial(job, 1).reports] == [200, 400, 600]
        assert next((one.step, one.value) for one in client.trials(job)) == (2000, 0.1)
        report = client.report(job)
    assert report.cost.total == 1.3
    assert (report.saved.pruning, report.audit) == (0.7, None)  # by a pruner that was not the forecast


def test_a_run_without_reports_that_diverged_has_cost_its_length(service: httpx.Client, storage: str) -> None:
    study = optuna.create_study(storage=storage, study_name="ends")
    kinds = {"lr": optuna.distributions.FloatDistribution(1e-4, 1.0)}
    for rate, value in ((0.1, 0.5), (0.9, float("inf"))):
        study.add_trial(optuna.trial.create_trial(value=value, params={"lr": rate}, distributions=kinds))
    alike = ["--set", "optimizer=sgd", "--set", "schedule=cosine"]
    run("import-study", "digits", "--storage", storage, "--steps", "40", *alike)
    with Client() as client:
        job = next(client.list(tag="imported:ends"))
        report = client.report(job.id)
        assert [(trial.state.value, trial.step) for trial in client.trials(job.id)] == [
            ("complete", 40),
            ("diverged", 40),
        ]
    assert report.saved.total == 0.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "found no job in the study"),
        (["digits"], "found no horizon in steps; accepted is --steps"),
        (
            ["digits", "--steps", "40"],
            "found no schedule: the parameters there are lr, optimizer, weight_decay, n_layers",
        ),
        (["digits", "--steps", "40", "--set", "schedule=cosine"], "n_layers: no part of a configuration with AdamW"),
        (["digits", "--steps", "40", "--set", "schedule=tango", "--map", "n_layers=-"], "tango"),
        (["digits", "--steps", "9", "--set", "schedule=cosine", "--map", "n_layers=-"], "its last report is at 20"),
        (["frobnication", "--steps", "40", "--set", "schedule=cosine", "--map", "n_layers=-"], "/job/task"),
        (["digits", "--study", "ours"], "found no study 'ours'; accepted is --study with one of theirs"),
    ],
)
def test_what_cannot_be_mapped_is_told_in_words(
    service: httpx.Client, storage: str, arguments: list[str], words: str
) -> None:
    foreign(storage)
    assert words in run("import-study", *arguments, "--storage", storage, code=2)


def test_a_storage_that_is_none_is_told_in_words(job: str) -> None:
    assert "storage: found 'nowhere'" in run("export-study", job, "--storage", "nowhere", code=2)
    assert "storage: found 'nowhere'" in run("import-study", "digits", "--storage", "nowhere", code=2)
    assert "found no target" in run("export-study", job, code=2)


def test_a_missing_library_is_told_with_how_to_get_it(
    job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("optuna", "lrtune.uploads.delimited", "mlflow.entities", "tensorboard.compat.proto.event_pb2"):
        monkeypatch.setitem(sys.modules, module, None)
    (runs := tmp_path / "runs.csv").write_text("lr,loss\n1,2\n")
    read = run("import-study", "digits", "--csv", str(runs), "--value", "loss", "--steps", "40", code=2)
    assert "pip install numpy" in read
    assert "pip install optuna" in run("export-study", job, "--storage", "sqlite:///x.db", code=2)
    assert "pip install mlflow-skinny" in run("export-study", job, "--mlflow", "sqlite:///x.db", code=2)
    assert "pip install tensorboard" in run("export-study", job, "--tensorboard", "x", code=2)


TRIAL: dict[str, Any] = {
    "configuration": {"optimizer": {"name": "adamw"}, "learning_rate": 0.1, "schedule": {"family": "cosine"}},
    "state": "complete",
    "value": 0.5,
    "horizon": 40,
    "step": 40,
}


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"value": None}, "/trials/0/value"),
        ({"state": "running"}, "/trials/0/state"),
        ({"horizon": 41}, "/trials/0/horizon"),
        ({"step": 41}, "/trials/0/step"),
        ({"reports": [{"step": 2, "metrics": {}}, {"step": 2, "metrics": {}}]}, "/trials/0/reports"),
        ({"configuration": TRIAL["configuration"] | {"learning_rate": -1}}, "/trials/0/configuration/learning_rate"),
        ({"seed": 2**63}, "/trials/0/seed"),
    ],
)
def test_an_import_is_checked_trial_by_trial(service: httpx.Client, change: dict[str, Any], pointer: str) -> None:
    answer = service.post("/v1/imports", json={"job": SPEC, "trials": [TRIAL | change]})
    assert (answer.status_code, slug(answer)) == (422, "invalid")
    assert [one["pointer"] for one in answer.json()["errors"]] == [pointer]
    assert service.get("/v1/jobs").json()["items"] == []


def test_an_import_is_one_job_however_often_it_is_sent(database_url: str) -> None:
    reports = [
        {"step": 20, "learning_rate": 0.1, "metrics": {"val_loss": None}},
        {"step": 40, "metrics": {"val_loss": 0.5}},
    ]
    body = {"job": SPEC, "trials": [TRIAL | {"reports": reports, "seed": 2**63 - 1}], "source": "a test"}
    with served(database_url) as http, Client(str(http.base_url), KEY) as client:
        once, twice = (client.import_job(body, idempotency_key="one") for _ in range(2))
        assert once == twice
        assert (once.state, once.reason, once.best.value) == ("succeeded", "1 trials imported from a test", 0.5)
        assert [report.metrics["val_loss"] for report in client.trial(once.id, 0).reports] == [None, 0.5]
        with pytest.raises(IdempotencyKeyReused):
            client.import_job({"job": SPEC, "trials": [TRIAL, TRIAL]}, idempotency_key="one")
        with pytest.raises(Invalid, match="no worker will count them"):
            client.import_job({"job": SPEC | {"horizon": {"epochs": 1}}, "trials": [TRIAL]})
