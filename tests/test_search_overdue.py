"""After so much training without a whole run one is trained to its end: that which promises most for its price."""

from dataclasses import replace

import numpy as np

from lrtune.search.engine.costs import Settings
from lrtune.search.engine.decide import decide
from lrtune.search.engine.types import Ints, Pool, Run
from lrtune.search.engine.weighing import Forecast, WeighedModel

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


def test_a_long_shot_that_is_expected_to_end_worse_is_not_ended_in_the_incumbents_place(monkeypatch):
    """It promised more for its price, unsure as it was: a full run of twenty went to a rate forty times the best."""
    whole = run(5, STEPS, 0)
    runs = [
        replace(whole, state="complete"),
        run(6, 200, 1),
        run(7, 200, 2),
        run(8, 200, 3),
        run(3, 80, 4),
        run(12, EVERY, 5),
    ]

    def forecast(model: WeighedModel, rows: Ints) -> Forecast:
        """Run 6 is expected to end a little below the whole one; of run 12 nobody knows anything."""
        best = model.normaliser.score(np.array([float(STEPS)]), np.array([whole.reports[-1][1]]))[0]
        said = {6: (-0.005, 0.01), 7: (0.02, 0.01), 8: (0.03, 0.01), 12: (0.1, 1.0)}
        some = np.array([said.get(POOL.keys[row], (5.0, 0.01)) for row in rows])
        return Forecast(np.ones(1), best + some[None, :, 0], some[None, :, 1])

    monkeypatch.setattr(WeighedModel, "forecast", forecast)
    found = decide(POOL, runs, STEPS, 0, Settings(short_horizons=False))[0]
    assert found is not None
    assert (found.row, found.until, found.reason) == (6, STEPS, "full-horizon confirmation of the incumbent")
