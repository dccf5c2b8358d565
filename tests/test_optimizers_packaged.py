"""Optimizers from packages beside torch: they train as their packages' own loops do, and workers say who has them."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import prodigyopt
import pytest
import schedulefree
import torch

import worker.optimizers
from lrtune.errors import TaskError
from lrtune.optimizers import OPTIMIZERS, optimizer
from lrtune.search import SpaceExhausted, suggest
from lrtune.store import Database, jobs, leases, shares, trials, workers
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import TaskSpec, Training
from lrtune.wire.results import JobState, Proposal, Trial, report_points
from tests import simulated
from tests.leasing import MINUTE, NOON, SPEC
from tests.serving import Done, served
from tests.test_states import Lab, same
from tests.test_trainer import CPU, Line, run, trial
from worker.engine import Engine
from worker.loop import Worker
from worker.optimizers import build
from worker.settings import Settings
from worker.tasks import prepare

SMALL = {"name": "digits", "params": {"hidden": [8]}}
PACKAGED = [name for name, cls in OPTIMIZERS.items() if cls.packaged]
NEEDED = {"schedule-free-adamw": "schedulefree", "prodigy": "prodigyopt"}
MADE: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "schedule-free-adamw": lambda parameters: schedulefree.AdamWScheduleFree(parameters, lr=0.02, warmup_steps=6),
    "prodigy": lambda parameters: prodigyopt.Prodigy(parameters, lr=0.5, safeguard_warmup=True),
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def door(sqlite_url: str) -> Iterator[httpx.Client]:
    with served(sqlite_url) as client:
        yield client


# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKAGED)
def test_a_trial_trains_and_measures_as_the_packages_own_loop(name: str) -> None:
    """The loop of the package's README: its own warm-up, and for a schedule-free one its own modes."""
    task, steps, warmup = (
        prepare(TaskSpec.model_validate(SMALL), Path()),
        60,
        {"schedule-free-adamw": 0.1}.get(name, 0.0),
    )
    rate = {"schedule-free-adamw": 0.02, "prodigy": 0.5}[name]
    asked = trial(optimizer={"name": name}, learning_rate=rate, schedule="constant", warmup=warmup, horizon=steps)
    _, reports = run(task, asked)
    torch.manual_seed(asked.seed)
    model, batches = task.model(), task.batches(asked.seed)
    own = MADE[name](model.parameters())
    modes = hasattr(own, "train")
    expected = []
    for step in range(1, steps + 1):
        if modes:
            own.train()
        own.zero_grad()
        task.loss(model, next(batches)).backward()
        own.step()
        if step in report_points(steps):
            if modes:
                own.eval()
            with torch.no_grad():
                expected.append(float(task.evaluate(model.eval())["val_loss"]))
            model.train()
    assert [one.metrics["val_loss"] for one in reports] == pytest.approx(expected, rel=1e-4)
    assert expected[-1] < 0.7 * expected[0]


def test_measuring_an_average_leaves_the_training_as_it_was_to_the_bit() -> None:
    task = prepare(TaskSpec.model_validate(SMALL), Path())
    configuration = {"optimizer": "schedule-free-adamw", "learning_rate": 0.02, "schedule": "constant"}
    engine = Engine(task, trial(**configuration), Training(), CPU)
    batches = task.batches(0)
    for _ in range(10):
        engine.gradients(batches)
        engine.apply()
    trained = [one.detach().clone() for one in engine.model.parameters()]
    with engine.optimizer.measured():
        assert not any(torch.equal(a, b) for a, b in zip(trained, engine.model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(trained, engine.model.parameters(), strict=True))
    engine.gradients(batches)
    engine.apply()  # it is in the mode for training again


@pytest.mark.parametrize("name", PACKAGED)
def test_a_trial_that_was_paused_goes_on_with_its_step_size_and_its_average(name: str, tmp_path: Path) -> None:
    lab, task = Lab(tmp_path, spec=TaskSpec.model_validate(SMALL)), prepare(TaskSpec.model_validate(SMALL), Path())
    asked = trial(optimizer={"name": name}, learning_rate=OPTIMIZERS[name].usual, schedule="constant", warmup=0.1)
    lab.train(task, asked.model_copy(update={"until": 33}))
    again = lab.train(task, asked)
    assert [start.step for start in lab.starts] == [33]
    assert same(again, lab.train(task, asked, shares=False))
    assert (again[1][-1].metrics["val_loss"] or 9.0) < 0.99 * (again[1][10].metrics["val_loss"] or 0.0)


def test_a_network_with_batch_norms_is_told_what_is_measured() -> None:
    class Normed(Line):
        def model(self) -> torch.nn.Module:
            return torch.nn.Sequential(super().model(), torch.nn.BatchNorm1d(1))

    said: list[str] = []
    for name in ("adamw", "schedule-free-adamw"):
        chosen = trial(optimizer={"name": name}, schedule="constant")
        Engine(Normed(), chosen, Training(), CPU, say=said.append)
    assert len(said) == 1
    assert said[0].startswith("batch norms keep statistics of the weights that are trained")


# Who has the packages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKAGED)
def test_without_the_package_it_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.optimizers, "find_spec", lambda package: None)
    with pytest.raises(TaskError) as caught:
        build(optimizer(name), torch.nn.Linear(2, 2), learning_rate=0.1)
    assert str(caught.value) == f"optimizer {name} needs {NEEDED[name]}: pip install 'lrtune[worker,optimizers]' here"


def test_a_worker_leaves_a_trial_to_those_that_have_its_optimizer(database: Database) -> None:
    with database.write() as tx:
        job, _ = jobs.create(tx, SPEC, now=NOON)
        for number, name in enumerate(("prodigy", "adamw")):
            chosen = Configuration(optimizer=name, learning_rate=0.1, schedule="constant")
            proposal = Proposal(configuration=chosen, role="search", seed=0, horizon=100)
            assert trials.propose(tx, job.id, proposal, known=number, now=NOON)
    taken = []
    for name, without in (("a", ["prodigy", "schedule-free-adamw"]), ("b", ["prodigy"]), ("c", [])):
        with database.write() as tx:
            lease = leases.claim(
                tx, name, ttl=MINUTE, able=shares.Able(["digits"], without=without), now=NOON + timedelta(seconds=1)
            )
            taken.append(lease and lease.trial.configuration.kind[0])
    assert taken == ["adamw", None, "prodigy"]


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({"optimizers": ["adamw", "prodigy"]}, "/optimizers/1"),
        ({"baseline": {"learning_rate": 1.0, "optimizer": "prodigy"}}, "/baseline/optimizer"),
    ],
)
def test_a_job_that_no_worker_could_train_is_refused_with_what_to_install(
    door: httpx.Client, sqlite_url: str, asked: dict[str, Any], pointer: str
) -> None:
    body = {"task": "digits"} | asked
    assert door.post("/v1/jobs", json=body).status_code == 201, "with no worker yet it waits"
    database = Database(sqlite_url)
    answers = []
    for name, tasks in (("w1", ["digits"]), ("w2", ["digits", workers.able("prodigy")])):
        with database.write() as tx:
            workers.sign_in(tx, name, host="h", pid=1, device="cpu", tasks=tasks)
        answers.append(door.post("/v1/jobs", json=body))
    database.dispose()
    assert answers[0].json()["errors"] == [
        {
            "pointer": pointer,
            "detail": "found prodigy, for which no worker has the package prodigyopt; "
            "pip install 'lrtune[worker,optimizers]' where a worker runs, and start it again",
        }
    ]
    assert answers[1].status_code == 201, answers[1].text


def test_a_job_over_both_comes_to_an_answer(door: httpx.Client, sqlite_url: str, tmp_path: Path) -> None:
    job = {
        "task": SMALL,
        "horizon": {"steps": 40},
        "optimizers": ["schedule-free-adamw", "prodigy"],
        "schedules": ["constant", "linear"],
        "try": [{"optimizer": "prodigy"}],
        "budget": {"full_runs": 3},
        "confirm": {"top": 0},
    }
    made = door.post("/v1/jobs", json=job).json()["id"]
    Worker(Settings(database_url=sqlite_url, device="cpu", state_dir=str(tmp_path / "states")), Done()).work()
    found = door.get(f"/v1/jobs/{made}").json()
    assert (found["state"], found["best"]["steps"]) == (JobState.SUCCEEDED, 40), found["reason"]
    assert "pip install" in door.get(f"/v1/jobs/{made}/best/export").text
    tried = [one["configuration"] for one in door.get(f"/v1/jobs/{made}/trials").json()["items"]]
    assert {one["optimizer"]["name"] for one in tried} == {"schedule-free-adamw", "prodigy"}
    assert {one["schedule"]["family"] for one in tried if one["optimizer"]["name"] != "prodigy"} == {"constant"}


# What is searched -----------------------------------------------------------------------------------------------------

FEW = {
    "optimizers": [{"name": "schedule-free-adamw", "learning_rate": 0.01}, {"name": "adamw", "learning_rate": 0.003}],
    "schedules": [
        "constant",
        {"family": "linear", "final": 0.0},
        {"family": "exponential", "final": 0.1, "every": 0.0},
    ],
    "warmup": 0.0,
}


@pytest.mark.parametrize("sampler", ["curve", "tpe", "gp", "cmaes", "qmc", "random", "grid"])
def test_every_sampler_takes_a_schedule_free_optimizer_with_a_constant_rate_alone(sampler: str) -> None:
    spec, history = simulated.job(sampler, steps=100, **FEW), list[Trial]()
    with suppress(SpaceExhausted):
        while len(history) < 10:
            started = simulated.begin(history, suggest(spec, history, steps=100, continued=False))
            simulated.end(history, started, "complete", step=100, value=1.0 + started.number)
    assert history[0].configuration.kind == ("schedule-free-adamw", "constant"), "the baseline, too"
    assert {one.configuration.kind for one in history[1:]} == {
        ("schedule-free-adamw", "constant"), ("adamw", "constant"), ("adamw", "linear"), ("adamw", "exponential"),
    }  # fmt: skip
    assert len(history) == 5, "the space is tried to its end, and nothing of it twice"


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [
        ({"schedules": ["cosine"]}, "/schedules", "schedule-free-adamw goes with constant alone"),
        ({"training": {"ema": 0.99}}, "/training/ema", "averages the weights itself, so accepted is null"),
        (
            {"try": [{"optimizer": "schedule-free-adamw", "schedule": "cosine"}]},
            "/try/0/schedule",
            "found cosine; schedule-free-adamw goes with constant alone",
        ),
        (
            {"try": [{"schedule": "cosine"}], "optimizers": ["schedule-free-adamw"]},
            "/try/0/schedule",
            "found cosine; schedule-free-adamw goes with constant alone",
        ),
        (
            {"baseline": {"optimizer": "schedule-free-adamw", "learning_rate": 0.01, "schedule": "linear"}},
            "/baseline/schedule",
            "found linear; schedule-free-adamw goes with constant alone",
        ),
    ],
)
def test_what_does_not_go_together_is_said(door: httpx.Client, fields: dict, pointer: str, words: str) -> None:
    body = {"task": "digits", "optimizers": ["adamw", "schedule-free-adamw"]} | fields
    [found] = door.post("/v1/jobs?validate_only=true", json=body).json()["errors"]
    assert found["pointer"] == pointer
    assert words in found["detail"]


def test_the_catalogue_says_which_schedules_go_with_an_optimizer(door: httpx.Client) -> None:
    listed = {one["name"]: one["schedules"] for one in door.get("/v1/schedules").json()["optimizers"]}
    assert {name: found for name, found in listed.items() if found} == {"schedule-free-adamw": ["constant"]}
