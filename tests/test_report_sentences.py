"""Every sentence of the reports of fifty made-up jobs, read back and held against the trials, and against each other.

What a sentence says is worked out here once more from the trials alone; a sentence that nobody here can read fails.
"""

import math
import re
from functools import cache
from statistics import fmean, median

import pytest
from scipy import stats

from lrtune.analysis import words
from lrtune.wire.report import Beyond
from lrtune.wire.results import Trial, TrialState
from tests.madeup import COUNT, STEPS, MadeUp, made_up
from tests.reading import NUMBER, SIZE, Facts, all_good, broken_baseline, late, margin, read, says, sentences

job = cache(made_up)
MEAN = rf"The answer's (.+), ({NUMBER}), is the mean over (\d+) fresh seeds"
ALONE = r"over the (one seed|(?P<n>\d+) seeds) that both ran, which (may be chance|do not tell how much is chance)"
jobs = pytest.mark.parametrize("number", range(COUNT))


def beyond(facts: Facts, sentence: str) -> None:
    """`Above 1.6e-2 with cosine: 2 of 4 runs diverged, the first at step 4; 2 runs end 40 % worse in the median`."""
    place = read(rf"(?:(above|below) ({NUMBER}) with (.+?): (.+))", sentence[0].lower() + sentence[1:])
    assert place, sentence
    side, rate, schedules, said = place.groups()
    plateau = facts.made.found.families[0].plateau
    edge = plateau.high if side == "above" else plateau.low
    assert says(rate, edge)
    way = 1 if side == "above" else -1
    there = [t for t in facts.seen if way * math.log2(t.configuration.learning_rate / edge) > 1e-6]
    family = facts.best.configuration.kind[1]
    own = [t for t in there if t.configuration.kind[1] == family]
    known = [t for t in own if t in facts.done or t.state is TrialState.DIVERGED]
    alone = bool(own) and (bool(known) or not any(t in facts.done for t in there))
    assert schedules == (family if alone else "any schedule" if own else "other schedules")
    there = own if alone else there
    done = [t for t in there if t in facts.done]
    diverged = [t for t in there if t.state is TrialState.DIVERGED]
    read_of = 0
    for part in said.split("; "):
        read_of += _part(facts, part, there, done, diverged)
    assert read_of == len(there), "every run is said to be read"


def _part(facts: Facts, part: str, there: list[Trial], done: list[Trial], diverged: list[Trial]) -> int:
    if found := read(r"(\d+) of (\d+) runs? diverged, (the first )?at step (\d+)", part):
        count, of, first, step = found.groups()
        assert (int(count), int(of), int(step)) == (len(diverged), len(there), min(t.step for t in diverged))
        assert bool(first) == (len(diverged) > 1)
        return int(count)
    if found := read(r"(\d+) (?:was|were) (stopped early|not finished|ended early by your loop)", part):
        assert int(found[1]) == facts.left(there)[found[2]]
        return int(found[1])
    if found := read(r"(\d+) completed a shorter horizon", part):
        assert int(found[1]) == sum(t.state is TrialState.COMPLETE and t.horizon < STEPS for t in there)
        return int(found[1])
    end = r"(\d+) runs? ends? (no worse|over seeds of their own|(.+?) worse)( in the median)?"
    found = read(rf"{end}(?: and (?:was|most were) still (falling|rising) at the end)?", part)
    assert found, f"nobody can read: {part}"
    assert int(found[1]) == len(done)
    behind = [b for one in {t.configuration for t in done} if (b := facts.mean_behind(one)) is not None]
    assert bool(found[4]) == (len(done) > 1 and bool(behind))
    if found[2] == "no worse":
        assert median(behind) <= 0
    elif found[3]:
        assert median(behind) > 0
        facts.size(found[3], median(behind), facts.best.value)
    else:
        assert not behind
    if found[5]:
        assert found[5] == ("rising" if facts.best.goal == "maximize" else "falling")
        better = [late(facts, t) > facts.tolerance for t in done]
        assert sum(better) * 2 > len(better)
    return int(found[1])


def verdict(facts: Facts, question: str, side: Beyond, said: list[str]) -> None:
    """`Too high?` is about what lies below the plateau, `too low?` about what lies above."""
    end, step, way = (0, "halving", -1) if question == "too high?" else (1, "doubling", 1)
    slopes = facts.slope(way)
    others = said[1:] if not said[0].startswith("Perhaps: the ") else said
    if said[0] == "No":
        assert said[1].startswith(("Below", "Above")[end]), "and why"
        assert side.diverged or side.whole
        assert "no worse" not in said[1], "it would not be a no"
        assert not any("did no worse" in one for one in said)
        near = facts.next_to(side.rate, way)
        assert near, "and near"
        assert min(near) > facts.chance(), "and not by luck"
    elif found := read(
        r"Perhaps: (\d+) runs? at (higher|lower) rates (?:was|were) not finished; a larger budget .+ would tell",
        said[0],
    ):
        assert (found[2] == "higher", int(found[1])) == (end == 1, side.unfinished - side.by_loop)
        assert (side.stopped, side.behind) == (0, None), "what is known would answer"
        others = said[1:]
    elif said[0] in ("Probably not", "Perhaps"):
        assert said[0] == "Perhaps" or side.stopped or side.diverged or side.whole, "and why"
        assert said[1].startswith(("Below", "Above")[end])
    else:
        found = read(
            r"Perhaps: (the best rate is|the plateau reaches) the (largest|smallest) that was tried with ([a-z-]+): "
            r"(widen the range (up|down)wards|a larger budget would look further)(?:; (.+))?",
            said[0],
        )
        assert found, f"nobody can read: {said[0]}"
        family, best = facts.best.configuration.kind[1], facts.best.configuration.learning_rate
        rates = [t.configuration.learning_rate for t in facts.seen if t.configuration.kind[1] == family]
        last = (min(rates), max(rates))[end]
        assert found[2] == ("smallest", "largest")[end]
        assert found[3] == family
        assert (found[1] == "the best rate is") == (best == last)
        assert (found[5] is not None) == (last == facts.made.spec.space().rates("adamw")[end])
        assert found[5] in (None, ("down", "up")[end])
        if found[6]:
            beyond(facts, found[6])
    for one in others[1 if said[0].startswith("Perhaps: the ") else 0 :]:
        if one.startswith(("Below", "Above")):
            beyond(facts, one)
        elif found := read(rf"Each (halving|doubling) of the rate makes it about ({SIZE}) worse", one):
            assert found[1] == step
            assert median(slopes) > facts.chance(), "and never better beside worse, nor luck"
            facts.size(found[2], median(slopes), facts.best.value)
        elif found := read(rf"Rates (up|down) to ({NUMBER}) do as well at their best", one):
            assert found[1] == ("down", "up")[end]
            all_good(facts, facts.best.configuration.learning_rate, float(found[2]))
        elif found := read(r"(Higher|Lower) rates nearby did no worse over the seeds that they share with it", one):
            assert found[1] == ("Lower", "Higher")[end]
            assert median(slopes) <= 0
            assert said[0].startswith("Perhaps"), "or it would be sure"
        elif found := read(rf"No run within a factor of 2 tells: the nearest (above|below) is at ({NUMBER})", one):
            assert said[0] == "Probably not"
            assert found[1] == ("below", "above")[end]
            assert max(float(found[2]) / side.rate, side.rate / float(found[2])) > 1.95
        elif found := read(
            rf"The best within a factor of 2 ends (?:no worse|({SIZE}) worse), which may be chance", one
        ):
            assert said[0] == "Probably not"
            least = min(facts.next_to(side.rate, way))
            assert least <= facts.chance()
            assert (found[1] == "no") == (least <= 0)
            if found[1] != "no":
                facts.size(found[1], least, facts.best.value)
        else:
            margin(facts, one)
    assert sum(one.startswith(("Each", "Rates", "Higher", "Lower")) for one in said) <= 1


def evidence(facts: Facts, said: list[str]) -> None:
    best = facts.best
    own = {t.seed: t.value for t in facts.done if t.configuration == best.configuration}
    fresh = [own[s] for s in own if s]
    broken = {t.seed for t in facts.made.trials if t.configuration == best.configuration and t.role == "confirm"}
    broken -= own.keys()
    assert best.diverged == len(broken)
    if broken:
        assert said[0].startswith(
            f"Not very: {len(broken)} of {len(broken) + len(fresh)} runs over fresh seeds diverged"
        )
        assert all(says(text, value) for text, value in zip(re.findall(NUMBER, said[0])[2:], fresh, strict=False))
        gain(facts, said[2])
        for one in said[3:]:
            support(facts, one)
        return
    if found := read(
        rf"Not very: the answer's (.+), ({NUMBER}), is a single run's, not repeated over fresh seeds", said[0]
    ):
        assert not best.confirmed
        assert says(found[2], own[0])
    elif found := read(rf"Not very: the answer's (.+), ({NUMBER}), is that of one fresh seed", said[0]):
        assert fresh == [best.value]
        assert says(found[2], best.value)
    elif found := read(rf"{MEAN}, all the same, so there is no interval", said[0]):
        assert (best.interval, len({*fresh}), int(found[3])) == (None, 1, len(fresh))
    else:
        found = read(rf"{MEAN}, 95 % interval ({NUMBER}) to ({NUMBER})", said[0])
        assert found, f"nobody can read: {said[0]}"
        assert int(found[3]) == len(fresh)
        assert says(found[2], fmean(fresh))
        low, high = facts.made.spec.metric.range or (None, None)
        least, most = -math.inf if low is None else low, math.inf if high is None else high
        for text, end in zip(found.groups()[3:5], best.interval, strict=True):
            assert abs(float(text) - end) <= abs(end) * 1e-4 + 1e-3 * (best.interval[1] - best.interval[0])
        assert least <= float(found[4]) <= float(found[5]) <= most
    assert found[1] == best.metric
    gain(facts, said[1])
    assert said[1].removeprefix("It is ").removeprefix("There is ").lower() == words.lift(best).lower(), (
        "as on the page"
    )
    for one in said[2:]:
        support(facts, one)


def gain(facts: Facts, sentence: str) -> None:
    """What is said of the answer beside the untuned baseline."""
    best, untuned = facts.best, facts.best.baseline
    sentence = broken_baseline(facts, sentence)
    if sentence == "There is no baseline to compare with":
        assert untuned is None or untuned.value is None
        return
    assert untuned is not None
    if sentence.removesuffix(" over fresh seeds") == "Nothing beat the untuned baseline":
        assert best.configuration == untuned.configuration
        return
    role = {True: ("confirm",), False: ("search", "baseline")}[best.confirmed]
    done = [t for t in facts.made.trials if t.state is TrialState.COMPLETE and t.horizon == STEPS and t.role in role]
    ours, theirs = (
        {t.seed: t.value for t in done if t.configuration == one} for one in (best.configuration, untuned.configuration)
    )
    same = sorted(ours.keys() & theirs.keys())
    if sentence == "It is not comparable with untuned, which ran over other seeds":
        assert not same
        return
    differences = [facts.sign * (theirs[s] - ours[s]) for s in same]
    mean, of = fmean(differences), fmean(theirs[s] for s in same)
    if found := read(rf"It is ({SIZE}) (better|worse) than untuned {ALONE}", sentence):
        assert len(same) == int(found["n"] or 1)
        assert len(same) == 1 or max(differences) - min(differences) <= 1e-12 * abs(mean)
        assert (found[2] == "better") == (mean > 0)
        facts.size(found[1], mean, of)
        return
    if read(rf"It is as good as untuned( {ALONE})?", sentence):
        assert mean == 0
        return
    ends = [best.interval or (math.inf, -math.inf), untuned.interval or (math.inf, -math.inf)]
    overlap = max(low for low, _ in ends) <= min(high for _, high in ends)
    between = rf"the 95 % interval of the difference over the same (\d+) seeds, ({NUMBER}) to ({NUMBER}),"
    if found := read(rf"It is ({SIZE}) (better|worse) than untuned: {between} excludes zero", sentence):
        assert not overlap, "what may be chance is not claimed"
        assert (found[2] == "better") == (mean > 0)
        facts.size(found[1], mean, of)
        seeds, low, high = found[3], found[4], found[5]
        assert float(low) * float(high) > 0
    else:
        unsure = r"(not surely better or worse|probably better|probably worse) than untuned(?:, by how much is open)?"
        found = read(rf"It is {unsure}: {between} (.+)", sentence)
        assert found, f"nobody can read: {sentence}"
        claim, seeds, low, high, why = found.groups()
        zero = float(low) <= 0 <= float(high)
        why, _, shaken = why.partition("; it says nothing of the ")
        assert bool(shaken) == bool(best.diverged)
        likely = "not surely better or worse" if zero or shaken else f"probably {'better' if mean > 0 else 'worse'}"
        assert claim == likely
        but = ", but the intervals of the two overlap" if overlap else ""
        assert why == ("includes zero" if zero else f"excludes zero{but}")
        assert zero or overlap or shaken
    assert int(seeds) == len(same)
    half = stats.t.ppf(0.975, best.noise.freedom) * best.noise.deviation / math.sqrt(len(same))
    width = 1.0 if facts.made.spec.metric.range == (0.0, 1.0) else 2.0 if best.metric == "correlation" else math.inf
    for text, end in ((low, max(-width, mean - half)), (high, min(width, mean + half))):
        assert abs(float(text) - end) <= 0.006 * (abs(end) + half) + 1e-12


def support(facts: Facts, sentence: str) -> None:
    """What the plateau rests on, which is what the pictures shade, and what the loop took away."""
    if found := read(rf"(\d+) trials? (?:was|were) ended by your loop before .+ stood at ({NUMBER})", sentence):
        cut = [t for t in facts.made.trials if facts.made.audits.stops.get(t.number) == "loop"]
        seen = [facts.sign * v for t in cut for r in t.reports if (v := r.metrics[facts.best.metric]) is not None]
        assert (int(found[1]), says(found[2], facts.sign * min(seen))) == (len(cut), True)
        assert min(seen) < facts.sign * facts.best.value
        return
    if found := read(rf"All (\d+) whole runs at rates from .+ to .+ ended at ({NUMBER}): either .+", sentence):
        ran = [t for t in facts.made.trials if t.role not in ("confirm", "range-test") and t.completed(STEPS)]
        assert (int(found[1]), len({t.value for t in ran}), says(found[2], ran[0].value)) == (len(ran), 1, True)
        return
    best, plateau = facts.best, facts.made.found.families[0].plateau
    family, rate = best.configuration.kind[1], best.configuration.learning_rate
    tried = {t.configuration.learning_rate for t in facts.seen if t.configuration.kind[1] == family}
    if found := read(r"No other rate with ([a-z-]+) was tried", sentence):
        assert (found[1], tried) == (family, {rate})
        return
    if found := read(r"No other rate with ([a-z-]+) within a factor of 2 of it was trained to its end", sentence):
        told = [t for t in facts.seen if t in facts.done or t.state is TrialState.DIVERGED]
        far = {t.configuration.learning_rate / rate for t in told if t.configuration.kind[1] == family} - {1.0}
        assert len(tried) > 1
        assert all(abs(math.log2(factor)) > 1 for factor in far)
        return
    if found := read(rf"No rate next to it with ([a-z-]+) came within the tolerance, ({NUMBER})", sentence):
        assert len(tried) > 1
        assert says(found[2], facts.tolerance)
        behind = facts.best_behind(family, 0, math.inf)
        nearest = [[r for r in sorted(behind) if r < rate][-1:], [r for r in sorted(behind) if r > rate][:1]]
        assert all(behind[r] > facts.tolerance for some in nearest for r in some)
        return
    rests = rf"The plateau with ([a-z-]+), ({NUMBER}) to ({NUMBER}), rests on (\d+) runs"
    found = read(rests + r"(?:, and (\d+) in between did worse)?", sentence)
    assert found, f"nobody can read: {sentence}"
    assert (found[1], says(found[2], plateau.low), says(found[3], plateau.high)) == (family, True, True)
    assert plateau.low <= rate <= plateau.high
    all_good(facts, plateau.low, plateau.high)
    inside = [
        t
        for t in facts.seen
        if t.configuration.kind[1] == family
        and plateau.low <= t.configuration.learning_rate <= plateau.high
        and (t.state is TrialState.DIVERGED or (t in facts.done and t.configuration in facts.behind))
    ]
    good = [t for t in inside if t in facts.done and facts.behind[t.configuration] <= facts.tolerance]
    assert (int(found[4]), int(found[5] or 0)) == (len(good), len(inside) - len(good))


def audited(made: MadeUp, sentence: str) -> None:
    audit = made.found.audit
    found = read(rf"The forecast pruner saved ({NUMBER}) full runs(, and has switched itself off)?; (.+)", sentence)
    if nothing := read(r"The forecast pruner has stopped nothing(, and has switched itself off)?", sentence):
        assert "pruner" not in made.audits.stops.values()
        assert (bool(nothing[1]), audit.audited, audit.running) == (not made.audits.on, 0, 0)
        return
    assert found, f"nobody can read: {sentence}"
    stopped = [t for t in made.trials if made.audits.stops.get(t.number) == "pruner"]
    assert says(found[1], sum(t.horizon - t.step for t in stopped) / STEPS)
    assert bool(found[2]) == (not made.audits.on)
    ended = [t for t in made.trials if t.number in made.audits.trials and t.state is TrialState.COMPLETE]
    ended = [t for t in ended if t.horizon == STEPS]
    assert audit.audited == len(ended)
    if not ended:
        assert found[3] == "none of its stops has been checked yet"
    elif more := read(
        r"(\d+) that it would have stopped ran on to check it, (none|(\d+) \((.+)\)) of them would .+", found[3]
    ):
        assert int(more[1]) == len(ended)
        assert int(more[3] or 0) == audit.false
        assert more[3] is None or says(more[4].removesuffix(" %"), 100 * audit.false / len(ended))
    else:
        assert read(r"1 that it would .+ check it, and that stop would have (been a loss|lost nothing)", found[3])
        assert len(ended) == 1
        assert ("been a loss" in found[3]) == bool(audit.false)


@jobs
def test_every_sentence_says_what_the_trials_say_and_none_contradicts_another(number: int) -> None:
    made = job(number)
    facts, found = Facts(made), made.found
    assert found.tolerance == pytest.approx(facts.tolerance)
    said = {one.question: sentences(one.answer) for one in found.advice}
    verdict(facts, "too high?", found.below, said["too high?"])
    verdict(facts, "too low?", found.above, said["too low?"])
    evidence(facts, said["how sure?"])
    assert ("stopped rightly?" in said) == (made.spec.search.pruner.name == "forecast")
    for sentence in said.get("stopped rightly?", []):
        audited(made, sentence)
    for side in (found.above, found.below):
        if side.runs:
            beyond(facts, side.words)
        else:
            assert side.words in ("no higher rate was tried", "no lower rate was tried")


@jobs
def test_the_table_compares_families_over_the_seeds_that_they_share(number: int) -> None:
    made = job(number)
    facts = Facts(made)
    assert made.found.families[0].behind == 0
    for one in made.found.families:
        known = [c for c in facts.family(one.family) if c in facts.behind]
        held = [c for c in known if made.best.confirmed and set(facts.scores(c)) - {0}]
        behind = [facts.behind[c] for c in held or known]
        if one.behind is not None and one.family != made.found.family:
            assert one.behind == pytest.approx(min(behind))
        assert (one.plateau is None) == (one.behind is None or one.behind > facts.tolerance)
        for end, value in (("low", min), ("high", max)) if one.plateau else ():
            rate = value(made.spec.space().rates("adamw"))
            assert (end in one.plateau.edges) == (getattr(one.plateau, end) == rate)


@jobs
def test_every_number_of_an_answer_can_be(number: int) -> None:
    made = job(number)
    low, high = made.spec.metric.limits
    beside = [(made.best.baseline.value, made.best.baseline.interval)] if made.best.baseline else []
    for value, interval in [(made.best.value, made.best.interval), *beside]:
        if value is not None:
            first, last = interval or (value, value)
            assert low <= first <= value <= last <= high


def test_the_jobs_are_of_every_kind() -> None:
    """Or the tests above would read the same report fifty times."""
    sentences = " ".join(one.answer for number in range(COUNT) for one in job(number).found.advice)
    for words_of_a_kind in (
        "Not very: the answer's", "is the mean over", "Nothing beat the untuned", "no baseline to compare",
        "may be chance",
        "excludes zero. ", "includes zero", "the intervals of the two overlap", "Perhaps: the best rate is the largest",
        "Perhaps: the plateau reaches the smallest", "Probably not", "Perhaps. ", "No. Below", "No. Above",
        "no worse in",
        "still falling", "still rising", "diverged, the first", "were stopped early",
        "were not finished", "ended early by your loop",
        "with any schedule", "probably better", "shorter horizon", "Each halving",
        "Each doubling", "do as well", "with other schedules", "widen the range upwards", "a larger budget", "already",
        "times the answer's", "No other rate", "No rate next to it", "in between did worse", "rests on", "to check it",
        "none of its stops",
    ):  # fmt: skip
        assert words_of_a_kind in sentences, words_of_a_kind
