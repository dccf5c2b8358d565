"""What a job's answer would be over other numbers of steps: its schedule stretched, at the peak expected to be best.

Where a scaling law fits this job's learning curves it says how the best peak moves, else the square-root rule or this
job's own runs over shorter horizons; each counts by its weight, so that nothing switches. It fits a model and takes a
second or so: ask where no transaction is open.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lrtune.analysis.plateaus import Landscape, families, landscape
from lrtune.analysis.words import percent
from lrtune.analysis.words import rate as written
from lrtune.search.curve.encode import rates
from lrtune.search.curve.sampler import weighed
from lrtune.search.engine.peaks import Move, exponent, mixture, moves_by_law, moves_by_rule
from lrtune.search.engine.weighing import WeighedModel
from lrtune.search.shorter import moves
from lrtune.search.studies.study import searched, telling
from lrtune.wire.external import ended_by_loop
from lrtune.wire.horizons import MOST_STEPS, AtHorizon, Known
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import OBSERVED, Best, Trial, TrialState

MULTIPLES = (2, 4, 10)  # of the horizon, for which a report says it
BELIEVED = 2 / 3  # share of the law, from which on it is what is known: half is where nothing speaks for either
LEAST_STD = 0.25 * math.log(2.0)  # of the log of the answer's own peak: half a step of the grid
UNKNOWN_STD = 0.5 * math.log(2.0)  # the same where no plateau shows how far other peaks do as well
LOWEST, HIGHEST = 1e-30, 1e3  # rates that a configuration may have
ROUNDED = 1e-3  # relative: as much as four digits are off


def longer(spec: AdmittedJob, best: Best, trials: Sequence[Trial]) -> list[AtHorizon]:
    """The answer at some multiples of the job's horizon."""
    asked = [best.steps * multiple for multiple in MULTIPLES if best.steps * multiple <= MOST_STEPS]
    return at_horizons(spec, best, trials, asked)


def at_horizons(spec: AdmittedJob, best: Best, trials: Sequence[Trial], asked: Iterable[int]) -> list[AtHorizon]:
    """The answer at each of the steps asked for; `trials` are the job's, with their reports."""
    past = telling(spec, searched(trials))
    curves = any(len(trial.values(best.metric)) > 1 for trial in past)  # imported trials may have their ends alone
    model = weighed(spec, past, steps=best.steps) if curves else None
    own = _own(spec, best, trials)
    # Shorter runs show how the best peak moves only where it is known to be the best over the job's own horizon.
    known = [] if own.open_below < math.inf or own.open_above > 0.0 else moves(spec, trials, steps=best.steps)
    return [_at(best, steps, model, known, own) for steps in asked]


@dataclass(frozen=True, slots=True)
class _Own:
    """What is known of the answer's own peak: `std` of its log, and the rates that its optimizer was `tried` at.

    `searched` are the ends of the job's range of rates, where it has one for this optimizer.

    Where no run at a lower rate did worse, `open_below` is the lowest that the job searches, else infinite; so with
    `open_above`, else zero.
    """

    std: float
    tried: Sequence[float]
    open_below: float
    open_above: float
    searched: tuple[float, float] | None


def _at(best: Best, steps: int, model: WeighedModel | None, known: Sequence[Move], own: _Own) -> AtHorizon:
    chosen, by_law, share = best.configuration, None, model.share if model else 0.0
    if model is not None and model.law is not None and steps != best.steps:
        curves = {over: np.array(rates(chosen, over)) for over in (best.steps, steps, *(move.steps for move in known))}
        by_law = moves_by_law(model.law, curves, steps, known)
    moved = mixture(moves_by_rule(steps, best.steps, known), own.std, by_law, share)
    share *= 1.0 if by_law is None else float(by_law[1].sum())
    middle, low, high = (chosen.learning_rate * math.exp(one) for one in moved)
    middle, low, high = _rate(middle), _rate(min(low, own.open_below)), _rate(max(high, own.open_above))
    how: Known = "law" if share >= BELIEVED else "shorter-runs" if known else "square-root-rule"
    if steps == best.steps:
        how, middle = "run", chosen.learning_rate
    found = AtHorizon(
        metric=best.metric,
        steps=steps,
        configuration=chosen.model_copy(update={"learning_rate": middle}),
        learning_rate_interval=(min(low, middle), max(high, middle)),
        known=how,
        law_share=round(share, 4),
        trained_steps=best.steps,
        trial=best.trial,
        words="",
    )
    return found.model_copy(update={"words": _words(found, best, known, own)})


def _rate(rate: float) -> float:
    """A rate that a configuration may have, to four digits."""
    return float(f"{min(max(rate, LOWEST), HIGHEST):.4g}")


def _own(spec: AdmittedJob, best: Best, trials: Iterable[Trial]) -> _Own:
    """How far the answer's own peak may be off: the best may lie on its plateau, and where no run speaks against it.

    It may also lie between the answer's rate and the next that was tried, however far that is.
    """
    trained = [t for t in trials if t.role != "range-test"]
    optimizer = best.configuration.kind[0]
    tried = [t.configuration.learning_rate for t in trained if t.configuration.kind[0] == optimizer]
    land = landscape(best, [t for t in trained if t.role == "search" or spec.allows(t.configuration)])
    wide = replace(land, tolerance=max(land.tolerance, land.chance))  # with what luck explains as well
    plateau = families(spec, wide)[0].plateau
    width = 0.0 if plateau is None else math.log(plateau.high / plateau.low)
    rate, worse = best.configuration.learning_rate, _worse(wide, trained)
    ends = spec.space().rates(optimizer) or (rate, rate)
    return _Own(
        std=max(LEAST_STD if width > 0 else UNKNOWN_STD, width / 4, _between(rate, worse) / 4),
        tried=tried,
        open_below=math.inf if ends[0] >= rate or any(one < rate for one in worse) else ends[0],
        open_above=0.0 if ends[1] <= rate or any(one > rate for one in worse) else ends[1],
        searched=spec.space().ends(optimizer),
    )


def _between(rate: float, worse: Iterable[float]) -> float:
    """How far apart, as logarithms, the nearest rates lie that did worse; with one side alone twice as far as it is."""
    off = [math.log(one / rate) for one in worse]
    sides = [min((way * one for one in off if way * one > 0.0), default=0.0) for way in (1.0, -1.0)]
    return sum(sides) * 2 / max(1, sum(side > 0.0 for side in sides))


def _worse(land: Landscape, trained: Iterable[Trial]) -> list[float]:
    """The rates of the answer's optimizer at which some run did worse: stopped, diverged, or behind at its end.

    One that the user's own loop ended, that failed or that the budget had nothing left for says nothing of its rate.
    """
    runs = [t for t in trained if t.configuration.kind[0] == land.own[0] and t.state in OBSERVED]
    return [t.configuration.learning_rate for t in runs if not ended_by_loop(t) and _did_worse(land, t)]


def _did_worse(land: Landscape, run: Trial) -> bool:
    if run.state is not TrialState.COMPLETE:
        return run.stopped_by != "budget"
    behind = land.behind([run]) if run.completed(land.best.steps) else None
    return behind is not None and behind > land.tolerance


def _words(at: AtHorizon, best: Best, known: Sequence[Move], own: _Own) -> str:
    """What is known of a horizon and how, in a sentence."""
    tried = own.tried
    rate, (low, high), share = at.configuration.learning_rate, at.learning_rate_interval, at.law_share
    peak = f"{at.steps} step{'s' * (at.steps != 1)}: peak rate {written(rate)} ({written(low)} to {written(high)})"
    if at.known == "run":
        return f"{peak}, as trained{_open(own)}{_beyond(own, low, high)}"
    if not min(tried) <= rate <= max(tried):
        peak += f", {'higher' if rate > max(tried) else 'lower'} than any that was tried"
    mean, std = exponent(known, best.steps)
    fitted = f"{len(known)} shorter horizon{'s' * (len(known) > 1)}"
    rule = f"steps to the power {mean:.2f} ± {std:.2f}, " + (f"fitted on {fitted}" if known else "the square-root rule")
    law = "a scaling law fitted to this job's learning curves"
    first, second, weight = (law, rule, share) if share >= 0.5 else (rule, law, 1 - share)
    rest = f" (weight {percent(weight)}; the rest is {second})" if share else ""
    return f"{peak}, by {first}{rest}{_open(own)}{_beyond(own, low, high)}"


def _open(own: _Own) -> str:
    """On which sides of the answer's rate nothing speaks against others, so that the interval goes on to the end."""
    sides = ["lower"] * (own.open_below < math.inf) + ["higher"] * (own.open_above > 0.0)
    return f"; no run at a {' or '.join(sides)} rate has ended worse" if sides else ""


def _beyond(own: _Own, low: float, high: float) -> str:
    """Which ends of an interval lie beyond the job's range of rates, where no run of it can be."""
    first, last = own.searched or (0.0, math.inf)
    sides = ["lower"] * (low < first * (1 - ROUNDED)) + ["upper"] * (high > last * (1 + ROUNDED))
    ends = f"{' and '.join(sides)} end{'s lie' if len(sides) > 1 else ' lies'}"
    return f"; its {ends} beyond the rates that the job searches ({written(first)} to {written(last)})" if sides else ""
