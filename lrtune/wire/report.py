"""What the answer's report says, as it travels: where good rates lie, how sure that is, what it cost.

`lrtune/analysis/report.py` works the numbers out, `advice.py` beside it puts them into words. A new line of the report
is a field here.
"""

from typing import Literal

from lrtune.wire.horizons import AtHorizon
from lrtune.wire.results import Result

End = Literal["low", "high"]


class Plateau(Result):
    """The peak rates that do as well as the best: from `low` to `high`, at each rate tried, some run came close enough.

    `runs` of them came within the tolerance of the answer, complete over the horizon; `worse` runs in between did not,
    or diverged, because of their other knobs or their seeds. `edges` are the ends of the job's range that the plateau
    touches: it may go on beyond them.
    """

    low: float
    high: float
    runs: int
    worse: int
    edges: list[End]


class Slope(Result):
    """How much worse the metric gets per doubling, or halving, of the rate (negative: better), over the same seeds.

    The median over the `rates` tried between a quarter of a doubling and two doublings away, each at its best.
    `relative` is of the best value, and null where that is zero, or zero is no end of the metric's range.
    """

    absolute: float
    relative: float | None
    rates: int


class FamilyFindings(Result):
    """One schedule family under one optimizer. `runs` are those that completed over the job's horizon.

    `best_rate` did best. `best_value` is its mean over `seeds` seeds, fresh ones where there are any, and does not
    compare with one over others: `behind` is how much worse than the answer it is over the seeds that both ran, null
    without any. `plateau` is null where no run came within the tolerance of the answer, `doubling` and `halving` where
    fewer than two rates were tried on that side.
    """

    optimizer: str
    family: str
    runs: int
    best_rate: float | None
    best_value: float | None
    seeds: int = 1
    behind: float | None = None
    plateau: Plateau | None
    doubling: Slope | None
    halving: Slope | None
    largest_stable: float | None
    smallest_diverged: float | None


class Stability(Result):
    """The largest peak rate that completed the job's horizon, and the smallest that diverged over any.

    The two may overlap: what an optimizer bears depends on the schedule, the warm-up and the clipping.
    """

    optimizer: str
    largest_stable: float | None
    smallest_diverged: float | None


class Beyond(Result):
    """What happened at rates above, or below, the answer's plateau, under the answer's optimizer.

    `family` is the answer's own, or null where none of its runs lies there, or none that was whole or diverged: then
    those of all families are counted, `own` of them of the answer's. `stopped` were stopped because of a forecast, or
    by a pruner, after a quarter of their steps or more; `unfinished` ones were left earlier, or for other reasons,
    `by_loop` of them by the user's own loop. `whole` runs completed the job's horizon, `short` ones a shorter one.
    `behind` is how much worse than the answer the former's configurations ended over the same seeds, in the median,
    `worse` the same relative to the answer (null where a percentage says nothing, see `Slope`); `as_good` whether that
    is within the tolerance; `nearest` is the rate nearest to the answer's of those that were whole or diverged; `near`
    how much worse than the answer the best of them ended within a factor of two of `rate`; `improving` whether most of
    them still got better by more than the tolerance from the fourth fifth of the run to the last.
    """

    rate: float
    family: str | None
    runs: int
    diverged: int
    first_diverged_step: int | None
    stopped: int
    unfinished: int = 0
    by_loop: int = 0
    own: int = 0
    short: int
    whole: int
    behind: float | None = None
    worse: float | None
    as_good: bool = False
    nearest: float | None = None
    near: float | None = None
    improving: bool | None
    words: str


class Spent(Result):
    """What the job has cost, in full runs; the parts make up the total.

    `baseline`, `range_test` and `confirm` count whatever became of them. Of the search's own trials `search` completed
    the job's horizon, `short` one of fewer steps, and `other` failed, were cancelled, are paused or under way.
    """

    baseline: float
    range_test: float
    search: float
    short: float
    stopped: float
    diverged: float
    confirm: float
    other: float
    total: float


class Saved(Result):
    """Full runs saved against training every trial to its own end: by the pruner, and by stopping at divergence."""

    pruning: float
    divergence: float
    total: float


class Audit(Result):
    """How the forecast pruner's stops were checked: trials that it would have stopped ran on all the same.

    `audited` of them came to their end, `running` have not yet. `false` of the audited beat the best that the trials
    before them had found: their stop would have lost it; `rate` is their share, null where none was audited. `on` is
    whether the pruner still stops: it switches itself off where its forecasts fail. `saved` are the full runs that its
    stops have saved.
    """

    audited: int
    running: int
    false: int
    rate: float | None
    on: bool
    saved: float
    words: str


class Lift(Result):
    """How much better the answer is than the baseline over the `seeds` that both ran; positive is better.

    `relative` is of the baseline's value over these seeds, and null where a percentage says nothing (see `Slope`).
    `interval` holds the difference with 95 % confidence (Student's t, with the answer's `noise`), null where nothing
    tells the noise. `sure` is whether it excludes zero and the intervals of the two do not overlap: else no lift is
    claimed.
    """

    difference: float
    relative: float | None
    seeds: int = 1
    interval: tuple[float, float] | None
    sure: bool | None


class Edge(Result):
    """A knob of the answer that sits at an end of the range that was `searched`: the best may lie beyond it.

    Ends beyond which no value is legal, a warm-up of 0 for one, do not count.
    """

    knob: str
    end: End
    value: float
    searched: tuple[float, float]
    words: str


class Advice(Result):
    """A question that people have about a learning rate, answered in words."""

    question: Literal["too high?", "too low?", "how sure?", "at an edge?", "stopped rightly?"]
    answer: str


class Findings(Result):
    """The answer's report. Rates are peaks; costs are in full runs; `tolerance` is in the metric's own unit.

    `horizons` have the answer carried over to a few multiples of the job's horizon. It rests on `read` of the job's
    `trials`: on all, but where they are more than 600 on the best, those beside the search and a sample. Then runs are
    counted among those that were read; `cost` is of all trials, and `saved` estimated from those that were read.
    """

    metric: str
    value: float
    optimizer: str
    family: str
    rate: float
    tolerance: float
    families: list[FamilyFindings]
    stability: list[Stability]
    above: Beyond
    below: Beyond
    cost: Spent
    saved: Saved
    trials: int = 0
    read: int = 0
    audit: Audit | None = None
    lift: Lift | None
    edges: list[Edge] = []
    horizons: list[AtHorizon] = []
    advice: list[Advice]
