"""The job of the API: its defaults, its short forms, its round trip and what it refuses."""

import json

import pytest
from pydantic import TypeAdapter, ValidationError

from lrtune.optimizers import Adamw, Sgd
from lrtune.schedules import FAMILIES, Cosine, Piecewise
from lrtune.space import Choice, Fixed, Range
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import Budget, Confirm, JobSpec, Search

WHOLE = """
{
  "name": "adult, wide MLP",
  "task": {"name": "tabular", "params": {"dataset": "adult.csv", "target": "income", "batch_size": 256}},
  "metric": {"name": "val_loss", "goal": "minimize"},
  "horizon": {"steps": 2000},
  "optimizers": ["adamw", {"name": "sgd", "momentum": 0.9, "learning_rate": [1e-3, 1.0]}],
  "schedules": ["cosine", "linear", {"family": "wsd", "decay": [0.1, 0.8]}, {"family": "step", "gamma": 0.1}],
  "warmup": [0.0, 0.1],
  "clip_norm": 1.0,
  "search": {"sampler": "curve", "pruner": "forecast", "seed": 0},
  "budget": {"full_runs": 20, "trials": null, "seconds": null},
  "confirm": {"top": 3, "seeds": 3},
  "tags": {"team": "risk"}
}
"""


def job(**fields: object) -> JobSpec:
    return JobSpec.model_validate({"task": "digits", **fields})


def test_the_smallest_job_is_a_task_and_careful_defaults():
    smallest = job()
    assert smallest.task.name == "digits"
    assert smallest.task.params == {}
    assert [one.name for one in smallest.optimizers] == ["adamw"]
    assert [one.family for one in smallest.schedules] == [
        "cosine",
        "linear",
        "wsd",
        "one-cycle",
        "step",
        "exponential",
        "inverse-sqrt",
        "constant",
    ]
    assert (smallest.search.sampler.name, smallest.search.pruner.name, smallest.search.seed) == ("curve", "forecast", 0)
    assert smallest.budget == Budget(full_runs=20, trials=None, seconds=None)
    assert smallest.confirm == Confirm(top=3, seeds=3)
    assert smallest.confirm.runs == 12
    assert smallest.space().common == {
        "warmup": Range(0.0, 0.1),
        "floor": Fixed(0.0),
        "clip_norm": Fixed(1.0),
        "clip_value": Fixed(None),
    }


@pytest.mark.parametrize("body", [WHOLE, '{"task": "digits"}'], ids=["the whole job", "the smallest job"])
def test_a_job_survives_its_own_wire_form(body):
    first = JobSpec.model_validate_json(body)
    again = JobSpec.model_validate_json(first.model_dump_json())
    assert again == first
    assert again.model_dump_json() == first.model_dump_json()
    assert again.space() == first.space()


def test_names_are_taken_in_capitals_and_kept_in_lower_case():
    asked = {
        "optimizers": ["AdamW", {"name": "SGD", "momentum": 0.9}],
        "schedules": ["Cosine", {"family": "WSD"}],
        "search": {"sampler": "TPE", "pruner": {"name": "Median"}},
        "metric": {"name": "val_loss", "goal": "MINIMIZE"},
        "baseline": {"learning_rate": 1e-3, "optimizer": "AdamW", "schedule": "Linear"},
    }
    assert job(**asked) == JobSpec.model_validate_json(json.dumps({"task": "digits", **asked}).lower())
    assert json.loads(job(**asked).model_dump_json())["optimizers"][0] == {"name": "adamw"}


def test_what_a_job_says_comes_back_as_it_was_written():
    asked = json.loads(WHOLE)
    came = json.loads(JobSpec.model_validate_json(WHOLE).model_dump_json())
    assert came["optimizers"] == [{"name": "adamw"}, asked["optimizers"][1]]
    assert came["schedules"] == [{"family": "cosine"}, {"family": "linear"}, *asked["schedules"][2:]]
    assert came["metric"].pop("range") is None
    assert {key: came[key] for key in ("name", "task", "metric", "tags", "confirm", "warmup")} == {
        key: asked[key] for key in ("name", "task", "metric", "tags", "confirm", "warmup")
    }


def test_the_whole_jobs_space_has_every_knob_of_what_it_names_and_no_other():
    space = JobSpec.model_validate_json(WHOLE).space()
    assert set(space.optimizers) == {"adamw", "sgd"}
    assert space.optimizers["sgd"]["momentum"] == Fixed(0.9)
    assert space.optimizers["sgd"]["learning_rate"] == Choice(
        tuple(pytest.approx(0.1 * 2 ** (step / 2)) for step in range(-13, 7))
    )
    assert space.schedules["wsd"] == {
        "decay": Range(0.1, 0.8),
        "shape": Choice(("linear", "sqrt")),
        "final": Fixed(0.0),
        "power": Fixed(1.0),
    }
    assert space.schedules["step"] == {"gamma": Fixed(0.1), "every": Range(0.1, 0.5)}
    assert space.common["clip_norm"] == Fixed(1.0)


def test_a_null_clip_is_no_clip():
    assert job(clip_norm=None).space().common["clip_norm"] == Fixed(None)
    assert job(clip_norm=[0.1, 10]).space().common["clip_norm"] == Range(0.1, 10, log=True)


def test_a_strategy_has_a_short_name_and_its_own_knobs():
    search = Search.model_validate({"sampler": {"name": "tpe", "n_startup_trials": 5}, "pruner": "median"})
    assert search.sampler.name == "tpe"
    assert search.pruner.name == "median"
    with pytest.raises(ValidationError, match="n_startup_trials"):
        Search.model_validate({"sampler": {"name": "random", "n_startup_trials": 5}})


REFUSED = {
    "an unknown family": ({"schedules": ["cosin"]}, ("schedules", 0), "found the family 'cosin'; accepted is one of"),
    "an unknown optimizer": ({"optimizers": ["sdg"]}, ("optimizers", 0), "found the name 'sdg'; accepted is one of"),
    "a family twice": (
        {"schedules": ["cosine", "cosine"]},
        ("schedules", 1),
        "found cosine twice; accepted is each name",
    ),
    "a reversed range": (
        {"optimizers": [{"name": "sgd", "learning_rate": [1.0, 0.1]}]},
        ("optimizers", 0, "sgd", "learning_rate"),
        "found the range [1.0, 0.1]; accepted is [low, high] with low below high",
    ),
    "a knob of another family": (
        {"schedules": [{"family": "cosine", "gamma": 0.1}]},
        ("schedules", 0, "cosine", "gamma"),
        "Extra inputs are not permitted",
    ),
    "knobs that exclude one another": (
        {"optimizers": [{"name": "sgd", "momentum": 0, "nesterov": True}]},
        ("optimizers", 0, "sgd", "nesterov"),
        "found true with momentum 0; accepted is a momentum above 0",
    ),
    "knobs that exclude one another in a corner of their ranges": (
        {"optimizers": [{"name": "sgd", "momentum": [0, 0.9], "nesterov": [True, False]}]},
        ("optimizers", 0, "sgd", "nesterov"),
        "found true with momentum 0; accepted is a momentum above 0",
    ),
    "stages that do not fit": (
        {"schedules": [{"family": "piecewise", "factors": [1.0]}]},
        ("schedules", 0, "piecewise", "factors"),
        "found 1; accepted is one more than there are boundaries",
    ),
    "no horizon": ({"horizon": {}}, ("horizon",), 'accepted is {"steps": 2000} or {"epochs": 5}: one of the two'),
    "two horizons": ({"horizon": {"steps": 9, "epochs": 1}}, ("horizon",), "one of the two"),
    "a negative horizon": ({"horizon": {"steps": -1}}, ("horizon", "steps"), "greater than or equal to 2"),
    "no budget": ({"budget": {"full_runs": None}}, ("budget",), "accepted is at least one of full_runs, trials"),
    "warm-up over the whole run": ({"warmup": 1.0}, ("warmup",), "accepted is a number of at least 0 and at most 0.9"),
    "a field that does not exist": ({"learning_rate": 0.1}, ("learning_rate",), "Extra inputs are not permitted"),
    "no schedules": ({"schedules": []}, ("schedules",), "at least 1 item"),
    "a threshold without ends": ({"search": {"pruner": "threshold"}}, ("search", "pruner"), "lower, upper or both"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_job_points_at_its_field_and_says_what_would_be_accepted(case):
    fields, where, words = REFUSED[case]
    with pytest.raises(ValidationError) as refused:
        job(**fields)
    (error,) = refused.value.errors()
    assert error["loc"][: len(where)] == where
    assert words in error["msg"]


def test_a_job_never_changes():
    with pytest.raises(ValidationError, match="frozen"):
        job().name = "another"


def test_a_configuration_survives_its_wire_form():
    first = Configuration(optimizer=Sgd(momentum=0.5), learning_rate=0.1, schedule=Cosine(final=0.1), warmup=0.05)
    wire = json.loads(first.model_dump_json())
    assert wire["schedule"] == {"family": "cosine", "final": 0.1, "arc": 1.0}
    assert wire["optimizer"] == {"name": "sgd", "momentum": 0.5, "nesterov": False, "weight_decay": 0.0}
    assert Configuration.model_validate(wire) == first


def test_lists_of_a_configuration_survive_json():
    stages = Piecewise(boundaries=(0.25, 0.5), factors=(1.0, 0.5, 0.1))
    first = Configuration(optimizer=Adamw(), learning_rate=1e-3, schedule=stages)
    assert Configuration.model_validate_json(first.model_dump_json()) == first


def test_a_configuration_knows_the_rate_of_every_step():
    found = Configuration(optimizer=Adamw(), learning_rate=0.2, schedule=FAMILIES["linear"](), warmup=0.5, floor=0.4)
    assert found.learning_rates(8) == pytest.approx([0.08, 0.1, 0.15, 0.2, 0.2, 0.15, 0.1, 0.08])


@pytest.mark.parametrize("model", [JobSpec, Configuration])
def test_the_json_schema_names_every_family(model):
    schema = json.dumps(TypeAdapter(model).json_schema())
    assert all(f'"{name}"' in schema for name in FAMILIES)
