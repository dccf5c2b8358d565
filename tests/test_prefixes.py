"""Where a run can be taken up and how far two are the same, of runs too long to list their steps."""

import itertools
import math
from operator import itemgetter
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrtune.analysis.prefixes import Course, begins_alike, common, shared
from lrtune.schedules import FAMILIES, Rising, Schedule, schedule
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import Metric
from lrtune.wire.results import Report, Trial, TrialState, report_points
from tests.test_schedules import any_schedule

LONG = 100_000_000  # steps; the most that a job may ask for
FEW = 5_000  # rates looked up, of a family in 200 pieces; most need a tenth of it


def configuration(family: Schedule, **fields: Any) -> Configuration:
    return Configuration.model_validate(
        {"optimizer": {"name": "adamw"}, "learning_rate": 0.01, "schedule": family} | fields
    )


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    part = st.sampled_from([0.0, 0.1, 0.5, 0.9]) | st.floats(0.0, 0.9)
    return configuration(draw(any_schedule(draw(st.sampled_from(list(FAMILIES))))), warmup=draw(part), floor=draw(part))


def listed(course: Course) -> list[float]:
    return [course.rate(step) for step in range(course.horizon)]


def branches(rates: list[float]) -> set[int]:
    """The ends of stretches of one rate that are a twentieth of the run at least."""
    stretches = [len(list(same)) for _, same in itertools.groupby(rates)]
    ends = list(itertools.accumulate(stretches))
    return {end for end, length in zip(ends, stretches, strict=True) if length >= max(2, len(rates) // 20)}


def agreeing(one: list[float], other: list[float]) -> int:
    return next((step for step, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


@settings(max_examples=100)
@given(chosen=configurations(), steps=st.integers(2, 400))
def test_boundaries_are_those_that_listing_every_step_finds(chosen: Configuration, steps: int):
    course = Course(chosen, steps, until=steps // 3)
    rates = listed(course)
    wanted = branches(rates) | set(report_points(steps)) | {course.rise(), steps // 3}
    assert course.boundaries == wanted - {0}
    for step in range(1, steps + 1):
        assert course.held(step) == (step == course.rise() or (step > 1 and rates[step - 1] == rates[step - 2]))


@settings(max_examples=150)
@given(one=configurations(), other=configurations(), steps=st.integers(2, 400), alike=st.booleans())
def test_two_courses_part_where_listing_every_step_says(
    one: Configuration, other: Configuration, steps: int, alike: bool
):
    if alike:
        other = one.model_copy(update={"floor": other.floor})
    first, second = Course(one, steps), Course(other, steps)
    rates, others = listed(first), listed(second)
    found, wanted = common(first, second), agreeing(rates, others)
    if found != wanted:
        assert found > wanted
        assert rates[:found] == pytest.approx(others[:found], rel=1e-9), "only where rounding alone tells them apart"


class Counted(Course):
    """A course that counts how many rates were looked up."""

    looked_up = 0

    def rate(self, step: int) -> float:
        self.looked_up += 1
        return super().rate(step)


MOST_PIECES = schedule("cyclic", cycles=100, mode="exp-range", gamma=0.5)


@pytest.mark.parametrize("family", [*(cls() for cls in FAMILIES.values()), MOST_PIECES], ids=repr)
def test_no_run_is_too_long_to_know_where_it_branches(family: Schedule):
    course = Counted(configuration(family, warmup=0.1, floor=0.3), LONG)
    assert course.boundaries >= set(report_points(LONG))
    assert course.looked_up < FEW


@pytest.mark.parametrize("family", [*(cls() for cls in FAMILIES.values()), MOST_PIECES], ids=repr)
def test_no_run_is_too_long_to_be_compared(family: Schedule):
    one = Counted(configuration(family, warmup=0.1), LONG)
    other = Counted(configuration(family, warmup=0.1, floor=1e-9), LONG)
    assert common(one, other) >= LONG // 10 or isinstance(family, Rising)
    assert max(one.looked_up, other.looked_up) < FEW


def test_a_step_is_found_among_a_hundred_million():
    late, early = (configuration(schedule("wsd", decay=decay), warmup=0.05) for decay in (0.2, 0.4))
    leaves = 62_000_001  # the first step of the last 0.4 of 95 % still has the peak rate
    assert leaves in Course(early, LONG).boundaries
    assert common(Course(late, LONG), Course(early, LONG)) == leaves
    assert shared(early, late, LONG) == leaves
    assert shared(late, early, LONG) == 60_000_000, "its last report before"


@given(
    sent=st.lists(
        st.tuples(st.integers(1, 100), st.sampled_from([1.0, 2.0, None, math.nan, math.inf])), unique_by=itemgetter(0)
    ),
    order=st.randoms(use_true_random=False),
)
def test_a_plateau_is_replayed_by_step_and_skips_what_is_no_number(
    sent: list[tuple[int, float | None]], order: Random
) -> None:
    chosen = configuration(schedule("plateau", factor=0.5, patience=1))
    numbers = sorted((step, value) for step, value in sent if value is not None and math.isfinite(value))
    wanted = listed(Course(chosen, 100, reports=numbers))
    order.shuffle(sent)
    assert listed(Course(chosen, 100, reports=sent)) == wanted
    assert listed(Course(chosen, 100).after(sent)) == wanted
    factor = chosen.curve.after(sent, 100).over(100)
    assert [chosen.learning_rate * factor(step) for step in range(100)] == wanted


def trained(family: Schedule, values: list[float], *, seed: int = 0, horizon: int = 40, **fields: Any) -> Trial:
    """A trial with a report after every second step."""
    seen = [
        Report(step=2 * place, learning_rate=0.0, metrics={"loss": value})
        for place, value in enumerate(values, start=1)
    ]
    run = {"configuration": configuration(family, **fields), "seed": seed, "horizon": horizon}
    return Trial(number=0, role="search", state=TrialState.PAUSED, reports=seen, **run)


def test_a_trial_begins_like_another_as_far_as_the_rates_seed_and_other_settings_are_the_same():
    loss = Metric(name="loss", goal="minimize")
    constant, wsd = trained(schedule("constant"), [1.0] * 10), trained(schedule("wsd", decay=0.5), [])
    assert [begins_alike(constant, wsd, step, loss) for step in (1, 20, 21, 22, 40)] == [True, True, True, False, False]
    for other in ({"seed": 1}, {"horizon": 60}, {"clip_norm": 2.0}, {"learning_rate": 0.02}, {"warmup": 0.1}):
        assert not begins_alike(constant, trained(schedule("wsd", decay=0.5), [], **other), 10, loss)
    weights = {"optimizer": {"name": "adamw", "weight_decay": 0.5}}
    assert not begins_alike(constant, trained(schedule("constant"), [], **weights), 10, loss)


def test_a_plateau_begins_like_another_until_the_same_reports_would_part_them():
    loss = Metric(name="loss", goal="minimize")
    values = [1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    quick, slow = (trained(schedule("plateau", factor=0.5, patience=n), values) for n in (1, 2))
    parts = [begins_alike(quick, slow, step, loss) for step in range(1, 17)]
    first = next(step for step in range(16) if Course.of(quick, loss).rate(step) != Course.of(slow, loss).rate(step))
    assert parts == [step <= first for step in range(1, 17)]
    assert 4 < first < 16
    assert begins_alike(slow, trained(schedule("plateau", factor=0.5, patience=2), []), 16, loss)
    falling = trained(schedule("constant"), [1.0 / n for n in range(1, 9)])
    assert begins_alike(falling, trained(schedule("plateau", factor=0.5, patience=1), []), 16, loss)
    assert not begins_alike(trained(schedule("constant"), values), quick, 16, loss), "it would have fallen"
