"""What a job asks for by name: its own baseline, and configurations to run first."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from lrtune.analysis.answer import best
from lrtune.analysis.words import lift
from lrtune.cli import commands
from lrtune.client import Client
from lrtune.search import advance, suggest
from lrtune.wire.job import AdmittedJob, JobSpec
from lrtune.wire.results import Report, Trial, TrialState, WarmStartTrial
from tests import simulated
from tests.serving import KEY, Done, served
from tests.simulated import carried_out, evenly, train
from worker.loop import Worker
from worker.settings import Settings

SMALL = {"name": "digits", "params": {"hidden": [8], "batch_size": 16}}
JOB: dict[str, Any] = {"task": SMALL, "horizon": {"steps": 20}, "confirm": {"top": 0}}
SCRIPT = {"learning_rate": 0.7, "optimizer": {"name": "sgd", "momentum": 0.0}, "schedule": "step"}
WANTED = [{"learning_rate": 0.003, "schedule": "linear"}, {"learning_rate": 0.01}]
STEPS = 100


@pytest.fixture(scope="module")
def service(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, str]]:
    """A server that the command line finds, and a job of three trials that a worker has trained to its end."""
    folder = tmp_path_factory.mktemp("asked")
    (folder / "lrtune.db").write_bytes(sqlite_template.read_bytes())
    url = f"sqlite:///{folder}/lrtune.db"
    with served(url) as http, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRTUNE_URL", str(http.base_url))
        patch.setenv("LRTUNE_API_KEY", KEY)
        made = http.post("/v1/jobs", json=JOB | {"baseline": SCRIPT, "try": WANTED, "budget": {"trials": 3}}).json()
        Worker(Settings(database_url=url, device="cpu", state_dir=str(folder / "states")), Done()).work()
        yield http, made["id"]


@pytest.fixture
def door(service: tuple[httpx.Client, str]) -> httpx.Client:
    return service[0]


@pytest.fixture
def done(service: tuple[httpx.Client, str]) -> str:
    return service[1]


def rejected(door: httpx.Client, **fields: Any) -> dict[str, str]:
    """What is wrong with a job, by pointer; the same whether it is planned or submitted."""
    answers = [door.post(f"/v1/jobs{query}", json=JOB | fields) for query in ("", "?validate_only=true")]
    assert [answer.status_code for answer in answers] == [422, 422], answers[0].text
    assert answers[0].json()["errors"] == answers[1].json()["errors"]
    return {one["pointer"]: one["detail"] for one in answers[0].json()["errors"]}


def run(*arguments: str) -> str:
    found = CliRunner().invoke(commands.app, list(arguments))
    assert found.exit_code == 0, found.output
    return found.stdout


def job(sampler: object = "random", **fields: Any) -> AdmittedJob:
    return simulated.job(sampler, steps=STEPS, **fields)


def loss(trial: Trial) -> list[Report]:
    return evenly([0.5] * 20, trial.horizon)


def first(spec: AdmittedJob, count: int) -> list[Trial]:
    """So many trials, each proposed once those before it were trained."""
    history: list[Trial] = []
    for _ in range(count):
        train(history, suggest(spec, history, steps=STEPS, continued=False), loss)
    return history


# Through the service --------------------------------------------------------------------------------------------------


def test_a_scripts_own_settings_are_trained_and_stand_beside_the_answer(door: httpx.Client, done: str) -> None:
    path = f"/v1/jobs/{done}"
    own, *tried = door.get(f"{path}/trials").json()["items"]
    assert (own["role"], own["state"], own["why"].split(":")[0]) == (
        "baseline", "complete", "your own settings, the job's baseline",
    )  # fmt: skip
    assert own["configuration"]["optimizer"] == {
        "name": "sgd", "momentum": 0.0, "nesterov": False, "weight_decay": 0.0,
    }  # fmt: skip
    assert [one["configuration"]["learning_rate"] for one in tried] == [0.003, 0.01]
    assert [one["why"] for one in tried] == [f"asked for by the job's try list: {n} of 2" for n in (1, 2)]
    answer = door.get(f"{path}/best").json()
    assert answer["baseline"]["own"] is True
    assert (answer["baseline"]["value"], answer["baseline"]["configuration"]) == (own["value"], own["configuration"])
    assert answer["trial"] in (1, 2), "what lies outside the space is compared with, and is not the answer"
    assert "# Your own settings: " in door.get(f"{path}/best/export").text
    sure = door.get(f"{path}/report").json()["advice"][2]["answer"]
    assert "than your own settings" in sure
    said = run("best", done) + run("show", done)
    assert "your own settings" in said
    assert "untuned" not in said


def test_the_page_and_the_report_file_call_the_baseline_what_it_is(
    door: httpx.Client, done: str, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    waiting = door.post("/v1/jobs", json=JOB | {"baseline": SCRIPT}).json()["id"]
    door.post("/sign-in", data={"key": KEY})
    pages = [door.get(f"/jobs/{one}").text for one in (waiting, done, f"{done}/trials/0")]
    for kind in ("html", "md"):
        run("report", done, "-o", str(tmp_path / f"report.{kind}"))
        pages.append((tmp_path / f"report.{kind}").read_text())
    assert all("your own settings" in page.lower() for page in pages)
    assert all("untuned" not in page.lower() for page in pages)


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [
        ({"try": [{"learning_rate": 5.0}]}, "/try/0/learning_rate", "found 5.0; accepted is 1e-05 to 0.1"),
        ({"try": [{}, {"warmup": 0.5}]}, "/try/1/warmup", "accepted is 0 to 0.1"),
        ({"try": [{"clip_norm": None}]}, "/try/0/clip_norm", "fixed, so accepted is 1.0"),
        ({"try": [{"optimizer": "sgd"}]}, "/try/0/optimizer", "found sgd; this job searches adamw"),
        ({"try": [{"schedule": "cyclic"}]}, "/try/0/schedule", "found cyclic; this job searches cosine, linear"),
        ({"try": [{"schedule": {"family": "wsd", "shape": "sqrt"}}]}, "/try/0/schedule/shape", "accepted is"),
        (
            {"try": [{"optimizer": {"name": "adamw", "weight_decay": 0.3}}]},
            "/try/0/optimizer/weight_decay",
            "found 0.3; this job has it fixed, so accepted is 0.01",
        ),
        ({"try": [{"learning_rate": -1}]}, "/try/0/learning_rate", "greater than 0"),
        ({"try": [{"learning_rates": 1e-3}]}, "/try/0/learning_rates", "accepted fields are optimizer, learning_rate"),
        ({"try": [{"optimizer": {"name": "adamw", "beta1": 2}}]}, "/try/0/optimizer/beta1", "at most 0.999999"),
        ({"try": [3]}, "/try/0", "accepted is an object"),
        (
            {"try": [{"schedule": "one-cycle", "warmup": 0.1}], "schedules": ["one-cycle", "cosine"]},
            "/try/0/warmup",
            "one-cycle rises by itself and has no warm-up",
        ),
        (
            {"baseline": {"learning_rate": 1e-3, "schedule": "one-cycle", "warmup": 0.1}},
            "/baseline/warmup",
            "found 0.1; one-cycle rises by itself and has no warm-up, so accepted is 0",
        ),
        ({"try": {"learning_rate": 1e-3}}, "/try", "accepted is a list"),
        (
            {"try": [{"learning_rate": 3e-3}, {"learning_rate": 2e-3}], "budget": {"trials": 2}},
            "/try",
            "found 2 to try; the budget has room for 1 beside the baseline",
        ),
        ({"baseline": {"schedule": "cosine"}}, "/baseline/learning_rate", "this field is needed"),
        ({"baseline": {"learning_rate": 0.1, "schedule": "cos"}}, "/baseline/schedule", "accepted is one of constant"),
        ({"baseline": {"learning_rate": 0.1, "lr": 1}}, "/baseline/lr", "accepted fields are optimizer, learning_rate"),
        ({"baseline": 3e-4}, "/baseline", "accepted is an object"),
    ],
)
def test_what_cannot_be_run_first_is_said_at_its_field_with_what_would_be_accepted(
    door: httpx.Client, fields: dict[str, Any], pointer: str, words: str
) -> None:
    wide = {"schedules": ["cosine", "linear", {"family": "wsd", "shape": "linear"}]} if "wsd" in str(fields) else {}
    found = rejected(door, **fields, **wide)
    assert list(found) == [pointer]
    assert words in found[pointer]


def test_a_plan_shows_the_baseline_and_all_that_is_to_be_tried(door: httpx.Client) -> None:
    wanted = [{"learning_rate": rate} for rate in (1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3)]
    answer = door.post("/v1/jobs?validate_only=true", json=JOB | {"baseline": SCRIPT, "try": wanted}).json()
    rates = [one["configuration"]["learning_rate"] for one in answer["first"]]
    assert rates == [0.7, 1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3]
    assert answer["spec"]["baseline"]["warmup"] == 0.0, "a job that was admitted says what was left out"


def test_the_command_line_says_both_as_they_are_said_in_json(door: httpx.Client) -> None:
    plain = [
        "--baseline",
        "learning_rate=0.7",
        "--baseline",
        "schedule=step",
        "--try",
        "learning_rate=1e-3,warmup=0.05",
    ]
    made = json.loads(run("submit", "digits", *plain, "--try", '{"schedule": "linear"}', "--json"))
    spec = {"baseline": {"learning_rate": 0.7, "schedule": "step"}}
    spec |= {"try": [{"learning_rate": 1e-3, "warmup": 0.05}, {"schedule": "linear"}]}
    with Client() as client:
        same = [
            client.submit(one) for one in ({"task": "digits"} | spec, JobSpec.model_validate({"task": "digits"} | spec))
        ]
    assert [one.spec.model_dump(mode="json") for one in same] == [made["spec"]] * 2


def test_a_loop_of_ones_own_trains_its_script_as_it_was_first(door: httpx.Client) -> None:
    external = {"task": "external", "metric": {"name": "loss", "goal": "minimize"}, "horizon": {"steps": 10}}
    asked = {"baseline": {"learning_rate": 0.5, "optimizer": "sgd"}, "try": [{"learning_rate": 2e-3}]}
    made = door.post("/v1/jobs", json=external | asked).json()["id"]
    for rates, role in (([0.5] * 10, "baseline"), (None, "search")):
        held = door.post(f"/v1/jobs/{made}/trials").json()
        assert (held["trial"]["role"], rates in (None, held["learning_rates"])) == (role, True)
        assert held["trial"]["configuration"]["clip_norm"] is None, "nobody clips that was not told to"
        done = {"token": held["token"], "reports": [{"step": 10, "metrics": {"loss": 1.0}}]}
        door.post(f"/v1/jobs/{made}/trials/{held['trial']['number']}/reports", json=done)
        door.post(f"/v1/jobs/{made}/trials/{held['trial']['number']}/finish", json={"token": held["token"]})
    assert held["trial"]["configuration"]["learning_rate"] == 2e-3


def test_a_study_and_back_keeps_what_was_asked_for(door: httpx.Client, done: str, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    run("export-study", done, "--storage", storage)
    [came] = set(re.findall(r"job-[0-9a-f]{16}", run("import-study", "--storage", storage))) - {done}
    before, after = (door.get(f"/v1/jobs/{one}").json()["spec"] for one in (done, came))
    assert {**after, "name": before["name"], "tags": {}} == {**before, "tags": {}}
    assert [one["why"] for one in door.get(f"/v1/jobs/{came}/trials").json()["items"]] == [
        one["why"] for one in door.get(f"/v1/jobs/{done}/trials").json()["items"]
    ]
    assert door.get(f"/v1/jobs/{came}").json()["best"]["baseline"]["own"] is True


# What is filled in, and when it is run --------------------------------------------------------------------------------


def test_what_a_baseline_leaves_out_is_the_jobs_first_optimizer_and_a_constant_rate() -> None:
    fixed = {"name": "sgd", "momentum": 0.5, "weight_decay": [0.0, 0.1]}
    [trial] = first(job(optimizers=[fixed, "adamw"], warmup=0.05, baseline={"learning_rate": 20.0}), 1)
    chosen = trial.configuration
    assert chosen.optimizer.as_dict() == {"name": "sgd", "momentum": 0.5, "nesterov": False, "weight_decay": 0.0}
    assert (chosen.learning_rate, chosen.kind[1], chosen.warmup, chosen.clip_norm) == (20.0, "constant", 0.0, 1.0)
    [other] = first(job(clip_norm=[0.1, 2.0], baseline={"learning_rate": 1e-3, "optimizer": "adagrad"}), 1)
    assert (other.configuration.kind[0], other.configuration.clip_norm) == ("adagrad", None)


def test_what_a_configuration_to_try_leaves_out_is_the_baselines_or_the_nearest_in_the_space() -> None:
    space = {
        "optimizers": [{"name": "sgd", "learning_rate": [0.01, 0.3], "momentum": [0.5, 0.95]}, "adamw"],
        "schedules": ["linear", {"family": "wsd", "decay": [0.1, 0.3]}],
        "warmup": [0.02, 0.1],
        "clip_norm": [0.5, 2.0],
    }
    script = {"learning_rate": 1.0, "optimizer": {"name": "sgd", "momentum": 0.0}, "schedule": "cosine"}
    wanted = [{}, {"schedule": {"family": "wsd", "decay": 0.3}}, {"optimizer": "adamw"}]
    _, bare, wsd, adamw = (one.configuration for one in first(job(**space, baseline=script, **{"try": wanted}), 4))
    assert (bare.learning_rate, bare.optimizer.momentum, bare.kind[1]) == (0.3, 0.5, "linear")
    assert (bare.warmup, bare.clip_norm) == (0.02, 2.0)
    assert (wsd.schedule.decay, wsd.learning_rate) == (0.3, 0.3)
    assert (adamw.kind, adamw.learning_rate) == (("adamw", "linear"), 1e-3)


def test_the_same_is_run_once_and_ends_of_the_space_that_are_off_the_grid_of_rates_may_win() -> None:
    wide = [{"name": "adamw", "learning_rate": [1.1e-4, 0.0123]}]
    ends = [{"learning_rate": rate} for rate in (0.0123, 1.1e-4, 0.0123)]
    usual = {"learning_rate": 1e-3, "schedule": "cosine", "warmup": 0.05}
    spec = job(optimizers=wide, budget={"trials": 4}, confirm={"top": 1, "seeds": 1}, **{"try": [*ends, usual]})
    history = carried_out(spec, lambda one: evenly([one.configuration.learning_rate] * 20, one.horizon), steps=STEPS)
    rates = [one.configuration.learning_rate for one in history if one.role != "confirm"]
    assert rates[:3] == [1e-3, 0.0123, 1.1e-4]
    assert [one.why for one in history].count("asked for by the job's try list: 1 of 4") == 1
    assert 1.1e-4 in [one.configuration.learning_rate for one in history if one.role == "confirm"]


@pytest.mark.parametrize("sampler", ["curve", "tpe", "gp", "cmaes", "qmc", "random", "grid"])
def test_every_sampler_runs_the_list_first_counts_it_and_goes_on_from_it(sampler: str) -> None:
    wanted = [{"learning_rate": 3e-4, "schedule": "linear"}, {"learning_rate": 0.05}]
    spec = job(
        sampler, schedules=["linear", "cosine"], budget={"full_runs": 4.0}, confirm={"top": 0}, **{"try": wanted}
    )
    history = carried_out(spec, loss, steps=STEPS)
    assert [one.configuration.learning_rate for one in history[1:3]] == [3e-4, 0.05]
    assert all((one.state, one.until, one.role) == ("complete", None, "search") for one in history[1:3])
    assert 3 < sum(one.cost for one in history) / STEPS <= 4.0
    assert len({one.configuration for one in history}) == len(history)
    longer = spec.model_copy(update={"budget": spec.budget.model_copy(update={"full_runs": 6.0})})
    step = advance(longer, history, steps=STEPS, seconds=0.0)
    assert step.proposal is not None
    assert "try list" not in step.proposal.reason, "a job that is extended does not begin again"


def test_what_is_asked_for_comes_before_what_earlier_jobs_found() -> None:
    known = [one.model_copy(update={"value": 1.0 / (1 + one.number)}) for one in first(job(), 3)]
    earlier = [WarmStartTrial(job="job-1", trial=one) for one in known]
    spec = job("tpe", warm_start=["job-1"], **{"try": [{"learning_rate": 0.02}]})
    history: list[Trial] = []
    for _ in range(3):
        train(history, suggest(spec, history, steps=STEPS, warm_start=earlier), loss)
    assert [one.why.split(":")[0] for one in history[1:]] == ["asked for by the job's try list", "warm start"]


def test_one_that_failed_or_runs_elsewhere_is_not_asked_for_again() -> None:
    spec = job(**{"try": [{"learning_rate": 0.02}, {"learning_rate": 0.03}]})
    history = first(spec, 2)
    history[1] = history[1].model_copy(update={"state": TrialState.FAILED, "reason": "out of disk"})
    simulated.begin(history, suggest(spec, history, steps=STEPS))
    assert [one.configuration.learning_rate for one in history[1:]] == [0.02, 0.03]
    assert "try list" not in suggest(spec, history, steps=STEPS).reason


def test_own_settings_are_named_in_the_gain_and_untuned_ones_stay_untuned() -> None:
    for fields, name in (({"baseline": {"learning_rate": 0.5}}, "your own settings"), ({}, "untuned")):
        spec = job(**fields)
        history = [
            one.model_copy(update={"state": TrialState.COMPLETE, "value": 0.5 - 0.1 * one.number})
            for one in first(spec, 2)
        ]
        found = best(spec, history, steps=STEPS, full_runs=2.0)
        assert found is not None
        assert lift(found) == f"0.1 better than {name} over the one seed that both ran, which may be chance"


def test_a_plan_shows_what_the_budget_has_room_for_and_says_where_that_is_the_baseline_alone(
    door: httpx.Client,
) -> None:
    """It showed five curves, a range test among them, of a job that trained its baseline and was over."""
    for runs, wanted in ((1.5, ["baseline"]), (2, ["baseline", "initial design"])):
        job = {"task": "digits", "budget": {"full_runs": runs}}
        plan = door.post("/v1/jobs", json=job, params={"validate_only": True}).json()
        assert all(text in one["reason"] for text, one in zip(wanted, plan["first"], strict=True))
        alone = [note for note in plan["notes"] if "the baseline is all that is trained" in note]
        assert len(alone) == (runs < 2)


def test_a_plan_asks_whether_a_goal_that_the_metrics_name_contradicts_is_meant(door: httpx.Client) -> None:
    for name, goal, said in (
        ("val_accuracy", "minimize", True),
        ("eval-loss", "maximize", True),
        ("val_accuracy", "maximize", False),
        ("accuracy_error", "minimize", False),
        ("glossiness", "maximize", False),
    ):
        job = {"task": "external", "metric": {"name": name, "goal": goal}, "horizon": {"steps": 10}}
        notes = door.post("/v1/jobs", json=job, params={"validate_only": True}).json()["notes"]
        assert notes == [f"the goal is to {goal} {name}: is that what you mean?"] * said
