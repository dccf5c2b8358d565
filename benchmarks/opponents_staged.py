"""Opponents that train in stages too: MOBSTER and HyperTune of syne-tune 0.13, which 0.16 no longer has.

Both promote by asynchronous successive halving: a run pauses at each rung and goes on from there, and only new steps
are paid for. They are given the table's own configurations to choose from, so that nothing is lost to what lies
between, rungs a factor of three apart, the lowest at a twenty-seventh of a run, and are as their package makes them
otherwise. syne-tune 0.13 wants numpy below 1.27, the service and the worker numpy 2: `pip install -e '.[opponents]'`
in an environment of its own.
"""

import logging
import math
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from benchmarks.opponents import Point, bounded, make_space
from benchmarks.replay import Ledger, Row, Table

OPPONENTS = ("mobster", "hypertune")
MISSING = (
    "mobster and hypertune need syne-tune 0.13, whose numpy is older than that of the service: "
    "pip install -e '.[opponents]' in an environment of its own, and run this there"
)
RUNGS = (
    27  # shortest first stage of a run that is worth its price, as a part of it: three rungs a factor of three apart
)
FACTOR = 3


def _domain(distribution: BaseDistribution) -> Any:
    from syne_tune.config_space import choice, loguniform, uniform

    if isinstance(distribution, CategoricalDistribution):
        return choice(list(distribution.choices))
    assert isinstance(distribution, FloatDistribution)
    return (loguniform if distribution.log else uniform)(distribution.low, distribution.high)


def _scheduler(strategy: str, seed: int, domains: dict[str, Any], points: list[Point], reports: int) -> Any:
    from syne_tune.optimizer.baselines import MOBSTER, HyperTune

    logging.getLogger("syne_tune").setLevel(logging.ERROR)
    kind = {"mobster": MOBSTER, "hypertune": HyperTune}[strategy]
    return kind(
        domains,
        metric="value",
        mode="min",
        resource_attr="report",
        max_t=reports,
        type="promotion",
        grace_period=max(1, round(reports / RUNGS)),
        reduction_factor=FACTOR,
        random_seed=seed,
        search_options={"restrict_configurations": points, "debug_log": False},
    )


class _Study:
    """One worker that trains what the scheduler says, up to the next rung."""

    def __init__(self, table: Table, strategy: str, seed: int, ledger: Ledger) -> None:
        space = make_space(table, conditional=False)
        self.rows = {row.config: row for row in table.at_target()}
        self.reports = max(len(row.reports) for row in self.rows.values())
        self.ledger, self.seen = ledger, list[float]()
        self.names = list(space.distributions)
        self.configs: dict[tuple[Any, ...], list[str]] = {}  # of one point: those that the space cannot tell apart
        for config, point in space.points.items():
            self.configs.setdefault(self._place(point), []).append(config)
        domains = {name: _domain(distribution) for name, distribution in space.distributions.items()}
        points = [space.points[configs[0]] for configs in self.configs.values()]
        self.scheduler = _scheduler(strategy, seed, domains, points, self.reports)
        self.trials: list[Any] = []
        self.places: list[tuple[Row, int]] = []  # of each trial: its row, and the reports that it has made

    def _place(self, point: Point) -> tuple[Any, ...]:
        return tuple(point[name] for name in self.names)

    def steps(self) -> Iterator[None]:
        """Train stage by stage, until the scheduler has nothing more; what is paused then is finished, best first."""
        while (suggestion := self._suggest()) is not None:
            number = len(self.trials) if suggestion.spawn_new_trial_id else suggestion.checkpoint_trial_id
            if suggestion.spawn_new_trial_id:
                self._add(suggestion.config)
            self._train(number)
            yield
        paused = [(row, done) for row, done in self.places if row.reports[done - 1][0] < row.end]
        for row, _ in sorted(paused, key=lambda place: place[0].reports[place[1] - 1][1]):
            self.ledger.run(row.key, row.horizon)
            yield

    def _suggest(self) -> Any:
        try:
            return self.scheduler.suggest(len(self.trials))
        except ValueError:  # as this version says it where no configuration is left to begin
            if len(self.trials) < len(self.configs):
                raise
            return None

    def _add(self, point: Point) -> None:
        from syne_tune.backend.trial_status import Trial

        configs = self.configs[self._place(point)]
        config = configs.pop(0) if len(configs) > 1 else configs[0]
        trial = Trial(len(self.trials), point, datetime.now())
        self.trials.append(trial)
        self.places.append((self.rows[config], 0))
        self.scheduler.on_trial_add(trial)

    def _train(self, number: int) -> None:
        trial, (row, done), decision = self.trials[number], self.places[number], "CONTINUE"
        result: dict[str, Any] = {}
        while decision == "CONTINUE" and done < self.reports:
            value, done = self._report(row, done)
            result = {"value": bounded(value, self.seen), "report": done}
            decision = self.scheduler.on_trial_result(trial, dict(result))
        self.seen.append(result["value"])
        self.places[number] = row, min(done, len(row.reports))
        if done >= self.reports:
            self.scheduler.on_trial_complete(trial, result)
        else:
            self.scheduler.on_trial_remove(trial)

    def _report(self, row: Row, done: int) -> tuple[float, int]:
        """The next report, and its number; a run that has come apart reports as much without being trained."""
        step, value = row.reports[min(done, len(row.reports) - 1)]
        if step <= row.end:
            value = self.ledger.run(row.key, step)[-1][1]
        return (value if step <= row.end and math.isfinite(value) else math.nan), done + 1


def replay_staged(table: Table, strategy: str, seed: int, done: Callable[[Ledger], bool]) -> Ledger:
    """Let a search of syne-tune's go through a table until `done` says that enough has been seen."""
    ledger = Ledger(table, share=False)
    for _ in _Study(table, strategy, seed, ledger).steps():
        if done(ledger):
            break
    return ledger
