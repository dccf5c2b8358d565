"""Shapes that the law of training designs: late, where it is borne out, where the job leaves the shape open."""

import pytest

from lrtune.schedules import Points, Wsd
from lrtune.search.curve.designed import MOMENTS
from lrtune.search.propose import suggestions
from lrtune.wire.results import Proposal, Report, Trial, report_points
from tests.simulated import job, train
from tests.test_horizons import STEPS, by_law, many

OPEN: list[object] = [{"family": "wsd", "power": [0.3, 4.0]}, "cosine", "points"]


def lawful(trial: Trial) -> list[Report]:
    """The reports of a run that follows the law."""
    losses = {step: by_law(trial.configuration, trial.horizon, step) for step in report_points(trial.horizon)}
    return [Report(step=step, learning_rate=0.1, metrics={"loss": loss}) for step, loss in losses.items()]


def searched(noise: float = 2e-4) -> list[Trial]:
    """A search that has trained 27 whole runs."""
    first, *others = many(noise)
    return [first.model_copy(update={"role": "baseline"}), *others]


def proposed(left: float, noise: float = 2e-4, schedules: list[object] = OPEN) -> Proposal:
    """What such a search of 30 full runs proposes next, with so much left of them."""
    spec = job("curve", steps=STEPS, schedules=schedules, budget={"full_runs": 30}, warmup=[0.0, 0.1])
    return suggestions(spec, searched(noise), steps=STEPS, left=left)[0]


def designed(found: Proposal) -> bool:
    """Whether it is a curve of the law's."""
    shape = found.configuration.schedule
    return isinstance(shape, Points) and shape.at == MOMENTS


def test_late_in_a_search_the_law_designs_a_curve_that_is_trained_and_wins_by_what_it_measures() -> None:
    found = proposed(left=9.0)
    assert designed(found)
    shape = found.configuration.schedule
    assert isinstance(shape, Points)
    assert shape.factors[0] == 1.0
    assert list(shape.factors) == sorted(shape.factors, reverse=True)
    history = searched()
    best = min(trial.value for trial in history if trial.value is not None)
    trial = train(history, found, lawful)
    assert trial.value is not None, "it goes to its end, as the first of its family"
    assert trial.value < best


@pytest.mark.parametrize(
    ("left", "noise", "schedules"),
    [
        pytest.param(20.0, 2e-4, OPEN, id="early"),
        pytest.param(9.0, 0.5, OPEN, id="the law is not borne out"),
        pytest.param(9.0, 2e-4, [*OPEN[:2], {"family": "points", "factors": [1, 0.9, 0.5, 0]}], id="points are given"),
        pytest.param(9.0, 2e-4, OPEN[:2], id="points are not asked for"),
    ],
)
def test_no_curve_is_designed_elsewhere(left: float, noise: float, schedules: list[object]) -> None:
    assert not designed(proposed(left, noise, schedules))


def test_a_power_that_is_searched_moves_and_one_that_is_not_stays_at_one() -> None:
    spec = job("curve", steps=STEPS, schedules=[{"family": "wsd", "power": [0.3, 4.0]}], budget={"full_runs": 30})
    found = suggestions(spec, searched(), steps=STEPS, left=9.0)[0].configuration.schedule
    assert isinstance(found, Wsd)
    assert 0.3 <= found.power <= 4.0
    assert found.power != 1.0
    usual = job("curve", steps=STEPS, schedules=["wsd"], budget={"full_runs": 30})
    assert suggestions(usual, searched(), steps=STEPS, left=9.0)[0].configuration.schedule.as_dict()["power"] == 1.0
