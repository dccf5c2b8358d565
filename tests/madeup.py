"""Fifty made-up jobs, no two of a kind: a metric, how the rate bears on it, and what a search would have tried."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lrtune.analysis.answer import best
from lrtune.analysis.report import report
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.report import Findings
from lrtune.wire.results import Audits, Best, Report, Role, Stop, Trial, TrialState

STEPS = 100
COUNT = 50


@dataclass(frozen=True, slots=True)
class Kind:
    """A metric, and its value where the loss is `x` above the best that there is, 0 and more."""

    name: str
    goal: str
    range: tuple[float | None, float | None] | None
    value: Callable[[float], float]


KINDS = (
    Kind("val_loss", "minimize", (0.0, None), lambda x: 0.4 + x),
    Kind("val_loss", "minimize", (0.0, None), lambda x: max(0.0, 1e-3 * (x - 0.05))),
    Kind("val_loss", "minimize", (0.0, None), lambda x: 1e-9 * (1 + 50 * x)),
    Kind("val_loss", "minimize", (0.0, None), lambda x: 40.0 + 900.0 * x),
    Kind("val_accuracy", "maximize", (0.0, 1.0), lambda x: min(1.0, 1.02 - 0.3 * x) if x < 3 else 0.12),
    Kind("val_accuracy", "maximize", (0.0, 1.0), lambda x: 0.7 * math.exp(-x)),
    Kind("log_likelihood", "maximize", (None, 0.0), lambda x: -1234.5 - 3.0 * x),
    Kind("elbo", "maximize", None, lambda x: 0.02 - x),
    Kind("nll", "minimize", None, lambda x: -1.3 + x),
    Kind("energy", "minimize", None, lambda x: -1e6 + 10.0 * x),
    Kind("correlation", "maximize", (-1.0, 1.0), lambda x: math.tanh(1.5 - x)),
    Kind("my_loss", "minimize", None, lambda x: 2.0 + x),
)


@dataclass(frozen=True, slots=True)
class MadeUp:
    """A job with its trials, its answer, what its log says of the audit, and its report."""

    spec: AdmittedJob
    trials: Sequence[Trial]
    audits: Audits
    best: Best
    found: Findings


def made_up(number: int) -> MadeUp:
    """One of the jobs; its random numbers are its own."""
    source = random.Random(f"3 {number}")
    kind = KINDS[number % len(KINDS)]
    spec = _spec(source, kind)
    trials = _Search(source, spec, kind).trials()
    audited = [t.number for t in trials if t.role == "search" and t.until is None and source.random() < 0.15]
    audits = Audits(trials=audited, on=source.random() < 0.8, stops=_stops(number, trials))
    answer = best(spec, trials, steps=STEPS, full_runs=float(len(trials)))
    assert answer is not None
    return MadeUp(spec, trials, audits, answer, report(spec, answer, trials, audits))


def _stops(number: int, trials: Sequence[Trial]) -> dict[int, Stop]:
    """Who stopped them; of some the log does not say."""
    source = random.Random(f"stops {number}")
    kinds: tuple[Stop | None, ...] = ("pruner", "pruner", "forecast", "budget", "loop", None)
    drawn = {t.number: source.choice(kinds) for t in trials if t.state is TrialState.STOPPED}
    return {trial: by for trial, by in drawn.items() if by is not None}


def _spec(source: random.Random, kind: Kind) -> AdmittedJob:
    low, high = source.choice([(0.001, 0.064)] * 4 + [(0.008, 0.032), (0.016, 0.016)])
    return AdmittedJob.model_validate(
        {
            "task": "digits",
            "metric": {"name": kind.name, "goal": kind.goal, "range": kind.range},
            "horizon": {"steps": STEPS},
            "optimizers": [{"name": "adamw", "learning_rate": low if low == high else [low, high]}],
            "schedules": source.choice([["cosine"], ["cosine", "linear"], ["cosine", "linear", "wsd"]]),
            "search": {"sampler": "tpe", "pruner": source.choice(["none", "forecast"])},
            "confirm": {"top": source.choice([1, 3]), "seeds": source.choice([0, 1, 2, 3, 5])},
        }
    )


class _Search:
    """What a search tries: rates over the range, then fresh seeds for the best few and the baseline."""

    def __init__(self, source: random.Random, spec: AdmittedJob, kind: Kind) -> None:
        self.source, self.spec, self.kind = source, spec, kind
        self.good = source.choice([0.001, 0.008, 0.016, 0.064, 0.5])  # the best rate there is, maybe out of the range
        self.steep = source.choice([0.0, 0.0005, 0.02, 0.3])
        self.noise = source.choice([0.0, 0.001, 0.03, 0.3])
        self.alone = source.choice([0.02, 1.0])
        self.edge = source.choice([0.012, 0.03, 0.09, 9.0])  # rates beyond diverge
        self.untuned_is_good = source.random() < 0.2
        self.done: list[Trial] = []

    def trials(self) -> list[Trial]:
        usual = Configuration(optimizer="adamw", learning_rate=0.001, schedule="cosine", warmup=0.05)
        if self.source.random() < 0.9:
            self._run(usual, "baseline", 0, whole=True)
        self._run(Configuration(optimizer="adamw", learning_rate=0.016, schedule="cosine"), "search", 0, whole=True)
        for _ in range(self.source.choice([0, 2, 6, 15, 40])):
            self._run(self._drawn(), "search", 0)
        if not any(t.completed(STEPS) and self.spec.allows(t.configuration) for t in self.done):
            self.edge = 9.0
            self._run(Configuration(optimizer="adamw", learning_rate=0.016, schedule="cosine"), "search", 0, whole=True)
        self._confirm()
        return self.done

    def _drawn(self) -> Configuration:
        low, high = self.spec.space().rates("adamw") or (0.016, 0.016)
        rates = [rate for rate in (0.001 * 2.0 ** (step / 2) for step in range(13)) if low <= rate <= high] or [low]
        family = self.source.choice([one.family for one in self.spec.schedules])
        warmup = self.source.choice([0.0, 0.05, 0.1])
        return Configuration(optimizer="adamw", learning_rate=self.source.choice(rates), schedule=family, warmup=warmup)

    def _confirm(self) -> None:
        sign = self.spec.metric.sign
        done = [t for t in self.done if t.completed(STEPS)]
        own = sorted((t for t in done if self.spec.allows(t.configuration)), key=lambda t: sign * (t.value or 0.0))
        chosen = list(dict.fromkeys(t.configuration for t in own))[: self.spec.confirm.top]
        untuned = [t.configuration for t in done if t.role == "baseline" and t.configuration not in chosen]
        seeds = self.spec.confirm.seeds - (self.source.random() < 0.1)  # stopped in the middle of it
        for seed in range(1, seeds + 1):
            for one in chosen + untuned:
                self._run(one, "confirm", seed, whole=True, breaks=self.source.random() < 0.05)

    def _run(self, chosen: Configuration, role: Role, seed: int, *, whole: bool = False, breaks: bool = False) -> None:
        """A trial as it may end."""
        # A seed is luck for all that run it, and some of it for one alone.
        luck = random.Random(f"3 {seed} {self.noise}").gauss(0.0, 1.0)
        luck += self.alone * random.Random(f"3 {chosen.model_dump_json()} {seed} {self.good}").gauss(0.0, 1.0)
        away = math.log2(chosen.learning_rate / self.good)
        x = self.steep * away**2 + abs(self.noise * (1 + luck)) + 0.02 * (chosen.kind[1] != "cosine")
        if chosen.warmup and not (self.untuned_is_good and chosen.learning_rate == 0.001):
            x += 0.01
        how = self.source.random()
        state, horizon, step = TrialState.COMPLETE, STEPS, STEPS
        if breaks or chosen.learning_rate > self.edge:
            state, step = TrialState.DIVERGED, self.source.randint(1, STEPS - 1)
        elif not whole and how < 0.2:
            state, step = TrialState.STOPPED, self.source.randint(1, STEPS - 1)
        elif not whole and how < 0.3:
            horizon = step = STEPS // 4
        ended = state is TrialState.COMPLETE
        value = self.kind.value(x) if ended else None
        self.done.append(
            Trial(
                number=len(self.done),
                decision=len(self.done),
                role=role,
                state=state,
                configuration=chosen,
                seed=seed,
                horizon=horizon,
                step=step,
                value=value,
                reports=self._reports(chosen, x, step, horizon),
            )
        )

    def _reports(self, chosen: Configuration, x: float, step: int, horizon: int) -> list[Report]:
        steps = [s for s in range(horizon // 20, horizon + 1, horizon // 20) if s <= step]
        slow = 0.2 if chosen.learning_rate < self.good else 0.0  # it still gets better at its end
        values = {s: self.kind.value(x + (slow + 0.001) * (1 - s / horizon)) for s in steps}
        return [
            Report(step=s, learning_rate=chosen.learning_rate, metrics={self.kind.name: v}) for s, v in values.items()
        ]
