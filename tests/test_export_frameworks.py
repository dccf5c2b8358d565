"""Every export format, executed with its real framework, gives the recorded rates to that framework's precision.

One process runs all the snippets. What cannot be installed everywhere (timm needs torchvision,
DeepSpeed builds itself) is held to its documented formulas here; where it is installed, its own classes run as well.
"""

import importlib.util
import itertools
import json
import math
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import tests.exporting as exporting
from lrtune.export import export
from lrtune.optimizers import OPTIMIZERS
from lrtune.schedules import FAMILIES
from lrtune.wire.configuration import Configuration
from lrtune.wire.results import Best, Report, Trial, TrialState

PEAK = 0.3
STEPS = 60
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "exponential": [{"every": 0.1}],
    "step": [{"gamma": 0.5, "every": 0.15}],
    "multistep": [{"gamma": 0.2, "milestones": [0.3, 0.31, 0.9]}],
    "piecewise": [{"boundaries": [0.25, 0.5], "factors": [0.5, 1.0, 0.0]}],
    "linear": [{"final": 0.1}, {"final": 1.0}],
    "linear-growth": [{"start": 0.0}],
    "polynomial": [{"power": 2.5, "final": 0.1}, {"power": 0.5}],
    "cosine": [{"final": 0.05}, {"arc": 0.5}],
    "restarts": [
        {"cycles": 4, "final": 0.1},
        {"cycles": 2, "mult": 2.0},
        {"cycles": 4, "gamma": 0.5},
        {"cycles": 7},
        {"cycles": 3, "shape": "linear"},
    ],
    "cyclic": [{"cycles": 5, "mode": "triangular2"}, {"cycles": 3, "mode": "exp-range"}, {"cycles": 1}],
    "one-cycle": [{"final": 0.001}, {"start": 0.1, "final": 0.1, "shape": "linear"}, {"rise": 0.0, "final": 0.01}],
    "wsd": [
        {"shape": "cosine", "final": 0.1},
        {"shape": "sqrt"},
        {"shape": "exponential"},
        {"decay": 1.0},
        {"power": 2.5},
        {"shape": "cosine", "power": 0.5},
    ],
    "points": [{"at": [0.3, 0.31, 0.9], "factors": [1.0, 0.4, 0.4]}, {"at": [0.5], "factors": [0.7]}],
    "inverse-sqrt": [{"decay": 0.0}],
}
STALLED = [Report(step=12 * k, learning_rate=0.1, metrics={"val_loss": 0.5}) for k in range(1, 6)]


def cases() -> list[tuple[Configuration, int]]:
    """Every family and variant with and without warm-up and floor, each with another optimizer."""
    optimizers = itertools.cycle(OPTIMIZERS)
    families = [{"family": name, **knobs} for name in FAMILIES for knobs in [{}, *VARIANTS.get(name, [])]]
    around = [(0.0, 0.0), (0.15, 0.0), (1 / 60, 0.05), (0.0, 0.05)]
    return [
        (
            Configuration(
                optimizer=next(optimizers),
                learning_rate=PEAK,
                schedule=family,
                warmup=warmup,
                floor=floor,
                clip_norm=(None, 1.0)[place % 2],
                clip_value=(None, 2.0)[place % 3 == 0],
            ),
            STEPS,
        )
        for place, (family, (warmup, floor)) in enumerate(itertools.product(families, around))
    ]


CASES = cases()
PLAIN = Configuration(optimizer={"name": "sgd", "momentum": 0.0}, learning_rate=PEAK, schedule="cosine")
REAL_RUNS = [
    (PLAIN, 20),
    (PLAIN.model_copy(update={"warmup": 0.2}), 20),
    (PLAIN.model_copy(update={"clip_norm": 1e6, "clip_value": 1e6, "floor": 0.3}), 20),
]


def trial_of(configuration: Configuration, steps: int) -> Trial:
    return Trial(
        number=0,
        role="search",
        state=TrialState.COMPLETE,
        configuration=configuration,
        seed=0,
        horizon=steps,
        reports=STALLED,
    )


def best_of(configuration: Configuration, steps: int) -> Best:
    return Best(
        configuration=configuration,
        metric="val_loss",
        goal="minimize",
        value=0.5,
        seeds=[],
        interval=None,
        baseline=None,
        full_runs=1,
        trial=0,
        steps=steps,
        confirmed=False,
    )


def text_of(configuration: Configuration, steps: int, format: str) -> str:
    return export(best_of(configuration, steps), trial_of(configuration, steps), format).text


def recorded(configuration: Configuration, steps: int) -> list[float]:
    found = export(best_of(configuration, steps), trial_of(configuration, steps), "json").text
    return json.loads(found)["learning_rates"]


INSTALLED = [name for name in ("timm", "deepspeed") if importlib.util.find_spec(name)]
FRAMEWORKS = ["pytorch", "keras", "optax", "transformers", "lightning", *INSTALLED]
TRAINED = ["keras", "optax", "transformers", "lightning"]


@pytest.fixture(scope="module")
def rates() -> dict[str, Any]:
    """What the snippets give: the rates of each case by the function of `exporting` that runs it."""
    asked = {format: [{"text": text_of(*case, format), "steps": case[1]} for case in CASES] for format in FRAMEWORKS}
    asked |= {
        f"trained_by_{format}": [{"text": text_of(*case, format), "steps": case[1]} for case in REAL_RUNS]
        for format in TRAINED
    }
    done = subprocess.run(
        [sys.executable, exporting.__file__],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def same(found: list[float], case: tuple[Configuration, int], double: bool) -> bool:
    """Whether rates are the recorded ones to the last digits that the framework's numbers have."""
    relative, absolute = (1e-9, 1e-12 * PEAK) if double else (2e-6, 1e-6 * PEAK)
    return found == pytest.approx(recorded(*case), rel=relative, abs=absolute)


def missed(found: list[list[float]] | str, asked: list[tuple[Configuration, int]], double: bool) -> list[str]:
    assert not isinstance(found, str), found
    return [
        case[0].model_dump_json() for rates, case in zip(found, asked, strict=True) if not same(rates, case, double)
    ]


@pytest.mark.parametrize("format", FRAMEWORKS)
def test_every_snippet_gives_the_recorded_rates_with_its_real_framework(rates: dict[str, Any], format: str) -> None:
    assert missed(rates[format], CASES, double=format not in ("keras", "optax")) == []


@pytest.mark.parametrize("format", TRAINED)
def test_a_real_training_run_follows_the_recorded_rates(rates: dict[str, Any], format: str) -> None:
    assert missed(rates[f"trained_by_{format}"], REAL_RUNS, double=format not in ("keras", "optax")) == []


# Documented formulas -------------------------------------------------------------------------------------------------


def timm_formula(knobs: dict[str, Any], t: int) -> float:
    """The rate at update `t`, as timm documents its schedulers (`warmup_prefix` false: `t` counts from the start)."""
    total, rise, low = knobs["num_epochs"], knobs["warmup_epochs"], knobs.get("min_lr", 0.0)
    if t < rise:
        return knobs["warmup_lr"] + t * (PEAK - knobs["warmup_lr"]) / rise
    match knobs["sched"]:
        case "constant":
            return PEAK
        case "step":
            return PEAK * knobs["decay_rate"] ** (t // knobs["decay_epochs"])
        case "multistep":
            return PEAK * knobs["decay_rate"] ** sum(m <= t + 1 for m in knobs["decay_milestones"])
        case "poly":
            return low + (PEAK - low) * (1 - t / total) ** knobs["decay_rate"]
        case "cosine":
            top = PEAK * knobs.get("cycle_decay", 1.0) ** (t // total)
            return low + 0.5 * (top - low) * (1 + math.cos(math.pi * (t % total) / total))
    since = t - rise
    stable = PEAK if knobs["sched"] == "wsd" else PEAK * (1 + since / knobs["stable_timescale"]) ** -0.5
    x = max(0.0, (since - (total - rise - knobs["decay_epochs"])) / knobs["decay_epochs"])
    shapes = {"linear": 1 - x, "1-sqrt": 1 - math.sqrt(x), "cosine": 0.5 * (1 + math.cos(math.pi * x))}
    return low + (stable - low) * shapes[knobs.get("decay_fn", "linear")]


def timm_asked(text: str) -> dict[str, Any] | None:
    """The arguments of `create_scheduler_v2` that a snippet gives; None where it takes torch's scheduler."""
    asked: dict[str, Any] = {}
    factory = types.ModuleType("timm.scheduler")
    factory.create_scheduler_v2 = lambda optimizer, **knobs: (asked.update(knobs), 0)
    with exporting.instead(timm=types.ModuleType("timm"), timm__scheduler=factory):
        names = exporting.executed(text)
    return asked if "create_scheduler_v2" in names else None


def test_the_arguments_for_timm_give_the_recorded_rates_by_its_documented_formulas() -> None:
    asked = [(case, timm_asked(text_of(*case, "timm"))) for case in CASES]
    named = [(case, knobs) for case, knobs in asked if knobs]
    rates = [[timm_formula(knobs, t) for t in range(case[1])] for case, knobs in named]
    assert missed(rates, [case for case, _ in named], double=True) == []
    kinds = {knobs["sched"] for _, knobs in named}
    assert kinds == {"constant", "step", "multistep", "poly", "cosine", "wsd", "rsqrt"}
    assert all(knobs["updates_per_epoch"] == 1 and knobs["step_on_epochs"] is False for _, knobs in named)


def deepspeed_formula(kind: str, knobs: dict[str, Any], t: int) -> float:
    """The rate of update `t` as DeepSpeed documents its range test and its one-cycle schedule."""
    if kind == "LRRangeTest":
        interval = t / knobs["lr_range_test_step_size"]
        return knobs["lr_range_test_min_lr"] * (1 + knobs["lr_range_test_step_rate"] * interval)
    assert (kind, knobs["cycle_momentum"]) == ("OneCycle", False)
    first, second = knobs["cycle_first_step_size"], knobs["cycle_second_step_size"]
    share = t / first if t <= first else 1 - (t - first) / second
    return knobs["cycle_min_lr"] + (knobs["cycle_max_lr"] - knobs["cycle_min_lr"]) * share


def test_a_configuration_for_deepspeed_gives_the_recorded_rates_by_its_documented_formulas() -> None:
    rates, kinds = [], set()
    for configuration, steps in CASES:
        given = exporting.initialized(text_of(configuration, steps, "deepspeed"))
        assert json.loads(json.dumps(given["config"])) == given["config"]
        assert given["config"].get("gradient_clipping") == configuration.clip_norm
        optimizer, named = exporting.deepspeed_optimizer(given), given["config"].get("scheduler")
        if named:
            rates.append([deepspeed_formula(named["type"], named["params"], t) for t in range(steps)])
        elif "lr_scheduler" in given:
            rates.append(exporting.stepped(optimizer, given["lr_scheduler"](optimizer), steps))
        else:
            rates.append([optimizer.param_groups[0]["lr"]] * steps)
        kinds.add(named and named["type"])
    assert missed(rates, CASES, double=True) == []
    assert kinds == {None, "LRRangeTest", "OneCycle"}


# What stands where ---------------------------------------------------------------------------------------------------

OWN = {
    "pytorch": "CosineAnnealingLR(optimizer, T_max=60, eta_min=0.0 * PEAK)",
    "lightning": "CosineAnnealingLR(optimizer, T_max=60, eta_min=0.0 * PEAK)",
    "deepspeed": "CosineAnnealingLR(optimizer, T_max=60, eta_min=0.0 * PEAK)",
    "keras": "CosineDecay(PEAK, decay_steps=STEPS, alpha=0.0)",
    "optax": "cosine_decay_schedule(PEAK, 60, alpha=0.0)",
    "transformers": "lr_scheduler_type='cosine'",
    "timm": 'sched="cosine"',
}


@pytest.mark.parametrize("format", OWN)
def test_a_framework_that_has_the_curve_uses_its_own_name_for_it(format: str) -> None:
    assert OWN[format] in text_of(PLAIN, STEPS, format)
    assert "def factor" not in text_of(PLAIN, STEPS, format)


@pytest.mark.parametrize("format", OWN)
def test_a_framework_that_has_not_gets_the_formula(format: str) -> None:
    bent = PLAIN.model_copy(update={"floor": 0.3})
    assert "def factor" in text_of(bent, STEPS, format)


@pytest.mark.parametrize("format", OWN)
def test_optimizer_clip_warm_up_and_floor_are_said_in_every_format(format: str) -> None:
    said = text_of(CASES[2][0], STEPS, format)
    assert "Gradients are not clipped" in said
    assert "warm-up 1 steps, floor 0.05 of the peak" in said
    assert "Optimizer rmsprop (alpha 0.99, momentum 0.0, weight_decay 0.0, eps 1e-08), peak rate 0.3" in said


COLUMNS = ["pytorch", "keras", "optax", "transformers", "deepspeed", "timm"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_docs_name_the_classes_that_are_used(family: str) -> None:
    page = (Path(__file__).parents[1] / "docs/exports.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{family}` |")]
    asked = [case for case in CASES if case[0].schedule.as_dict()["family"] == family]
    for format, cell in zip(COLUMNS, row.split("|")[2:-1], strict=True):
        texts = [text_of(*case, format) for case in asked]
        named = cell.strip().strip("`")
        if named == "formula":
            assert all("def factor" in text for text in texts), format
        elif named == "torch's":
            assert all("torch.optim.lr_scheduler" in text for text in texts), format
        else:
            plain = {"a number": "schedule = PEAK", "no scheduler": "CONFIG"}.get(named, named)
            assert any(plain in text and "def factor" not in text for text in texts), format
