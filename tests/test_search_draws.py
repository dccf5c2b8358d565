"""Candidates at random: which ones a decision has is a matter of its number and the job's seed, not of who decides."""

from collections.abc import Callable

from lrtune.search.curve.draws import BLOCK, BLOCKS, Draws, draws
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from tests import simulated

STEPS = 200
SPEC = simulated.job("curve", "none", steps=STEPS)


def of(number: int, seed: int = 0, make: Callable[[AdmittedJob], Draws] = draws) -> list[Configuration]:
    spec = SPEC.model_copy(update={"search": SPEC.search.model_copy(update={"seed": seed})})
    return [one.configuration for one in make(spec).candidates(number, STEPS)]


def test_a_decision_has_a_few_candidates_of_its_own_and_the_others_of_those_before() -> None:
    first, second, later = of(7), of(8), of(7 + BLOCKS)
    assert len(set(first)) > 0.9 * BLOCK * BLOCKS
    assert set(first) & set(second) >= set(first[BLOCK:])
    for others in (second[-BLOCK:], later, of(7, seed=1)):
        assert len(set(first) & set(others)) < 0.1 * BLOCK * BLOCKS  # rates held constant there are few of


def test_a_process_that_begins_draws_what_one_that_has_decided_before_has() -> None:
    kept = [of(number) for number in range(12)]
    assert of(11, make=Draws) == kept[11]
