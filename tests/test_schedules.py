"""What every schedule family and every curve around one promises."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrtune.schedules import FAMILIES, Curve, Piecewise, Plateau, schedule
from lrtune.space import Choice, Fixed, Knob, Name, Number, Numbers, Range, knobs

DOCS = Path(__file__).parent.parent / "docs" / "schedules.md"
HAIR = 1e-12  # what floats may cost


def legal(kind: Knob) -> st.SearchStrategy:
    if isinstance(kind, Number) and kind.whole:
        return st.integers(int(kind.low), int(min(kind.high, 10_000)))
    if isinstance(kind, Number):
        return st.floats(kind.low, kind.high, exclude_min=kind.above)
    if isinstance(kind, Name):
        return st.sampled_from(kind.options)
    if isinstance(kind, Numbers):
        two = st.lists(st.floats(kind.low, kind.high), min_size=2, max_size=2, unique=True)
        return two.map(lambda found: sorted(found, reverse=kind.falling))
    return st.booleans()


@st.composite
def any_schedule(draw, name: str):
    values = {knob: draw(legal(kind)) for knob, kind in knobs(FAMILIES[name]).items()}
    if name == "piecewise":
        values["factors"] = draw(st.lists(st.floats(0, 1), min_size=3, max_size=3))
    return schedule(name, **values)


def some_steps(steps: int) -> list[int]:
    return sorted({0, 1, steps // 3, steps // 2, steps - 1, steps, *range(0, steps, max(1, steps // 20))})


def at_search_ends(cls: type, end: int):
    """A member of the family with every searched knob at one end of its search range."""
    ends = {name: kind.search[end] for name, kind in knobs(cls).items() if getattr(kind, "search", None)}
    return cls(**ends)


def peaks(factors: list[float]) -> int:
    """How often the factor turns from rising to falling; it is below everything before the first step."""
    signs = [later > earlier for earlier, later in pairwise([-1.0, *factors]) if abs(later - earlier) > HAIR]
    return 1 + sum(rising and not before for before, rising in pairwise(signs))


@pytest.mark.parametrize("name", FAMILIES)
class TestEveryFamily:
    @settings(max_examples=60)
    @given(data=st.data(), steps=st.integers(2, 500), warmup=st.floats(0, 0.9))
    def test_has_no_peak_under_a_warm_up_that_it_does_not_have_alone(self, name, data, steps, warmup):
        curve = Curve(data.draw(any_schedule(name)), warmup=warmup)
        warm, alone = curve.over(steps), curve.family.over(steps - curve.rise(steps))
        family = [alone(step) for step in range(steps - curve.rise(steps))]
        assert peaks([warm(step) for step in range(steps)]) == peaks(family)
        assert max(warm(step) for step in range(steps)) <= max(family) + HAIR

    def test_says_that_there_is_no_such_step_or_run(self, name):
        for followed in (FAMILIES[name](), Curve(FAMILIES[name](), warmup=0.3)):
            with pytest.raises(ValueError, match="step: found -1; accepted is 0 or more"):
                followed.over(10)(-1)
            with pytest.raises(ValueError, match="steps: found 0; accepted is 1 or more"):
                followed.over(0)

    @settings(max_examples=60)
    @given(data=st.data(), steps=st.integers(2, 5000))
    def test_stays_between_zero_and_the_peak(self, name, data, steps):
        factor = data.draw(any_schedule(name)).over(steps)
        assert all(-HAIR <= factor(step) <= 1 + HAIR for step in some_steps(steps))

    @settings(max_examples=30)
    @given(data=st.data(), steps=st.integers(2, 5000), warmup=st.floats(0, 0.9), floor=st.floats(0, 1))
    def test_stays_between_the_floor_and_the_peak_within_a_configuration(self, name, data, steps, warmup, floor):
        factor = Curve(data.draw(any_schedule(name)), warmup=warmup, floor=floor).over(steps)
        assert all(floor <= factor(step) <= 1 for step in some_steps(steps))

    @settings(max_examples=60)
    @given(data=st.data(), steps=st.integers(2, 500), warmup=st.floats(0, 0.9), floor=st.floats(0, 1))
    def test_only_rises_or_only_falls_between_two_breakpoints(self, name, data, steps, warmup, floor):
        curve = Curve(data.draw(any_schedule(name)), warmup=warmup, floor=floor)
        factor = curve.over(steps)
        for first, last in pairwise(curve.breakpoints(steps)):
            changes = [factor(step + 1) - factor(step) for step in range(first, last)]
            assert min(changes) >= -HAIR or max(changes) <= HAIR

    @settings(max_examples=30)
    @given(data=st.data(), u=st.floats(0, 1))
    def test_any_progress_is_answered_even_without_whole_steps(self, name, data, u):
        assert -HAIR <= data.draw(any_schedule(name))(u) <= 1 + HAIR

    @settings(max_examples=30)
    @given(data=st.data(), steps=st.integers(2, 500))
    def test_resuming_half_way_from_json_changes_nothing(self, name, data, steps):
        first = data.draw(any_schedule(name))
        whole = [first.over(steps)(step) for step in some_steps(steps)]
        wire = json.loads(json.dumps(first.as_dict()))
        again = schedule(wire.pop("family"), **wire)
        assert again == first
        assert [again.over(steps)(step) for step in reversed(some_steps(steps))] == whole[::-1]

    def test_answers_for_the_step_after_the_last_as_lambda_lr_asks_for_it(self, name):
        factor = FAMILIES[name]().over(10)
        assert 0 <= factor(10) <= 1
        assert factor(11) == factor(10)

    def test_default_lies_in_its_own_range_and_search_ranges_are_legal(self, name):
        for knob, kind in knobs(FAMILIES[name]).items():
            default = getattr(FAMILIES[name](), knob)
            assert kind.point(default) == default
            match kind.axis(None, default):
                case Range(low, high):
                    assert kind.parse([low, high]) == (low, high)
                case Choice(options):
                    assert [kind.point(option) for option in options] == list(options)
                case Fixed(value):
                    assert value == default

    def test_both_ends_of_its_search_range_are_schedules(self, name):
        for end in (0, 1):
            factor = at_search_ends(FAMILIES[name], end).over(100)
            assert all(-HAIR <= factor(step) <= 1 + HAIR for step in range(101))

    def test_is_frozen_and_says_what_it_does(self, name):
        assert FAMILIES[name].__doc__.endswith(".")
        with pytest.raises((AttributeError, TypeError)):
            FAMILIES[name]().gamma = 0.3

    def test_has_a_row_in_the_docs(self, name):
        assert re.search(rf"^\| `{name}` ", DOCS.read_text(), re.MULTILINE)


def test_warm_up_is_a_line_that_starts_above_zero_and_the_family_runs_over_the_rest():
    factor = Curve(schedule("linear", final=0.0), warmup=0.5).over(8)
    assert [factor(step) for step in range(9)] == [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25, 0]


def test_a_family_that_rises_by_itself_has_no_warm_up():
    for name in ("one-cycle", "linear-growth", "exponential-growth", "cosine-growth", "cyclic"):
        alone, warm = (Curve(schedule(name), warmup=warmup).over(100) for warmup in (0.0, 0.1))
        assert [warm(step) for step in range(101)] == [alone(step) for step in range(101)]


def test_a_warm_up_rises_to_what_its_family_begins_with():
    factor = Curve(schedule("piecewise", boundaries=(0.5,), factors=(0.5, 0.1)), warmup=0.4).over(10)
    assert [factor(step) for step in range(10)] == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5, 0.1, 0.1, 0.1]


def test_the_noam_tail_follows_its_warm_up():
    """√w / √t after `w` steps of warm-up is inverse-sqrt with decay (n - w) / w."""
    factor = Curve(schedule("inverse-sqrt", decay=(20 - 4) / 4), warmup=0.2).over(20)
    noam = [min((t + 1) / 4, 1.0) if t < 4 else math.sqrt(4 / t) for t in range(20)]
    assert [factor(step) for step in range(20)] == pytest.approx(noam, rel=1e-12)
    assert [factor(step) for step in (3, 4, 16)] == pytest.approx([1, 1, 0.5], rel=1e-12)


def test_the_floor_clips_from_below_and_the_peak_from_above():
    factor = Curve(schedule("exponential", final=0.0625), floor=0.3).over(4)
    assert [factor(step) for step in range(5)] == [1, 0.5, 0.3, 0.3, 0.3]


def test_a_plateau_takes_its_steps_from_the_reports_and_nothing_else():
    rule = Plateau(factor=0.5, patience=1)
    reports = [(0.1, 1.0), (0.2, 0.8), (0.3, 0.8), (0.4, 0.9), (0.5, 0.9), (0.6, 0.9)]
    assert rule.after(reports) == Piecewise(boundaries=(0.4, 0.6), factors=(1.0, 0.5, 0.25))
    assert rule.after(reports[:3]) is rule


def test_a_curve_shows_a_plateau_only_what_came_after_the_warm_up():
    curve = Curve(Plateau(factor=0.1, patience=0), warmup=0.2)
    left = curve.after([(10, 0.1), (40, 1.0), (60, 1.0)], steps=100).over(100)
    assert [left(step) for step in (19, 59, 60, 99)] == pytest.approx([1, 1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("cosin", {}, "found the family 'cosin'; accepted is one of constant, exponential"),
        ("cosine", {"gamma": 1}, "gamma: no such knob; accepted are final, arc"),
        ("step", {"gamma": 0}, "gamma: found 0; accepted is a number above 0 and at most 1"),
        ("restarts", {"cycles": 2.5}, "cycles: found 2.5; accepted is a whole number of at least 1 and at most 50"),
        ("wsd", {"shape": "square"}, "shape: found 'square'; accepted is one of linear, cosine, sqrt, exponential"),
        ("multistep", {"milestones": [0.7, 0.3]}, "accepted is a list that rises"),
        ("points", {"factors": [1.0]}, "factors: found 1; accepted are as many as there are moments in `at`"),
        (
            "points",
            {"factors": [1.0, 0.2, 0.3, 0.0]},
            "factors: found [1.0, 0.2, 0.3, 0.0]; accepted is a list that never rises",
        ),
        ("points", {"at": [0.0, 0.8, 0.5, 1.0]}, "at: found [0.0, 0.8, 0.5, 1.0]; accepted is a list that rises"),
        ("wsd", {"power": 0.0}, "power: found 0.0; accepted is a number above 0 and at most 10"),
        ("piecewise", {"factors": [1.0]}, "factors: found 1; accepted is one more than there are boundaries"),
        ("cosine", {"final": math.nan}, "final: found nan; accepted is a number of at least 0 and at most 1"),
    ],
)
def test_a_wrong_schedule_is_refused_in_words(name, values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        schedule(name, **values)
