"""The words of the answer's report: what happened beyond the plateau, and whether the rate is too high, too low, sure.

Everything said here rests on numbers that stand in the report as well. A new sentence goes here.
"""

import math
from collections.abc import Sequence

from lrtune.analysis import paired, words
from lrtune.analysis.words import digits, gap, lift, percent
from lrtune.wire.report import Advice, Audit, Beyond, Edge, FamilyFindings, Stability
from lrtune.wire.results import Best

SAME = 1e-9  # doublings that count as none
LESS_SURE = {"no": "probably not", "probably not": "perhaps"}  # a verdict that may be chance
ALIKE = 3  # whole runs at different rates that end at one value tell that the rate makes no difference
TELLING = 2.0  # times the plateau's end: a run beyond says little of what lies in between


def beyond(seen: Beyond, side: str, goal: str) -> str:
    """What happened on one side of the plateau."""
    if not seen.runs:
        return f"no {'higher' if side == 'above' else 'lower'} rate was tried"
    parts = []
    if seen.diverged:
        first = f"{'the first ' if seen.diverged > 1 else ''}at step {seen.first_diverged_step}"
        parts.append(f"{seen.diverged} of {seen.runs} {'runs' if seen.runs > 1 else 'run'} diverged, {first}")
    if seen.whole:
        parts.append(_ended(seen, "rising" if goal == "maximize" else "falling"))
    if seen.stopped:
        parts.append(f"{_were(seen.stopped)} stopped early")
    if seen.unfinished > seen.by_loop:
        parts.append(f"{_were(seen.unfinished - seen.by_loop)} not finished")
    if seen.by_loop:
        parts.append(f"{_were(seen.by_loop)} ended early by your loop")
    if seen.short:
        parts.append(f"{seen.short} completed a shorter horizon")
    schedule = seen.family or ("any schedule" if seen.own else "other schedules")
    return f"{side} {words.rate(seen.rate)} with {schedule}: {'; '.join(parts)}"


def _were(count: int) -> str:
    return f"{count} {'was' if count == 1 else 'were'}"


def _ended(seen: Beyond, trend: str) -> str:
    """How the runs that went to their end ended."""
    subject, each = ("1 run ends", "") if seen.whole == 1 else (f"{seen.whole} runs end", " in the median")
    if seen.behind is None:
        how = "over seeds of their own"
    else:
        how = (f"{gap(seen.behind, seen.worse)} worse" if seen.behind > 0 else "no worse") + each
    still = f" and {'was' if seen.whole == 1 else 'most were'} still {trend} at the end" if seen.improving else ""
    return f"{subject} {how}{still}"


def audit(seen: Audit) -> str:
    """What the check of the forecast pruner has shown."""
    state = "" if seen.on else ", and has switched itself off"
    if not (seen.audited or seen.running or seen.saved):
        return f"the forecast pruner has stopped nothing{state}"
    first = f"the forecast pruner saved {seen.saved:.3g} full runs{state}"
    if not seen.audited:
        return f"{first}; none of its stops has been checked yet"
    checked = f"{first}; {seen.audited} that it would have stopped ran on to check it"
    if seen.audited == 1:
        return f"{checked}, and that stop would have {'been a loss' if seen.false else 'lost nothing'}"
    mattered = "none" if not seen.false else f"{seen.false} ({percent(seen.false / seen.audited)})"
    return f"{checked}, {mattered} of them would have been a loss"


def audited(seen: Audit | None) -> list[Advice]:
    """Whether the pruner stopped the right ones, where the forecast is the pruner."""
    return [Advice(question="stopped rightly?", answer=_said([seen.words]))] if seen else []


def at_edges(found: Sequence[Edge]) -> list[Advice]:
    """Which knobs of the answer sit at an end of what was searched, if any do."""
    return [Advice(question="at an edge?", answer=_said([edge.words for edge in found]))] if found else []


def advice(
    best: Best,
    family: FamilyFindings,
    stability: Sequence[Stability],
    above: Beyond,
    below: Beyond,
    tolerance: float,
    chance: float,
    ended: Sequence[float] = (),
    whole: Sequence[tuple[float, float]] = (),
) -> list[Advice]:
    """The three questions, answered."""
    margin = _margin(best, next((one for one in stability if one.optimizer == family.optimizer), None))
    high = [_whether_worse(best, family, below, "low", chance), _slope(best, family, below, "low", chance), margin]
    low = [_whether_worse(best, family, above, "high", chance), _slope(best, family, above, "high", chance)]
    sure = [
        _evidence(best),
        _gain(best),
        _support(family, above, below, tolerance),
        _cut(best, ended),
        _alike(best, whole),
    ]
    return [
        Advice(question="too high?", answer=_said(high)),
        Advice(question="too low?", answer=_said(low)),
        Advice(question="how sure?", answer=_said(sure)),
    ]


def _said(sentences: Sequence[str]) -> str:
    return " ".join(f"{one[0].upper()}{one[1:]}." for one in sentences if one)


def _whether_worse(best: Best, family: FamilyFindings, side: Beyond, end: str, chance: float) -> str:
    """Whether rates beyond this end of the plateau have shown themselves to be worse."""
    rate, plateau = best.configuration.learning_rate, family.plateau
    if side.own:
        verdict = _verdict(family, side, end)
        but = ""
        if verdict in LESS_SURE and (but := _far(side, end)):
            verdict = "probably not"
        elif verdict in LESS_SURE and (but := _lucky(best, side, chance)):
            verdict = LESS_SURE[verdict]
        return f"{verdict}. {side.words[0].upper()}{side.words[1:]}{but}"
    last, way = ("largest", "up") if end == "high" else ("smallest", "down")
    at_end = plateau is None or rate == (plateau.high if end == "high" else plateau.low)
    what = "the best rate is" if at_end else "the plateau reaches"
    widen = plateau is not None and end in plateau.edges
    then = f"widen the range {way}wards" if widen else "a larger budget would look further"
    others = f"; {side.words}" if side.runs else ""
    return f"perhaps: {what} the {last} that was tried with {family.family}: {then}{others}"


def _far(side: Beyond, end: str) -> str:
    """That the runs which did worse beyond this end of the plateau say little of rates next to it; else nothing."""
    if side.nearest is None or abs(math.log(side.nearest / side.rate)) <= math.log(TELLING) + SAME:
        return ""
    where = "above" if end == "high" else "below"
    return f". No run within a factor of {TELLING:g} tells: the nearest {where} is at {words.rate(side.nearest)}"


def _lucky(best: Best, side: Beyond, chance: float) -> str:
    """That chance explains why the best of the runs next to this end of the plateau did worse; else nothing."""
    if side.near is None or side.near > chance:
        return ""
    relative = paired.share(side.near, best.value) if best.objective.from_zero else None
    how = f"{gap(side.near, relative)} worse" if side.near > 0 else "no worse"
    return f". The best within a factor of {TELLING:g} ends {how}, which may be chance"


def _verdict(family: FamilyFindings, side: Beyond, end: str) -> str:
    """Whether the answer's rate may be wrong on this side, by the runs of its own family that lie beyond."""
    slope = family.doubling if end == "high" else family.halving
    if side.as_good or (slope is not None and slope.absolute <= 0):
        return "perhaps"
    if side.behind is not None and not side.family:
        return "probably not"  # rates of different schedules compare only roughly
    # That a lower rate diverged, with whatever other knobs, says nothing for a higher one.
    if side.behind is not None or (side.diverged and end == "high"):
        return "no"
    if side.stopped or side.diverged:
        return "probably not"
    left = side.unfinished - side.by_loop
    if not left:
        return "perhaps"
    runs = f"{left} run{'s' * (left > 1)} at {'higher' if end == 'high' else 'lower'} rates"
    return f"perhaps: {runs} {'were' if left > 1 else 'was'} not finished; a larger budget (`extend`) would tell"


def _slope(best: Best, family: FamilyFindings, side: Beyond, end: str, chance: float) -> str:
    """How the metric goes on this side of the answer's rate."""
    rate, plateau = best.configuration.learning_rate, family.plateau
    slope, step = (family.doubling, "doubling") if end == "high" else (family.halving, "halving")
    reached = plateau and (plateau.high if end == "high" else plateau.low)
    if reached and abs(math.log2(reached / rate)) >= 1.0 - SAME:
        return f"rates {'up' if end == 'high' else 'down'} to {words.rate(reached)} do as well at their best"
    if slope is None or side.as_good:
        return ""
    if slope.absolute <= 0:
        return (
            f"{'higher' if end == 'high' else 'lower'} rates nearby did no worse over the seeds that they share with it"
        )
    if slope.absolute <= chance:
        return ""
    return f"each {step} of the rate makes it about {gap(slope.absolute, slope.relative)} worse"


def _margin(best: Best, stability: Stability | None) -> str:
    """How far the answer's rate is from divergence."""
    if stability is None or stability.smallest_diverged is None:
        return "no run of its optimizer diverged, range tests left aside"
    rate, edge = best.configuration.learning_rate, stability.smallest_diverged
    if edge <= rate:
        return (
            f"a run of {stability.optimizer} diverged at {words.rate(edge)} already, with other knobs or another seed: "
            f"leave the rest of the answer as it is"
        )
    times = f"{edge / rate:.3g} times the answer's"
    return f"the smallest rate of {stability.optimizer} that diverged is {words.rate(edge)}, {times}"


def _evidence(best: Best) -> str:
    if best.diverged:
        return _shaken(best)
    if not best.confirmed:
        return (
            f"not very: the answer's {best.metric}, {best.value:.5g}, is a single run's, not repeated over fresh seeds"
        )
    value = digits(best.value, best.interval)
    ends = [digits(end, best.interval) for end in best.interval or ()]
    within = f", 95 % interval {' to '.join(ends)}" if ends else ""
    if len(best.seeds) == 1:
        return f"not very: the answer's {best.metric}, {best.value:.5g}, is that of one fresh seed"
    mean = f"is the mean over {len(best.seeds)} fresh seeds{within}{words.no_interval(best)}"
    return f"the answer's {best.metric}, {value}, {mean}"


def _shaken(best: Best) -> str:
    """The evidence for an answer some of whose fresh seeds diverged."""
    if not best.confirmed:
        return (
            f"not at all: {best.diverged} of {best.diverged} runs over fresh seeds diverged; "
            f"the answer's {best.metric}, {best.value:.5g}, is a single run's. Try lower rates"
        )
    held, ends = len(best.seeds), ", ".join(f"{run.value:.4g}" for run in best.seeds)
    others = f"the others ended at {ends}" if held > 1 else f"the other ended at {ends}"
    mean = f", {best.value:.5g} in the mean" if held > 1 else ""
    broken = f"{best.diverged} of {held + best.diverged} runs over fresh seeds diverged"
    return f"not very: {broken}; {others}{mean}. Try lower rates"


def _cut(best: Best, ended: Sequence[float]) -> str:
    """What the user's own loop ended before its time although it stood better than the answer."""
    sign = best.objective.sign
    better = [value for value in ended if sign * value < sign * best.value]
    if not better:
        return ""
    who = "1 trial was" if len(ended) == 1 else f"{len(ended)} trials were"
    stood = "it stood" if len(ended) == 1 else "one of them stood" if len(better) == 1 else "the best of them stood"
    at = min(better, key=lambda value: sign * value)
    return f"{who} ended by your loop before the last step and cannot win; {stood} at {at:.4g}"


def _alike(best: Best, whole: Sequence[tuple[float, float]]) -> str:
    """What it means where whole runs, each a peak rate and a value, ended alike at different rates; else nothing."""
    rates, values = {rate for rate, _ in whole}, {value for _, value in whole}
    if len(rates) < ALIKE or len(values) > 1:
        return ""
    ran = f"{len(whole)} whole runs at rates from {words.rate(min(rates))} to {words.rate(max(rates))}"
    either = f"either {best.metric} cannot tell them apart, or the training does not use its trial's rates"
    return f"all {ran} ended at {values.pop():.5g}: {either}"


def _gain(best: Best) -> str:
    """The lift over the baseline, and whether chance can explain it."""
    words = lift(best)
    begin = {"no": "there is ", "nothing": ""}.get(words.partition(" ")[0], "it is ")
    return f"{begin}{words}"


def _support(family: FamilyFindings, above: Beyond, below: Beyond, tolerance: float) -> str:
    """What the plateau rests on."""
    if family.plateau is None:
        return ""
    low, high, runs = family.plateau.low, family.plateau.high, family.plateau.runs
    if low == high and not (above.own or below.own):
        return f"no other rate with {family.family} was tried"
    ended = (math.log(side.nearest / side.rate) for side in (above, below) if side.family and side.nearest is not None)
    if low == high and not any(abs(away) <= math.log(TELLING) + SAME for away in ended):
        return f"no other rate with {family.family} within a factor of {TELLING:g} of it was trained to its end"
    if low == high:
        return f"no rate next to it with {family.family} came within the tolerance, {tolerance:.3g}"
    but = f", and {family.plateau.worse} in between did worse" if family.plateau.worse else ""
    return f"the plateau with {family.family}, {words.rate(low)} to {words.rate(high)}, rests on {runs} runs{but}"
