"""What a job's answer would be over other numbers of steps: its schedule stretched, at the peak expected to be best.

Where a scaling law fits this job's learning curves it says how the best peak moves, else the square-root rule or this
job's own runs over shorter horizons; each counts by its weight, so that nothing switches. It fits a model and takes a
second or so: ask where no transaction is open.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from lrtune.analysis import paired
from lrtune.analysis.plateaus import families, landscape
from lrtune.analysis.words import percent
from lrtune.analysis.words import rate as written
from lrtune.search.curve.encode import rates
from lrtune.search.curve.sampler import weighed
from lrtune.search.engine.peaks import Move, exponent, mixture, moves_by_law, moves_by_rule
from lrtune.search.engine.weighing import WeighedModel
from lrtune.search.shorter import moves
from lrtune.search.studies.study import searched, telling
from lrtune.wire.horizons import MOST_STEPS, AtHorizon, Known
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Best, Trial

MULTIPLES = (2, 4, 10)  # of the horizon, for which a report says it
BELIEVED = 2 / 3  # share of the law, from which on it is what is known: half is where nothing speaks for either
LEAST_STD = 0.25 * math.log(2.0)  # of the log of the answer's own peak: half a step of the grid
UNKNOWN_STD = 0.5 * math.log(2.0)  # the same where no plateau shows how far other peaks do as well
LOWEST, HIGHEST = 1e-30, 1e3  # rates that a configuration may have


def longer(spec: AdmittedJob, best: Best, trials: Sequence[Trial]) -> list[AtHorizon]:
    """The answer at some multiples of the job's horizon."""
    asked = [best.steps * multiple for multiple in MULTIPLES if best.steps * multiple <= MOST_STEPS]
    return at_horizons(spec, best, trials, asked)


def at_horizons(spec: AdmittedJob, best: Best, trials: Sequence[Trial], asked: Iterable[int]) -> list[AtHorizon]:
    """The answer at each of the steps asked for; `trials` are the job's, with their reports."""
    past = telling(spec, searched(trials))
    curves = any(len(trial.values(best.metric)) > 1 for trial in past)  # imported trials may have their ends alone
    model = weighed(spec, past, steps=best.steps) if curves else None
    known, std = moves(spec, trials, steps=best.steps), _own_std(spec, best, trials)
    optimizer, own = best.configuration.kind[0], (t.configuration for t in trials if t.role != "range-test")
    tried = [one.learning_rate for one in own if one.kind[0] == optimizer]
    return [_at(best, steps, model, known, std, tried) for steps in asked]


def _at(
    best: Best, steps: int, model: WeighedModel | None, known: Sequence[Move], std: float, tried: Sequence[float]
) -> AtHorizon:
    chosen, by_law, share = best.configuration, None, model.share if model else 0.0
    if model is not None and model.law is not None and steps != best.steps:
        curves = {over: np.array(rates(chosen, over)) for over in (best.steps, steps, *(move.steps for move in known))}
        by_law = moves_by_law(model.law, curves, steps, known)
    moved = mixture(moves_by_rule(steps, best.steps, known), std, by_law, share)
    middle, low, high = (_rate(chosen.learning_rate * math.exp(one)) for one in moved)
    how: Known = "law" if share >= BELIEVED else "shorter-runs" if known else "square-root-rule"
    if steps == best.steps:
        how, middle = "run", chosen.learning_rate
    found = AtHorizon(
        steps=steps,
        configuration=chosen.model_copy(update={"learning_rate": middle}),
        learning_rate_interval=(min(low, middle), max(high, middle)),
        known=how,
        law_share=round(share, 4),
        trained_steps=best.steps,
        trial=best.trial,
        words="",
    )
    return found.model_copy(update={"words": _words(found, best, known, tried)})


def _rate(rate: float) -> float:
    """A rate that a configuration may have, to four digits."""
    return float(f"{min(max(rate, LOWEST), HIGHEST):.4g}")


def _own_std(spec: AdmittedJob, best: Best, trials: Iterable[Trial]) -> float:
    """How far the answer's own peak may be off, on a logarithmic scale: its plateau is where the best may lie."""
    history = [t for t in trials if t.role != "range-test" and (t.role == "search" or spec.allows(t.configuration))]
    land = landscape(best, history)
    wide = replace(land, tolerance=max(land.tolerance, paired.chance(best)))  # with what luck explains as well
    plateau = families(spec, wide)[0].plateau
    if plateau is None or plateau.low >= plateau.high:
        return UNKNOWN_STD
    return max(LEAST_STD, math.log(plateau.high / plateau.low) / 4)


def _words(at: AtHorizon, best: Best, known: Sequence[Move], tried: Sequence[float]) -> str:
    """What is known of a horizon and how, in a sentence."""
    rate, (low, high), share = at.configuration.learning_rate, at.learning_rate_interval, at.law_share
    peak = f"{at.steps} step{'s' * (at.steps != 1)}: peak rate {written(rate)} ({written(low)} to {written(high)})"
    if at.known == "run":
        return f"{peak}, as trained"
    if not min(tried) <= rate <= max(tried):
        peak += f", {'higher' if rate > max(tried) else 'lower'} than any that was tried"
    mean, std = exponent(known, best.steps)
    fitted = f"{len(known)} shorter horizon{'s' * (len(known) > 1)}"
    rule = f"steps to the power {mean:.2f} ± {std:.2f}, " + (f"fitted on {fitted}" if known else "the square-root rule")
    law = "a scaling law fitted to this job's learning curves"
    first, second, weight = (law, rule, share) if at.known == "law" else (rule, law, 1 - share)
    return f"{peak}, by {first} (weight {percent(weight)}; the rest is {second})" if share else f"{peak}, by {first}"
