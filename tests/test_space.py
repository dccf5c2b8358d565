"""How a job writes a knob, what is refused in which words, and the grid of peak rates."""

import itertools
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrtune.optimizers import OPTIMIZERS, optimizer
from lrtune.schedules import FAMILIES
from lrtune.space import Choice, Fixed, Flag, Name, Number, Numbers, Range, knobs, rates

RATE = Number(0.0, 1.0, search=(0.01, 0.1), log=True, above=True)
COUNT = Number(1, 50, whole=True)
SHAPE = Name(("linear", "cosine", "sqrt"), search=("linear", "sqrt"))
EVERY_KNOB = [
    pytest.param(kind, id=f"{name}.{knob}")
    for registry in (FAMILIES, OPTIMIZERS)
    for name, cls in registry.items()
    for knob, kind in knobs(cls).items()
]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


def test_a_number_fixes_a_knob():
    assert RATE.axis(RATE.parse(0.5), default=0.05) == Fixed(0.5)


def test_a_pair_is_a_range_on_the_knobs_own_scale():
    assert RATE.axis(RATE.parse([0.2, 0.5]), default=0.05) == Range(0.2, 0.5, log=True)
    assert COUNT.axis(COUNT.parse([2, 8]), default=3) == Range(2, 8, whole=True)


def test_a_range_that_starts_at_zero_is_not_logarithmic():
    assert Number(0.0, 1.0, log=True).axis((0.0, 0.5), default=0.1) == Range(0.0, 0.5, log=False)


def test_a_list_of_names_is_a_choice_and_one_name_is_fixed():
    assert SHAPE.axis(SHAPE.parse(["cosine", "sqrt"]), default="linear") == Choice(("cosine", "sqrt"))
    assert SHAPE.axis(SHAPE.parse(["cosine"]), default="linear") == Fixed("cosine")
    assert SHAPE.axis(SHAPE.parse("cosine"), default="linear") == Fixed("cosine")


def test_both_flags_are_a_choice():
    assert Flag().axis(Flag().parse([True, False]), default=False) == Choice((True, False))
    assert Flag().axis(Flag().parse(True), default=False) == Fixed(True)


def test_leaving_a_knob_out_takes_its_search_range_or_its_default():
    assert RATE.axis(None, default=0.05) == Range(0.01, 0.1, log=True)
    assert SHAPE.axis(None, default="cosine") == Choice(("linear", "sqrt"))
    assert COUNT.axis(None, default=3) == Fixed(3)
    assert Flag().axis(None, default=False) == Fixed(False)


def test_a_list_of_numbers_is_never_searched():
    milestones = Numbers(0.0, 1.0, rising=True)
    assert milestones.axis(milestones.parse([0.5, 0.75]), default=(0.1,)) == Fixed((0.5, 0.75))


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (RATE, 0, "found 0; accepted is a number above 0 and at most 1"),
        (RATE, 1.5, "found 1.5; accepted is a number above 0 and at most 1"),
        (RATE, math.nan, "found nan; accepted is a number above 0 and at most 1"),
        (RATE, math.inf, "found inf; accepted is a number above 0 and at most 1"),
        (RATE, True, "found True; accepted is a number above 0 and at most 1"),
        (RATE, "0.1", "found '0.1'; accepted is a number above 0 and at most 1"),
        (RATE, None, "found None; accepted is a number above 0 and at most 1"),
        (RATE, [0.5, 0.1], "found the range [0.5, 0.1]; accepted is [low, high] with low below high"),
        (RATE, [0.1, 0.1], "found the range [0.1, 0.1]; accepted is [low, high] with low below high"),
        (RATE, [0.1, 0.2, 0.3], "accepted is a number above 0 and at most 1, or a range [low, high] of two"),
        (COUNT, 2.5, "found 2.5; accepted is a whole number of at least 1 and at most 50"),
        (COUNT, 51, "found 51; accepted is a whole number of at least 1 and at most 50"),
        (Number(0.0, 1.0, optional=True), "off", "accepted is a number of at least 0 and at most 1 or null"),
        (SHAPE, "square", "found 'square'; accepted is one of linear, cosine, sqrt"),
        (SHAPE, [], "found []; accepted are different names from linear, cosine, sqrt"),
        (SHAPE, ["sqrt", "sqrt"], "accepted are different names from linear, cosine, sqrt"),
        (Flag(), 1, "found 1; accepted is true or false"),
        (Flag(), [True, True], "found [True, True]; accepted is true, false or [true, false]"),
        (Numbers(0.0, 1.0), [], "found []; accepted is a list of 1 to 100 numbers"),
        (Numbers(0.0, 1.0, rising=True), [0.5, 0.5], "found [0.5, 0.5]; accepted is a list that rises"),
    ],
)
def test_what_is_refused_is_named_with_what_would_be_accepted(kind, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kind.parse(value)


def test_a_huge_value_is_quoted_short():
    with pytest.raises(ValueError, match="accepted is") as refused:
        SHAPE.parse("x" * 1_000_000)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("kind", EVERY_KNOB)
class TestEveryKnob:
    @settings(max_examples=25)
    @given(value=ANYTHING)
    def test_takes_or_refuses_anything_in_words(self, kind, value):
        try:
            parsed = kind.parse(value)
        except ValueError as refused:
            words = str(refused)
        else:
            words = "accepted"
            assert kind.parse(list(parsed) if isinstance(parsed, tuple) else parsed) == parsed
        assert "accepted" in words

    def test_its_schema_describes_points_and_ranges(self, kind):
        assert kind.schema()
        assert kind.point_schema()


@pytest.mark.parametrize("name", OPTIMIZERS)
class TestEveryOptimizer:
    def test_survives_its_wire_form(self, name):
        made = OPTIMIZERS[name]()
        wire = made.as_dict()
        assert optimizer(wire.pop("name"), **wire) == made

    def test_its_defaults_are_legal_and_its_usual_rate_is_among_the_searched(self, name):
        cls = OPTIMIZERS[name]
        assert all(kind.point(getattr(cls(), knob)) is not None for knob, kind in knobs(cls).items())
        assert cls.usual in rates(*cls.rates, anchor=cls.usual)


def test_peak_rates_lie_on_the_root_two_grid_through_the_usual_rate():
    assert rates(0.025, 0.1, anchor=0.1) == pytest.approx((0.025, 0.035355339, 0.05, 0.070710678, 0.1))
    assert rates(0.03, 0.06, anchor=0.1) == pytest.approx((0.035355339, 0.05))


def test_a_range_too_narrow_for_the_grid_keeps_its_own_ends():
    assert rates(0.04, 0.045, anchor=0.1) == (0.04, 0.045)


@given(low=st.floats(1e-12, 100), ratio=st.floats(1.01, 1e9), anchor=st.sampled_from([1e-3, 2e-3, 0.01, 0.1, 1.0]))
def test_every_grid_lies_within_its_ends_in_equal_ratios(low, ratio, anchor):
    grid = rates(low, low * ratio, anchor)
    assert all(low * (1 - 1e-8) <= rate <= low * ratio * (1 + 1e-8) for rate in grid)
    if len(grid) > 2:
        assert [b / a for a, b in itertools.pairwise(grid)] == pytest.approx([math.sqrt(2)] * (len(grid) - 1))
