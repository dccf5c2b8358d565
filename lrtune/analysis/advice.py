"""The words of the answer's report: what happened beyond the plateau, and whether the rate is too high, too low, sure.

Everything said here rests on numbers that stand in the report as well. A new sentence goes here.
"""

from collections.abc import Sequence

from lrtune.wire.report import Advice, Audit, Beyond, FamilyFindings, Lift, Slope, Stability
from lrtune.wire.results import Best


def percent(share: float) -> str:
    """A share as people write it: 12 %, 3.4 %."""
    return f"{100 * abs(share):.0f} %" if abs(share) >= 0.0995 else f"{100 * abs(share):.2g} %"


def beyond(seen: Beyond, side: str, goal: str) -> str:
    """What happened on one side of the plateau."""
    if not seen.runs:
        return f"no {'higher' if side == 'above' else 'lower'} rate was tried"
    parts = []
    if seen.diverged:
        first = f"{'the first ' if seen.diverged > 1 else ''}at step {seen.first_diverged_step}"
        parts.append(f"{seen.diverged} of {seen.runs} {'runs' if seen.runs > 1 else 'run'} diverged, {first}")
    if seen.stopped:
        parts.append(f"{seen.stopped} {'was' if seen.stopped == 1 else 'were'} stopped early")
    if seen.whole:
        parts.append(_ended(seen, "rising" if goal == "maximize" else "falling"))
    if seen.short:
        parts.append(f"{seen.short} completed a shorter horizon")
    others = "" if seen.family else " with other schedules"
    return f"{side} {seen.rate:.3g}{others}: {'; '.join(parts)}"


def _ended(seen: Beyond, trend: str) -> str:
    """How the runs that went to their end ended."""
    subject = "1 run ends" if seen.whole == 1 else f"{seen.whole} runs end"
    how = "worse" if seen.worse is None else f"{percent(seen.worse)} worse" if seen.worse > 0 else "no worse"
    still = f" and {'was' if seen.whole == 1 else 'were'} still {trend} at the end" if seen.improving else ""
    return f"{subject} {how}{still}"


def audit(seen: Audit) -> str:
    """What the check of the forecast pruner has shown."""
    state = "" if seen.on else ", and has switched itself off"
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


def advice(
    best: Best, family: FamilyFindings, stability: Sequence[Stability], above: Beyond, below: Beyond, lift: Lift | None
) -> list[Advice]:
    """The three questions, answered."""
    margin = _margin(best, next((one for one in stability if one.optimizer == family.optimizer), None))
    high = [_whether_worse(best, family, below, "low"), _slope(family.halving, "halving"), margin]
    low = [_whether_worse(best, family, above, "high"), _slope(family.doubling, "doubling")]
    sure = [_evidence(best), _gain(best, lift), _support(family)]
    return [
        Advice(question="too high?", answer=_said(high)),
        Advice(question="too low?", answer=_said(low)),
        Advice(question="how sure?", answer=_said(sure)),
    ]


def _said(sentences: Sequence[str]) -> str:
    return " ".join(f"{one[0].upper()}{one[1:]}." for one in sentences if one)


def _whether_worse(best: Best, family: FamilyFindings, side: Beyond, end: str) -> str:
    """Whether rates beyond this end of the plateau have shown themselves to be worse."""
    if side.family:
        said = "no" if side.diverged or side.whole else "probably not"
        return f"{said}. {side.words[0].upper()}{side.words[1:]}"
    rate, plateau = best.configuration.learning_rate, family.plateau
    last, way = ("largest", "up") if end == "high" else ("smallest", "down")
    at_end = plateau is None or rate == (plateau.high if end == "high" else plateau.low)
    what = "the best rate is" if at_end else "the plateau reaches"
    widen = plateau is not None and end in plateau.edges
    then = f"widen the range {way}wards" if widen else "a larger budget would look further"
    others = f"; {side.words}" if side.runs else ""
    return f"perhaps: {what} the {last} that was tried with {family.family}: {then}{others}"


def _slope(slope: Slope | None, step: str) -> str:
    if slope is None:
        return ""
    size = f"{abs(slope.absolute):.3g}" if slope.relative is None else percent(slope.relative)
    return f"each {step} of the rate makes it about {size} {'worse' if slope.absolute >= 0 else 'better'}"


def _margin(best: Best, stability: Stability | None) -> str:
    """How far the answer's rate is from divergence."""
    if stability is None or stability.smallest_diverged is None:
        return "no run of its optimizer diverged"
    rate, edge = best.configuration.learning_rate, stability.smallest_diverged
    if edge <= rate:
        return (
            f"runs of {stability.optimizer} diverged at {edge:.3g} already, with other knobs or seeds: "
            f"keep the answer's warm-up and clipping"
        )
    return (
        f"the smallest rate of {stability.optimizer} that diverged is {edge:.3g}, {edge / rate:.3g} times the answer's"
    )


def _evidence(best: Best) -> str:
    if not best.confirmed:
        return (
            f"not very: the answer's {best.metric}, {best.value:.5g}, is a single run's, not repeated over fresh seeds"
        )
    within = f", 95 % interval {best.interval[0]:.5g} to {best.interval[1]:.5g}" if best.interval else ""
    seeds = f"{len(best.seeds)} fresh seeds" if len(best.seeds) > 1 else "one fresh seed"
    return f"the answer's {best.metric}, {best.value:.5g}, is the mean over {seeds}{within}"


def _gain(best: Best, lift: Lift | None) -> str:
    """The lift over the baseline, and whether chance can explain it."""
    if lift is None:
        return "there is no baseline to compare with"
    baseline = "your own settings" if best.baseline is not None and best.baseline.own else "the untuned baseline"
    if best.baseline is not None and best.baseline.configuration == best.configuration:
        return f"nothing beat {baseline}"
    size = f"{abs(lift.difference):.3g}" if lift.relative is None else percent(lift.relative)
    words = f"it is {size} {'better' if lift.difference >= 0 else 'worse'} than {baseline}"
    if lift.interval is None:
        return f"{words}; without two or more seeds in common nothing says that this is not chance"
    low, high = lift.interval
    zero = "excludes zero" if lift.sure else "includes zero, so it may be chance"
    return f"{words}; the difference's interval, {low:.3g} to {high:.3g} over the same seeds, {zero}"


def _support(family: FamilyFindings) -> str:
    """What the plateau rests on."""
    if family.plateau is None:
        return ""
    low, high, runs = family.plateau.low, family.plateau.high, family.plateau.runs
    if low == high:
        return f"no other rate with {family.family} came as close as the tolerance"
    but = f", and {family.plateau.worse} in between did worse" if family.plateau.worse else ""
    return f"the plateau with {family.family}, {low:.3g} to {high:.3g}, rests on {runs} runs{but}"
