"""Tasks of one's own at the door: announced by workers, listed, their parameters checked, claimed by who has them."""

from datetime import timedelta
from typing import Annotated, Literal

import pytest
import sqlalchemy as sa
from pydantic import BaseModel, Field

import migrations
from lrtune.store import Database, jobs, leases, shares, tasks, trials, workers
from lrtune.task import Task
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob, Horizon, Objective
from lrtune.wire.results import Proposal, TaskSummary
from tests.serving import served, slug
from worker.tasks.own import summary

MINUTE = timedelta(minutes=1)


class Layer(BaseModel, extra="forbid"):
    width: Annotated[int, Field(ge=1)] = 8


class Settings(BaseModel):
    depth: Annotated[int, Field(ge=1, le=9)] = 2
    kind: Literal["small", "large"] = "small"
    dropout: float | None = None
    layers: list[Layer] = []
    title: str


class Vision(Task):
    """Coloured squares,
    by a small network.

    More about it.
    """

    Params = Settings
    metrics = {"top1": "maximize", "val_loss": "minimize"}
    steps = 300

    def model(self):
        return None

    def loss(self, model, batch):
        return None


VISION = summary("my_tasks:Vision", Vision)


def announced(database: Database, *, worker: str = "w", names: tuple[str, ...] = (VISION.name,)) -> None:
    with database.write() as tx:
        workers.sign_in(tx, worker, host="h", pid=1, device="cpu", tasks=list(names))
        tasks.announce(tx, [VISION.model_copy(update={"name": name}) for name in names])


def test_a_task_is_listed_with_its_schema_its_metrics_and_the_workers_that_have_it(database_url: str) -> None:
    database = Database(database_url)
    announced(database)
    announced(database, worker="w2")
    with served(database_url) as http:
        listed = {one["name"]: one for one in http.get("/v1/tasks").json()["items"]}
    database.dispose()
    found = listed["my_tasks:Vision"]
    assert found["summary"] == "Coloured squares, by a small network."
    assert list(found["metrics"].items()) == [("top1", "maximize"), ("val_loss", "minimize")]
    assert (found["steps"], found["workers"]) == (300, 2)
    assert list(found["params"]["properties"]) == ["depth", "kind", "dropout", "layers", "title"]
    assert found["params"]["additionalProperties"] is False
    assert listed["digits"]["workers"] == 0


def test_a_job_takes_its_defaults_metric_and_horizon_from_the_task(database: Database) -> None:
    announced(database)
    with served(database.url) as http:
        made = http.post("/v1/jobs", json={"task": {"name": "my_tasks:Vision", "params": {"title": "x", "depth": 4}}})
        plan = http.post("/v1/jobs?validate_only=true", json=made.json()["spec"])
    spec = made.json()["spec"]
    assert made.status_code == 201
    assert spec["task"]["params"] == {"title": "x", "depth": 4, "kind": "small", "dropout": None, "layers": []}
    assert (spec["metric"], spec["horizon"]["steps"]) == ({"name": "top1", "goal": "maximize", "range": None}, 300)
    assert plan.json()["spec"] == spec


@pytest.mark.parametrize(
    ("params", "pointer", "detail"),
    [
        ({}, "/title", "found nothing; this field is needed"),
        ({"depht": 3}, "/depht", "found an unknown field; accepted fields are depth, kind, dropout, layers, title"),
        ({"depth": 10}, "/depth", "found 10; accepted is a number of at most 9"),
        ({"depth": "3"}, "/depth", "found '3'; accepted is a whole number"),
        ({"depth": True}, "/depth", "found true; accepted is a whole number"),
        ({"depth": None}, "/depth", "found null; accepted is a whole number"),
        ({"kind": "huge"}, "/kind", "found 'huge'; accepted is one of 'small', 'large'"),
        ({"dropout": "much"}, "/dropout", "found 'much'; accepted is a number or null"),
        ({"layers": [{}, {"width": 0}]}, "/layers/1/width", "found 0; accepted is a number of at least 1"),
        ({"layers": [{"hight": 3}]}, "/layers/0/hight", "found an unknown field; accepted fields are width"),
        ({"layers": 3}, "/layers", "found 3; accepted is a list"),
    ],
)
def test_a_parameter_that_the_task_does_not_take_is_refused_with_its_place(
    sqlite_url: str, params: dict[str, object], pointer: str, detail: str
) -> None:
    database = Database(sqlite_url)
    announced(database)
    database.dispose()
    whole = params if pointer == "/title" else {"title": "x"} | params
    with served(sqlite_url) as http:
        answer = http.post("/v1/jobs", json={"task": {"name": "my_tasks:Vision", "params": whole}})
    assert (answer.status_code, slug(answer)) == (422, "invalid")
    assert answer.json()["errors"] == [{"pointer": f"/task/params{pointer}", "detail": detail}]


def test_a_task_that_no_worker_has_announced_is_refused_with_those_there_are(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    announced(database)
    database.dispose()
    with served(sqlite_url) as http:
        answer = http.post("/v1/jobs", json={"task": "my_tasks:Vison"})
    assert answer.status_code == 422
    (one,) = answer.json()["errors"]
    assert one["pointer"] == "/task"
    assert "found the task 'my_tasks:Vison', which no worker has announced; accepted is one of digits," in one["detail"]
    assert one["detail"].endswith(", my_tasks:Vision")


def test_a_metric_that_the_task_does_not_have_is_refused(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    announced(database)
    database.dispose()
    task = {"name": "my_tasks:Vision", "params": {"title": "x"}}
    with served(sqlite_url) as http:
        answer = http.post("/v1/jobs", json={"task": task, "metric": {"name": "f1"}})
    assert answer.json()["errors"][0]["detail"] == "found 'f1'; the task my_tasks:Vision has top1, val_loss"


def test_the_last_announcement_of_a_name_counts_and_a_task_nobody_has_is_forgotten_after_a_month(
    database: Database,
) -> None:
    announced(database, names=("a:A", "b:B"))
    with database.write() as tx:
        tasks.announce(tx, [VISION.model_copy(update={"name": "a:A", "steps": 7})])
        assert [(one.name, one.steps) for one in tasks.known(tx)] == [("a:A", 7), ("b:B", 300)]
        workers.sign_in(tx, "w", host="h", pid=1, device="cpu", tasks=["b:B"])
        later = leases.clock(tx) + timedelta(days=31)
        tasks.announce(tx, [], now=later)
        assert [one.name for one in tasks.known(tx)] == ["b:B"], "a worker that still has it keeps it known"


def queued(database: Database, task: str) -> str:
    spec = AdmittedJob(task=task, metric=Objective(name="top1", goal="maximize"), horizon=Horizon(steps=10))
    chosen = Configuration(optimizer="adamw", learning_rate=0.1, schedule="linear")
    with database.write() as tx:
        job = jobs.create(tx, spec)[0].id
        assert trials.propose(tx, job, Proposal(configuration=chosen, role="search", seed=0, horizon=10), known=0)
    return job


def test_a_worker_claims_only_trials_whose_task_it_has(database: Database) -> None:
    theirs, ours = queued(database, "their_tasks:Text"), queued(database, "my_tasks:Vision")
    with database.write() as tx:
        lease = leases.claim(tx, "w", ttl=MINUTE, able=shares.Able(["digits", "my_tasks:Vision"]))
        assert lease is not None
        assert lease.job_id == ours
        assert leases.claim(tx, "w", ttl=MINUTE, able=shares.Able(["digits", "my_tasks:Vision"])) is None
        other = leases.claim(tx, "w2", ttl=MINUTE, able=shares.Able(["their_tasks:Text"]))
        assert other is not None
        assert other.job_id == theirs


def test_jobs_from_before_know_their_task_after_the_migration(database_url: str) -> None:
    database = Database(database_url)
    job = queued(database, "digits")
    database.dispose()
    migrations.downgrade(database_url, "0003")
    migrations.upgrade(database_url)
    engine = sa.create_engine(database_url)
    with engine.connect() as connection:
        assert connection.execute(sa.text("select id, task from jobs")).all() == [(job, "digits")]
    engine.dispose()


def test_a_summary_survives_the_wire() -> None:
    assert TaskSummary.model_validate_json(VISION.model_dump_json()) == VISION
