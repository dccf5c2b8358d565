"""The answer's report: where good rates lie, what happens beyond, what it cost. A pure function of a job's own trials.

The rates are weighed in `lrtune/analysis/plateaus.py`, the sentences stand in `lrtune/analysis/advice.py`.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from lrtune.analysis import advice, paired
from lrtune.analysis.answer import grouped
from lrtune.analysis.edges import edges
from lrtune.analysis.paired import share
from lrtune.analysis.plateaus import SAME, Landscape, families, landscape, stability
from lrtune.wire.job import AdmittedJob
from lrtune.wire.report import Audit, Beyond, Findings, Saved, Spent
from lrtune.wire.results import ENDED, RESUMABLE, Audits, Best, Trial, TrialState
from lrtune.wire.strategies import Forecast

UNCHECKED = Audits()
BRIEF = 0.25  # of its steps: a run that was left before says little of its end


@dataclass(frozen=True, slots=True)
class Totals:
    """What all trials of a job have come to, of which a report sees some: how many, and steps, by role and state.

    `short` are the steps of the search's complete runs over less than the job's horizon. Those whose numbers are `even`
    were chosen whatever they have come to: what is typical of the job is read off them.
    """

    counts: Sequence[tuple[str, TrialState, int, int]]
    short: int
    even: Collection[int]

    @property
    def trials(self) -> int:
        """How many there are."""
        return sum(count for _, _, count, _ in self.counts)

    def over(self, some: Sequence[Trial], state: TrialState) -> float:
        """How many trials in a state there are for each of these, which are some of them."""
        of_all = sum(count for role, one, count, _ in self.counts if one is state and role != "range-test")
        return of_all / max(1, sum(trial.state is state for trial in some))


def report(
    spec: AdmittedJob, best: Best, trials: Iterable[Trial], audits: Audits = UNCHECKED, totals: Totals | None = None
) -> Findings:
    """The report of a job whose answer so far is `best`; `audits` is what its log says of the forecast pruner.

    `totals` are of the whole job, where these are not all of its trials.
    """
    every = list(trials)
    history = [t for t in every if t.role != "range-test"]  # which is to break, at a rate below its highest
    seen = [t for t in history if t.role == "search" or spec.allows(t.configuration)]
    land = landscape(best, seen, None if totals is None else totals.even)
    found, known = families(spec, land), stability(history, best.steps)
    rate, plateau = best.configuration.learning_rate, found[0].plateau
    saved = _saved(history, best.steps, audits, totals)
    audit = _audit(spec, history, best.steps, audits, saved)
    above = _beyond(land, audits, "above", plateau.high if plateau else rate)
    below = _beyond(land, audits, "below", plateau.low if plateau else rate)
    (optimizer, family), at = best.configuration.kind, edges(spec, best.configuration)
    return Findings(
        metric=best.metric,
        value=best.value,
        optimizer=optimizer,
        family=family,
        rate=rate,
        tolerance=land.tolerance,
        families=found,
        stability=known,
        above=above,
        below=below,
        cost=_spent(every if totals is None else totals, best.steps),
        saved=saved,
        trials=len(every) if totals is None else totals.trials,
        read=len(every),
        audit=audit,
        lift=paired.lift(best),
        edges=at,
        advice=[
            *advice.advice(
                best,
                found[0],
                known,
                above,
                below,
                land.tolerance,
                land.chance,
                _ended(best, history, audits),
                _searched_whole(history, best.steps),
            ),
            *advice.at_edges(at),
            *advice.audited(audit),
        ],
    )


def _searched_whole(trials: Iterable[Trial], steps: int) -> list[tuple[float, float]]:
    """The peak rate and the value of each complete run of the search."""
    whole = (trial for trial in trials if trial.role != "confirm" and trial.completed(steps))
    return [(trial.configuration.learning_rate, trial.value) for trial in whole if trial.value is not None]


def _ended(best: Best, trials: Iterable[Trial], audits: Audits) -> list[float]:
    """The best value that each trial was seen at which the user's own loop ended early: none of them can win."""
    sign = best.objective.sign
    found = []
    for trial in trials:
        if trial.state is TrialState.STOPPED and audits.stops.get(trial.number) == "loop":
            seen = [value for _, value in [*trial.values(best.metric), (trial.step, trial.value)] if value is not None]
            found.append(sign * min((sign * value for value in seen), default=math.inf))
    return found


def _beyond(land: Landscape, audits: Audits, side: Literal["above", "below"], rate: float) -> Beyond:
    """What happened on one side of a rate: with the answer's family, else with the others of its optimizer."""
    family, runs = _runs_beyond(land, side, rate)
    done = [run for run in runs if run.completed(land.best.steps)]
    differences = [behind for runs in grouped(land.typical(done)) if (behind := land.behind(runs)) is not None]
    behind = median(differences) if differences else None
    diverged = [run.step for run in runs if run.state is TrialState.DIVERGED]
    left = [run for run in runs if run.state in RESUMABLE]
    stopped = sum(_judged(run, audits) for run in left)
    telling = [run.configuration.learning_rate for run in runs if run in done or run.state is TrialState.DIVERGED]
    seen = Beyond(
        rate=rate,
        family=family,
        runs=len(runs),
        diverged=len(diverged),
        first_diverged_step=min(diverged, default=None),
        stopped=stopped,
        unfinished=len(left) - stopped,
        by_loop=sum(audits.stops.get(run.number) == "loop" for run in left),
        own=sum(run.configuration.kind == land.own for run in runs),
        short=len(runs) - len(diverged) - len(left) - len(done),
        whole=len(done),
        behind=behind,
        worse=share(behind, land.best.value) if behind is not None and land.best.objective.from_zero else None,
        as_good=behind is not None and behind <= land.tolerance,
        nearest=min(telling, key=lambda found: abs(math.log(found / land.answer.rate)), default=None),
        near=_near(land, side, rate, family),
        improving=_improving(land, land.typical(done)),
        words="",
    )
    return seen.model_copy(update={"words": advice.beyond(seen, side, land.best.goal)})


def _near(land: Landscape, side: str, rate: float, family: str | None) -> float | None:
    """How much worse the best configuration ended of a family, or of all, that lies next to a rate on one side."""
    way, most = (1.0 if side == "above" else -1.0), math.log(advice.TELLING) + SAME
    kinds = [kind for kind in land.points if kind[0] == land.own[0] and family in (kind[1], None)]
    points = [point for kind in kinds for point in land.points[kind]]
    there = [point for point in points if SAME < way * math.log(point.rate / rate) <= most]
    return min((point.behind for point in there if point.behind is not None), default=None)


def _judged(run: Trial, audits: Audits) -> bool:
    """Whether a run was left because it was behind, after enough of its steps to say something of its end."""
    by = audits.stops.get(run.number)
    return run.state is TrialState.STOPPED and by in ("pruner", "forecast") and run.step >= BRIEF * run.horizon


def _runs_beyond(land: Landscape, side: str, rate: float) -> tuple[str | None, Sequence[Trial]]:
    """The answer's family and its runs on one side of a rate; None and those of all families where others know more.

    They do where it has none, and where its own only began while others were trained to their end.
    """
    way = 1.0 if side == "above" else -1.0
    there = {
        name: [run for run in runs if way * (run.configuration.learning_rate / rate - 1.0) > SAME]
        for name, runs in land.runs.items()
        if name[0] == land.own[0]
    }
    own, every = there[land.own], [run for runs in there.values() for run in runs]
    known = any(run.completed(land.best.steps) or run.state is TrialState.DIVERGED for run in own)
    if own and (known or not any(run.completed(land.best.steps) for run in every)):
        return land.own[1], own
    return None, every


def _improving(land: Landscape, runs: Iterable[Trial]) -> bool | None:
    """Whether most of these runs still got better at their end; None where their reports do not tell."""
    gains = [gain for run in runs if (gain := _late_gain(land, run)) is not None]
    return sum(gain > land.tolerance for gain in gains) * 2 > len(gains) if gains else None


def _late_gain(land: Landscape, run: Trial) -> float | None:
    """How much better the last fifth of a run was than the fifth before, by the medians of their reports."""
    sign = land.best.objective.sign
    seen = [(step / run.horizon, sign * v) for step, v in run.values(land.best.metric) if v is not None]
    before = [value for progress, value in seen if 0.6 < progress <= 0.8]
    last = [value for progress, value in seen if progress > 0.8]
    return median(before) - median(last) if before and last else None


def _spent(of: Sequence[Trial] | Totals, steps: int) -> Spent:
    parts = dict.fromkeys(("baseline", "range_test", "search", "short", "stopped", "diverged", "confirm", "other"), 0)
    if isinstance(of, Totals):
        for role, state, _, done in of.counts:
            parts[_purpose(role, state)] += done
        parts["short"], parts["search"] = of.short, parts["search"] - of.short
    else:
        for trial in of:
            parts[_purpose(trial.role, trial.state, short=trial.horizon < steps)] += trial.step - trial.reused
    cost = {name: round(done / steps, 4) for name, done in parts.items()}
    return Spent(**cost, total=round(sum(parts.values()) / steps, 4))


def _purpose(role: str, state: TrialState, *, short: bool = False) -> str:
    """What a trial's cost was spent on."""
    if role != "search":
        return role.replace("-", "_")  # as its field is called
    if state in (TrialState.STOPPED, TrialState.DIVERGED):
        return state.value
    if state is not TrialState.COMPLETE:
        return "other"
    return "short" if short else "search"


def _saved(trials: Sequence[Trial], steps: int, audits: Audits, totals: Totals | None) -> Saved:
    """Of a job of which only some trials are seen, as much more as there are more that were stopped, or diverged."""
    pruned = [t for t in trials if t.state is TrialState.STOPPED and audits.stops.get(t.number) == "pruner"]
    broken = [t for t in trials if t.state is TrialState.DIVERGED]
    pruning, divergence = (
        sum((t.until or t.horizon) - t.step for t in some) / steps * (totals.over(trials, state) if totals else 1.0)
        for some, state in ((pruned, TrialState.STOPPED), (broken, TrialState.DIVERGED))
    )
    total = round(pruning + divergence, 4)
    return Saved(pruning=round(pruning, 4), divergence=round(divergence, 4), total=total)


def _audit(spec: AdmittedJob, trials: Sequence[Trial], steps: int, audits: Audits, savings: Saved) -> Audit | None:
    """How often a stop would have been false, by the runs that the forecast pruner let run on to know it."""
    asked = [t for t in trials if t.number in audits.trials]
    if not isinstance(spec.search.pruner, Forecast) or (audits.imported and not asked):
        return None
    done = [t for t in trials if t.completed(steps)]
    ended = [t for t in asked if t.completed(steps)]
    false = sum(_beat_all_before(spec, one, done) for one in ended)
    running = sum(t.state not in ENDED for t in asked)
    rate = false / len(ended) if ended else None
    found = Audit(
        audited=len(ended), running=running, false=false, rate=rate, on=audits.on, saved=savings.pruning, words=""
    )
    return found.model_copy(update={"words": advice.audit(found)})


def _beat_all_before(spec: AdmittedJob, trial: Trial, done: Iterable[Trial]) -> bool:
    """Whether a trial ended better than the best of those that were complete before its last stage was decided."""
    sign = spec.metric.sign
    before = [sign * one.value for one in done if one.decision < trial.decision and one.value is not None]
    return trial.value is not None and bool(before) and sign * trial.value < min(before)
