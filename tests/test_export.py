import csv
import io
import json
import subprocess
import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrtune import errors
from lrtune.export import FORMATS, Exported, export, formula, plain, recorded
from lrtune.export.formulas import factor
from lrtune.export.found import Found
from lrtune.optimizers import OPTIMIZERS
from lrtune.schedules import FAMILIES, Piecewise
from lrtune.space import Flag, Name, Number, Numbers, knobs
from lrtune.wire.configuration import Configuration
from lrtune.wire.results import Baseline, Best, Report, SeedValue, Trial, TrialState

PLATEAU = Configuration(
    optimizer="sgd", learning_rate=0.1, schedule={"family": "plateau", "patience": 0, "factor": 0.5}, warmup=0.1
)
DATA = ("json", "csv")
STALLED = [0.9, 0.9, None, 0.9, 0.3]


def answered(configuration: Configuration, steps: int = 100, reports: Any = ()) -> tuple[Best, Trial]:
    best = Best(
        configuration=configuration,
        metric="val_loss",
        goal="minimize",
        value=0.25,
        seeds=[SeedValue(seed=1, value=0.25)],
        interval=(0.2, 0.3),
        baseline=Baseline(configuration=configuration, value=0.5),
        full_runs=12.5,
        trial=3,
        steps=steps,
        confirmed=True,
    )
    trial = Trial(
        number=3,
        role="search",
        state=TrialState.COMPLETE,
        configuration=configuration,
        seed=1,
        horizon=steps,
        reports=list(reports),
    )
    return best, trial


def exported(configuration: Configuration, steps: int = 100, format: str = "pytorch", reports: Any = ()) -> Exported:
    return export(*answered(configuration, steps, reports), format)


def followed(configuration: Configuration, steps: int, reports: Any = ()) -> str:
    """The formula that every format falls back on."""
    best, trial = answered(configuration, steps, reports)
    return factor(Found(best, recorded(best, trial)))


def stalled(steps: int) -> list[Report]:
    return [
        Report(step=(k + 1) * steps // 5, learning_rate=0.1, metrics={"val_loss": value})
        for k, value in enumerate(STALLED)
    ]


def snippet_rates(text: str, steps: int) -> list[float]:
    """What a formula gives, without torch."""
    names: dict[str, Any] = {}
    exec("import math\n" + text, names)
    return [names["PEAK"] * names["factor"](step) for step in range(steps)]


def legal(knob: Any) -> st.SearchStrategy[Any]:
    match knob:
        case Number(low=low, high=high, whole=True):
            return st.integers(int(low), int(min(high, 20)))
        case Number(low=low, high=high, above=above):
            return st.floats(low, min(high, 100.0), exclude_min=above, allow_subnormal=False)
        case Name(options=options):
            return st.sampled_from(options)
        case Flag():
            return st.booleans()
        case Numbers(low=low, high=high, falling=falling):
            two = st.lists(st.floats(low, high), min_size=2, max_size=2, unique=True)
            return two.map(lambda found: sorted(found, reverse=falling))
    raise TypeError(knob)


@st.composite
def schedules(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(sorted(FAMILIES)))
    chosen = {field: draw(legal(knob)) for field, knob in knobs(FAMILIES[name]).items()}
    if name == "piecewise":
        chosen["factors"] = [1.0, *chosen["factors"]]
    return {"family": name, **chosen}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_snippet_gives_every_family_to_the_last_bit(family: str) -> None:
    configuration = Configuration(
        optimizer="adamw", learning_rate=0.003, schedule={"family": family}, warmup=0.07, floor=0.01
    )
    text = followed(configuration, 123)
    assert snippet_rates(text, 123) == configuration.learning_rates(123)


@settings(max_examples=150)
@given(schedules(), st.integers(2, 300), st.floats(0.0, 0.9), st.floats(0.0, 1.0))
def test_a_snippet_gives_any_knobs_to_the_last_bit(
    schedule: dict[str, Any], steps: int, warmup: float, floor: float
) -> None:
    configuration = Configuration(optimizer="adamw", learning_rate=1 / 3, schedule=schedule, warmup=warmup, floor=floor)
    assert snippet_rates(followed(configuration, steps), steps) == configuration.learning_rates(steps)


def test_a_plateau_is_exported_as_the_stages_its_run_took() -> None:
    made = followed(PLATEAU, 50, reports=stalled(50))
    # reports after 10, 20, 30, 40, 50 steps: 20 and 40 do not improve on 10, and 30 says nothing
    expected = [0.1 * min(1.0, (step + 1) / 5) * (1.0, 0.5, 0.25)[(step >= 20) + (step >= 40)] for step in range(50)]
    assert snippet_rates(made, 50) == expected
    assert "the stages that the winning run took" in made
    assert all("the winning run took" in exported(PLATEAU, 50, f, stalled(50)).text for f in FORMATS if f not in DATA)


def test_a_plateau_on_a_metric_to_maximize_counts_rises_as_better() -> None:
    rising = [Report(step=10 * k, learning_rate=0.1, metrics={"val_loss": 0.1 * k}) for k in range(1, 6)]
    best = Best(
        configuration=PLATEAU,
        metric="val_loss",
        goal="maximize",
        value=0.5,
        seeds=[],
        interval=None,
        baseline=None,
        full_runs=1,
        trial=0,
        steps=50,
        confirmed=False,
    )
    trial = Trial(number=0, role="search", state="complete", configuration=PLATEAU, seed=0, horizon=50, reports=rising)
    assert snippet_rates(factor(Found(best, recorded(best, trial))), 50)[-1] == 0.1


SCRIPT = """
import json
rates = []
for _ in range(STEPS):
    rates.append(optimizer.param_groups[0]["lr"])
    optimizer.step()
    scheduler.step()
print(json.dumps(rates))
"""


def test_a_snippet_run_in_a_fresh_process_reproduces_the_run() -> None:
    configuration = Configuration(
        optimizer={"name": "adamw", "weight_decay": 0.05},
        learning_rate=0.00031,
        schedule={"family": "wsd", "decay": 0.4, "shape": "sqrt", "final": 0.02},
        warmup=0.05,
        clip_norm=1.0,
    )
    text = exported(configuration, 97).text
    done = subprocess.run(
        [sys.executable, "-c", text + SCRIPT], capture_output=True, text=True, timeout=100, check=True
    )
    assert json.loads(done.stdout) == configuration.learning_rates(97)


def test_clips_stand_in_the_loop() -> None:
    configuration = Configuration(optimizer="sgd", learning_rate=0.5, schedule="linear", clip_norm=1.0, clip_value=2.0)
    text = exported(configuration).text
    assert "clip_grad_norm_(model.parameters(), 1.0)" in text
    assert "clip_grad_value_(model.parameters(), 2.0)" in text


def test_no_name_can_break_out_of_the_snippets_comments() -> None:
    configuration = Configuration(optimizer="sgd", learning_rate=0.5, schedule="constant")
    best = Best(
        configuration=configuration,
        metric='x\nraise SystemExit("""',
        goal="minimize",
        value=1.0,
        seeds=[],
        interval=None,
        baseline=None,
        full_runs=1,
        trial=0,
        steps=10,
        confirmed=False,
    )
    trial = Trial(number=0, role="search", state="complete", configuration=configuration, seed=0, horizon=10)
    compile(export(best, trial, "pytorch").text, "snippet", "exec")
    assert "\nraise" not in export(best, trial, "pytorch").text


def test_csv_has_the_exact_rate_of_every_step() -> None:
    configuration = Configuration(optimizer="adamw", learning_rate=1 / 3, schedule="cosine", warmup=0.1)
    made = exported(configuration, 60, "csv")
    rows = list(csv.DictReader(io.StringIO(made.text)))
    assert [int(row["step"]) for row in rows] == list(range(60))
    assert [float(row["learning_rate"]) for row in rows] == configuration.learning_rates(60)
    assert (made.media_type, made.filename) == ("text/csv", "learning_rate.csv")


def test_json_has_the_answer_and_where_it_comes_from() -> None:
    configuration = Configuration(optimizer="adamw", learning_rate=1 / 3, schedule="cosine", warmup=0.1)
    found = json.loads(exported(configuration, 60, "json").text)
    assert found["learning_rates"] == configuration.learning_rates(60)
    assert found["configuration"]["schedule"] == {"family": "cosine", "final": 0.0, "arc": 1.0}
    assert (found["value"], found["interval"], found["baseline"]["value"]) == (0.25, [0.2, 0.3], 0.5)


@pytest.mark.parametrize("format", FORMATS)
def test_no_export_grows_with_the_run_before_it_is_read(format: str) -> None:
    steps = {"family": "step", "gamma": 0.5, "every": 0.01}
    for schedule in ("cosine", "constant", steps, {"family": "restarts", "cycles": 8}):
        chosen = Configuration(optimizer="adamw", learning_rate=0.002, schedule=schedule, warmup=0.05, floor=0.01)
        tracemalloc.start()
        try:
            pieces = exported(chosen, 100_000_000, format).pieces()
            read = [len(piece) for _, piece in zip(range(10), pieces, strict=False)]
            assert tracemalloc.get_traced_memory()[1] < 700_000
        finally:
            tracemalloc.stop()
        assert sum(read) < 1_000_000


def test_a_file_in_pieces_is_the_file_as_a_whole() -> None:
    chosen = Configuration(optimizer="adamw", learning_rate=0.002, schedule="cosine", warmup=0.05, floor=0.01)
    steps = 2 * plain.STEPS + 1
    factor = chosen.curve.over(steps)
    rates = [0.002 * factor(step) for step in range(steps)]
    files = {name: exported(chosen, steps, name).text for name in DATA}
    answer = answered(chosen, steps)[0].model_dump(mode="json") | {"learning_rates": rates}
    assert files["json"] == json.dumps(answer, indent=2) + "\n"
    assert files["csv"] == "step,learning_rate\n" + "".join(f"{step},{rate!r}\n" for step, rate in enumerate(rates))


def test_other_formats_are_refused_with_those_there_are() -> None:
    configuration = Configuration(optimizer="adamw", learning_rate=0.1, schedule="cosine")
    with pytest.raises(errors.Invalid, match="found the format 'yaml'") as caught:
        exported(configuration, format="yaml")
    assert all(name in str(caught.value) for name in FORMATS)


def test_formulas_read_as_written_in_a_textbook() -> None:
    assert formula(FAMILIES["cosine"]) == "final + (1.0 - final) * (1.0 + cos(pi * arc * u)) / 2.0"
    assert formula(FAMILIES["inverse-time"]) == "1.0 / (1.0 + decay * u)"
    assert all("self" not in formula(cls) for cls in [*FAMILIES.values(), Piecewise])


def test_muon_gets_the_weights_that_it_got_in_training() -> None:
    torch = pytest.importorskip("torch")
    from lrtune.optimizers import Muon
    from worker.optimizers import build

    names: dict[str, Any] = {}
    exec(exported(Configuration(optimizer="muon", learning_rate=0.5, schedule="linear")).text, names)
    trained = build(Muon(), names["model"], learning_rate=0.5).parts
    for ours, theirs in zip((names["optimizer"], names["rest"]), trained, strict=True):
        assert isinstance(ours, type(theirs))
        assert ours.defaults == theirs.defaults
        assert [id(p) for p in ours.param_groups[0]["params"]] == [id(p) for p in theirs.param_groups[0]["params"]]
    assert isinstance(names["optimizer"], torch.optim.Muon)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "muon"])
def test_every_optimizer_is_the_one_that_was_trained_with(name: str) -> None:
    from worker.optimizers import build

    names: dict[str, Any] = {}
    configuration = Configuration(optimizer=name, learning_rate=0.5, schedule="linear")
    exec(exported(configuration).text, names)
    [trained] = build(configuration.optimizer, names["model"], learning_rate=0.5).parts
    assert isinstance(names["optimizer"], type(trained))
    assert names["optimizer"].defaults == trained.defaults


def test_a_file_says_on_how_many_runs_its_value_rests():
    best, trial = answered(PLATEAU)
    three = best.model_copy(update={"seeds": [SeedValue(seed=seed, value=0.25) for seed in (1, 2, 3)], "diverged": 1})
    for found, says in (
        (best.model_copy(update={"confirmed": False, "interval": None}), "0.25 in a single run, not confirmed."),
        (best, "0.25 [0.2, 0.3] over 1 fresh seed."),
        (three, "0.25 [0.2, 0.3] over 3 fresh seeds, 1 more diverged."),
    ):
        assert f"# val_loss {says}\n" in export(found, trial, "pytorch").text
