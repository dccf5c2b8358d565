"""A job of more trials than a decision can rest on: what it costs ends somewhere, and what matters is still known."""

import math
import random

from lrtune import search
from lrtune.optimizers import Adamw
from lrtune.schedules import Wsd
from lrtune.search.curve import encode, sampler
from lrtune.wire.configuration import Configuration
from lrtune.wire.results import Report, Trial
from tests import simulated

STEPS, TRIALS, BEST = 200, 900, 100
SPEC = simulated.job("curve", "none", steps=STEPS, budget={"full_runs": 2000})


def trained(number: int, chance: random.Random) -> Trial:
    rate, decay = 10 ** chance.uniform(-4, -1), chance.uniform(0.1, 0.8)
    level = 0.5 + 0.2 * abs(math.log10(rate) + 2.5) + chance.gauss(0, 0.01) - (number == BEST)
    reports = [
        Report(step=step, learning_rate=rate, metrics={"loss": level + 2 * math.exp(-3 * step / STEPS)})
        for step in (10, 50, 100, STEPS)
    ]
    return Trial(
        number=number,
        role="baseline" if number == 0 else "search",
        configuration=Configuration(optimizer=Adamw(), learning_rate=rate, schedule=Wsd(decay=decay)),
        seed=7,
        horizon=STEPS,
        decision=number,
        state="complete",
        step=STEPS,
        value=reports[-1].metrics["loss"],
        reports=reports,
    )


def history() -> list[Trial]:
    chance = random.Random(3)
    return [trained(number, chance) for number in range(TRIALS)]


def test_a_decision_rests_on_a_bounded_number_of_trials_the_best_and_the_latest_among_them() -> None:
    past = history()
    model = sampler.weighed(SPEC, past, steps=STEPS)
    assert model is not None
    assert len(model.runs) == encode.MOST < TRIALS
    known = {run.reports for run in model.runs}
    wanted = {run.reports for run in encode.runs(SPEC, [past[1], past[BEST], *past[-100:]])}
    assert wanted <= known


def test_what_it_no_longer_rests_on_is_not_begun_once_more() -> None:
    past = history()
    forgotten = {one.configuration for one in past} - {one.configuration for one in encode.basis(SPEC, past)}
    asked = search.advance(SPEC, past, steps=STEPS, seconds=0.0, waiting=8)
    found = [one.configuration for one in (asked.proposal, *asked.more) if one]
    assert len(found) == 8
    assert not forgotten & set(found)


def test_a_usual_job_rests_on_all_that_it_knows() -> None:
    past = history()[: encode.MOST]
    assert list(encode.basis(SPEC, past)) == past
