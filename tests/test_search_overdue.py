"""After so much training without a whole run one is trained to its end: that which promises most for its price."""

import numpy as np

from lrtune.search.engine.costs import Settings
from lrtune.search.engine.decide import decide
from lrtune.search.engine.types import Pool, Run

STEPS, EVERY = 400, 20
RATES = np.geomspace(0.01, 10, 13)
POOL = Pool(
    keys=tuple(range(len(RATES))),
    horizons=np.full(len(RATES), STEPS),
    curves=np.repeat(RATES[:, None], 64, axis=1),
    extras=np.zeros((len(RATES), 0)),
    free=np.zeros(len(RATES), dtype=np.int64),
    every=np.full(len(RATES), EVERY),
)


def run(key: int, until: int, born: int, better: float = 0.0) -> Run:
    ends = 0.5 + 0.3 * abs(float(np.log10(RATES[key] / 0.5))) - better
    reports = tuple((step, ends + 2 * float(np.exp(-step / 80))) for step in range(EVERY, until + 1, EVERY))
    return Run(key, STEPS, (float(RATES[key]),) * 64, (), reports, "paused", until, born)


def asked(nearly_done: int) -> tuple[int, int, str]:
    """What is decided where run 7 promises a trifle more than run 6, which has been trained so far."""
    others = [run(key, EVERY * 4, born) for born, key in enumerate((0, 3, 9, 12))]
    runs = [*others, run(6, nearly_done, 4), run(7, 180, 5, better=0.01)]
    found = decide(POOL, runs, STEPS, 0, Settings(short_horizons=False))[0]
    assert found is not None
    return found.row, found.until, found.reason


def test_of_two_that_promise_alike_the_one_that_is_almost_done_is_ended_first():
    row, until, reason = asked(360)
    assert (row, until, reason) == (6, STEPS, "full-horizon confirmation of the incumbent")


def test_of_two_that_cost_alike_the_one_that_promises_more_is_ended_first():
    row, until, reason = asked(180)
    assert (row, until, reason) == (7, STEPS, "full-horizon confirmation of the incumbent")
