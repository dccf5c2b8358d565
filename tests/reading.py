"""A job's trials and its report's sentences, read by code that knows nothing of the code that wrote the report."""

import math
import re
from collections.abc import Iterable
from decimal import Decimal
from statistics import fmean, median

from lrtune.analysis.answer import noise_of_candidates, quantile
from lrtune.wire.configuration import Configuration
from lrtune.wire.results import Trial, TrialState
from tests.madeup import STEPS, MadeUp

NUMBER = r"-?\d[\d.]*(?:e[+-]?\d+)?"
SIZE = rf"(?:less than 0\.01 %|{NUMBER} %|{NUMBER})"


def says(text: str, value: float) -> bool:
    """Whether a number as it is written is this one, rounded to what is written."""
    last = Decimal(text).as_tuple().exponent
    return abs(float(text) - value) <= 0.5000001 * 10.0 ** int(last) + 1e-12 * abs(value)


class Facts:
    """What the trials of a job say, without the code that wrote the report."""

    def __init__(self, made: MadeUp) -> None:
        self.made, self.best, self.sign = made, made.best, 1.0 if made.best.goal == "minimize" else -1.0
        self.seen = [t for t in made.trials if t.role == "search" or made.spec.allows(t.configuration)]
        self.done = [t for t in self.seen if t.state is TrialState.COMPLETE and t.horizon == STEPS]
        self.percentages = 0 in (made.spec.metric.range or ())
        broken = [t.configuration for t in self.seen if t.state is TrialState.DIVERGED and t.horizon == STEPS]
        own = self.best.configuration
        sound = [c for c in self.configurations() if broken.count(c) <= self.best.diverged or c == own]
        self.behind = {c: b for c in sound if (b := self.mean_behind(c)) is not None}
        typical = median(self.behind.values())
        tolerance = 0.01 * abs(self.best.value)
        if not self.percentages:
            tolerance = min(tolerance, 0.05 * max(typical, 0.0))
        self.tolerance = max(tolerance, 0.001 * typical)

    def configurations(self) -> list[Configuration]:
        return list(dict.fromkeys(t.configuration for t in self.done if self.scores(t.configuration)))

    def scores(self, one: Configuration) -> dict[int, float]:
        """By seed, lower being better; of fresh seeds only where they have chosen the answer."""
        own = [t for t in self.done if t.configuration == one and (self.best.confirmed or t.role != "confirm")]
        return {t.seed: self.sign * t.value for t in own if t.value is not None}

    def mean_behind(self, one: Configuration, other: Configuration | None = None) -> float | None:
        """How much worse than the answer, or another, over the seeds of both; the search's, 0, for want of them."""
        mine, theirs = self.scores(one), self.scores(other or self.best.configuration)
        same = mine.keys() & theirs.keys()
        same = same - {0} or same
        return fmean(mine[s] - theirs[s] for s in same) if same else None

    def left(self, runs: Iterable[Trial]) -> dict[str, int]:
        """Of some runs, how many were judged from a quarter of their steps, left by the loop, or left for no reason."""
        found = {"stopped early": 0, "ended early by your loop": 0, "not finished": 0}
        for t in runs:
            if t.state is TrialState.STOPPED:
                by = self.made.audits.stops.get(t.number)
                judged = by in ("pruner", "forecast") and t.step * 4 >= t.horizon
                end = "stopped early" if judged else "not finished"
                found["ended early by your loop" if by == "loop" else end] += 1
        return found

    def family(self, name: str) -> set[Configuration]:
        return {c for c in self.configurations() if c.kind[1] == name}

    def best_behind(self, name: str, above: float, below: float) -> dict[float, float]:
        """How much worse the best is at each rate of an open stretch; a rate at which all diverged is no good."""
        found: dict[float, float] = {}
        for t in self.seen:
            if t.configuration.kind[1] == name and above < t.configuration.learning_rate < below:
                if t.state is TrialState.DIVERGED:
                    found.setdefault(t.configuration.learning_rate, math.inf)
                elif t.configuration in self.behind:
                    behind = self.behind[t.configuration]
                    rate = t.configuration.learning_rate
                    found[rate] = min(behind, found.get(rate, math.inf))
        return found

    def slope(self, direction: int) -> list[float]:
        rate, nearest = self.best.configuration.learning_rate, dict[float, float]()
        for one in self.family(self.best.configuration.kind[1]) & self.behind.keys():
            away = direction * math.log2(one.learning_rate / rate)
            if 0.24 < away < 2.01 and (behind := self.mean_behind(one)) is not None:
                nearest[one.learning_rate] = min(behind, nearest.get(one.learning_rate, math.inf))
        return [behind / abs(math.log2(at / rate)) for at, behind in nearest.items()]

    def next_to(self, rate: float, direction: int) -> list[float]:
        """How much worse runs of the answer's family ended at rates up to a factor of two above, or below, another."""
        low, high = (1.001 * rate, 2.001 * rate) if direction > 0 else (rate / 2.001, rate / 1.001)
        name = self.best.configuration.kind[1]
        own = [self.behind[c] for c in self.family(name) & self.behind.keys() if low < c.learning_rate < high]
        diverged = [t.configuration for t in self.seen if t.state is TrialState.DIVERGED]
        broken = [c for c in diverged if c.kind[1] == name and low < c.learning_rate < high]
        return own + [math.inf] * len(broken)

    def chance(self) -> float:
        """How far runs may lie apart by chance, by what the answer says of its noise, and its candidates of theirs."""
        if self.best.noise:
            baseline = self.best.baseline.configuration if self.best.baseline else None
            candidates, most = noise_of_candidates(self.done, but=baseline), 2 * self.best.noise.deviation
            if candidates is None or candidates.residual[1] < 2:
                return most
            return min(most, quantile(candidates.residual[1]) * math.sqrt(2 * candidates.residual[0])) or most
        low, high = self.best.interval or (0.0, 0.0)
        return (high - low) / 2

    def size(self, text: str, absolute: float, of: float) -> None:
        """A size as it is written: a percentage only where zero is the metric's own, and below 100 %."""
        share = abs(absolute / of) if of else math.inf
        assert text.endswith("%") == (self.percentages and share < 1.0), text
        if text == "less than 0.01 %":
            assert 0 < share < 1e-4
        elif text.endswith("%"):
            assert says(text.removesuffix(" %"), min(100 * share, 99.99)), (text, share)
        else:
            assert says(text, abs(absolute)), (text, absolute)


def read(pattern: str, sentence: str) -> re.Match[str] | None:
    return re.fullmatch(pattern, sentence)


def sentences(answer: str) -> list[str]:
    assert answer.endswith(".")
    return re.split(r"\. (?=[A-Z])", answer.removesuffix("."))


def late(facts: Facts, run: Trial) -> float:
    seen = [(r.step, facts.sign * r.metrics[facts.best.metric]) for r in run.reports]
    return median(v for s, v in seen if 60 < s <= 80) - median(v for s, v in seen if s > 80)


def all_good(facts: Facts, one: float, other: float) -> None:
    low, high = sorted((one, other))
    behind = facts.best_behind(facts.best.configuration.kind[1], 0.995 * low, 1.005 * high)
    assert behind
    assert all(b <= facts.tolerance * (1 + 1e-9) for b in behind.values())


def margin(facts: Facts, sentence: str) -> None:
    """How far the answer's rate is from divergence."""
    rate = facts.best.configuration.learning_rate
    diverged = [t.configuration.learning_rate for t in facts.made.trials if t.state is TrialState.DIVERGED]
    if sentence == "No run of its optimizer diverged, range tests left aside":
        assert not diverged
    elif found := read(
        rf"The smallest rate of adamw that diverged is ({NUMBER}), ({NUMBER}) times the answer's", sentence
    ):
        assert says(found[1], min(diverged))
        assert says(found[2], min(diverged) / rate)
        assert min(diverged) > rate
    else:
        already = (
            rf"A run of adamw diverged at ({NUMBER}) already, with other knobs or another seed: leave the rest of .+"
        )
        found = read(already, sentence)
        assert found, f"nobody can read: {sentence}"
        assert says(found[1], min(diverged))
        assert min(diverged) <= rate


def broken_baseline(facts: Facts, sentence: str) -> str:
    """A sentence without its end, that the baseline diverged over other seeds: it says so where it did."""
    untuned = facts.best.baseline
    runs = [t for t in facts.made.trials if untuned and t.configuration == untuned.configuration and t.role != "search"]
    broken = len({t.seed for t in runs if t.state is TrialState.DIVERGED and t.horizon == STEPS})
    said, _, end = sentence.partition("; untuned diverged over ")
    said, _, alone = said.partition(": untuned diverged")
    assert not alone
    if sentence.removesuffix(" over fresh seeds") == "Nothing beat the untuned baseline":
        return sentence
    if untuned and untuned.value is not None:
        assert end == ("" if not broken else "another seed" if broken == 1 else f"{broken} other seeds")
    else:
        assert (said != sentence) == bool(broken)
    return said
