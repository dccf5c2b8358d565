"""Every formula of the textbooks that a family reproduces, with its numbers written out."""

import pytest

from lrtune.schedules import schedule


def factors(name: str, steps: int, /, **values) -> list[float]:
    factor = schedule(name, **values).over(steps)
    return [factor(step) for step in range(steps)]


# What the source material writes, with numbers. Each row: the formula, the schedule, its steps, the factors expected.
TEXTBOOK = [
    ("a fixed rate", ("constant", 4, {}), [1, 1, 1, 1]),
    ("η_t = η_{t-1}·γ, γ = 1/2", ("exponential", 4, {"final": 0.0625}), [1, 0.5, 0.25, 0.125]),
    ("η0·(1-α)^t, α = 0.2", ("exponential", 4, {"final": 0.4096}), [1, 0.8, 0.64, 0.512]),
    (
        "η0·e^{-k·t}, k = 0.1",
        ("exponential", 4, {"final": 0.6703200460356393}),
        [1, 0.9048374180359595, 0.8187307530779818, 0.7408182206817179],
    ),
    (
        "halve it every 2 steps",
        ("exponential", 6, {"final": 0.125, "every": 1 / 3}),
        [1, 1, 0.5, 0.5, 0.25, 0.25],
    ),
    ("η_t = η_{t-1}/γ, γ = 1/2", ("exponential-growth", 4, {"start": 0.0625}), [0.0625, 0.125, 0.25, 0.5]),
    ("η0·γ^⌊t/s⌋, γ = 0.1, s = 2", ("step", 6, {"gamma": 0.1, "every": 1 / 3}), [1, 1, 0.1, 0.1, 0.01, 0.01]),
    (
        "η0·γ^⌊t/s⌋, s = 1 of 10, where 0.3 / 0.1 is below 3",
        ("step", 10, {"gamma": 0.1, "every": 0.1}),
        [1, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9],
    ),
    (
        "times γ at each milestone",
        ("multistep", 10, {"gamma": 0.5, "milestones": [0.3, 0.7]}),
        [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25],
    ),
    (
        "0.01, 0.001, 0.0001, changing after 50 and 100 of 150 epochs (every 25th)",
        ("piecewise", 6, {"boundaries": [1 / 3, 2 / 3], "factors": [1, 0.1, 0.01]}),
        [1, 1, 0.1, 0.1, 0.01, 0.01],
    ),
    (
        "straight lines through (0.25, 1), (0.5, 0.6), (0.75, 0.6) and (1, 0.2), level before",
        ("points", 8, {"at": [0.25, 0.5, 0.75, 1], "factors": [1, 0.6, 0.6, 0.2]}),
        [1, 1, 1, 0.8, 0.6, 0.6, 0.6, 0.4],
    ),
    ("the trapezoid with 1 - x^2", ("wsd", 8, {"decay": 0.5, "power": 2}), [1, 1, 1, 1, 1, 0.9375, 0.75, 0.4375]),
    (
        "the trapezoid with 1 - √x, by two names",
        ("wsd", 8, {"decay": 0.5, "power": 0.5}),
        [1, 1, 1, 1, 1, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5],
    ),
    ("η0 - (t/T)(η0 - η_f), η_f = 0.2", ("linear", 4, {"final": 0.2}), [1, 0.8, 0.6, 0.4]),
    ("α_min + ((T-t)/T)(α_max - α_min), 0 and 1", ("linear", 5, {"final": 0}), [1, 0.8, 0.6, 0.4, 0.2]),
    ("α_min + (t/T)(α_max - α_min), 0.2 and 1", ("linear-growth", 4, {"start": 0.2}), [0.2, 0.4, 0.6, 0.8]),
    ("η0(1-t/T)^γ, γ = 2", ("polynomial", 4, {"power": 2, "final": 0}), [1, 0.5625, 0.25, 0.0625]),
    (
        "η0(1-t/T)^{1/s}, s = 2",
        ("polynomial", 4, {"power": 0.5, "final": 0}),
        [1, 0.8660254037844386, 0.7071067811865476, 0.5],
    ),
    ("η0/(1+k·t), k = 0.5", ("inverse-time", 4, {"decay": 2}), [1, 0.6666666666666666, 0.5, 0.4]),
    (
        "η_min + (η0 - η_min)(1+cos(πt/T))/2, η_min = 0",
        ("cosine", 4, {"final": 0}),
        [1, 0.8535533905932737, 0.5, 0.1464466094067262],
    ),
    ("the same, η_min = 0.2", ("cosine", 4, {"final": 0.2}), [1, 0.882842712474619, 0.6, 0.317157287525381]),
    (
        "α(1+cos(πt/2T)), α half our peak",
        ("cosine", 4, {"final": 0, "arc": 0.5}),
        [1, 0.9619397662556434, 0.8535533905932737, 0.6913417161825449],
    ),
    (
        "α(1-cos(πt/2T)), α our peak",
        ("cosine-growth", 4, {"arc": 0.5}),
        [0, 0.07612046748871326, 0.2928932188134524, 0.6173165676349102],
    ),
    (
        "reset to α_reset: warm restarts of a cosine",
        ("restarts", 6, {"cycles": 3, "gamma": 1, "shape": "cosine"}),
        [1, 0.5, 1, 0.5, 1, 0.5],
    ),
    (
        "reset to α_reset·γ, γ = 1/2, falling in a line",
        ("restarts", 8, {"cycles": 2, "gamma": 0.5, "shape": "linear"}),
        [1, 0.75, 0.5, 0.25, 0.5, 0.375, 0.25, 0.125],
    ),
    (
        "reset to α_reset·γ of a constant: stairs",
        ("restarts", 6, {"cycles": 3, "gamma": 0.1, "shape": "constant"}),
        [1, 1, 0.1, 0.1, 0.01, 0.01],
    ),
    (
        "restarts of an exponential fall to 1/4, each cycle twice as long",
        ("restarts", 6, {"cycles": 2, "mult": 2, "shape": "exponential", "final": 0.0625}),
        [1, 0.25, 1, 0.5, 0.25, 0.125],
    ),
    (
        "triangles between base and peak",
        ("cyclic", 8, {"base": 0.2, "cycles": 2}),
        [0.2, 0.6, 1, 0.6, 0.2, 0.6, 1, 0.6],
    ),
    (
        "one cycle, in lines",
        ("one-cycle", 10, {"rise": 0.2, "start": 0.2, "final": 0.2, "shape": "linear"}),
        [0.2, 0.6, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3],
    ),
    ("the trapezoid", ("wsd", 5, {"decay": 0.4, "shape": "linear"}), [1, 1, 1, 1, 0.5]),
    ("the trapezoid, 1-√x", ("wsd", 8, {"decay": 0.5, "shape": "sqrt"}), [1] * 5 + [0.5, 1 - 0.5**0.5, 1 - 0.75**0.5]),
]


@pytest.mark.parametrize(("call", "expected"), [row[1:] for row in TEXTBOOK], ids=[row[0] for row in TEXTBOOK])
def test_textbook_numbers(call, expected):
    name, steps, values = call
    assert factors(name, steps, **values) == pytest.approx(expected, rel=1e-12, abs=1e-15)
