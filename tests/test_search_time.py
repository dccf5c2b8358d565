"""A budget in seconds: what the search begins it can bring to its end in time."""

from datetime import UTC, datetime, timedelta

import pytest

from lrtune.search import advance
from lrtune.wire.results import Report, Trial
from tests import simulated

STEPS, FULL_RUN = 200, 2.0  # steps, and the seconds that they take
BEGAN = datetime(2026, 12, 1, tzinfo=UTC)


def loss(trial: Trial) -> list[Report]:
    """Lower where the rate is lower at the end, and after more steps."""
    curve = trial.configuration.curve.within(STEPS)
    off = abs(trial.configuration.learning_rate / 0.003 - 1.0)
    return simulated.evenly(
        [1.0 / (1 + place) + 0.1 * off + 0.1 * curve(10 * place - 1) for place in range(1, 21)], STEPS
    )


def in_seconds(seconds: float, seed: int, idle: float = 0.0) -> tuple[list[Trial], float]:
    """The trials of a job that one worker carries out after `idle` seconds, and when its search ended."""
    budget, search = {"full_runs": None, "seconds": seconds}, {"sampler": "curve", "pruner": "none", "seed": seed}
    spec = simulated.job("curve", steps=STEPS, budget=budget, search=search, confirm={"top": 0})
    history, now = list[Trial](), idle
    while not (step := advance(spec, history, steps=STEPS, seconds=now)).over:
        if step.proposal is None:
            simulated.stop(history, step)
            continue
        trial = simulated.train(history, step.proposal, loss)
        *before, last = trial.stages
        began, cost = BEGAN + timedelta(seconds=now), last.step - last.start
        now += cost / STEPS * FULL_RUN
        times = {"cost": cost, "started_at": began, "ended_at": BEGAN + timedelta(seconds=now)}
        stages = [*before, last.model_copy(update=times)]
        history[trial.number] = trial.model_copy(update={"stages": stages})
    assert not step.reason
    return history, now


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("full_runs", [2.2, 3.0, 5.0])
def test_what_there_is_time_for_has_whole_runs_of_the_search(full_runs: float, seed: int) -> None:
    history, ended = in_seconds(full_runs * FULL_RUN, seed)
    whole = [trial for trial in history if trial.completed(STEPS)]
    assert len(whole) >= 2
    assert ended <= full_runs * FULL_RUN + 1e-9


def test_time_in_which_nobody_trained_is_no_pace() -> None:
    """A job whose worker came late has as many runs in the time that is left as one that began then."""
    late, _ = in_seconds(60.0 + 3 * FULL_RUN, 0, idle=60.0)
    prompt, _ = in_seconds(3 * FULL_RUN, 0)
    assert [trial.run for trial in late] == [trial.run for trial in prompt]
