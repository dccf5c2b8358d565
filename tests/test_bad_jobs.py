"""More than a hundred jobs that cannot be: each gets a 4xx problem that points at the field, and nothing is stored."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from lrtune.store import Database
from lrtune.uploads import mirror
from tests.serving import served

NAN, INFINITE = float("nan"), float("inf")


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def job(**fields: Any) -> dict[str, Any]:
    return {"task": "digits"} | fields


def tabular(**params: Any) -> dict[str, Any]:
    return {"task": {"name": "tabular", "params": {"dataset": "adult.csv"} | params}}


def digits(**params: Any) -> dict[str, Any]:
    return {"task": {"name": "digits", "params": params}}


def schedule(**knobs: Any) -> dict[str, Any]:
    return job(schedules=["linear", knobs])


def sgd(**knobs: Any) -> dict[str, Any]:
    return job(optimizers=[{"name": "sgd"} | knobs])


def sampler(**knobs: Any) -> dict[str, Any]:
    return job(search={"sampler": knobs})


def pruner(**knobs: Any) -> dict[str, Any]:
    return job(search={"pruner": knobs})


CLIMBING = (
    "../secret.csv",
    "data/../../secret.csv",
    "/etc/passwd",
    "..",
    "a/..",
    "..\\secret.csv",
    "C:\\secret.csv",
    "\\\\host\\share",
    "file:///etc/passwd",
    "~/secret.csv",
    "%2e%2e/secret.csv",
    "adult.csv\0.png",
    "./../secret.csv",
    "no-such.csv",
    "x" * 255,
    "x" * 256,
    "é" * 200,
    "",
)

BAD: list[tuple[Any, str]] = [
    # not a job at all
    ([], ""),
    ("digits", ""),
    (None, ""),
    (7, ""),
    ({}, "/task"),
    # the task
    (job(task=None), "/task"),
    (job(task=7), "/task"),
    (job(task=[]), "/task"),
    (job(task="digit"), "/task"),
    (job(task=""), "/task"),
    (job(task={}), "/task/name"),
    (job(task={"name": "digit"}), "/task/name"),
    (job(task={"name": True}), "/task/name"),
    (job(task={"name": "worker.tasks:evil"}), "/task/name"),
    (job(task={"name": "digits", "parameters": {}}), "/task/parameters"),
    (job(task={"name": "digits", "params": []}), "/task/params"),
    (job(task={"name": "digits", "params": None}), "/task/params"),
    (job(task="tabular"), "/task"),
    (job(task={"name": "tabular"}), "/task/params/dataset"),
    (digits(depth=3), "/task/params/depth"),
    (digits(batch_size=0), "/task/params/batch_size"),
    (digits(batch_size="half"), "/task/params/batch_size"),
    (digits(batch_size=True), "/task/params/batch_size"),
    (digits(batch_size=1.5), "/task/params/batch_size"),
    (digits(batch_size=10**400), "/task/params/batch_size"),
    (digits(hidden=[]), "/task/params/hidden"),
    (digits(hidden=[64, 0]), "/task/params/hidden/1"),
    (digits(hidden=[1] * 9), "/task/params/hidden"),
    (digits(hidden=nested(50)), "/task/params/hidden/0"),
    (digits(noise=NAN), "/task/params/noise"),
    (digits(noise=-0.1), "/task/params/noise"),
    (digits(noise="0.1"), "/task/params/noise"),
    (tabular(kind="clustering"), "/task/params/kind"),
    (tabular(validation=1.0), "/task/params/validation"),
    (tabular(validation=0), "/task/params/validation"),
    (tabular(header="yes"), "/task/params/header"),
    (tabular(target=None), "/task/params/target"),
    *((tabular(dataset=path), "/task/params/dataset") for path in CLIMBING),
    # the metric
    (job(metric="val_loss"), "/metric"),
    (job(metric={}), "/metric/name"),
    (job(metric={"name": "accuracy"}), "/metric/name"),
    (job(metric={"name": "val_accuracy", "goal": "minimize"}), "/metric/goal"),
    (job(metric={"name": "val_loss", "goal": "down"}), "/metric/goal"),
    (job(metric={"name": "val_loss", "direction": "minimize"}), "/metric/direction"),
    (tabular(kind="regression") | {"metric": {"name": "val_accuracy"}}, "/metric/name"),
    # the horizon
    (job(horizon=2000), "/horizon"),
    (job(horizon={}), "/horizon"),
    (job(horizon={"steps": 2000, "epochs": 5}), "/horizon"),
    (job(horizon={"steps": -1}), "/horizon/steps"),
    (job(horizon={"steps": 1}), "/horizon/steps"),
    (job(horizon={"steps": 10**12}), "/horizon/steps"),
    (job(horizon={"steps": "2000"}), "/horizon/steps"),
    (job(horizon={"steps": True}), "/horizon/steps"),
    (job(horizon={"steps": 20.5}), "/horizon/steps"),
    (job(horizon={"epochs": 0}), "/horizon/epochs"),
    (job(horizon={"epochs": INFINITE}), "/horizon/epochs"),
    (job(horizon={"minutes": 5}), "/horizon/minutes"),
    # the optimizers
    (job(optimizers=[]), "/optimizers"),
    (job(optimizers="adamw"), "/optimizers"),
    (job(optimizers=None), "/optimizers"),
    (job(optimizers=["adamw", "sgdd"]), "/optimizers/1"),
    (job(optimizers=["adamw", "adamw"]), "/optimizers/1"),
    (job(optimizers=["adamw", {"name": "sgd"}, {"name": "sgd", "momentum": 0.5}]), "/optimizers/2"),
    (job(optimizers=[{"momentum": 0.9}]), "/optimizers/0"),
    (job(optimizers=[{"name": ["sgd"]}]), "/optimizers/0"),
    (job(optimizers=[None]), "/optimizers/0"),
    (job(optimizers=["x" * 100_000]), "/optimizers/0"),
    (sgd(beta1=0.9), "/optimizers/0/beta1"),
    (sgd(momentum=1.0), "/optimizers/0/momentum"),
    (sgd(momentum=[0.9, 0.5]), "/optimizers/0/momentum"),
    (sgd(momentum=[0.1, 0.5, 0.9]), "/optimizers/0/momentum"),
    (sgd(momentum="0.9"), "/optimizers/0/momentum"),
    (sgd(momentum={"low": 0.1}), "/optimizers/0/momentum"),
    (sgd(nesterov=1), "/optimizers/0/nesterov"),
    (sgd(nesterov=True, momentum=0), "/optimizers/0/nesterov"),
    (sgd(learning_rate=0), "/optimizers/0/learning_rate"),
    (sgd(learning_rate=-0.1), "/optimizers/0/learning_rate"),
    (sgd(learning_rate=NAN), "/optimizers/0/learning_rate"),
    (sgd(learning_rate=[1.0, 0.001]), "/optimizers/0/learning_rate"),
    (sgd(learning_rate=[0.1, 0.1]), "/optimizers/0/learning_rate"),
    (sgd(learning_rate=[0.1, INFINITE]), "/optimizers/0/learning_rate"),
    (sgd(learning_rate=True), "/optimizers/0/learning_rate"),
    (sgd(learning_rate=10**500), "/optimizers/0/learning_rate"),
    # the schedules
    (job(training={"sharded": True}), "/training/sharded"),
    (job(training={"sharded": "yes", "devices": 2}), "/training/sharded"),
    (job(training={"sharded": True, "devices": 2, "ema": 0.9}), "/training/ema"),
    (job(training={"sharded": True, "devices": 2}, optimizers=["sgd", "muon"]), "/optimizers/1"),
    (job(training={"sharded": True, "devices": 2}, optimizers=["prodigy"]), "/optimizers/0"),
    (
        job(training={"sharded": True, "devices": 2}, baseline={"optimizer": "muon", "learning_rate": 0.1}),
        "/baseline/optimizer",
    ),
    (job(schedules=[]), "/schedules"),
    (job(schedules={"family": "cosine"}), "/schedules"),
    (job(schedules=["cosine"] * 51), "/schedules"),
    (job(schedules=["cosine", "cosine"]), "/schedules/1"),
    (job(schedules=["cosine", "Cosine"]), "/schedules/1"),
    (job(schedules=["__import__('os')"]), "/schedules/0"),
    (job(schedules=[["cosine"]]), "/schedules/0"),
    (schedule(final=0.1), "/schedules/1"),
    (schedule(family="cosine", gamma=0.1), "/schedules/1/gamma"),
    (schedule(family="step", gamma=0), "/schedules/1/gamma"),
    (schedule(family="step", step=3), "/schedules/1/step"),
    (schedule(family="step", every=[0.5, 0.1]), "/schedules/1/every"),
    (schedule(family="wsd", shape="round"), "/schedules/1/shape"),
    (schedule(family="wsd", shape=[]), "/schedules/1/shape"),
    (schedule(family="wsd", shape=["linear", "linear"]), "/schedules/1/shape"),
    (schedule(family="restarts", cycles=2.5), "/schedules/1/cycles"),
    (schedule(family="multistep", milestones=[0.7, 0.3]), "/schedules/1/milestones"),
    (schedule(family="multistep", milestones=[]), "/schedules/1/milestones"),
    (schedule(family="multistep", milestones=[0.5, NAN]), "/schedules/1/milestones"),
    (schedule(family="piecewise", factors=[1.0]), "/schedules/1/factors"),
    # the knobs around them
    (job(warmup=1.0), "/warmup"),
    (job(warmup=[0.1, 0.0]), "/warmup"),
    (job(warmup="5%"), "/warmup"),
    (job(floor=-1), "/floor"),
    (job(floor=[]), "/floor"),
    (job(clip_norm=0), "/clip_norm"),
    (job(clip_norm=[None, 1.0]), "/clip_norm"),
    (job(clip_value=-1), "/clip_value"),
    # the search
    (job(search="tpe"), "/search"),
    (job(search={"samplr": "tpe"}), "/search/samplr"),
    (job(search={"sampler": "tpee"}), "/search/sampler"),
    (job(search={"pruner": 3}), "/search/pruner"),
    (job(search={"seed": -1}), "/search/seed"),
    (job(search={"seed": 2**31}), "/search/seed"),
    (job(search={"seed": None}), "/search/seed"),
    (sampler(name="tpe", sequence="sobol"), "/search/sampler/sequence"),
    (sampler(name="tpe", n_startup_trials=0), "/search/sampler/n_startup_trials"),
    (sampler(name="qmc", sequence="sobl"), "/search/sampler/sequence"),
    (sampler(name="grid", points=1), "/search/sampler/points"),
    (pruner(name="percentile", percentile=100), "/search/pruner/percentile"),
    (pruner(name="percentile", percentile=50, n_startup_trials="5"), "/search/pruner/n_startup_trials"),
    (pruner(name="hyperband", reduction_factor=1), "/search/pruner/reduction_factor"),
    (pruner(name="threshold"), "/search/pruner"),
    (pruner(name="threshold", lower=2, upper=1), "/search/pruner"),
    (pruner(name="threshold", lower=NAN), "/search/pruner/lower"),
    # what it may cost
    (job(budget=20), "/budget"),
    (job(budget={"full_runs": 0}), "/budget/full_runs"),
    (job(budget={"full_runs": -5}), "/budget/full_runs"),
    (job(budget={"full_runs": None}), "/budget"),
    (job(budget={"trials": 1.5}), "/budget/trials"),
    (job(budget={"seconds": INFINITE}), "/budget/seconds"),
    (job(budget={"dollars": 5}), "/budget/dollars"),
    (job(confirm=True), "/confirm"),
    (job(confirm={"top": -1}), "/confirm/top"),
    (job(confirm={"seeds": False}), "/confirm/seeds"),
    (job(confirm={"seeds": 1000}), "/confirm/seeds"),
    # names and tags
    (job(name=7), "/name"),
    (job(name="x" * 201), "/name"),
    (job(name="a\0b"), "/name"),
    (job(name=None), "/name"),
    (job(tags=["a"]), "/tags"),
    (job(tags={"a": 1}), "/tags/a"),
    (job(tags={"a/b": None}), "/tags/a~1b"),
    (job(tags={"": "x"}), "/tags/"),
    (job(tags={"a:b": "x"}), "/tags/a:b"),
    (job(tags={str(n): "x" for n in range(51)}), "/tags"),
    (job(schedule=["cosine"]), "/schedule"),
    (job(**{"a~b": 1}), "/a~0b"),
]

UNREADABLE = {
    "nothing": b"",
    "half an object": b'{"task": "digits"',
    "two objects": b'{"task": "digits"} {}',
    "not UTF-8": b'{"task": "\xff\xfe"}',
    "brackets without end": b"[" * 200_000,
    "brackets 5,000 deep": b"[" * 5000 + b"]" * 5000,
    "a field that is 20,000 deep": b'{"task": {"name": "digits", "params": '
    + b'{"a": ' * 20_000
    + b"1"
    + b"}" * 20_002,
    "a number of 5,000 digits": b'{"task": "digits", "floor": ' + b"9" * 5000 + b"}",
    "half a surrogate pair": b'{"task": "digits", "name": "\\ud800"}',
    "half a surrogate pair as a field": b'{"task": "digits", "\\ud800": 1}',
    "ten megabytes": b'{"task": "' + b"x" * 10_000_000 + b'"}',
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("bad-jobs")
    (folder / "lrtune.db").write_bytes(sqlite_template.read_bytes())
    (folder / "data").mkdir()
    (folder / "data" / "adult.csv").write_text("age,income\n" + "39,1\n40,0\n" * 10)
    (folder / "secret.csv").write_text("not for you")
    url = f"sqlite:///{folder / 'lrtune.db'}"
    with served(url, data_dir=folder / "data") as client:
        yield client
        database = Database(url)
        with database.read() as tx:
            counts = {name: tx.scalar(text(f"select count(*) from {name}")) for name in ("jobs", "tags", "events")}
        database.dispose()
        assert counts == {"jobs": 0, "tags": 0, "events": 0}


def posted(service: httpx.Client, body: bytes, **params: str) -> dict[str, Any]:
    """The problem that a job is answered with."""
    answer = service.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"}, params=params)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == answer.status_code
    assert len(answer.content) < 5000, "what was sent is quoted, not repeated"
    return problem


@pytest.mark.parametrize(("bad", "pointer"), BAD, ids=[f"{n}-{json.dumps(bad)[:50]}" for n, (bad, _) in enumerate(BAD)])
def test_a_bad_job_is_refused_with_a_pointer_at_the_field(service: httpx.Client, bad: Any, pointer: str) -> None:
    body = json.dumps(bad).encode()
    found = posted(service, body)
    assert [one["pointer"] for one in found["errors"]] == [pointer], found
    assert "found" in found["errors"][0]["detail"]
    assert posted(service, body, validate_only="true") == found, "the same checks as the real one"


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_a_body_that_cannot_be_read_is_refused(service: httpx.Client, body: bytes) -> None:
    assert posted(service, body)["detail"]


def test_there_are_more_than_a_hundred_of_them() -> None:
    assert len(BAD) > 100


def test_all_bad_fields_are_named_at_once(service: httpx.Client) -> None:
    bad = job(horizon={"steps": 0}, optimizers=["sgd", {"name": "adam", "beta3": 1}], tags={"a": 1}, foo=1)
    pointers = {one["pointer"] for one in posted(service, json.dumps(bad).encode())["errors"]}
    assert pointers == {"/horizon/steps", "/optimizers/1/beta3", "/tags/a", "/foo"}


def test_an_unknown_field_is_told_which_there_are(service: httpx.Client) -> None:
    problem = posted(service, json.dumps(sgd(momentun=0.9)).encode())
    accepted = "name, learning_rate, momentum, nesterov, weight_decay"
    assert problem["errors"] == [
        {"pointer": "/optimizers/0/momentun", "detail": f"found an unknown field; accepted fields are {accepted}"}
    ]


@pytest.mark.parametrize(
    ("field", "where"),
    [("learning_rate", {"optimizers": [{"name": "adamw", "learning_rate": [1e-4, 1e-2]}]}),
     ("batch_size", {"task": {"name": "digits", "params": {"batch_size": 64}}})],
)  # fmt: skip
def test_what_is_said_elsewhere_in_a_job_is_told_where_and_that_is_accepted(
    service: httpx.Client, field: str, where: dict[str, Any]
) -> None:
    (wrong,) = posted(service, json.dumps({"task": "digits", field: [1, 2]}).encode())["errors"]
    assert wrong["pointer"] == f"/{field}"
    found, _, said = wrong["detail"].partition(": ")
    assert found.startswith("found no such field of a job; it is a")
    assert json.loads(f"{{{said}}}") == where
    answer = service.post("/v1/jobs", params={"validate_only": True}, json={"task": "digits", **where})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("field", "plain"),
    [("metric", "acc"), ("horizon", 20), ("budget", 20), ("confirm", 3), ("search", "curve"), ("training", "bfloat16"),
     ("resources", "cuda"), ("baseline", 3e-4), ("optimizers", "adamw"), ("schedules", "cosine"), ("horizons", 500),
     ("try", 1e-3)],
)  # fmt: skip
def test_a_plain_word_or_number_for_an_object_or_a_list_is_told_an_example_and_that_is_accepted(
    service: httpx.Client, field: str, plain: object
) -> None:
    (wrong,) = posted(service, json.dumps(job(**{field: plain})).encode())["errors"]
    assert wrong["pointer"] == f"/{field}"
    said, _, example = wrong["detail"].partition("such as ")
    given, _ = json.JSONDecoder().raw_decode(example)
    assert said == f"found {plain!r}; accepted is {'a list' if isinstance(given, list) else 'an object'}, "
    answer = service.post("/v1/jobs", params={"validate_only": True}, json=job(**{field: given}))
    assert answer.status_code == 200, answer.text


def test_a_missing_file_is_told_also_where_the_folder_may_not_be_listed(
    service: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(folder: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(mirror, "names", refused)  # the suite may run as root, who may
    (wrong,) = posted(service, json.dumps(tabular(dataset="adults.csv")).encode())["errors"]
    assert "there are files that cannot be listed just now" in wrong["detail"]


def test_a_missing_file_is_told_which_there_are(service: httpx.Client) -> None:
    def said() -> str:
        (wrong,) = posted(service, json.dumps(tabular(dataset="adults.csv")).encode())["errors"]
        assert wrong["pointer"] == "/task/params/dataset"
        return str(wrong["detail"])

    assert said() == "found no 'adults.csv' in the data folder; there are adult.csv, and no uploads"
    for number in range(12):
        rows = "".join(f"{one},{number}\n" for one in range(20))
        sent = service.post("/v1/datasets", params={"name": f"mine{number}.csv"}, content=f"a,b\n{rows}".encode())
        assert sent.status_code == 201, sent.text
    newest = ", ".join(f"mine{number}.csv" for number in range(11, 1, -1))
    there_are = f"there are adult.csv, and uploaded are {newest} and 2 more"
    assert said() == f"found no 'adults.csv' in the data folder; {there_are}"


def test_a_body_without_a_length_is_refused_while_it_streams(service: httpx.Client) -> None:
    chunks = (b" " * 64 * 1024 for _ in range(64))
    answer = service.post("/v1/jobs", content=chunks, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/too-large")
