"""What is proposed: pure, spread out, inside the space, and never twice."""

import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import lru_cache

import pytest

from lrtune.optimizers import Adamw, Sgd
from lrtune.schedules import Cosine, OneCycle, Restarts
from lrtune.search import SpaceExhausted
from lrtune.search import suggest as suggested
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Proposal, Trial, TrialState
from tests import simulated
from tests.simulated import begin, end

STEPS = 100
SAMPLERS = ("tpe", "gp", "cmaes", "random", "qmc", "grid", "curve")
MIXED = {
    "optimizers": ["adamw", {"name": "sgd", "momentum": [0.1, 0.95], "nesterov": [True, False]}],
    "schedules": ["cosine", {"family": "restarts", "cycles": [2, 5]}, "one-cycle"],
}


def job(sampler: object = "tpe", **fields: object) -> AdmittedJob:
    return simulated.job(sampler, steps=STEPS, **fields)


def suggest(spec: AdmittedJob, history: list[Trial]) -> Proposal:
    return suggested(spec, history, steps=STEPS)


def bowl(configuration: Configuration) -> float:
    """Best at a rate of 0.004 with little warm-up."""
    return abs(math.log(configuration.learning_rate / 0.004)) + configuration.warmup


def study(spec: AdmittedJob, trials: int, loss: Callable[[Configuration], float] = bowl) -> list[Trial]:
    history: list[Trial] = []
    for _ in range(trials):
        trial = begin(history, suggest(spec, history))
        end(history, trial, "complete", step=STEPS, value=loss(trial.configuration))
    return history


@lru_cache
def at_random(trials: int, mixed: bool = False) -> tuple[Trial, ...]:
    """A job's trials before the sampler in question is asked."""
    return tuple(study(job("random", **(MIXED if mixed else {})), trials))


def key(trials: Iterable[Trial]) -> list[tuple[object, ...]]:
    wires = [
        (t, t.configuration.optimizer.as_dict()["name"], t.configuration.schedule.as_dict()["family"]) for t in trials
    ]
    return [
        (name, round(t.configuration.learning_rate, 6), family, t.configuration.warmup) for t, name, family in wires
    ]


def test_the_untuned_baseline_is_trial_0():
    spec = job(
        optimizers=[{"name": "sgd", "momentum": 0.5, "learning_rate": [0.001, 0.01]}, "adamw"], clip_norm=[0.1, 10]
    )
    first = suggest(spec, [])
    assert (first.role, first.seed, first.horizon, first.until) == ("baseline", 7, STEPS, None)
    assert first.configuration == Configuration(
        optimizer=Sgd(momentum=0.5), learning_rate=0.1, schedule=Cosine(), warmup=0.05, clip_norm=1.0
    )
    assert first.reason == (
        "untuned baseline: sgd, the first of the job's optimizers, at its usual rate 0.1, cosine, 5 % warm-up"
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_history_gives_the_same_answer(sampler):
    spec, history = job(sampler, **MIXED), list(at_random(12, mixed=True))
    assert suggest(spec, history) == suggest(spec, history[::-1])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_proposal_is_legal_and_new(sampler):
    spec = job(sampler, **MIXED)
    history = list(at_random(12, mixed=True))
    for _ in range(1 if sampler == "gp" else 4):  # a Gaussian process takes its time
        trial = begin(history, suggest(spec, history))
        end(history, trial, "complete", step=STEPS, value=bowl(trial.configuration))
    assert len({t.configuration for t in history}) == len(history)
    for trial in history[12:]:
        point, shape = trial.configuration, trial.configuration.schedule
        steps = 2 * math.log2(point.learning_rate / type(point.optimizer).usual)
        low, high = type(point.optimizer).rates
        assert steps == pytest.approx(round(steps), abs=1e-9)
        assert low <= point.learning_rate <= high
        assert 0.0 <= point.warmup <= 0.1
        assert point.warmup == round(point.warmup, 2)
        assert isinstance(point.optimizer, Adamw) or 0.1 <= point.optimizer.momentum <= 0.95
        assert isinstance(shape, Cosine | OneCycle | Restarts)
        assert not isinstance(shape, Restarts) or (2 <= shape.cycles <= 5 and 0.5 <= shape.gamma <= 1.0)
        assert not isinstance(shape, OneCycle) or (0.1 <= shape.rise <= 0.5 and shape.shape in ("cosine", "linear"))


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random"])
def test_the_first_ten_draws_differ(sampler):
    rates = {t.configuration.learning_rate for t in study(job(sampler, optimizers=["adamw", "sgd"]), 11)[1:]}
    assert len(rates) >= 6  # ten draws of the same would be one


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "grid", "curve"])
def test_parallel_workers_spread_out(sampler):
    spec, history = job(sampler), list(at_random(11))
    for _ in range(2):
        begin(history, suggest(spec, history))
    assert len({t.configuration for t in history}) == 13


def test_maximising_is_minimising_the_negative():
    down = study(job(), 16)
    up = study(job(goal="maximize"), 16, lambda point: -bowl(point))
    assert [t.configuration for t in up] == [t.configuration for t in down]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_a_sampler_that_learns_beats_its_own_first_draws(sampler):
    off = [abs(math.log(t.configuration.learning_rate / 0.004)) for t in study(job(sampler), 28)]
    assert sum(off[-8:]) < 0.7 * sum(off[1:9])


def wasted(spec: AdmittedJob, over_the_cliff: str) -> int:
    """Trials lost at a cliff that stands right beside the best rate."""
    history: list[Trial] = []
    for _ in range(30):
        trial = begin(history, suggest(spec, history))
        rate = trial.configuration.learning_rate
        state, value = (over_the_cliff, None) if rate > 0.005 else ("complete", -math.log(rate))
        end(history, trial, state, value=value)
    return sum(t.state == over_the_cliff for t in history)


def test_a_divergence_teaches_where_the_cliff_is():
    assert wasted(job(), "diverged") < 0.7 * wasted(job(), "failed")


@pytest.mark.parametrize("state", ["stopped", "paused"])
def test_what_a_trial_showed_before_it_stopped_is_learnt_from(state):
    spec, history = job(), list(at_random(14))
    told = {"state": TrialState(state), "value": None, "reports": simulated.evenly([9.0, 9.0], STEPS)}
    proposed = suggest(spec, [*history[:-1], history[-1].model_copy(update=told)])
    assert proposed.reason.startswith("tpe after 14 results")


def test_a_failed_or_confirming_trial_teaches_nothing():
    spec, history = job(), list(at_random(14))
    fresh = history[3].model_copy(update={"number": 14, "role": "confirm", "seed": 8, "value": 1e-9})
    assert suggest(spec, [*history, fresh]) == suggest(spec, history)


def test_a_baseline_outside_the_space_is_not_learnt_from():
    spec = job(schedules=["linear"])
    history = study(job("random", schedules=["linear"]), 14)
    lucky = history[0].model_copy(update={"value": -100.0})
    assert suggest(spec, [lucky, *history[1:]]).configuration == suggest(spec, history).configuration


def test_a_grid_visits_every_combination_once_and_then_ends():
    spec = job(
        {"name": "grid", "points": 2},
        schedules=["constant", {"family": "step", "gamma": 0.1, "every": [0.2, 0.4]}],
        optimizers=[{"name": "sgd", "momentum": [0.5, 0.9], "nesterov": [True, False], "learning_rate": [0.01, 0.1]}],
        warmup=0.0,
    )
    history = study(spec, 1 + 2 * 2 * 2 * 3)  # momentum, nesterov, rate, curve; the baseline is none of them
    assert len({t.configuration for t in history}) == 25
    with pytest.raises(SpaceExhausted):
        suggest(spec, history)


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "cmaes", "curve"])
def test_a_small_space_is_searched_to_its_last_point(sampler):
    spec = job(
        sampler, schedules=["constant"], optimizers=[{"name": "adamw", "learning_rate": [0.001, 0.004]}], warmup=0.0
    )
    history = study(spec, 1 + 5)
    assert sorted(round(t.configuration.learning_rate, 5) for t in history[1:]) == [
        0.001,
        0.00141,
        0.002,
        0.00283,
        0.004,
    ]
    with pytest.raises(SpaceExhausted):
        suggest(spec, history)


def test_a_job_with_everything_fixed_has_one_trial_beside_its_baseline():
    spec = job(optimizers=[{"name": "adam", "learning_rate": 0.01}], schedules=["constant"], warmup=0.0)
    history = study(spec, 2)
    assert len(history) == 2
    with pytest.raises(SpaceExhausted):
        suggest(spec, history)


def test_a_toy_study_of_twelve_trials():
    assert key(study(job(optimizers=["adamw", "sgd"]), 12)) == [
        ("adamw", 0.001, "cosine", 0.05),
        ("adamw", 0.016, "exponential", 0.0),
        ("adamw", 0.004, "cosine", 0.06),
        ("sgd", 0.2, "step", 0.02),
        ("sgd", 0.008839, "one-cycle", 0.0),
        ("adamw", 0.064, "cosine", 0.07),
        ("sgd", 0.1, "step", 0.07),
        ("sgd", 0.008839, "wsd", 0.01),
        ("sgd", 0.004419, "wsd", 0.01),
        ("adamw", 0.004, "cosine", 0.01),
        ("adamw", 1.1e-05, "linear", 0.1),
        ("adamw", 0.002, "inverse-sqrt", 0.04),
    ]


def test_asking_at_a_hundred_trials_is_quick():
    spec, history = job(), list(at_random(20))
    many = [t.model_copy(update={"number": n, "decision": n}) for n, t in enumerate(history * 5)]

    def least(past: list[Trial]) -> float:
        took = []
        for _ in range(3):
            began = time.process_time()
            suggest(spec, past)
            took.append(time.process_time() - began)
        return min(took)

    assert least(many) < min(0.3, 4.0 * least(history))  # 0.03 s on a quiet machine, 0.1 s on CI's


def test_importing_the_search_does_not_import_torch():
    code = "import sys, lrtune.search; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
