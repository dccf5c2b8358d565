"""What is proposed: pure, spread out, inside the space, and never twice."""

import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

import pytest

from lrtune.optimizers import Adamw, Sgd
from lrtune.schedules import Cosine, OneCycle, Restarts
from lrtune.search import SpaceExhausted, suggest
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import JobSpec
from lrtune.wire.results import Trial, TrialState

SAMPLERS = ("tpe", "gp", "cmaes", "random", "qmc", "grid", "curve")
MIXED = {
    "optimizers": ["adamw", {"name": "sgd", "momentum": [0.1, 0.95], "nesterov": [True, False]}],
    "schedules": ["cosine", {"family": "restarts", "cycles": [2, 5]}, "one-cycle"],
}


def job(sampler: object = "tpe", *, goal: str = "minimize", seed: int = 7, **fields: object) -> JobSpec:
    search = {"sampler": sampler, "seed": seed}
    metric = {"name": "loss", "goal": goal}
    return JobSpec.model_validate({"task": "digits", "metric": metric, "search": search} | fields)


def ended(spec: JobSpec, history: list[Trial], value: float, state: str = "complete") -> Trial:
    asked = suggest(spec, history)
    return Trial(
        number=len(history),
        role=asked.role,
        why=asked.reason,
        state=TrialState(state),
        configuration=asked.configuration,
        seed=asked.seed,
        horizon=100,
        step=100,
        value=value if state == "complete" else None,
    )


def bowl(configuration: Configuration) -> float:
    """Best at a rate of 0.004 with little warm-up."""
    return abs(math.log(configuration.learning_rate / 0.004)) + configuration.warmup


def study(spec: JobSpec, trials: int, loss: Callable[[Configuration], float] = bowl) -> list[Trial]:
    history: list[Trial] = []
    for _ in range(trials):
        trial = ended(spec, history, 0.0)
        history.append(trial.model_copy(update={"value": loss(trial.configuration)}))
    return history


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
    assert (first.role, first.seed, first.fraction) == ("baseline", 7, 1.0)
    assert first.configuration == Configuration(
        optimizer=Sgd(momentum=0.5), learning_rate=0.1, schedule=Cosine(), warmup=0.05, clip_norm=1.0
    )
    assert first.reason == "untuned baseline: sgd at its usual rate 0.1, cosine, 5 % warm-up"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_history_gives_the_same_answer(sampler):
    spec = job(sampler, **MIXED)
    history = study(spec, 4) + [t.model_copy(update={"number": t.number + 4}) for t in study(job("random", **MIXED), 8)]
    assert suggest(spec, history) == suggest(spec, history[::-1])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_proposal_is_legal_and_new(sampler):
    spec = job(sampler, **MIXED)
    rounds = 13 if sampler == "gp" else 16  # a Gaussian process takes its time
    history = study(spec, rounds)
    assert len({t.configuration for t in history}) == rounds
    for trial in history[1:]:
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


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random", "curve"])
def test_the_first_ten_draws_differ(sampler):
    rates = {t.configuration.learning_rate for t in study(job(sampler, optimizers=["adamw", "sgd"]), 11)[1:]}
    assert len(rates) >= 6  # ten draws of the same would be one


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "grid", "curve"])
def test_parallel_workers_spread_out(sampler):
    spec = job(sampler)
    history = study(spec, 11)
    for _ in range(4):
        history.append(ended(spec, history, 0.0, "running").model_copy(update={"step": 0}))
    assert len({t.configuration for t in history}) == 15


def test_maximising_is_minimising_the_negative():
    down = study(job(), 25)
    up = study(job(goal="maximize"), 25, lambda point: -bowl(point))
    assert [t.configuration for t in up] == [t.configuration for t in down]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_a_sampler_that_learns_beats_its_own_first_draws(sampler):
    early, late = [], []
    for seed in range(2):
        rates = [abs(math.log(t.configuration.learning_rate / 0.004)) for t in study(job(sampler, seed=seed), 32)]
        early += rates[1:9]
        late += rates[-8:]
    assert sum(late) < 0.7 * sum(early)


def wasted(spec: JobSpec, over_the_cliff: str) -> int:
    """Trials lost at a cliff that stands right beside the best rate."""
    history: list[Trial] = []
    for _ in range(40):
        trial = ended(spec, history, 0.0)
        rate = trial.configuration.learning_rate
        state, value = (over_the_cliff, None) if rate > 0.005 else ("complete", -math.log(rate))
        history.append(trial.model_copy(update={"state": TrialState(state), "value": value}))
    return sum(t.state == over_the_cliff for t in history)


def test_a_divergence_teaches_where_the_cliff_is():
    specs = [job(seed=seed) for seed in range(2)]
    told, hidden = (sum(wasted(spec, state) for spec in specs) for state in ("diverged", "failed"))
    assert told < 0.7 * hidden


def test_a_stopped_trial_keeps_its_reports():
    spec = job()
    history = study(spec, 14)
    reports = [{"step": 5 * i, "learning_rate": 0.1, "metrics": {"loss": 9.0}} for i in range(1, 4)]
    stopped = Trial.model_validate(history[-1].model_dump() | {"state": "stopped", "value": None, "reports": reports})
    proposed = suggest(spec, [*history[:-1], stopped])
    assert proposed.reason.startswith("tpe after 14 results")


def test_a_failed_or_confirming_trial_teaches_nothing():
    spec = job()
    history = study(spec, 14)
    fresh = history[3].model_copy(update={"number": 14, "role": "confirm", "seed": 8, "value": 1e-9})
    assert suggest(spec, [*history, fresh]) == suggest(spec, history)


def test_a_baseline_outside_the_space_is_not_learnt_from():
    spec = job(schedules=["linear"])
    history = study(spec, 14)
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
    assert len(study(spec, 2)) == 2
    with pytest.raises(SpaceExhausted):
        suggest(spec, study(spec, 2))


def test_a_toy_study_of_twelve_trials():
    assert key(study(job(optimizers=["adamw", "sgd"]), 12)) == [
        ("adamw", 0.001, "cosine", 0.05),
        ("adamw", 0.016, "exponential", 0.0),
        ("adamw", 0.004, "cosine", 0.06),
        ("sgd", 0.2, "step", 0.02),
        ("sgd", 0.008839, "one-cycle", 0.03),
        ("adamw", 0.064, "cosine", 0.07),
        ("sgd", 0.1, "step", 0.07),
        ("sgd", 0.008839, "wsd", 0.01),
        ("sgd", 0.004419, "wsd", 0.01),
        ("adamw", 0.004, "cosine", 0.01),
        ("adamw", 1.1e-05, "inverse-sqrt", 0.1),
        ("adamw", 0.002, "cosine", 0.01),
    ]


def test_asking_at_a_hundred_trials_is_quick():
    spec = job()
    history = study(spec, 20)
    many = [t.model_copy(update={"number": n}) for n, t in enumerate(history * 5)]

    def least(past: list[Trial]) -> float:
        took = []
        for _ in range(5):
            began = time.process_time()
            suggest(spec, past)
            took.append(time.process_time() - began)
        return min(took)

    assert least(many) < min(0.3, 4.0 * least(history))  # 0.03 s on a quiet machine, 0.1 s on CI's


def test_importing_the_search_does_not_import_torch():
    code = "import sys, lrtune.search; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
